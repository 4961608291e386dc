//! An image with the service, `sqlite3` and a user of its own.

use std::path::Path;

use blosm_testnet::Testnet;
use blosm_testnet::image::{self, COUNTER, config_digest};
use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures::StreamExt;

const NAME: &str = "blosm-demo/tools";
const TAG: &str = "1";
/// Who runs in it.
const USER: u64 = 1000;
/// Where `sqlite3` lies in it.
pub(crate) const SQLITE: &str = "/usr/bin/sqlite3";
const CHANGES: [&str; 5] = [
    "ENTRYPOINT [\"/counter\"]",
    "CMD [\"--as\", \"told\"]",
    "ENV DATA_DIR=/data PORT=8080 COLOUR=blue",
    "WORKDIR /data",
    "USER 1000:1000",
];

/// Builds it on the first engine, loads it into the others, and gives how a declaration pins it.
pub(crate) async fn place(testnet: &Testnet) -> String {
    import(testnet, NAME, &CHANGES, root_file_system()).await
}

/// The same with any image: what a Dockerfile would say of it, and the tar of its files.
pub(crate) async fn import(testnet: &Testnet, name: &str, changes: &[&str], root: Vec<u8>) -> String {
    let first = testnet.engine(1);
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(TAG)
        .changes(changes.iter().copied().map(str::to_owned).collect())
        .build();
    let client = first.client().unwrap();
    let root = bollard::body_full(Bytes::from(root));
    let mut lines = std::pin::pin!(client.create_image(Some(options), Some(root), None));
    while let Some(line) = lines.next().await {
        line.unwrap();
    }
    let tar = testnet.state().dir.join("tools.tar");
    let name = format!("{name}:{TAG}");
    image::save(&first, &name, &tar).await.unwrap();
    for host in testnet.state().hosts.iter().skip(1) {
        image::load(&testnet.engine(host.number), &tar).await.unwrap();
    }
    format!("{name}@sha256:{}", config_digest(&tar).unwrap())
}

/// The tar of a root file system, all of which belongs to the user.
pub(crate) struct Root(tar::Builder<Vec<u8>>);

impl Root {
    /// Folders and the service.
    pub(crate) fn new() -> Root {
        let mut root = Root(tar::Builder::new(Vec::new()));
        for folder in ["data/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
            root.add(folder, tar::EntryType::Directory, 0o755, &[]);
        }
        root.add("counter", tar::EntryType::Regular, 0o755, COUNTER);
        root
    }

    /// One more entry.
    pub(crate) fn add(&mut self, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(USER);
        header.set_gid(USER);
        header.set_size(bytes.len() as u64);
        let path = path.trim_start_matches('/');
        self.0.append_data(&mut header, path, bytes).unwrap();
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn root_file_system() -> Vec<u8> {
    let mut root = Root::new();
    let program = blosm_testnet::shell::find("sqlite3").expect("sqlite3 is not on the PATH: install sqlite3");
    for library in libraries(&program) {
        root.add(
            &library,
            tar::EntryType::Regular,
            0o755,
            &std::fs::read(&library).unwrap(),
        );
    }
    root.add(
        SQLITE,
        tar::EntryType::Regular,
        0o755,
        &std::fs::read(&program).unwrap(),
    );
    root.finish()
}

/// The shared libraries of a program and what loads them, by their paths.
fn libraries(program: &Path) -> Vec<String> {
    let output = std::process::Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let paths = text.lines().filter_map(|line| {
        line.split_ascii_whitespace()
            .find(|word| word.starts_with('/'))
            .map(str::to_owned)
    });
    paths.collect()
}

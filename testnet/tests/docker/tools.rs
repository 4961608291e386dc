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
    let first = testnet.engine(1);
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(NAME)
        .tag(TAG)
        .changes(CHANGES.map(str::to_owned).to_vec())
        .build();
    let client = first.client().unwrap();
    let root = bollard::body_full(Bytes::from(root_file_system()));
    let mut lines = std::pin::pin!(client.create_image(Some(options), Some(root), None));
    while let Some(line) = lines.next().await {
        line.unwrap();
    }
    let tar = testnet.state().dir.join("tools.tar");
    let name = format!("{NAME}:{TAG}");
    image::save(&first, &name, &tar).await.unwrap();
    for host in testnet.state().hosts.iter().skip(1) {
        image::load(&testnet.engine(host.number), &tar).await.unwrap();
    }
    format!("{name}@sha256:{}", config_digest(&tar).unwrap())
}

fn root_file_system() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(USER);
        header.set_gid(USER);
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, path.trim_start_matches('/'), bytes)
            .unwrap();
    };
    for folder in ["data/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        add(folder, tar::EntryType::Directory, 0o755, &[]);
    }
    add("counter", tar::EntryType::Regular, 0o755, COUNTER);
    let program = blosm_testnet::shell::find("sqlite3").expect("sqlite3 is not on the PATH: install sqlite3");
    for library in libraries(&program) {
        add(
            &library,
            tar::EntryType::Regular,
            0o755,
            &std::fs::read(&library).unwrap(),
        );
    }
    add(
        SQLITE,
        tar::EntryType::Regular,
        0o755,
        &std::fs::read(&program).unwrap(),
    );
    builder.into_inner().unwrap()
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

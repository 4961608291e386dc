//! What becomes of the volumes that an image declares, by the policy of its service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use blosm_testnet::car::CarPlan;
use blosm_testnet::client;
use blosm_testnet::config::GATEWAY_PORT;
use blosm_testnet::node::Node;
use blosm_testnet::{HostSpec, Spec, Testnet};
use reqwest::Method;
use serde_json::Value;
use tar::EntryType;
use toml::Table;

use crate::moves::{all_answered, counter};
use crate::scenario::{Scenario, finish, still, up};
use crate::tools::{self, Root};

const CHANGES: [&str; 5] = [
    "ENTRYPOINT [\"/counter\"]",
    "ENV DATA_DIR=/data PORT=8080",
    "WORKDIR /data",
    "USER 1000:1000",
    // The service keeps all that it has in the first one.
    "VOLUME [\"/data\", \"/srv/cache/\"]",
];

/// Places the image, and starts nodes that declare it.
async fn place(spec: Spec, declare: impl FnOnce(&str) -> Vec<Table>) -> Testnet {
    let bare = Spec {
        nodes: false,
        ..spec.clone()
    };
    let mut testnet = up(bare).await;
    let mut root = Root::new();
    root.add("data/seeds/", EntryType::Directory, 0o755, &[]);
    root.add("data/seeds/early", EntryType::Regular, 0o644, b"of the image");
    root.add("data/seeds/late", EntryType::Regular, 0o644, b"of the image");
    root.add("srv/cache/", EntryType::Directory, 0o700, &[]);
    root.add("srv/cache/seed", EntryType::Regular, 0o600, b"of the image");
    let image = tools::import(&testnet, "blosm-demo/volumes", &CHANGES, root.finish()).await;
    let services = declare(&image);
    testnet
        .add_nodes(&spec, &services, &|line| eprintln!("{line}"))
        .await
        .unwrap();
    testnet
}

/// Where the engine keeps the volumes of the session's running container, by their paths in it.
async fn volumes(at: &Scenario, host: usize) -> BTreeMap<String, PathBuf> {
    let running = at.containers(host).await;
    let running = running.iter().find(|container| container.running).unwrap();
    let client = at.testnet.engine(host).client().unwrap();
    let inspect = client.inspect_container(&running.id, None).await.unwrap();
    let mounts = inspect.mounts.unwrap().into_iter();
    mounts
        .filter(|mount| mount.name.is_some())
        .map(|mount| (mount.destination.unwrap(), mount.source.unwrap().into()))
        .collect()
}

/// Entries below a folder by their path: kind and mode, owner, and what is in them. Of the service's own files, which go
/// on, not what is in them.
fn entries(root: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let goes_on = ["log", "count"].iter().any(|own| name == Path::new(own));
            let content = if meta.is_file() && !goes_on {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
            found.insert(name, format!("{mode:o} {owner:?} {}", content.escape_ascii()));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// What a command of a host's node says when it fails.
fn failure(at: &Scenario, host: usize, options: &[&str]) -> String {
    let node = Node::of(at.testnet.state(), host).unwrap();
    let data = at.testnet.state().data_dir(host).display().to_string();
    let words = ["migrate", &at.session, "--to", "host2", "--data-dir", &data];
    let error = node.command(&[&words[..], options].concat()).unwrap_err();
    format!("{error:#}")
}

#[tokio::test]
async fn copied_volumes_come_along_there_and_back() {
    let testnet = place(still(2), |image| vec![counter(image, "volumes = \"copy\"")]).await;
    let at = Scenario::drive(testnet, 1).await;
    at.served_by(1).await;
    let first = volumes(&at, 1).await;
    let (data, cache) = (&first["/data"], &first["/srv/cache"]);
    assert!(
        data.join("log").exists(),
        "the service keeps its log in the volume"
    );
    assert!(data.join("seeds/late").exists(), "the engine has put it there");

    // The container's own layer is not all that there is to move, and a committed image would be.
    for options in [&["--method", "image"][..], &["--method", "image", "--dry-run"]] {
        let said = failure(&at, 1, options);
        assert!(said.contains("volumes") && said.contains("live"), "{said}");
    }
    let dry_run = at.command(1, 2, &["--dry-run"]);
    assert_eq!(dry_run["method"], "live", "{dry_run:#}");

    std::fs::remove_file(data.join("seeds/early")).unwrap();
    std::fs::remove_file(cache.join("seed")).unwrap();
    std::fs::create_dir(cache.join("folder")).unwrap();
    write(cache, "folder/large", &[7; 300_000]);
    write(cache, "small", b"before");
    let told = (entries(data), entries(cache));
    let report = at.moved(1, 2).await;
    assert_eq!(report["method"], "live", "{report:#}");
    assert_eq!(report["fallback"], Value::Null, "{report:#}");
    at.served_by(2).await;
    let second = volumes(&at, 2).await;
    let (data, cache) = (&second["/data"], &second["/srv/cache"]);
    assert_eq!((entries(data), entries(cache)), told);

    // And back, with other changes.
    std::fs::remove_dir_all(cache.join("folder")).unwrap();
    std::fs::remove_file(data.join("seeds/late")).unwrap();
    write(cache, "small", b"after");
    write(data, "own", b"of the second stay");
    let told = (entries(data), entries(cache));
    at.moved(2, 1).await;
    at.served_by(1).await;
    let third = volumes(&at, 1).await;
    assert_ne!(
        first["/data"], third["/data"],
        "another container, another volume"
    );
    let now = (entries(&third["/data"]), entries(&third["/srv/cache"]));
    assert_eq!(now, told);
    for gone in ["seeds/early", "seeds/late"] {
        assert!(!third["/data"].join(gone).exists(), "{gone}");
    }
    // The log itself, to the last request before each stop.
    all_answered(&at.end(1).await);
}

#[tokio::test]
async fn without_the_live_method_copied_volumes_stay_and_the_report_says_why() {
    let mut spec = still(2);
    spec.hosts[1] = HostSpec {
        extra: "[helper]\nsocket = \"/nonexistent/helper.sock\"".parse().unwrap(),
        ..HostSpec::default()
    };
    let testnet = place(spec, |image| vec![counter(image, "volumes = \"copy\"")]).await;
    let at = Scenario::drive(testnet, 1).await;
    at.served_by(1).await;
    let before = at.running();
    let report = at.order(1, 2).await;
    assert_eq!(report["outcome"], "aborted", "{report:#}");
    let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
    assert!(text("fallback").contains("helper"), "{report:#}");
    assert!(text("error").contains("volumes"), "{report:#}");
    let said = failure(&at, 1, &["--dry-run"]);
    assert!(
        said.contains("volumes") && said.contains("would not move"),
        "{said}"
    );
    assert_eq!(at.running(), before, "nothing was stopped");
    at.served_by(1).await;
    all_answered(&at.end(1).await);
}

#[tokio::test]
async fn volumes_are_refused_or_begin_anew_where_nothing_else_is_said() {
    let testnet = place(still(2), |image| {
        vec![
            counter(image, ""),
            counter(image, "name = \"anew\"\nvolumes = \"ignore\""),
        ]
    })
    .await;
    let state = testnet.state();
    let url = format!(
        "http://{}:{GATEWAY_PORT}/counter/",
        state.host(1).unwrap().address
    );
    let refused = client::ask(&state.road().cars(), Method::GET, &url, None).await;
    assert!(refused.is_err(), "{refused:?}");
    let log = std::fs::read_to_string(Node::of(state, 1).unwrap().log()).unwrap();
    assert!(log.contains("declares VOLUME /data"), "{log}");
    let made = testnet.engine(1).containers().await.unwrap();
    let made = made
        .iter()
        .any(|container| !container.name.starts_with("blosm-proof-"));
    assert!(!made, "nothing of it was created");

    let plan = CarPlan {
        path: "/anew/".to_owned(),
        ..CarPlan::past(state, 20, 80.0)
    };
    let at = Scenario::ride(testnet, 1, plan).await;
    at.served_by(1).await;
    let data = volumes(&at, 1).await["/data"].clone();
    write(&data, "own", b"of the first stay");
    std::fs::remove_file(data.join("seeds/late")).unwrap();
    let report = at.moved(1, 2).await;
    assert_eq!(report["method"], "live", "{report:#}");
    at.served_by(2).await;
    let data = volumes(&at, 2).await["/data"].clone();
    assert!(!data.join("own").exists() && data.join("seeds/late").exists());
    at.car.finish().await.unwrap();
    finish(at.testnet);
}

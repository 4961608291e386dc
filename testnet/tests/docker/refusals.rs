//! What a node does not do for a client, and how it says so.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use blosm_testnet::engine::Engine;
use blosm_testnet::node::Node;
use blosm_testnet::service_log::ServiceLog;
use blosm_testnet::{HostSpec, Testnet, cleanup, config, image, reports};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::ask;
use crate::scenario::{self, Scenario, eventually};

/// An image that another machine could run.
const FOREIGN: &str = "blosm-demo/foreign:1";

/// Writes a copy of the saved image `tar` whose configuration names another architecture, under the name [`FOREIGN`];
/// gives the copy and how a declaration pins it.
fn foreign_image(tar: &Path) -> (PathBuf, String) {
    let mut files = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(tar).unwrap())
        .entries()
        .unwrap()
    {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(path, bytes);
    }
    let mut manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let mut config: Value = serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
    let ours = config["architecture"].as_str().unwrap();
    config["architecture"] = if ours == "arm64" { "amd64" } else { "arm64" }.into();
    let config = serde_json::to_vec(&config).unwrap();
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&config));
    manifest[0]["Config"] = format!("{digest}.json").into();
    manifest[0]["RepoTags"] = json!([FOREIGN]);
    let layers = manifest[0]["Layers"].as_array().unwrap().clone();

    let copy = tar.with_file_name("foreign.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&copy).unwrap());
    let mut append = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    append("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    append(&format!("{digest}.json"), &config);
    for layer in layers {
        let layer = layer.as_str().unwrap();
        append(layer, &files[layer]);
    }
    builder.finish().unwrap();
    (copy, format!("{FOREIGN}@sha256:{digest}"))
}

/// A service of the demo's kind under another name, of another image.
fn service(name: &str, image: &str) -> toml::Value {
    let mut table = config::counter(image);
    table.insert("name".to_owned(), name.into());
    table.into()
}

/// Starts a host's node again with more services in its file.
async fn declare(testnet: &mut Testnet, host: usize, services: &[toml::Value]) {
    testnet.stop_node(host).unwrap();
    let file = testnet.state().data_dir(host).join("blosm.toml");
    let mut table: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let declared = table["service"].as_array_mut().unwrap();
    declared.extend(services.iter().cloned());
    std::fs::write(&file, toml::to_string(&table).unwrap()).unwrap();
    testnet.start_node(host).await.unwrap();
}

/// The line of a host's log that speaks of that service's image.
fn warning(testnet: &Testnet, host: usize, service: &str) -> String {
    let log = std::fs::read_to_string(Node::of(testnet.state(), host).unwrap().log()).unwrap();
    let wanted = format!("service=\"{service}\"");
    let found = log
        .lines()
        .find(|line| line.contains("WARN") && line.contains(&wanted));
    found
        .unwrap_or_else(|| panic!("nothing on {service} in {log}"))
        .to_owned()
}

async fn sessions_of(engine: &Engine) -> BTreeSet<String> {
    let containers = engine.containers().await.unwrap();
    containers.into_iter().filter_map(|c| c.session).collect()
}

#[tokio::test]
async fn services_that_cannot_run_and_tokens_that_are_not_ours() {
    let mut testnet = scenario::up(scenario::spec(2)).await;
    let (foreign, pinned) = foreign_image(&testnet.state().dir.join("base.tar"));
    let services = [
        service("foreign", &pinned),
        service(
            "nowhere",
            &format!("blosm-demo/nowhere:1@sha256:{}", "a".repeat(64)),
        ),
        service("repinned", &format!("{}@sha256:{}", image::NAME, "b".repeat(64))),
    ];
    for host in [1, 2] {
        image::load(&testnet.engine(host), &foreign).await.unwrap();
        declare(&mut testnet, host, &services).await;
    }
    let t = &testnet;

    // No such service.
    ask(t, Method::POST, 1, "/nothing/", None)
        .await
        .refused(404, &["declares no such service", "[[service]]"]);
    ask(t, Method::GET, 1, "/", None).await.refused(404, &["service"]);

    // Images: the client is told in general, the operator in particular, and the node serves on.
    for name in ["foreign", "nowhere", "repinned"] {
        for host in [1, 2] {
            ask(t, Method::POST, host, &format!("/{name}/"), None)
                .await
                .refused(503, &["image", "log"]);
        }
    }
    for (name, parts) in [
        ("foreign", &["pin an image for"][..]),
        (
            "nowhere",
            &["blosm-demo/nowhere:1", "is not on this engine", "load or pull"],
        ),
        ("repinned", &[image::NAME, &"b".repeat(64), "is pinned"]),
    ] {
        let line = warning(t, 1, name);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    for host in [1, 2] {
        let engine = t.engine(host);
        let mut left = engine.containers().await.unwrap();
        // By which the node finds out at its start whether the live method works.
        left.retain(|container| !container.name.starts_with("blosm-proof-"));
        assert_eq!(left, [], "nothing is half started");
        let status = t.client(host).unwrap().get("/v1/status").await.unwrap();
        assert_eq!((&status["ready"], &status["sessions"]), (&json!(true), &json!(0)));
        let memory = &status["resources"]["memory"];
        assert_eq!(memory["reserved"], 0, "no room stays booked: {memory}");
    }

    // Two clients, two containers.
    let first = ask(t, Method::POST, 1, "/counter/", None).await;
    let second = ask(t, Method::POST, 1, "/counter/", None).await;
    assert_eq!((first.status, second.status), (200, 200), "{first:?} {second:?}");
    let (first, second) = (first.token.unwrap(), second.token.unwrap());
    assert_ne!(first, second);
    for token in [&first, &second] {
        let log = ask(t, Method::GET, 1, "/counter/log", Some(token)).await;
        assert_eq!(ServiceLog::parse(&log.body).unwrap().numbers, [1], "each its own");
    }
    assert_eq!(t.live_instances().len(), 2);

    // Tokens: changed by a digit, of another service, of nobody.
    let changed = |at: usize| {
        let mut text = first.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(text).unwrap()
    };
    for (path, token) in [
        ("/counter/", changed(5)),
        ("/counter/", changed(60)),
        ("/counter/", changed(120)),
        ("/echo/", first.clone()),
        ("/counter/", "A".repeat(171)),
        ("/counter/", first[1..].to_owned()),
        ("/counter/", "token".to_owned()),
    ] {
        for host in [1, 2] {
            ask(t, Method::POST, host, path, Some(&token))
                .await
                .refused(400, &["token"]);
        }
    }
    for method in [Method::GET, Method::DELETE] {
        ask(t, method, 1, "/.blosm/session", None)
            .await
            .refused(400, &["token"]);
    }

    // A client that ends its session ends its container, and no other.
    let before = sessions_of(&t.engine(1)).await;
    let session = ask(t, Method::GET, 1, "/.blosm/session", Some(&first)).await;
    let session: Value = serde_json::from_str(&session.body).unwrap();
    let session = session["session"].as_str().unwrap().to_owned();
    assert!(before.contains(&session), "{before:?}");
    let closed = ask(t, Method::DELETE, 1, "/.blosm/session", Some(&first)).await;
    assert_eq!(closed.status, 204, "{closed:?}");
    ask(t, Method::POST, 1, "/counter/", Some(&first))
        .await
        .refused(410, &["session is over"]);
    ask(t, Method::DELETE, 1, "/.blosm/session", Some(&first))
        .await
        .refused(410, &["session is over"]);
    // By its chain or by asking the owner.
    ask(t, Method::POST, 2, "/counter/", Some(&first))
        .await
        .refused(410, &["session is over"]);
    eventually("its container is gone", || async {
        !sessions_of(&t.engine(1)).await.contains(&session)
    })
    .await;
    let other = ask(t, Method::POST, 1, "/counter/", Some(&second)).await;
    assert_eq!(other.status, 200, "{other:?}");
    // The neighbour's client may end it too.
    let closed = ask(t, Method::DELETE, 2, "/.blosm/session", Some(&second)).await;
    assert_eq!(closed.status, 204, "{closed:?}");
    eventually("no container is left", || async {
        t.engine(1).containers().await.unwrap().is_empty()
    })
    .await;
    assert_eq!(t.live_instances(), []);
    eventually("no room stays booked", || async {
        let status = t.client(1).unwrap().get("/v1/status").await.unwrap();
        status["resources"]["memory"]["reserved"] == 0
    })
    .await;

    let state = testnet.state().clone();
    testnet.down().unwrap();
    cleanup::check_gone(&state.id, &state.dir).unwrap();
}

#[tokio::test]
async fn a_destination_without_room_relays_and_no_container_moves() {
    let mut spec = scenario::spec(2);
    // A container of the service reserves 32 MiB.
    spec.hosts[1] = HostSpec {
        extra: "[resources]\nmemory = \"16MiB\"".parse().unwrap(),
        ..HostSpec::default()
    };
    let scenario = Scenario::drive(scenario::up(spec).await, 1).await;
    let before = scenario.running();
    assert_eq!(before.iter().map(|i| i.host).collect::<Vec<_>>(), [1]);
    scenario.drive_to(2);
    eventually("the car stands at host 2", || async { scenario.car.arrived() }).await;
    let key = scenario.testnet.state().hosts[1].key.clone();
    let relayed = || async {
        let all = reports::all(&scenario.testnet).await;
        all.into_values()
            .find(|report| report["session"] == scenario.session.as_str() && report["outcome"] == "relayed")
    };
    eventually("host 2 reports that it relays", || async {
        relayed().await.is_some()
    })
    .await;
    let report = relayed().await.unwrap();
    assert_eq!(report["destination"].as_str(), key.as_deref(), "{report}");
    assert_eq!(report["verdict"], false, "{report}");
    assert_eq!(report["verdict_detail"]["hard"], "reservation", "{report}");
    assert_eq!(report["wire_bytes"], 0, "{report}");
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before);
    assert_eq!(scenario.completed().await.len(), 0);

    // A second car's request finds host 2 full as well, and its neighbour serves it.
    let echo = ask(&scenario.testnet, Method::POST, 2, "/echo/", None).await;
    assert_eq!(
        (echo.status, echo.node.as_deref()),
        (200, Some("host1")),
        "{echo:?}"
    );
    let again = ask(
        &scenario.testnet,
        Method::POST,
        2,
        "/echo/",
        echo.token.as_deref(),
    )
    .await;
    assert_eq!(
        (again.status, again.node.as_deref()),
        (200, Some("host1")),
        "{again:?}"
    );
    assert_eq!(scenario.testnet.engine(2).containers().await.unwrap(), []);

    let records = scenario.end(2).await;
    assert!(records.iter().all(|record| record.ok()));
}

//! An operator empties a node, and asks beforehand what a move would be like.

use blosm_testnet::node::Node;
use blosm_testnet::{HostSpec, reports};
use reqwest::Method;
use serde_json::Value;

use crate::client::ask;
use crate::scenario::{self, Scenario, eventually};

/// Runs a command of host 1's operator.
fn operator(scenario: &Scenario, words: &[&str]) -> anyhow::Result<String> {
    let state = scenario.testnet.state();
    let data_dir = state.data_dir(1).display().to_string();
    let mut words = words.to_vec();
    words.extend(["--data-dir", &data_dir]);
    Node::of(state, 1).unwrap().command(&words)
}

/// The JSON document that such a command prints.
fn answer(scenario: &Scenario, words: &[&str]) -> Value {
    serde_json::from_str(&operator(scenario, words).unwrap()).unwrap()
}

async fn not_ready(scenario: &Scenario) -> Option<String> {
    let status = scenario.testnet.client(1).unwrap().get("/v1/status").await.ok()?;
    Some(status["not_ready"].as_str().unwrap_or_default().to_owned())
}

/// Waits until that host has tried the live method: until then a dry run is right to promise the image.
async fn proven(scenario: &Scenario, host: usize) {
    eventually("the live method works", || async {
        let status = scenario.testnet.client(host).unwrap().get("/v1/status").await;
        let methods = status.map(|status| status["methods"].clone()).unwrap_or_default();
        let live = methods
            .as_array()
            .and_then(|list| list.iter().find(|m| m["method"] == "live"));
        live.is_some_and(|live| live["available"] == true)
    })
    .await;
}

fn hosts(scenario: &Scenario) -> Vec<usize> {
    scenario.running().iter().map(|instance| instance.host).collect()
}

#[tokio::test]
async fn a_drained_node_gives_its_session_away_and_takes_it_again_afterwards() {
    let mut scenario = Scenario::start(2).await;
    scenario.all_sealed(1).await;
    for host in [1, 2] {
        proven(&scenario, host).await;
    }
    let session = scenario.session.clone();

    // What it would be like; nothing follows from the question.
    let before = scenario.running();
    let height = || async {
        let head = scenario.testnet.client(1).unwrap().get("/v1/chain/head").await;
        head.unwrap()["height"].as_u64()
    };
    let sealed = height().await;
    let dry = answer(
        &scenario,
        &["migrate", &session, "--to", "host2", "--dry-run", "--json"],
    );
    assert_eq!(
        (&dry["verdict"], &dry["destination_label"]),
        (&true.into(), &"host2".into())
    );
    assert_eq!(dry["missing_layers"], 0, "every engine holds the base: {dry}");
    assert_eq!(
        dry["link_mbit"],
        Value::Null,
        "nothing has gone over it yet: {dry}"
    );
    let shown = operator(&scenario, &["migrate", &session, "--to", "host2", "--dry-run"]).unwrap();
    assert!(shown.contains("unknown link"), "{shown}");
    assert_eq!(scenario.running(), before);
    assert!(reports::all(&scenario.testnet).await.is_empty());
    assert_eq!(height().await, sealed, "nothing was announced");

    // What it is like.
    let drained = answer(&scenario, &["drain", "--json"]);
    assert_eq!(
        (
            &drained["drained"],
            &drained["settled"],
            &drained["moved"],
            &drained["remaining"]
        ),
        (&true.into(), &true.into(), &1.into(), &0.into()),
        "{drained}"
    );
    assert_eq!(drained["sessions"][0]["to_label"], "host2", "{drained}");
    assert_eq!(hosts(&scenario), [2]);
    let completed = scenario.completed().await;
    assert_eq!(completed.len(), 1, "{completed:?}");
    let report = &completed[0];
    assert_eq!(report["reason"], "drain", "{report}");
    for key in ["verdict", "verdict_detail", "method", "destination", "service"] {
        assert_eq!(report[key], dry[key], "{key} is not what was said: {report}");
    }
    assert!(report["writable_bytes"].as_u64() > Some(0), "{report}");

    // The car still sends to host 1, which relays and does not ask for the session.
    scenario.served_by(2).await;
    assert!(!scenario.testnet.client(1).unwrap().ready().await);
    let why = not_ready(&scenario).await.unwrap();
    assert!(why.contains("drained") && why.contains("blosm undrain"), "{why}");
    let opened = ask(&scenario.testnet, Method::POST, 1, "/counter/", None).await;
    assert_eq!(
        (opened.status, opened.node.as_deref()),
        (200, Some("host2")),
        "{opened:?}"
    );

    // It is drained after a restart, too.
    scenario.testnet.stop_node(1).unwrap();
    scenario.testnet.spawn_node(1).unwrap();
    eventually("host 1 answers and is drained", || async {
        not_ready(&scenario)
            .await
            .is_some_and(|why| why.contains("drained"))
    })
    .await;
    scenario.served_by(2).await;
    assert_eq!(hosts(&scenario), [2]);

    operator(&scenario, &["undrain"]).unwrap();
    assert!(scenario.testnet.client(1).unwrap().ready().await);
    scenario.served_by(1).await;
    assert_eq!(hosts(&scenario), [1]);
    scenario.end(1).await;
}

#[tokio::test]
async fn what_nobody_takes_is_named_and_served_on() {
    let mut spec = scenario::spec(2);
    // A container of the service reserves 32 MiB.
    spec.hosts[1] = HostSpec {
        extra: "[resources]\nmemory = \"16MiB\"".parse().unwrap(),
        ..HostSpec::default()
    };
    let scenario = Scenario::drive(scenario::up(spec).await, 1).await;
    let before = scenario.running();
    let session = scenario.session.clone();
    let dry = operator(&scenario, &["migrate", &session, "--dry-run"]);
    let dry = dry.unwrap_err().to_string();
    assert!(dry.contains("host2 would not take the session"), "{dry}");

    let drained = operator(&scenario, &["drain", "--to", "host2"])
        .unwrap_err()
        .to_string();
    assert!(drained.contains("1 session remains"), "{drained}");
    assert!(
        drained.contains(&session[..12]) && drained.contains("judged"),
        "{drained}"
    );
    assert!(!scenario.testnet.client(1).unwrap().ready().await);
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before);
    let view = scenario
        .testnet
        .client(1)
        .unwrap()
        .get("/v1/drain")
        .await
        .unwrap();
    assert_eq!(view["sessions"][0]["state"], "remains", "{view}");
    operator(&scenario, &["undrain"]).unwrap();
    let records = scenario.end(1).await;
    assert!(records.iter().all(|record| record.ok()));
}

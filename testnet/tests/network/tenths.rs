//! Ten members, of which one is off, and then another: nine tenths of them are known to hold a block, or not.

use blosm_testnet::{Spec, config};
use serde_json::{Value, json};

use crate::ride::{Ride, STILL};
use crate::road::{Nodes, eventually};

async fn ten(confirmation_required: bool) -> Nodes {
    Nodes::of(Spec {
        extra: STILL.parse().unwrap(),
        services: |image| vec![config::counter(image)],
        confirmation_required,
        ..Spec::hosts(10)
    })
    .await
}

fn counted(report: &Value) -> Value {
    json!([report["ledger"]["confirmations"], report["ledger"]["members"]])
}

/// Waits until a host's report of a completed move says that so many of ten have confirmed: they are counted beside it.
async fn says(nodes: &Nodes, host: usize, report: &Value, confirmations: u64) {
    let path = format!("/v1/migrations/{}", report["id"].as_str().unwrap());
    let client = nodes.testnet.client(host).unwrap();
    eventually(&format!("host{host} says {confirmations} of 10"), async || {
        let report = client.get(&path).await.unwrap();
        report["outcome"] == "completed" && counted(&report) == json!([confirmations, 10])
    })
    .await;
}

#[tokio::test]
async fn with_eight_of_ten_a_container_moves_and_its_report_says_so() {
    let mut nodes = ten(false).await;
    nodes.testnet.kill_node(10).unwrap();
    let hash = nodes.seal();
    let (confirmed, text) = nodes.wait_confirmed(2, &hash, "60s");
    assert!(confirmed && text.ends_with("9 of 10\nconfirmed\n"), "{text}");

    nodes.testnet.kill_node(9).unwrap();
    let hash = nodes.seal();
    let (confirmed, text) = nodes.wait_confirmed(2, &hash, "10s");
    let why = "8 of 10 members hold it, 9 are needed";
    assert!(!confirmed && text.contains(why), "{text}");
    let ride = Ride::start(&nodes.testnet, 2).await;
    let report = ride.moved(&nodes.testnet, 2, 3).await;
    assert_eq!(report["phases_ms"]["ledger_wait"], 0.0, "{report:#}");
    for host in [2, 3] {
        says(&nodes, host, &report, 8).await;
    }
    // The ledger goes on as well.
    nodes.seal();
    ride.end(&nodes.testnet, 2).await;
    nodes.end();
}

#[tokio::test]
async fn where_nine_are_required_nothing_moves_with_eight_until_one_is_back() {
    let mut nodes = ten(true).await;
    let ride = Ride::start(&nodes.testnet, 2).await;
    nodes.testnet.kill_node(10).unwrap();
    let report = ride.moved(&nodes.testnet, 2, 3).await;
    says(&nodes, 3, &report, 9).await;

    nodes.testnet.kill_node(9).unwrap();
    let report = ride.order(&nodes.testnet, 3, 2).await;
    assert_eq!(report["outcome"], "aborted", "{report:#}");
    let why = report["error"].as_str().unwrap_or_default();
    assert!(why.contains("8 of 10 members"), "{why}");
    assert_eq!(counted(&report), json!([8, 10]), "{report:#}");
    let signed = report["ledger"]["transactions"].as_array().unwrap();
    let handed_over = signed.iter().any(|transaction| transaction["kind"] == "handover");
    assert!(!handed_over && report["phases_ms"]["stop"] == 0.0, "{report:#}");
    ride.served_by(3).await;

    // Nothing hangs: the ledger goes on, and so does the session once nine are there again.
    nodes.seal();
    nodes.testnet.start_node(9).await.unwrap();
    let report = ride.moved(&nodes.testnet, 3, 2).await;
    says(&nodes, 2, &report, 9).await;
    ride.end(&nodes.testnet, 3).await;
    nodes.end();
}

//! Algorithm 1 beside real migrations: a member that was admitted and never runs counts among the N, and confirms nothing.

use blosm_testnet::node::Node;
use blosm_testnet::{Spec, Testnet};
use serde_json::{Value, json};

use crate::moves::all_answered;
use crate::scenario::{Scenario, eventually, still, up};

/// Admits a node that nobody runs; gives the hash of its admission.
fn admit_dark(testnet: &Testnet) -> String {
    let data_dir = testnet.state().data_dir(1).display().to_string();
    let key = "5a".repeat(32);
    let answer = Node::of(testnet.state(), 1)
        .unwrap()
        .command(&[
            "admit",
            &key,
            "--gateway",
            "http://10.77.0.200:8080",
            "--location=37.450000,126.700000",
            "--radius",
            "300",
            "--label",
            "dark",
            "--json",
            "--data-dir",
            &data_dir,
        ])
        .unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["hash"].as_str().unwrap().to_owned()
}

fn counted(report: &Value) -> Value {
    json!([report["ledger"]["confirmations"], report["ledger"]["members"]])
}

#[tokio::test]
async fn where_confirmation_is_required_nothing_moves_without_nine_tenths_and_nothing_is_harmed() {
    let spec = Spec {
        confirmation_required: true,
        ..still(2)
    };
    let scenario = Scenario::drive(up(spec).await, 1).await;
    let report = scenario.moved(1, 2).await;
    assert_eq!(counted(&report), json!([2, 2]), "{report:#}");
    assert_eq!(report["phases_ms"]["ledger_wait"], 0.0, "{report:#}");
    scenario.served_by(2).await;

    let hash = admit_dark(&scenario.testnet);
    let data_dir = scenario.testnet.state().data_dir(2).display().to_string();
    let node = Node::of(scenario.testnet.state(), 2).unwrap();
    let error = node
        .command(&[
            "chain",
            "tx",
            &hash,
            "--wait-confirmed",
            "--timeout",
            "2s",
            "--data-dir",
            &data_dir,
        ])
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("2 of 3 members hold it, 3 are needed"),
        "{error:#}"
    );

    let before = scenario.running();
    let report = scenario.order(2, 1).await;
    assert_eq!(report["outcome"], "aborted", "{report:#}");
    let why = report["error"].as_str().unwrap_or_default();
    assert!(why.contains("2 of 3 members"), "{why}");
    assert_eq!(counted(&report), json!([2, 3]), "{report:#}");
    let signed = report["ledger"]["transactions"].as_array().unwrap();
    assert!(
        signed.iter().all(|transaction| transaction["kind"] != "handover"),
        "{report:#}"
    );
    assert_eq!(report["phases_ms"]["stop"], 0.0, "{report:#}");
    scenario.served_by(2).await;
    assert_eq!(scenario.running(), before, "nothing was stopped");
    assert_eq!(scenario.car.tally().failed, 0, "no request was harmed");
    all_answered(&scenario.end(2).await);
}

#[tokio::test]
async fn where_it_is_not_required_a_move_completes_and_says_how_many_have_confirmed() {
    let scenario = Scenario::drive(up(still(2)).await, 1).await;
    admit_dark(&scenario.testnet);
    let report = scenario.moved(1, 2).await;
    let id = report["id"].as_str().unwrap();
    for host in [1, 2] {
        let client = scenario.testnet.client(host).unwrap();
        eventually("both ends say 2 of 3", || async {
            let report = client.get(&format!("/v1/migrations/{id}")).await.unwrap();
            report["outcome"] == "completed" && counted(&report) == json!([2, 3])
        })
        .await;
    }
    scenario.served_by(2).await;
    all_answered(&scenario.end(2).await);
}

//! What a service has acknowledged comes along, however it keeps it and however it ends.

use std::collections::BTreeSet;

use blosm_testnet::car::CarPlan;
use blosm_testnet::service_log::ServiceLog;
use blosm_testnet::{Spec, Testnet};
use reqwest::Method;
use serde_json::Value;

use crate::moves::{all_answered, counter};
use crate::scenario::{Scenario, still, up};
use crate::tools::{self, SQLITE};

/// Moves of one session between two hosts.
const MANY: usize = 20;

/// The hosts between which the n-th move goes.
fn leg(n: usize) -> (usize, usize) {
    if n.is_multiple_of(2) { (1, 2) } else { (2, 1) }
}

fn figure(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap()
}

#[tokio::test]
async fn a_database_under_constant_writes_survives_twenty_moves() {
    let spec = Spec {
        nodes: false,
        ..still(2)
    };
    let mut testnet = up(spec.clone()).await;
    let image = tools::place(&testnet).await;
    let service = counter(&image, &format!("env = {{ SQLITE = \"{SQLITE}\" }}"));
    testnet
        .add_nodes(&spec, &[service], &|line| eprintln!("{line}"))
        .await
        .unwrap();
    let scenario = Scenario::drive(testnet, 1).await;
    let look = async |host| -> Value {
        serde_json::from_str(&scenario.ask(Method::GET, host, "/counter/database").await).unwrap()
    };
    for n in 0..MANY {
        let (from, to) = leg(n);
        let before = look(from).await;
        scenario.moved(from, to).await;
        // The answers to these have all come before the question.
        let answered = scenario.answered();
        let after = look(to).await;
        assert_eq!(after["integrity"], "ok", "{after}");
        assert_eq!(after["rows"], after["last"], "{after}");
        let rows = |found: &Value, key: &str| found[key].as_u64().unwrap();
        assert!(
            rows(&after, "last") >= rows(&before, "committed"),
            "{before} {after}"
        );
        let numbers: BTreeSet<u64> = serde_json::from_value(after["requests"].clone()).unwrap();
        let lost: Vec<&u64> = answered
            .iter()
            .filter(|number| !numbers.contains(number))
            .collect();
        assert!(lost.is_empty(), "move {n} has lost the rows of requests {lost:?}");
    }
    all_answered(&scenario.end(leg(MANY).0).await);
}

#[tokio::test]
async fn what_was_stored_through_a_mapping_and_never_flushed_comes_along() {
    let spec = Spec {
        services: |image| vec![counter(image, "env = { MAPPED = \"1\" }")],
        ..still(2)
    };
    let scenario = Scenario::drive(up(spec).await, 1).await;
    for n in 0..MANY / 2 {
        let (from, to) = leg(n);
        scenario.moved(from, to).await;
        let answered = scenario.answered();
        let mapped = scenario.ask(Method::GET, to, "/counter/mapped").await;
        let numbers: Vec<u64> = mapped.lines().map(|line| line.parse().unwrap()).collect();
        let once: BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!(once.len(), numbers.len(), "a number is there twice");
        let lost: Vec<&u64> = answered.iter().filter(|number| !once.contains(number)).collect();
        assert!(lost.is_empty(), "move {n} has lost {lost:?}");
    }
    all_answered(&scenario.end(leg(MANY / 2).0).await);
}

#[tokio::test]
async fn requests_that_take_half_a_second_are_waited_for_in_twenty_moves() {
    let testnet: Testnet = up(still(2)).await;
    let plan = CarPlan {
        path: "/counter/slow?ms=500".to_owned(),
        ..CarPlan::past(testnet.state(), 20, 80.0)
    };
    let scenario = Scenario::ride(testnet, 1, plan).await;
    for n in 0..MANY {
        let (from, to) = leg(n);
        let report = scenario.moved(from, to).await;
        assert_eq!(report["requests"]["interrupted"], 0, "{report:#}");
        assert_eq!(report["requests"]["failed"], 0, "{report:#}");
        // The next one shall meet requests in the container again.
        scenario.served_by(to).await;
    }
    all_answered(&scenario.end(leg(MANY).0).await);
}

#[tokio::test]
async fn a_service_deaf_to_its_stop_signal_is_killed_and_moves_with_its_state() {
    let spec = Spec {
        services: |image| {
            vec![counter(
                image,
                "env = { DEAF = \"1\" }\nstop = { grace = \"600ms\" }",
            )]
        },
        ..still(2)
    };
    let scenario = Scenario::drive(up(spec).await, 1).await;
    scenario.served_by(1).await;
    let report = scenario.moved(1, 2).await;
    // All of its grace, and the kill.
    assert!(figure(&report, "/phases_ms/stop") >= 600.0, "{report:#}");
    scenario.served_by(2).await;
    let log = ServiceLog::parse(&scenario.ask(Method::GET, 2, "/counter/log").await).unwrap();
    let stops: Vec<bool> = log.runs.iter().map(|run| run.stop_ns.is_some()).collect();
    assert_eq!(stops, [false, false], "nobody stopped in good order");
    all_answered(&scenario.end(2).await);
}

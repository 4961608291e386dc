//! A transfer that is interrupted does not begin anew: what has arrived is not sent again.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use blosm_testnet::car::CarPlan;
use blosm_testnet::config::GATEWAY_PORT;
use blosm_testnet::{Testnet, client};
use reqwest::Method;
use serde_json::Value;

use crate::scenario::{METHOD, Scenario, eventually, finish, still, up};

/// What is moved, incompressible.
const BYTES: u64 = 20 * 1024 * 1024;
/// What may be sent twice.
const TWICE: u64 = 1024 * 1024;
/// How long a link is down: shorter than either end's patience with a silent peer.
const CUT: Duration = Duration::from_secs(2);

/// What is interrupted.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Source,
    Destination,
    Link,
}

/// One container of that size, moved from host 1 to host 2, with a fault when so many percent have crossed the link.
/// Gives the bytes that host 1 has sent for it.
async fn transfer(testnet: Testnet, fault: Option<(Fault, u64)>) -> (Testnet, u64) {
    // Few requests: the link's counter counts them too.
    let plan = CarPlan::past(testnet.state(), 2, 80.0);
    let mut scenario = Scenario::ride(testnet, 1, plan).await;
    scenario.all_sealed(1).await;
    scenario.fill(1, BYTES).await;
    let sent = |testnet: &Testnet| testnet.state().road().sent_bytes(1).unwrap();
    let begin = sent(&scenario.testnet);
    let mut id = scenario.begin(1, 2).await;
    if let Some((fault, percent)) = fault {
        let goal = begin + BYTES * percent / 100;
        let testnet = &scenario.testnet;
        eventually("the transfer has come so far", || async { sent(testnet) >= goal }).await;
        strike(&mut scenario.testnet, fault).await;
    }
    let mut begun = fault.is_some();
    let report = loop {
        match settled(&scenario, &id, begun).await {
            Some(report) if report["outcome"] == "completed" => break report,
            _ => id = scenario.begin(1, 2).await,
        }
        begun = false;
    };
    assert_eq!(report["method"], METHOD, "{fault:?}: {report:#}");
    let bytes = sent(&scenario.testnet) - begin;
    assert_eq!(scenario.running().iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    // Its room is wanted for the next one.
    let (cars, token) = (scenario.testnet.state().road().cars(), scenario.car.token());
    let (testnet, _) = scenario.leave(2).await;
    let url = format!(
        "http://{}:{GATEWAY_PORT}/.blosm/session",
        testnet.state().hosts[1].address
    );
    client::ask(&cars, Method::DELETE, &url, token.as_deref())
        .await
        .unwrap();
    (testnet, bytes)
}

async fn strike(testnet: &mut Testnet, fault: Fault) {
    match fault {
        Fault::Source | Fault::Destination => {
            let host = if matches!(fault, Fault::Source) { 1 } else { 2 };
            testnet.kill_node(host).unwrap();
            testnet.start_node(host).await.unwrap();
        }
        Fault::Link => {
            testnet.cut(2).unwrap();
            tokio::time::sleep(CUT).await;
            testnet.heal(2).unwrap();
        }
    }
}

/// The report of an attempt that is over, in the words of the destination, which drives it. One that was started again
/// knows nothing of the attempts before: they have ended with it.
async fn settled(scenario: &Scenario, id: &str, begun: bool) -> Option<Value> {
    let (client, seen) = (scenario.testnet.client(2).unwrap(), Cell::new(begun));
    let found = RefCell::new(None);
    eventually("the attempt is over", || async {
        let reports = client.get("/v1/migrations").await.unwrap_or_default();
        let report = reports
            .as_array()
            .and_then(|all| all.iter().find(|report| report["id"] == id));
        let over = report.map_or(seen.get(), |report| report["outcome"] != "running");
        seen.set(seen.get() || report.is_some());
        found.replace(report.cloned());
        over
    })
    .await;
    found.into_inner()
}

#[tokio::test]
async fn what_has_arrived_before_a_fault_is_not_sent_again() {
    let (mut testnet, whole) = transfer(up(still(2)).await, None).await;
    assert!(whole > BYTES, "{whole}");
    let faults = [Fault::Source, Fault::Destination, Fault::Link];
    let mut broken = Vec::new();
    for (fault, percent) in faults
        .into_iter()
        .flat_map(|fault| [10, 50, 90].map(|percent| (fault, percent)))
    {
        let (next, bytes) = transfer(testnet, Some((fault, percent))).await;
        testnet = next;
        let twice = bytes.saturating_sub(whole);
        eprintln!("{fault:?} at {percent} %: {bytes} bytes, {twice} more than undisturbed");
        if twice > TWICE {
            broken.push((fault, percent, twice));
        }
    }
    assert!(broken.is_empty(), "sent twice, in bytes: {broken:?}");
    finish(testnet);
}

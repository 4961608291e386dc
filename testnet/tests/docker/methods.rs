//! The ways to move a container: which one is taken, and when none is.

use std::path::Path;

use blosm_testnet::car::CarPlan;
use blosm_testnet::process::Process;
use blosm_testnet::service_log::ServiceLog;
use blosm_testnet::{HostSpec, Testnet, sweep};
use reqwest::Method;
use rustix::process::Signal;

use crate::moves::all_answered;
use crate::scenario::{Scenario, eventually, finish, still, up};

/// Twice what a link of 40 Mbit/s carries, and nothing of it compresses.
const FAST: &str = "/counter/work?files=200&bytes=24000000&rate=8000000&text=0";

#[tokio::test]
async fn a_writer_faster_than_the_link_is_relayed_unharmed_and_moves_by_force() {
    let scenario = Scenario::drive(up(still(2)).await, 1).await;
    scenario.ask(Method::POST, 1, FAST).await;
    let before = scenario.running();
    let report = scenario.order(1, 2).await;
    assert_eq!(report["outcome"], "relayed", "{report:#}");
    let why = report["error"].as_str().unwrap_or_default();
    assert!(why.contains("--force"), "{why}");
    assert_eq!(report["phases_ms"]["stop"], 0.0, "{report:#}");
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before, "nothing was stopped");
    assert_eq!(scenario.car.tally().failed, 0, "no request was harmed");
    let report = scenario.command(1, 2, &["--force"]);
    assert_eq!(report["outcome"], "completed", "{report:#}");
    assert_eq!(report["method"], "live", "{report:#}");
    scenario.served_by(2).await;
    all_answered(&scenario.end(2).await);
}

#[tokio::test]
async fn without_a_helper_at_the_destination_the_move_falls_back_to_the_image() {
    let mut spec = still(2);
    spec.hosts[1] = HostSpec {
        extra: "[helper]\nsocket = \"/nonexistent/helper.sock\"".parse().unwrap(),
        ..HostSpec::default()
    };
    let scenario = Scenario::drive(up(spec).await, 1).await;
    let report = scenario.moved(1, 2).await;
    assert_eq!(report["method"], "image", "{report:#}");
    let why = report["fallback"].as_str().unwrap_or_default();
    assert!(why.contains("live") && why.contains("helper"), "{report:#}");
    scenario.served_by(2).await;
    all_answered(&scenario.end(2).await);
}

#[tokio::test]
async fn a_helper_that_dies_is_started_again_and_proves_itself_again() {
    let scenario = Scenario::drive(up(still(2)).await, 1).await;
    eventually("live works", || live_works(&scenario.testnet, 1)).await;
    let mut log = scenario.follow(1);
    let dir = scenario.testnet.state().host_dir(1);
    let [dies] = helpers(&dir).try_into().unwrap();
    dies.signal(Signal::KILL);
    let mut told = String::new();
    eventually("live was off, and works again", || {
        told.extend(log.lines().unwrap());
        let off = told.find("the live method is off");
        let again = off.and_then(|at| told[at..].find("the live method works here"));
        std::future::ready(again.is_some())
    })
    .await;
    assert!(told.contains("the layer helper ended"), "{told}");
    assert!(live_works(&scenario.testnet, 1).await);
    let again = helpers(&dir);
    assert!(again.len() == 1 && again[0] != dies, "{again:?}");
    let report = scenario.moved(1, 2).await;
    assert_eq!(report["method"], "live", "{report:#}");
    scenario.served_by(2).await;
    all_answered(&scenario.end(2).await);
}

/// The processes that serve as the layer helper of the node in that folder.
fn helpers(dir: &Path) -> Vec<Process> {
    let serves = |process: &Process| {
        let words = sweep::command_line(process.pid);
        words.iter().any(|word| word == "--until-stdin-ends")
    };
    sweep::programs(dir).into_iter().filter(serves).collect()
}

async fn live_works(testnet: &Testnet, host: usize) -> bool {
    let status = testnet.client(host).unwrap().get("/v1/status").await.unwrap();
    let mut methods = status["methods"].as_array().unwrap().iter();
    methods.any(|method| method["method"] == "live" && method["available"] == true)
}

#[tokio::test]
async fn a_stateless_service_moves_without_a_failed_request() {
    let testnet = up(still(2)).await;
    let plan = CarPlan {
        path: "/echo/".to_owned(),
        ..CarPlan::past(testnet.state(), 100, 80.0)
    };
    let scenario = Scenario::ride(testnet, 1, plan).await;
    scenario.served_by(1).await;
    let report = scenario.moved(1, 2).await;
    assert_eq!(report["method"], "stateless", "{report:#}");
    scenario.served_by(2).await;
    eventually("the source's container is stopped", || async {
        scenario
            .containers(1)
            .await
            .iter()
            .all(|container| !container.running)
    })
    .await;
    let running: Vec<usize> = scenario.running().iter().map(|i| i.host).collect();
    assert_eq!(running, [2]);
    let there = ServiceLog::parse(&scenario.ask(Method::GET, 2, "/echo/log").await).unwrap();
    let records = scenario.car.finish().await.unwrap();
    all_answered(&records);
    let twice = there.check(&[]).twice;
    assert!(twice.is_empty(), "{twice:?}");
    assert!(
        !there.numbers.contains(&1),
        "the source has answered the first one"
    );
    finish(scenario.testnet);
}

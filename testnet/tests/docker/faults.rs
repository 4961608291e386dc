//! Nodes that die at the worst moment of a migration.

use std::fs::File;

use blosm_testnet::HostSpec;
use bollard::query_parameters::InspectContainerOptions;

use crate::scenario::{self, Scenario, eventually};

/// Takes about four seconds on the testnet's links.
const HEAVY: u64 = 20 * 1024 * 1024;

#[tokio::test]
async fn a_car_that_arrives_unannounced_keeps_its_container_and_loses_nothing() {
    let scenario = Scenario::start(2).await;
    scenario.drive_to(2);
    scenario.served_by(2).await;
    eventually("one completed migration", || async {
        scenario.completed().await.len() == 1
    })
    .await;
    let records = scenario.end(2).await;
    assert!(records.iter().all(|record| record.ok()));
}

#[tokio::test]
async fn destination_killed_in_the_middle_of_a_transfer() {
    let mut scenario = Scenario::start(2).await;
    scenario.fill(1, HEAVY).await;
    let mut log = scenario.follow(2);
    scenario.drive_to(2);
    // The rounds carry it, while the source serves.
    scenario.phase(2, "precopy", &mut log).await;
    scenario.testnet.kill_node(2).unwrap();
    // The car's radio reaches host 1 still, which has signed nothing and serves on.
    scenario.car.avoid(Some(1));
    scenario.served_by(1).await;
    scenario.testnet.start_node(2).await.unwrap();
    scenario.car.avoid(None);
    scenario.served_by(2).await;
    scenario.end(2).await;
}

#[tokio::test]
async fn destination_cut_off_in_the_middle_of_a_transfer() {
    // Of a live move only the last delta crosses between the stop and the signature: an image crosses whole, for seconds.
    let mut scenario = Scenario::drive(scenario::up(scenario::by_image(2)).await, 1).await;
    let before = scenario.running();
    scenario.fill(1, HEAVY).await;
    let (mut source, mut destination) = (scenario.follow(1), scenario.follow(2));
    scenario.drive_to(2);
    scenario.phase(2, "transfer", &mut destination).await;
    scenario.testnet.cut(2).unwrap();
    scenario.car.avoid(Some(1));
    // The source hears nothing, has signed nothing, and takes its container up again.
    scenario.phase(1, "aborted", &mut source).await;
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before);
    scenario.testnet.heal(2).unwrap();
    scenario.car.avoid(None);
    scenario.served_by(2).await;
    assert_eq!(scenario.running().iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    scenario.testnet.wait_agreed().await.unwrap();
    scenario.end(2).await;
}

#[tokio::test]
async fn engine_killed_under_the_serving_owner() {
    let mut scenario = Scenario::start(2).await;
    scenario.all_sealed(1).await;
    let before = scenario.running();
    scenario.testnet.kill_engine(1).unwrap();
    // The container does not need its engine; only it cannot be moved: nobody sees it stop.
    scenario.drive_to(2);
    eventually("the car stands at host 2", || async { scenario.car.arrived() }).await;
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before, "containers outlive their engine");
    // The engine stops what it finds; the owner starts it again, and then it follows the car.
    scenario.testnet.start_engine(1).await.unwrap();
    scenario.served_by(2).await;
    assert_eq!(scenario.running().iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    scenario.end(2).await;
}

#[tokio::test]
async fn engine_killed_while_somebody_holds_its_containers_network() {
    let mut spec = scenario::still(1);
    // Without a helper no container is made to prove the live method, and this one has the first address.
    spec.hosts[0] = HostSpec {
        extra: "[helper]\nsocket = \"/nonexistent/helper.sock\"".parse().unwrap(),
        ..HostSpec::default()
    };
    let mut scenario = Scenario::drive(scenario::up(spec).await, 1).await;
    let mut log = scenario.follow(1);
    let container = scenario.running().remove(0).container;
    let engine = scenario.testnet.engine(1).client().unwrap();
    let found = engine
        .inspect_container(&container, None::<InspectContainerOptions>)
        .await
        .unwrap();
    let pid = found.state.unwrap().pid.unwrap();
    // Its interface stays on the engine's bridge, and refuses connections to an address that the engine gives again.
    let held = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    scenario.testnet.kill_engine(1).unwrap();
    scenario.testnet.start_engine(1).await.unwrap();
    scenario.served_by(1).await;
    let told: String = log.lines().unwrap().concat();
    assert!(told.contains("something else answers at its address"), "{told}");
    drop(held);
    scenario.end(1).await;
}

#[tokio::test]
async fn engine_killed_while_the_source_stops_its_container() {
    // A live move needs the engine no more by then: it is the commit of an image that does.
    let mut scenario = Scenario::drive(scenario::up(scenario::by_image(2)).await, 1).await;
    let mut log = scenario.follow(1);
    scenario.drive_to(2);
    scenario.phase(1, "stop", &mut log).await;
    scenario.testnet.kill_engine(1).unwrap();
    // Whether the stop was done or not: without the engine nothing can be committed, and nobody else may start it.
    scenario.phase(1, "aborted", &mut log).await;
    assert!(scenario.running().iter().all(|i| i.host == 1));
    scenario.testnet.start_engine(1).await.unwrap();
    scenario.served_by(2).await;
    assert_eq!(scenario.running().iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    scenario.end(2).await;
}

#[tokio::test]
async fn destinations_engine_killed_when_it_is_about_to_start_the_container() {
    let mut scenario = Scenario::start(2).await;
    let mut log = scenario.follow(2);
    scenario.drive_to(2);
    scenario.phase(2, "acquired", &mut log).await;
    scenario.testnet.kill_engine(2).unwrap();
    // It owns the session and cannot serve it. It hands it back, or serves when the engine is back: never both.
    scenario.testnet.start_engine(2).await.unwrap();
    scenario.served_by(2).await;
    assert_eq!(scenario.running().iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    scenario.end(2).await;
}

#[tokio::test]
async fn source_killed_right_after_it_signed() {
    let mut scenario = Scenario::start(2).await;
    let mut log = scenario.follow(1);
    scenario.drive_to(2);
    scenario.phase(1, "signed", &mut log).await;
    scenario.testnet.kill_node(1).unwrap();
    // Whether the signature got out or not: while the source is away at most one container runs.
    scenario.testnet.start_node(1).await.unwrap();
    scenario.served_by(2).await;
    assert_eq!(scenario.running().iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    scenario.end(2).await;
}

#[tokio::test]
async fn authority_killed_after_the_source_stopped() {
    // The authority is host 1, so the move is from 2 to 3.
    let mut scenario = Scenario::start(3).await;
    scenario.drive_to(2);
    scenario.served_by(2).await;
    let mut log = scenario.follow(2);
    scenario.drive_to(3);
    scenario.phase(2, "stop", &mut log).await;
    scenario.testnet.kill_node(1).unwrap();
    scenario.served_by(3).await;
    scenario.testnet.start_node(1).await.unwrap();
    let sealed = || async {
        scenario.completed().await.iter().any(|report| {
            let transactions = report["ledger"]["transactions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let to_3 = report["destination"].as_str() == scenario.testnet.state().hosts[2].key.as_deref();
            to_3 && transactions
                .iter()
                .any(|t| t["kind"] == "handover" && t["height"].is_u64())
        })
    };
    eventually("the hand-over is sealed", sealed).await;
    scenario.testnet.wait_agreed().await.unwrap();
    scenario.end(3).await;
}

//! Nodes and engines that are started again under a live session.

use crate::scenario::{Scenario, eventually, spec, up};

#[tokio::test]
async fn a_restarted_node_adopts_its_container() {
    let mut scenario = Scenario::start(2).await;
    scenario.all_sealed(1).await;
    let before = scenario.running();
    scenario.testnet.stop_node(1).unwrap();
    assert_eq!(scenario.running(), before, "containers outlive the daemon");
    scenario.testnet.start_node(1).await.unwrap();
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before);
    scenario.end(1).await;
}

#[tokio::test]
async fn a_restarted_node_adopts_its_container_while_the_authority_is_down() {
    let mut scenario = Scenario::start(3).await;
    scenario.drive_to(2);
    scenario.served_by(2).await;
    scenario.testnet.kill_node(1).unwrap();
    scenario.drive_to(3);
    scenario.served_by(3).await;
    let before = scenario.running();
    // Its hand-over cannot be sealed: only the journal knows that the session is its own.
    scenario.testnet.kill_node(3).unwrap();
    scenario.testnet.start_node(3).await.unwrap();
    scenario.served_by(3).await;
    assert_eq!(scenario.running(), before);
    scenario.testnet.start_node(1).await.unwrap();
    scenario.testnet.wait_agreed().await.unwrap();
    scenario.end(3).await;
}

#[tokio::test]
async fn a_session_opened_without_the_authority_survives_a_restart_and_is_sealed_later() {
    let mut testnet = up(spec(3)).await;
    testnet.kill_node(1).unwrap();
    let mut scenario = Scenario::drive(testnet, 2).await;
    scenario.served_by(2).await;
    let before = scenario.running();
    assert_eq!(before.iter().map(|i| i.host).collect::<Vec<_>>(), [2]);
    assert_eq!(scenario.unsealed(2).await, 1, "its Open");
    // Only the journal knows that there is such a session.
    scenario.testnet.kill_node(2).unwrap();
    scenario.testnet.start_node(2).await.unwrap();
    scenario.served_by(2).await;
    assert_eq!(scenario.running(), before);
    assert_eq!(scenario.unsealed(2).await, 1);
    scenario.testnet.start_node(1).await.unwrap();
    scenario.all_sealed(2).await;
    scenario.testnet.wait_agreed().await.unwrap();
    let sessions = scenario
        .testnet
        .client(1)
        .unwrap()
        .get("/v1/sessions")
        .await
        .unwrap();
    let sealed = sessions.as_array().unwrap();
    assert_eq!(sealed.len(), 1, "{sessions}");
    assert_eq!(sealed[0]["session"], scenario.session.as_str());
    assert_eq!(sealed[0]["owner_label"], "host2");
    scenario.served_by(2).await;
    assert_eq!(scenario.running(), before);
    scenario.drive_to(3);
    scenario.served_by(3).await;
    scenario.end(3).await;
}

#[tokio::test]
async fn a_node_restarted_after_there_and_back_adopts_the_container() {
    let mut scenario = Scenario::start(2).await;
    scenario.drive_to(2);
    scenario.served_by(2).await;
    scenario.drive_to(1);
    scenario.served_by(1).await;
    let before = scenario.running();
    scenario.testnet.kill_node(1).unwrap();
    scenario.testnet.start_node(1).await.unwrap();
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before);
    scenario.end(1).await;
}

#[tokio::test]
async fn after_an_engines_restart_only_the_owner_starts_its_container() {
    let mut scenario = Scenario::start(2).await;
    scenario.drive_to(2);
    scenario.served_by(2).await;
    let before = scenario.running();
    // Host 1's engine still holds the kept container: it must not come to life.
    for host in [1, 2] {
        scenario.testnet.stop_engine(host).unwrap();
        scenario.testnet.start_engine(host).await.unwrap();
    }
    eventually("the owner's container runs again", || async {
        scenario.running() == before
    })
    .await;
    scenario.served_by(2).await;
    scenario.end(2).await;
}

//! What blosm leaves on the disk under an engine, and what it does when that is full.

use blosm_testnet::{HostSpec, image, reports};
use bollard::models::ContainerConfig;
use bollard::query_parameters::CommitContainerOptionsBuilder;

use crate::scenario::{self, Scenario, eventually};

#[tokio::test]
async fn images_that_a_dead_attempt_has_left_go_at_the_start_and_no_others() {
    let mut scenario = Scenario::start(1).await;
    let engine = scenario.testnet.engine(1);
    scenario.testnet.stop_node(1).unwrap();
    let container = engine.containers().await.unwrap().remove(0);
    let own = "operators/own";
    for repository in ["blosm-session", "blosm-sessions", own] {
        let options = CommitContainerOptionsBuilder::default()
            .container(&container.id)
            .repo(repository)
            .tag("left")
            .pause(false)
            .build();
        let committed = engine.client().unwrap();
        committed
            .commit_container(options, ContainerConfig::default())
            .await
            .unwrap();
    }
    scenario.testnet.start_node(1).await.unwrap();
    eventually("the image is gone", || async {
        !engine
            .images()
            .await
            .unwrap()
            .contains(&"blosm-session:left".to_owned())
    })
    .await;
    let left = engine.images().await.unwrap();
    for name in ["blosm-sessions:left", "operators/own:left", image::NAME] {
        assert!(left.iter().any(|tag| tag == name), "{name} is not in {left:?}");
    }
    scenario.served_by(1).await;
    scenario.end(1).await;
}

#[tokio::test]
async fn a_node_whose_disk_is_too_full_fetches_nothing_and_says_so() {
    let mut spec = scenario::spec(2);
    // Some of every disk is in use.
    spec.hosts[1] = HostSpec {
        extra: "[migration]\nstage_free = 1.0".parse().unwrap(),
        ..HostSpec::default()
    };
    let scenario = Scenario::drive(scenario::up(spec).await, 1).await;
    let before = scenario.running();
    scenario.drive_to(2);
    let refused = || async {
        let all = reports::all(&scenario.testnet).await;
        all.into_values().find(|report| report["outcome"] == "aborted")
    };
    eventually("host 2 reports that it fetches nothing", || async {
        refused().await.is_some()
    })
    .await;
    let report = refused().await.unwrap();
    let error = report["error"].as_str().unwrap();
    assert!(
        error.contains("migration.stage_free") && error.contains("free under this node's engine"),
        "{report}"
    );
    assert_eq!(
        (&report["verdict"], &report["wire_bytes"]),
        (&true.into(), &0.into()),
        "{report}"
    );
    scenario.served_by(1).await;
    assert_eq!(scenario.running(), before);
    let records = scenario.end(1).await;
    assert!(records.iter().all(|record| record.ok()));
}

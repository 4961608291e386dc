//! A few cells of the fault table: each part is hit once, where it hurts most.

use blosm_testnet::bench::faults::{Cell, Component, Method, Phase, Row, walk};

/// Runs the cells and shows those that break a bar.
async fn hold(method: Method, hits: &[(Component, Phase)]) -> Vec<Row> {
    let cells: Vec<Cell> = hits
        .iter()
        .map(|(component, phase)| Cell {
            component: *component,
            phase: *phase,
            method,
        })
        .collect();
    let rows = walk(&cells, None, &|line| eprintln!("{line}")).await.unwrap();
    let broken: Vec<&Row> = rows.iter().filter(|row| !row.broken.is_empty()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    rows
}

#[tokio::test]
async fn whatever_dies_in_a_live_migration_one_container_serves_again_and_nothing_is_lost() {
    let hits = [
        (Component::Source, Phase::Last),
        (Component::Destination, Phase::Precopy),
        (Component::SourceEngine, Phase::Stop),
        (Component::DestinationEngine, Phase::Transfer),
        (Component::Authority, Phase::Precopy),
        (Component::Link, Phase::Applied),
    ];
    let rows = hold(Method::Live, &hits).await;
    assert_eq!(rows.len(), hits.len());
}

#[tokio::test]
async fn whatever_dies_in_a_migration_by_image_one_container_serves_again_and_nothing_is_lost() {
    let hits = [
        (Component::Source, Phase::Stop),
        (Component::Destination, Phase::Acquired),
        (Component::SourceEngine, Phase::Drain),
        (Component::DestinationEngine, Phase::Applied),
        (Component::Authority, Phase::Claim),
        (Component::Link, Phase::Signed),
    ];
    let rows = hold(Method::Image, &hits).await;
    assert_eq!(rows.len(), hits.len());
}

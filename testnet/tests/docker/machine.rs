//! Hosts, engines, the image and a car, without `blosm`.

use std::net::SocketAddr;

use blosm_testnet::car::{Car, CarPlan, Roadside};
use blosm_testnet::engine::{Engine, SESSION_LABEL};
use blosm_testnet::hosts::Rate;
use blosm_testnet::service_log::ServiceLog;
use blosm_testnet::{Spec, Testnet, cleanup, goodput};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use crate::scenario::eventually;

async fn bare(hosts: usize) -> Testnet {
    let spec = Spec {
        nodes: false,
        ..Spec::hosts(hosts)
    };
    Testnet::up(&spec, &|line| eprintln!("{line}")).await.unwrap()
}

/// A container of the base image in its host's own network, so that a car reaches it without a gateway.
async fn run_counter(engine: &Engine, image: &str, session: &str) -> String {
    let client = engine.client().unwrap();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some([(SESSION_LABEL.to_owned(), session.to_owned())].into()),
        host_config: Some(HostConfig {
            network_mode: Some("host".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name("counter").build();
    let id = client.create_container(Some(options), body).await.unwrap().id;
    client.start_container(&id, None).await.unwrap();
    id
}

#[tokio::test]
async fn image_is_one_on_all_engines() {
    let testnet = bare(2).await;
    let pinned = testnet.state().image.clone().unwrap();
    let (name, digest) = pinned.split_once('@').unwrap();
    let (first, second) = (testnet.engine(1), testnet.engine(2));
    let identity = first.identity(name).await.unwrap();
    assert_eq!(identity, second.identity(name).await.unwrap());
    assert_eq!(
        identity.id, digest,
        "the classic store names an image by its config digest"
    );
    assert_eq!(identity.diff_ids.len(), 1);
    let state = testnet.state().clone();
    testnet.down().unwrap();
    cleanup::check_gone(&state.id, &state.dir).unwrap();
}

#[tokio::test]
async fn link_carries_what_it_is_shaped_to() {
    let testnet = bare(1).await;
    let measured = goodput::measure(testnet.state()).await.unwrap();
    let rate = Rate::mbit(40).bits() as f64 / 1e6;
    // Below the rate by what the headers take. Far below would be another fault than the link's.
    for mbit in [measured[0].up_mbit, measured[0].down_mbit] {
        assert!(mbit > 0.3 * rate && mbit < 1.02 * rate, "{measured:?}");
    }
    testnet.down().unwrap();
}

#[tokio::test]
async fn every_request_of_a_car_is_in_the_containers_log() {
    let testnet = bare(1).await;
    let name = "blosm-demo/counter:1";
    run_counter(&testnet.engine(1), name, "a-session").await;
    let gateway = SocketAddr::from((testnet.state().hosts[0].address, 8080));
    let (cars, nodes) = (
        testnet.state().road().cars(),
        vec![Roadside {
            location: (0.0, 0.0),
            gateway,
        }],
    );
    let healthy = || async {
        let url = format!("http://{gateway}/healthz");
        cars.run(|| async move { reqwest::get(url).await.is_ok_and(|r| r.status().is_success()) })
            .await
            .unwrap()
    };
    eventually("the container answers", healthy).await;
    let plan = CarPlan {
        stateless: true,
        rate: 50,
        speed: 10.0,
        ..CarPlan::at("/", nodes)
    };
    let car = Car::start(cars.clone(), plan).unwrap();
    eventually("a hundred requests", || async { car.tally().ok >= 100 }).await;
    let records = car.finish().await.unwrap();
    assert!(records.iter().all(|record| record.ok()), "{records:?}");
    let url = format!("http://{gateway}/log");
    let text = cars
        .run(|| async move { reqwest::get(url).await?.text().await })
        .await
        .unwrap()
        .unwrap();
    let log = ServiceLog::parse(&text).unwrap();
    let answered: Vec<u64> = records.iter().map(|record| record.number).collect();
    assert_eq!(log.numbers.len(), answered.len());
    assert!(log.check(&answered).holds(), "{text}");
    testnet.down().unwrap();
}

#[tokio::test]
async fn containers_outlive_their_engine_and_are_seen_without_it() {
    let mut testnet = bare(1).await;
    let id = run_counter(&testnet.engine(1), "blosm-demo/counter:1", "a-session").await;
    let live = |testnet: &Testnet| {
        let of = testnet.live_instances();
        of.into_iter()
            .map(|i| (i.host, i.container, i.session))
            .collect::<Vec<_>>()
    };
    let expected = [(1, id.clone(), Some("a-session".to_owned()))];
    eventually("the container runs", || async { live(&testnet) == expected }).await;
    testnet.kill_engine(1).unwrap();
    assert!(testnet.engine(1).containers().await.is_err());
    assert_eq!(live(&testnet), expected);
    // Twice, since the second start meets what the first one left.
    for _ in 0..2 {
        testnet.start_engine(1).await.unwrap();
        let containers = testnet.engine(1).containers().await.unwrap();
        assert_eq!(containers[0].id, id);
        assert!(
            !containers[0].running,
            "an engine without live-restore stops what it finds"
        );
        assert_eq!(live(&testnet), []);
        testnet.kill_engine(1).unwrap();
    }
    let state = testnet.state().clone();
    testnet.down().unwrap();
    cleanup::check_gone(&state.id, &state.dir).unwrap();
}

#[tokio::test]
async fn nothing_is_left_although_engine_and_container_were_killed() {
    let mut testnet = bare(2).await;
    run_counter(&testnet.engine(1), "blosm-demo/counter:1", "a").await;
    run_counter(&testnet.engine(2), "blosm-demo/counter:1", "b").await;
    testnet.kill_engine(1).unwrap();
    let state = testnet.state().clone();
    assert!(!cleanup::leftovers(&state.id, &state.dir).is_empty());
    // As another command would, which knows no more than the folder.
    drop(Testnet::attach(&state.dir).unwrap());
    cleanup::teardown(&state.dir).unwrap();
    cleanup::check_gone(&state.id, &state.dir).unwrap();
    drop(testnet);
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("mine"), "").unwrap();
    let spec = Spec {
        dir: Some(folder.path().to_owned()),
        nodes: false,
        ..Spec::hosts(1)
    };
    let error = Testnet::up(&spec, &|_| ()).await.unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error:#}");
    assert!(folder.path().join("mine").exists());
}

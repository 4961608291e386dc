//! One engine: a container is what its spec says, and a stop is seen or it is an error.

use std::time::Duration;

use blosm_migrate::docker::exit::processes_of;
use blosm_migrate::docker::{EngineError, ImageError};
use blosm_migrate::recreate::{LABEL_SERVICE, LABEL_SESSION};
use blosm_migrate::service::{Pinned, StopSignal};
use blosm_migrate::{Digest, Docker};

use crate::engine::Engine;
use crate::service::{NAME, SESSION, launch, load_base, service, spec, wait_for_numbers};

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_what_its_declaration_says() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let base = load_base(&engine).await;
    let service = service(base.identity.config_digest, r#","env":{"MODE":"ours"}"#);
    assert_eq!(docker.pinned(&service.image).await.unwrap(), base);
    let spec = spec(&service, &base, &base.id, 0);
    let id = docker.create(&spec).await.unwrap();
    let created = docker.inspect(&spec.name).await.unwrap().unwrap();
    assert_eq!(
        (
            created.id.as_str(),
            created.running,
            created.pid,
            created.exit_code
        ),
        (id.as_str(), false, None, None)
    );
    assert!(matches!(docker.create(&spec).await, Err(error) if error.answered()));

    let started = docker.start(&id).await.unwrap();
    assert!(started.address.is_some());
    wait_for_numbers(started.pid, 1).await;
    let shown = docker.inspect(&id).await.unwrap().unwrap();
    assert_eq!(
        (shown.running, shown.pid, shown.address),
        (true, Some(started.pid), started.address)
    );
    assert_eq!(shown.labels[LABEL_SESSION], hex::encode(SESSION));
    assert_eq!(shown.labels["maker"], "tests");
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", started.pid)).unwrap();
    assert!(
        environment.contains("MODE=ours") && !environment.contains("MODE=base"),
        "{environment}"
    );
    let hostname = std::fs::read_to_string(format!("/proc/{}/root/etc/hostname", started.pid)).unwrap();
    assert_eq!(hostname.trim(), spec.hostname);
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");

    // The base's own health check does not run, and the engine restarts nothing by itself.
    let raw = raw(&engine, &id).await;
    assert_eq!(raw.config.unwrap().healthcheck.unwrap().test.unwrap(), ["NONE"]);
    assert!(
        raw.state
            .unwrap()
            .health
            .is_none_or(|health| health.log.is_none_or(|log| log.is_empty()))
    );
    let host = raw.host_config.unwrap();
    assert_eq!(host.restart_policy.unwrap().name.unwrap().to_string(), "no");
    assert!(host.port_bindings.is_none_or(|ports| ports.is_empty()));
    assert_eq!((host.memory, host.pids_limit), (Some(64 << 20), Some(32)));

    let listed = docker
        .list(&[(LABEL_SERVICE, Some("counter")), (LABEL_SESSION, None)])
        .await
        .unwrap();
    assert_eq!(listed, [docker.inspect(&id).await.unwrap().unwrap()]);
    assert!(
        docker
            .list(&[(LABEL_SERVICE, Some("other"))])
            .await
            .unwrap()
            .is_empty()
    );
    assert!(docker.usage(&id).await.unwrap().memory > 0);
    let sizes = docker.sizes(&id).await.unwrap();
    assert!(sizes.writable > 0 && sizes.total > sizes.writable, "{sizes:?}");

    docker.remove(&id, true).await.unwrap();
    docker.remove(&id, true).await.unwrap();
    assert_eq!(docker.inspect(&id).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sees_the_exit() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let base = load_base(&engine).await;
    let kind = service(base.identity.config_digest, "");

    let (id, pid) = launch(docker, &spec(&kind, &base, &base.id, 0)).await;
    wait_for_numbers(pid, 1).await;
    assert!(processes_of(&id).contains(&pid));
    let stopped = docker.stop(&id, StopSignal::SigTerm, GRACE).await.unwrap();
    assert!(!stopped.killed);
    assert!(processes_of(&id).is_empty());
    docker.settled(&id).await.unwrap();
    let shown = docker.inspect(&id).await.unwrap().unwrap();
    assert_eq!((shown.running, shown.exit_code), (false, Some(0)));
    // Again: what does not run and has no process left counts as seen.
    assert!(!docker.stop(&id, StopSignal::SigTerm, GRACE).await.unwrap().killed);
    // It starts again where it was.
    let again = docker.start(&id).await.unwrap();
    wait_for_numbers(again.pid, 2).await;

    // A frozen container cannot take a signal; it is thawed for it.
    raw_client(&engine).pause_container(&id).await.unwrap();
    assert!(!docker.stop(&id, StopSignal::SigTerm, GRACE).await.unwrap().killed);

    // One that ignores its signal is killed after its grace.
    let stubborn = service(base.identity.config_digest, r#","env":{"STUBBORN":"1"}"#);
    let (id, pid) = launch(docker, &spec(&stubborn, &base, &base.id, 1)).await;
    wait_for_numbers(pid, 1).await;
    assert!(
        docker
            .stop(&id, StopSignal::SigTerm, Duration::from_millis(100))
            .await
            .unwrap()
            .killed
    );
    assert!(processes_of(&id).is_empty());

    assert!(matches!(
        docker.stop("nothing", StopSignal::SigTerm, GRACE).await,
        Err(EngineError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer_proves_nothing() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let base = load_base(&engine).await;
    let (id, pid) = launch(
        docker,
        &spec(&service(base.identity.config_digest, ""), &base, &base.id, 0),
    )
    .await;
    wait_for_numbers(pid, 1).await;
    engine.freeze(true);
    assert!(!docker.alive().await);
    let error = docker.stop(&id, StopSignal::SigTerm, GRACE).await.unwrap_err();
    assert!(
        matches!(error, EngineError::NotAnswering { .. }) && !error.answered(),
        "{error}"
    );
    let error = Docker::connect(&engine.socket()).await.unwrap_err();
    assert!(matches!(error, EngineError::NotAnswering { .. }), "{error}");
    engine.freeze(false);
    assert!(processes_of(&id).contains(&pid));
    assert!(!docker.stop(&id, StopSignal::SigTerm, GRACE).await.unwrap().killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_pinned_image_will_do() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let base = load_base(&engine).await;
    let wrong = Pinned {
        reference: NAME.to_owned(),
        config_digest: Digest([1; 32]),
    };
    match docker.pinned(&wrong).await {
        Err(ImageError::OtherDigest { found, .. }) => assert_eq!(found, base.identity.config_digest),
        other => panic!("{other:?}"),
    }
    let absent = Pinned {
        reference: "blosm-test/none:1".to_owned(),
        ..wrong
    };
    assert!(matches!(
        docker.pinned(&absent).await,
        Err(ImageError::Absent { .. })
    ));
    // The digest is what is pinned: another name for it is fine.
    let renamed = Pinned {
        config_digest: base.identity.config_digest,
        ..absent
    };
    assert_eq!(docker.pinned(&renamed).await.unwrap().identity, base.identity);
    docker.tag(&base.id, "blosm-test/second", "2").await.unwrap();
    docker.remove_image(NAME, false).await.unwrap();
    docker.remove_image(NAME, false).await.unwrap();
    assert!(docker.image("blosm-test/second:2").await.unwrap().is_some());
    assert!(
        docker
            .held_chains()
            .await
            .unwrap()
            .lacking(&base.identity.diff_ids)
            .is_empty()
    );
}

fn raw_client(engine: &Engine) -> bollard::Docker {
    bollard::Docker::connect_with_unix(&engine.socket(), 60, bollard::API_DEFAULT_VERSION).unwrap()
}

async fn raw(engine: &Engine, id: &str) -> bollard::models::ContainerInspectResponse {
    use bollard::query_parameters::InspectContainerOptions;
    raw_client(engine)
        .inspect_container(id, None::<InspectContainerOptions>)
        .await
        .unwrap()
}

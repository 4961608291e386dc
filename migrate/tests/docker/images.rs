//! Two engines: a container's image moves, and what was tampered with does not.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blosm_migrate::Service;
use blosm_migrate::docker::Image;
use blosm_migrate::image::{LoadError, SparseImage, Wanted, export, load};
use blosm_migrate::recreate::{ConfigMismatch, check_committed_config};
use blosm_migrate::service::StopSignal;
use blosm_migrate::transfer::{AttemptStores, LayerStore, Pack, Pull, Pulled, WhichImage};

use crate::engine::Engine;
use crate::service::{contiguous, launch, load_base, service, spec, wait_for, wait_for_numbers};

const GRACE: Duration = Duration::from_secs(20);

/// The source's half of a move: stop, commit, export what the destination lacks.
async fn give(
    from: &Engine,
    container: &str,
    repo: &str,
    base: &Image,
    to: &Engine,
) -> (Image, AttemptStores) {
    let docker = &from.docker;
    docker.stop(container, StopSignal::SigTerm, GRACE).await.unwrap();
    let (entrypoint, cmd) = (&base.config.entrypoint, &base.config.cmd);
    let image = docker
        .commit(container, repo, "1", entrypoint, cmd)
        .await
        .unwrap();
    assert!(image.identity.diff_ids.starts_with(&base.identity.diff_ids));
    let held = to.docker.held_chains().await.unwrap();
    let lacking = held.lacking(&image.identity.diff_ids);
    let on_base = lacking
        .into_iter()
        .filter(|layer| !base.identity.diff_ids.contains(layer))
        .collect();
    let spool = from.spool("given");
    let exported = export(docker, &image.id, &Wanted::Only(on_base), &spool)
        .await
        .unwrap();
    assert_eq!(exported.identity, image.identity);
    let base_exported = export(
        docker,
        &base.identity.config_digest.to_string(),
        &Wanted::All,
        &from.spool("base-given"),
    )
    .await
    .unwrap();
    let stores = AttemptStores {
        base: Some(Arc::new(LayerStore::open(&base_exported).await.unwrap())),
        last: Some(Arc::new(LayerStore::open(&exported).await.unwrap())),
        ..AttemptStores::default()
    };
    (image, stores)
}

/// One image of the destination's half: pull what is lacking, load it, find it identical.
async fn take(
    to: &Engine,
    stores: &AttemptStores,
    which: WhichImage,
    name: &str,
) -> (Image, Pulled, Vec<u8>) {
    let spool = to.spool("taken");
    let fetch = |request: blosm_migrate::transfer::TransferRequest| async move {
        // Over the wire and back, as the network would carry it.
        let request: blosm_migrate::transfer::TransferRequest =
            borsh::from_slice(&borsh::to_vec(&request).unwrap()).unwrap();
        let answer = stores.answer(request.body).await;
        Ok::<_, Infallible>(borsh::from_slice(&borsh::to_vec(&answer).unwrap()).unwrap())
    };
    let pack = Arc::new(Pack::open(&spool, 1 << 30).unwrap());
    let pull = Pull::new([7; 16], &spool, pack, fetch);
    let (manifest, identity, _) = pull.manifest(which).await.unwrap();
    let lacking = to.docker.held_chains().await.unwrap().lacking(&identity.diff_ids);
    let pulled = pull.layers(&manifest, &lacking, None).await.unwrap();
    let sparse = SparseImage::new(name, manifest.config.clone(), &identity.diff_ids, &pulled.layers);
    let image = load(&to.docker, sparse).await.unwrap();
    assert_eq!(image.identity, identity);
    (image, pulled, manifest.config)
}

/// A whole move; gives the new container, its process and what came over the wire for it.
async fn hop(
    from: &Engine,
    container: &str,
    to: &Engine,
    service: &Service,
    base: &Image,
    epoch: u64,
) -> (String, u32, Pulled) {
    let name = format!("blosm-test/session-{epoch}");
    let (given, stores) = give(from, container, &name, base, to).await;
    if to.docker.pinned(&service.image).await.is_err() {
        let (image, pulled, _) = take(to, &stores, WhichImage::Base, &service.image.reference).await;
        assert_eq!(image.identity, base.identity);
        assert_eq!(pulled.layers.len(), base.identity.diff_ids.len());
    }
    let ours = to.docker.pinned(&service.image).await.unwrap();
    assert_eq!(ours.identity, base.identity);
    let (taken, pulled, config) = take(to, &stores, WhichImage::Final, &format!("{name}:1")).await;
    check_committed_config(&config, service, &ours.base()).unwrap();
    assert_eq!(taken.identity, given.identity);
    let (id, pid) = launch(&to.docker, &spec(service, &ours, &taken.id, epoch)).await;
    (id, pid, pulled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_moves_to_an_engine_without_the_base_and_back() {
    let (first, second) = (Engine::start().await, Engine::start().await);
    let base = load_base(&first).await;
    let service = service(base.identity.config_digest, r#","env":{"A":"b"}"#);
    let (id, pid) = launch(&first.docker, &spec(&service, &base, &base.id, 0)).await;
    wait_for_numbers(pid, 3).await;

    let (moved, pid, pulled) = hop(&first, &id, &second, &service, &base, 1).await;
    let numbers = wait_for_numbers(pid, 6).await;
    assert!(contiguous(&numbers), "{numbers:?}");
    // The base had been staged: only the session's own layer came with the cut.
    assert_eq!(pulled.layers.len(), 1);
    assert!(pulled.figures.wire_bytes < pulled.figures.bytes, "{pulled:?}");

    // Back, where the base and the first session layer are: again one layer only.
    let (_, pid, pulled) = hop(&second, &moved, &first, &service, &base, 2).await;
    let more = wait_for_numbers(pid, numbers.len() + 3).await;
    assert!(contiguous(&more), "{more:?}");
    assert_eq!(pulled.layers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tampered_with_is_not_loaded() {
    let (first, second) = (Engine::start().await, Engine::start().await);
    let base = load_base(&first).await;
    load_base(&second).await;
    let service = service(base.identity.config_digest, "");
    let (id, pid) = launch(&first.docker, &spec(&service, &base, &base.id, 0)).await;
    wait_for_numbers(pid, 1).await;
    first.docker.stop(&id, StopSignal::SigTerm, GRACE).await.unwrap();
    let (entrypoint, cmd) = (&base.config.entrypoint, &base.config.cmd);
    let image = first
        .docker
        .commit(&id, "blosm-test/session", "1", entrypoint, cmd)
        .await
        .unwrap();
    let top = *image.identity.diff_ids.last().unwrap();
    let wanted = Wanted::Only([top].into());
    let exported = export(&first.docker, &image.id, &wanted, &first.spool("given"))
        .await
        .unwrap();
    let sparse = |config: &[u8], files: &BTreeMap<_, _>| {
        SparseImage::new(
            "blosm-test/taken:1",
            config.to_vec(),
            &image.identity.diff_ids,
            files,
        )
    };
    let gone = async || second.docker.image("blosm-test/taken:1").await.unwrap().is_none();

    // A layer with other bytes than its digest says: the engine itself refuses it.
    let mut files = exported.layers.clone();
    flip_a_byte(&files.get_mut(&top).unwrap().path);
    let refused = load(&second.docker, sparse(&exported.config, &files)).await;
    assert!(matches!(refused, Err(LoadError::Refused(_))), "{refused:?}");
    assert!(gone().await);
    flip_a_byte(&files[&top].path);

    // A layer that is neither in the tar nor at the engine.
    let refused = load(&second.docker, sparse(&exported.config, &BTreeMap::new())).await;
    assert!(matches!(refused, Err(LoadError::Refused(_))), "{refused:?}");
    assert!(gone().await);

    // A config that adds something does not get as far as the engine.
    let text = String::from_utf8(exported.config.clone()).unwrap();
    let evil = text.replacen("MODE=base", "LD_PRELOAD=/x", 1);
    assert_ne!(evil, text);
    let mismatch = check_committed_config(evil.as_bytes(), &service, &base.base());
    assert_eq!(mismatch, Err(ConfigMismatch::Differs("environment")));

    // The honest one loads after all that.
    let loaded = load(&second.docker, sparse(&exported.config, &files))
        .await
        .unwrap();
    assert_eq!(loaded.identity, image.identity);

    // And its container has the source's files.
    let (_, pid) = launch(&second.docker, &spec(&service, &base, &loaded.id, 1)).await;
    let numbers = wait_for("the log to go on", || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/root/log")).ok()?;
        let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (numbers.len() > 2).then_some(numbers)
    })
    .await;
    assert!(contiguous(&numbers));
}

fn flip_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

//! The layer helper beside a real engine: a writable layer moves while its container runs, and what is not asked
//! properly is not done.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blosm_migrate::docker::Image;
use blosm_migrate::gate::{self, GateFolder};
use blosm_migrate::helper::{
    Helper, HelperError, Marker, Refusal, Round, Server, Settings, keep_needed_rights,
};
use blosm_migrate::service::StopSignal;
use blosm_migrate::{ContainerSpec, Digest, Service};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, UploadToContainerOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::engine::Engine;
use crate::service::{contiguous, launch, layer, load_base, service, spec, wait_for_numbers};

/// A helper in a thread of its own with a helper's rights; it ends with the tests.
pub(crate) fn helper(engine: &Engine, network: Option<&str>) -> Helper {
    let folder = engine.spool("helper");
    let socket = folder.join(format!("socket-{}", network.unwrap_or("any")));
    let settings = Settings {
        socket: socket.clone(),
        engine: engine.socket(),
        spool: folder,
        user: 0,
        network: network.map(str::to_owned),
    };
    let server = Server::bind(settings).unwrap();
    std::thread::spawn(move || {
        keep_needed_rights().unwrap();
        server.run()
    });
    Helper::new(&socket)
}

pub(crate) fn gated(engine: &Engine, mut spec: ContainerSpec) -> (ContainerSpec, GateFolder) {
    let gate = GateFolder::prepare(&engine.spool("gates"), &spec.name).unwrap();
    spec.gate = Some(gate.path().to_owned());
    (spec, gate)
}

pub(crate) fn refusal<T: std::fmt::Debug>(outcome: Result<T, HelperError>) -> Refusal {
    match outcome {
        Err(HelperError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn bytes(round: Round) -> (u64, Vec<u8>) {
    let mut stream = round.stream;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, round.figures.bytes);
    (round.figures.entries, bytes)
}

/// A file with these bytes, at its start.
fn file(bytes: &[u8]) -> OwnedFd {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

/// A pipe that these bytes come through.
fn pipe(bytes: Vec<u8>) -> OwnedFd {
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    reader.into()
}

pub(crate) fn wait_readable(fd: impl AsFd) {
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1));
}

pub(crate) fn inside(pid: u32, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root/{path}"))
}

struct Setting {
    engine: Engine,
    base: Image,
    service: Service,
}

async fn setting() -> Setting {
    let engine = Engine::start().await;
    let base = load_base(&engine).await;
    let service = service(base.identity.config_digest, "");
    Setting {
        engine,
        base,
        service,
    }
}

impl Setting {
    fn spec(&self, epoch: u64) -> ContainerSpec {
        spec(&self.service, &self.base, &self.base.id, epoch)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_layer_moves_while_its_container_runs() {
    let at = setting().await;
    let (docker, helper) = (&at.engine.docker, helper(&at.engine, Some("test")));
    let facts = helper.hello().await.unwrap();
    assert!(facts.privileged && !facts.kernel.is_empty(), "{facts:?}");
    let (source_id, pid) = launch(docker, &at.spec(0)).await;
    wait_for_numbers(pid, 3).await;
    let source = helper.source(&source_id).await.unwrap();
    assert_eq!(source.pid(), pid);

    let (spec, gate) = gated(&at.engine, at.spec(1));
    let (id, gate_pid) = launch(docker, &spec).await;
    let root = helper.gated(&id).await.unwrap();
    assert_eq!(root.pid(), gate_pid);

    // Rounds, by file and by pipe, with changes between them.
    std::fs::create_dir(inside(pid, "folder")).unwrap();
    std::fs::write(inside(pid, "folder/large"), vec![7; 300_000]).unwrap();
    let first = source.round().await.unwrap();
    assert!(first.figures.entries > 0);
    root.apply(first.stream.into()).await.unwrap();
    root.sync().await.unwrap();
    std::fs::remove_file(inside(pid, "bin/echo")).unwrap();
    std::fs::write(inside(pid, "folder/later"), "later").unwrap();
    std::os::unix::fs::symlink("large", inside(pid, "folder/link")).unwrap();
    let (_, second) = bytes(source.round().await.unwrap());
    root.apply(pipe(second)).await.unwrap();

    assert_eq!(refusal(source.last().await), Refusal::StillRuns);
    let exit = source.exit().await.unwrap();
    source.signal(StopSignal::SigTerm).await.unwrap();
    wait_readable(&exit);
    // The process is gone: a signal finds nobody, which is fine.
    source.signal(StopSignal::SigTerm).await.unwrap();
    let last = source.last().await.unwrap();
    root.apply(last.stream.into()).await.unwrap();
    root.sync().await.unwrap();
    assert_eq!(refusal(source.last().await), Refusal::OutOfPlace);
    drop(root);

    // The destination has it all before its first program runs, and goes on from there.
    assert_eq!(
        std::fs::read(inside(gate_pid, "folder/large")).unwrap(),
        vec![7; 300_000]
    );
    assert_eq!(
        std::fs::read_to_string(inside(gate_pid, "folder/later")).unwrap(),
        "later"
    );
    assert_eq!(
        std::fs::read_link(inside(gate_pid, "folder/link")).unwrap(),
        Path::new("large")
    );
    assert!(inside(gate_pid, "bin/echo").symlink_metadata().is_err());
    let upper = wait_for_numbers(gate_pid, 3).await;
    gate.open().unwrap();
    let numbers = wait_for_numbers(gate_pid, upper.len() + 3).await;
    assert!(contiguous(&numbers) && numbers.starts_with(&upper), "{numbers:?}");
    // Nothing of ours is part of a layer.
    docker.settled(&source_id).await.unwrap();
    let committed = commit(&at, &source_id).await;
    assert_eq!(committed.config.entrypoint, at.base.config.entrypoint);
}

async fn commit(at: &Setting, id: &str) -> Image {
    let config = &at.base.config;
    at.engine
        .docker
        .commit(id, "blosm-test/moved", "1", &config.entrypoint, &config.cmd)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_sessions_running_container_is_read() {
    let at = setting().await;
    let docker = &at.engine.docker;
    let helper = helper(&at.engine, Some("test"));
    let both = async |id: &str| {
        let (source, gated) = (helper.source(id).await, helper.gated(id).await);
        let (source, gated) = (refusal(source), refusal(gated));
        assert_eq!(source, gated);
        source
    };

    let mut bare = at.spec(0);
    bare.labels.clear();
    let (id, pid) = launch(docker, &bare).await;
    wait_for_numbers(pid, 1).await;
    assert_eq!(both(&id).await, Refusal::NotLabelled);
    let mut half = at.spec(1);
    half.labels.remove("io.blosm.session");
    let (id, _) = launch(docker, &half).await;
    assert_eq!(both(&id).await, Refusal::NotLabelled);

    let mut other = at.spec(2);
    other.labels.insert("io.blosm.network".into(), "another".into());
    let (id, _) = launch(docker, &other).await;
    assert_eq!(both(&id).await, Refusal::OtherNetwork);

    let stopped = docker.create(&at.spec(3)).await.unwrap();
    assert_eq!(both(&stopped).await, Refusal::NotRunning);
    assert_eq!(both(&"0".repeat(64)).await, Refusal::NoContainer);
    // A container may be named like another one's id.
    let mut named = at.spec(4);
    named.name = "ab".repeat(32);
    launch(docker, &named).await;
    assert_eq!(both(&"ab".repeat(32)).await, Refusal::NoContainer);
    for text in [
        "",
        "..",
        "../../etc",
        &id[..12],
        &format!("{id}/"),
        &id.to_uppercase(),
    ] {
        assert!(
            matches!(helper.source(text).await, Err(HelperError::Id(_))),
            "{text}"
        );
        assert!(
            matches!(helper.gated(text).await, Err(HelperError::Id(_))),
            "{text}"
        );
    }

    // An engine that does not answer is no answer about the container.
    at.engine.freeze(true);
    let silent = helper.source(&id).await;
    at.engine.freeze(false);
    assert!(matches!(silent, Err(HelperError::Failed(_))), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_container_at_its_gate_is_written_to() {
    let at = setting().await;
    let docker = &at.engine.docker;
    let helper = helper(&at.engine, None);
    let (source_id, pid) = launch(docker, &at.spec(0)).await;
    wait_for_numbers(pid, 1).await;
    std::fs::write(inside(pid, "secret"), "s").unwrap();
    let source = helper.source(&source_id).await.unwrap();
    let (_, stream) = bytes(source.round().await.unwrap());
    assert_eq!(refusal(helper.gated(&source_id).await), Refusal::NotGated);

    // Opened in between: nothing more is written.
    let (spec, gate) = gated(&at.engine, at.spec(1));
    let (id, pid) = launch(docker, &spec).await;
    let root = helper.gated(&id).await.unwrap();
    gate.open().unwrap();
    assert_eq!(refusal(root.apply(file(&stream)).await), Refusal::NotGated);
    assert_eq!(refusal(root.sync().await), Refusal::NotGated);
    wait_for_numbers(pid, 1).await;
    assert!(!inside(pid, "secret").exists());
    assert_eq!(refusal(root.apply(file(&stream)).await), Refusal::NotGated);
    assert_eq!(refusal(helper.gated(&id).await), Refusal::NotGated);
    docker.remove(&id, true).await.unwrap();
    assert_eq!(refusal(root.apply(file(&stream)).await), Refusal::NotRunning);

    // A program that is nearly our gate, and our gate as part of an image.
    let (spec, gate) = gated(&at.engine, at.spec(2));
    let mut program = gate::PROGRAM.to_vec();
    program.push(0);
    std::fs::write(gate.path().join("gate"), program).unwrap();
    let (id, _) = launch(docker, &spec).await;
    assert_eq!(refusal(helper.gated(&id).await), Refusal::NotGated);
    let raw =
        bollard::Docker::connect_with_unix(&at.engine.socket(), 60, bollard::API_DEFAULT_VERSION).unwrap();
    let (id, pid) = with_its_own_gate(&at, &raw).await;
    assert!(inside(pid, ".blosm/gate").exists());
    assert_eq!(refusal(helper.gated(&id).await), Refusal::NotGated);

    // A bad stream is refused as such; the source is none to write to.
    let (spec, _gate) = gated(&at.engine, at.spec(3));
    let (id, pid) = launch(docker, &spec).await;
    let root = helper.gated(&id).await.unwrap();
    for bad in [&b""[..], b"garbage", &stream[..stream.len() - 1]] {
        let refused = refusal(root.apply(file(bad)).await);
        assert!(matches!(refused, Refusal::Stream(_)), "{refused}");
    }
    assert_eq!(
        root.apply(file(&stream)).await.unwrap().bytes,
        stream.len() as u64
    );
    assert!(inside(pid, "secret").exists());

    // A marker that the engine put there is found where it is, and nowhere else.
    let marker = Marker([0x5a; 16]);
    assert!(!root.prove(marker).await.unwrap());
    put(&raw, &id, &marker.to_string()).await;
    assert!(root.prove(marker).await.unwrap());
    assert!(!root.prove(Marker([0x5b; 16])).await.unwrap());
    assert!(!source.prove(marker).await.unwrap());
}

/// A labelled container whose first program is a copy of our gate, not from a mount.
async fn with_its_own_gate(at: &Setting, raw: &bollard::Docker) -> (String, u32) {
    let spec = at.spec(9);
    let body = ContainerCreateBody {
        image: Some(at.base.id.clone()),
        entrypoint: Some(vec![gate::ENTRYPOINT.to_owned()]),
        cmd: Some(vec!["/bin/sh".to_owned()]),
        labels: Some(spec.labels.into_iter().collect::<HashMap<_, _>>()),
        ..Default::default()
    };
    let id = raw
        .create_container(None::<CreateContainerOptions>, body)
        .await
        .unwrap()
        .id;
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        header
    };
    let program = gate::PROGRAM;
    tar.append_data(
        &mut header(tar::EntryType::Regular, program.len()),
        ".blosm/gate",
        program,
    )
    .unwrap();
    tar.append_data(&mut header(tar::EntryType::Fifo, 0), ".blosm/fifo", &b""[..])
        .unwrap();
    upload(raw, &id, tar.into_inner().unwrap()).await;
    let pid = at.engine.docker.start(&id).await.unwrap().pid;
    (id, pid)
}

/// Puts an empty file of that name at the container's root, by the engine.
async fn put(raw: &bollard::Docker, id: &str, name: &str) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, &b""[..]).unwrap();
    upload(raw, id, tar.into_inner().unwrap()).await;
}

async fn upload(raw: &bollard::Docker, id: &str, tar: Vec<u8>) {
    let options = UploadToContainerOptions {
        path: "/".to_owned(),
        ..Default::default()
    };
    raw.upload_to_container(id, Some(options), bollard::body_full(tar.into()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_comes_out_of_the_store_bit_by_bit() {
    let at = setting().await;
    let helper = helper(&at.engine, None);
    let chain = &at.base.identity.diff_ids;
    let read = async |chain: &[Digest], which| -> Result<Vec<u8>, HelperError> {
        let mut pipe: File = helper.layer(chain, which).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        });
        Ok(read.await.unwrap().unwrap())
    };
    assert_eq!(read(chain, 0).await.unwrap(), layer());

    // A layer that was committed stands on the base: its place in the chain names it.
    let (id, pid) = launch(&at.engine.docker, &at.spec(0)).await;
    wait_for_numbers(pid, 1).await;
    std::fs::remove_dir_all(inside(pid, "bin")).unwrap();
    std::fs::create_dir(inside(pid, "bin")).unwrap();
    std::fs::hard_link(inside(pid, "log"), inside(pid, "bin/log")).unwrap();
    at.engine
        .docker
        .stop(&id, StopSignal::SigKill, Duration::from_secs(20))
        .await
        .unwrap();
    at.engine.docker.settled(&id).await.unwrap();
    let chain = commit(&at, &id).await.identity.diff_ids;
    assert_eq!(Digest::of(&read(&chain, 1).await.unwrap()), chain[1]);

    for (chain, which) in [
        (&chain[..], 2),
        (&chain[..0], 0),
        (&chain[1..], 0),
        (&[Digest([1; 32])][..], 0),
    ] {
        let refused = refusal(read(chain, which).await);
        assert!(matches!(refused, Refusal::Store(_)), "{refused}");
    }
}

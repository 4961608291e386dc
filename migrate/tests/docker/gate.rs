//! A container behind its gate runs exactly what it would run without one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blosm_migrate::docker::{Image, exit};
use blosm_migrate::gate::{self, GateFolder};
use blosm_migrate::image::{LayerFile, SparseImage, load};
use blosm_migrate::recreate::{check_committed_config, container_name, session_labels, short_id};
use blosm_migrate::service::StopSignal;
use blosm_migrate::{ContainerSpec, Declaration, Digest, Docker, Service};

use crate::engine::Engine;
use crate::service::wait_for;

const SESSION: [u8; 32] = [0xcd; 32];

/// One image of the table: how it is built, and what its config says.
struct Kind {
    name: &'static str,
    /// With a shell, or nothing but one static program.
    scratch: bool,
    config: serde_json::Value,
}

/// Ends on SIGTERM, and is idle until then.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn kinds() -> Vec<Kind> {
    let kind = |name, config| Kind {
        name,
        scratch: false,
        config,
    };
    vec![
        kind(
            "exec",
            serde_json::json!({"Entrypoint": ["sh", "-c", IDLE, "a b", "", "ü"], "Cmd": ["--flag", "$HOME"]}),
        ),
        kind("shell", serde_json::json!({"Cmd": ["/bin/sh", "-c", IDLE]})),
        kind(
            "relative",
            serde_json::json!({"Entrypoint": ["./run"], "Cmd": ["x"], "WorkingDir": "/app"}),
        ),
        kind(
            "script",
            serde_json::json!({"Entrypoint": ["/app/run"], "WorkingDir": "/tmp/made by the engine"}),
        ),
        kind(
            "user",
            serde_json::json!({"Entrypoint": ["/app/run"], "User": "1234:4321", "Env": ["PATH=/app:/bin", "HOME=/x", "A=b=c"]}),
        ),
        Kind {
            name: "scratch",
            scratch: true,
            config: serde_json::json!({"Entrypoint": ["/busybox"], "Cmd": ["sleep", "1000"]}),
        },
    ]
}

fn layer(scratch: bool) -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is needed");
    let script = format!("#!/bin/sh\n{IDLE}\n");
    let mut tar = tar::Builder::new(Vec::new());
    let header = |size: usize, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        header
    };
    if scratch {
        let mut of = header(busybox.len(), 0o755);
        tar.append_data(&mut of, "busybox", busybox.as_slice()).unwrap();
        return tar.into_inner().unwrap();
    }
    let mut of = header(busybox.len(), 0o755);
    tar.append_data(&mut of, "bin/busybox", busybox.as_slice())
        .unwrap();
    for applet in ["sh", "sleep"] {
        let mut link = header(0, 0o777);
        link.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    tar.append_data(&mut header(script.len(), 0o755), "app/run", script.as_bytes())
        .unwrap();
    tar.append_data(&mut header(5, 0o644), "app/plain", &b"plain"[..])
        .unwrap();
    tar.into_inner().unwrap()
}

async fn load_kind(engine: &Engine, kind: &Kind) -> Image {
    let bytes = layer(kind.scratch);
    let diff_id = Digest::of(&bytes);
    let path = engine.spool("kinds").join(kind.name);
    std::fs::write(&path, &bytes).unwrap();
    let config = serde_json::json!({
        "architecture": engine.docker.info().architecture,
        "os": "linux",
        "config": kind.config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{"created": "2024-01-01T00:00:00Z"}],
    });
    let size = bytes.len() as u64;
    let files = BTreeMap::from([(diff_id, LayerFile { path, size })]);
    let name = format!("blosm-gate/{}:1", kind.name);
    let image = SparseImage::new(&name, config.to_string().into_bytes(), &[diff_id], &files);
    load(&engine.docker, image).await.unwrap()
}

fn service(name: &str, base: &Image) -> Service {
    let json = format!(
        r#"{{"name":"{name}","image":"blosm-gate/{name}:1@{}","port":80,
            "resources":{{"memory":"8MiB","pids":32}}}}"#,
        base.identity.config_digest
    );
    serde_json::from_str::<Declaration>(&json)
        .unwrap()
        .validate()
        .unwrap()
}

fn spec(service: &Service, base: &Image, number: u64) -> ContainerSpec {
    let labels = session_labels("test", &SESSION, &service.name);
    let name = container_name(&SESSION, number, &[number as u8; 16]);
    ContainerSpec::build(service, &base.base(), &base.id, labels, name, short_id(&SESSION)).unwrap()
}

/// Gives the spec a gate.
fn gated(mut spec: ContainerSpec, gates: &Path) -> (ContainerSpec, GateFolder) {
    let gate = GateFolder::prepare(gates, &spec.name).unwrap();
    spec.gate = Some(gate.path().to_owned());
    (spec, gate)
}

async fn start(docker: &Docker, spec: &ContainerSpec) -> (String, u32) {
    let id = docker.create(spec).await.unwrap();
    let started = docker.start(&id).await.unwrap();
    (id, started.pid)
}

fn proc(pid: u32, what: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default()
}

/// What a program inherits, as far as it can be seen from outside.
fn inherited(pid: u32) -> (Vec<u8>, Vec<u8>, PathBuf, String) {
    let status = String::from_utf8(proc(pid, "status")).unwrap();
    let kept = [
        "Uid",
        "Gid",
        "Groups",
        "Umask",
        "NoNewPrivs",
        "Seccomp",
        "SigBlk",
        "SigIgn",
    ];
    let kept = |line: &&str| {
        let name = line.split(':').next().unwrap();
        kept.contains(&name) || name.starts_with("Cap")
    };
    let status = status.lines().filter(kept).collect::<Vec<_>>().join("\n");
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    // An image without a PATH gets the engine's; hostname and order are the same in both.
    (proc(pid, "cmdline"), proc(pid, "environ"), cwd, status)
}

fn program(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// Waits until the container's real program runs: for the shells, until it has its trap.
async fn settled(pid: u32, traps: bool) {
    wait_for("the real program", || {
        let caught = caught(pid);
        let past = caught & RTMIN_3 == 0 && !program(pid).ends_with("gate");
        (past && (!traps || caught & (1 << 14) != 0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_gate_a_container_is_the_same() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let gates = engine.spool("gates");
    for kind in kinds() {
        let base = load_kind(&engine, &kind).await;
        let service = service(kind.name, &base);
        let plain = spec(&service, &base, 1);
        let (plain_id, pid) = start(docker, &plain).await;
        settled(pid, !kind.scratch).await;
        let expected = inherited(pid);
        let stopped = docker
            .stop(&plain_id, StopSignal::SigTerm, Duration::from_secs(2))
            .await
            .unwrap();
        docker.settled(&plain_id).await.unwrap();
        let expected_exit = docker.inspect(&plain_id).await.unwrap().unwrap().exit_code;

        let (spec, gate) = gated(spec(&service, &base, 2), &gates);
        let (id, pid) = start(docker, &spec).await;
        assert_eq!(program(pid), Path::new(gate::ENTRYPOINT), "{}", kind.name);
        gate.open().unwrap();
        settled(pid, !kind.scratch).await;
        let found = inherited(pid);
        assert_eq!(found, expected, "{}: cmdline, environ, cwd, status", kind.name);
        gate.open().unwrap();
        let again = docker
            .stop(&id, StopSignal::SigTerm, Duration::from_secs(2))
            .await
            .unwrap();
        assert_eq!(again.killed, stopped.killed, "{}", kind.name);
        docker.settled(&id).await.unwrap();
        let exit = docker.inspect(&id).await.unwrap().unwrap().exit_code;
        assert_eq!(exit, expected_exit, "{}", kind.name);

        // What is committed shows the real entrypoint, and the gate's folder is no part of it.
        let (entrypoint, cmd) = (&spec.entrypoint, &spec.cmd);
        let image = docker
            .commit(&id, "blosm-gate/committed", kind.name, entrypoint, cmd)
            .await
            .unwrap();
        assert_eq!(
            (&image.config.entrypoint, &image.config.cmd),
            (&base.config.entrypoint, &base.config.cmd),
            "{}",
            kind.name
        );
        let spool = engine.spool("committed");
        let exported = blosm_migrate::image::export(
            docker,
            &image.id,
            &blosm_migrate::image::Wanted::Only([].into()),
            &spool,
        )
        .await
        .unwrap();
        check_committed_config(&exported.config, &service, &base.base()).unwrap();

        // Opened once, it goes straight through when it is started again.
        let restarted = docker.start(&id).await.unwrap();
        settled(restarted.pid, !kind.scratch).await;
        assert_eq!(inherited(restarted.pid).0, expected.0, "{}", kind.name);
        for id in [id, plain_id] {
            docker.remove(&id, true).await.unwrap();
        }
        gate.remove().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_the_gate_is_quick() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let kind = &kinds()[0];
    let base = load_kind(&engine, kind).await;
    let service = service(kind.name, &base);
    let numbers = [
        (StopSignal::SigTerm, 15),
        (StopSignal::SigInt, 2),
        (StopSignal::SigQuit, 3),
        (StopSignal::SigHup, 1),
        (StopSignal::SigUsr1, 10),
        (StopSignal::SigUsr2, 12),
        (StopSignal::SigWinch, 28),
    ];
    let (spec, gate) = gated(spec(&service, &base, 3), &engine.spool("gates"));
    let id = docker.create(&spec).await.unwrap();
    for (signal, number) in numbers {
        let pid = docker.start(&id).await.unwrap().pid;
        wait_for("the gate", || waits(pid).then_some(())).await;
        let stopped = docker.stop(&id, signal, Duration::from_secs(20)).await.unwrap();
        assert!(!stopped.killed, "{signal:?}");
        assert!(exit::processes_of(&id).is_empty());
        docker.settled(&id).await.unwrap();
        let code = docker.inspect(&id).await.unwrap().unwrap().exit_code;
        assert_eq!(code, Some(128 + number), "{signal:?}");
    }
    assert!(!gate.is_open());
    docker.remove(&id, true).await.unwrap();
}

/// Whether its first process is the gate, asleep with its handlers set.
fn waits(pid: u32) -> bool {
    let asleep = String::from_utf8_lossy(&proc(pid, "status")).contains("State:\tS");
    program(pid) == Path::new(gate::ENTRYPOINT) && asleep && caught(pid) & RTMIN_3 != 0
}

/// Of the signals that a process catches: one that only the gate does.
const RTMIN_3: u64 = 1 << 36;

/// The signals that a process catches, a bit each from signal 1.
fn caught(pid: u32) -> u64 {
    let status = String::from_utf8(proc(pid, "status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.map_or(0, |caught| u64::from_str_radix(caught.trim(), 16).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_ends_as_without_a_gate() {
    let engine = Engine::start().await;
    let docker = &engine.docker;
    let gates = engine.spool("gates");
    let base = load_kind(&engine, &kinds()[0]).await;
    let service = service("exec", &base);
    let words = [
        ("nothing-of-that-name", 127),
        ("/nothing", 127),
        ("./nothing", 127),
        ("plain", 127),
        ("/app/plain", 126),
        ("/app", 126),
        ("/app/run/x", 126),
    ];
    for (number, (word, expected)) in words.into_iter().enumerate() {
        let (mut spec, gate) = gated(spec(&service, &base, 10 + number as u64), &gates);
        spec.entrypoint = vec![word.to_owned()];
        gate.open().unwrap();
        let id = docker.create(&spec).await.unwrap();
        // The engine may see it end before it answers that it runs.
        let _ = docker.start(&id).await;
        docker.settled(&id).await.unwrap();
        let code = docker.inspect(&id).await.unwrap().unwrap().exit_code;
        assert_eq!(code, Some(expected), "{word}");
        docker.remove(&id, true).await.unwrap();
    }
}

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::engine::{Engine, GatedRoot};
use crate::recreate::{LABEL_NETWORK, session_labels};
use crate::service::{Declaration, Service};

const GRACE: Duration = Duration::from_secs(5);

fn service() -> Service {
    let text = format!(
        r#"{{"name":"counter","image":"demo/counter:1@sha256:{}","port":80,"resources":{{"memory":"32MiB","cpu":0.5}}}}"#,
        "ab".repeat(32)
    );
    let declaration: Declaration = serde_json::from_str(&text).unwrap();
    declaration.validate().unwrap()
}

fn engine(dir: &Path) -> Engine {
    Engine::sim(dir, vec![service().image]).unwrap()
}

async fn create(engine: &Engine, name: &str, gate: Option<&GateFolder>) -> String {
    let mut spec = spec(engine, name).await;
    spec.gate = gate.map(|gate| gate.path().to_owned());
    engine.create(&spec).await.unwrap()
}

async fn spec(engine: &Engine, name: &str) -> ContainerSpec {
    let service = service();
    let base = engine.pinned(&service.image).await.unwrap();
    let labels = session_labels("net", &[7; 32], "counter");
    ContainerSpec::build(
        &service,
        &base.base(),
        &base.id,
        labels,
        name.to_owned(),
        "host".into(),
    )
    .unwrap()
}

async fn start(engine: &Engine, name: &str) -> SocketAddr {
    let started = engine.start(name).await.unwrap();
    SocketAddr::new(started.address.unwrap(), started.port.unwrap())
}

/// The same for one that does not wait at a gate: it listens soon after it was started.
async fn serving(engine: &Engine, name: &str) -> SocketAddr {
    let at = start(engine, name).await;
    while ask(at, "GET", "/count", "").await.is_none() {
        tokio::task::yield_now().await;
    }
    at
}

/// Status and body of an answer; `None` where nobody listens.
async fn ask(to: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Some((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

async fn post(to: SocketAddr, number: u64) -> u64 {
    let (status, body) = ask(to, "POST", "/", &number.to_string()).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    answer["count"].as_u64().unwrap()
}

async fn numbers(to: SocketAddr) -> Vec<u64> {
    let (_, log) = ask(to, "GET", "/log", "").await.unwrap();
    let first = log
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok());
    first.collect()
}

#[tokio::test]
async fn state_is_what_the_directory_holds() {
    let dir = tempfile::tempdir().unwrap();
    let sim = engine(dir.path());
    create(&sim, "one", None).await;
    let at = serving(&sim, "one").await;
    assert_eq!((post(at, 10).await, post(at, 11).await), (1, 2));
    // Started twice it is started once.
    assert_eq!(start(&sim, "one").await, at);
    let stopped = sim.stop("one", StopSignal::SigTerm, GRACE).await.unwrap();
    assert!(!stopped.killed);
    assert_eq!(ask(at, "GET", "/count", "").await, None);

    let at = serving(&sim, "one").await;
    assert_eq!(post(at, 12).await, 3);
    sim.stop("one", StopSignal::SigKill, GRACE).await.unwrap();

    // Another process on the same folder: nothing runs, nothing is lost.
    let sim = engine(dir.path());
    let found = sim.inspect("one").await.unwrap().unwrap();
    assert!(!found.running && found.started_at.is_some());
    let at = serving(&sim, "one").await;
    assert_eq!((post(at, 13).await, numbers(at).await), (4, vec![10, 11, 12, 13]));
    let (_, log) = ask(at, "GET", "/log", "").await.unwrap();
    let lines = |word: &str| log.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!((lines("start "), lines("stop ")), (3, 1), "{log}");

    sim.remove("one", true).await.unwrap();
    sim.remove("one", true).await.unwrap();
    assert_eq!(sim.inspect("one").await.unwrap(), None);
    assert_eq!(ask(at, "GET", "/count", "").await, None);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What the next run tells, as far as it is not random, until it is over.
fn told(oracle: UnixListener) -> std::thread::JoinHandle<(UnixListener, Vec<serde_json::Value>)> {
    std::thread::spawn(move || {
        let (stream, _) = oracle.accept().unwrap();
        let lines = BufReader::new(stream).lines().map(|line| {
            let mut report: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let fields = report.as_object_mut().unwrap();
            assert!(fields.remove("time_ns").unwrap().as_u64().unwrap() > 0);
            assert_eq!(fields.remove("instance").unwrap().as_str().unwrap().len(), 16);
            assert_eq!(fields.remove("session").unwrap(), "07".repeat(32));
            assert_eq!(fields.remove("epoch").unwrap(), 4);
            report
        });
        let lines = lines.collect();
        (oracle, lines)
    })
}

#[tokio::test]
async fn a_run_tells_an_oracle_before_it_answers_and_does_not_answer_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("oracle.sock");
    let sim = engine(&dir.path().join("sim"));
    let name = crate::recreate::container_name(&[7; 32], 4, &[5; 16]);
    let mut watched = spec(&sim, &name).await;
    watched.env.push(format!("ORACLE={}", socket.display()));
    let id = sim.create(&watched).await.unwrap();

    let oracle = told(UnixListener::bind(&socket).unwrap());
    let at = serving(&sim, &name).await;
    post(at, 10).await;
    post(at, 12).await;
    sim.stop(&name, StopSignal::SigTerm, GRACE).await.unwrap();
    let (oracle, lines) = oracle.join().unwrap();
    let answer =
        |count: u64, number: u64| serde_json::json!({"what": "answer", "count": count, "number": number});
    let start = |count: u64, numbers: &[[u64; 2]]| serde_json::json!({"what": "start", "container": name, "count": count, "numbers": numbers});
    assert_eq!(
        lines,
        [
            start(0, &[]),
            answer(1, 10),
            answer(2, 12),
            serde_json::json!({"what": "stop", "count": 2})
        ]
    );

    let oracle = told(oracle);
    let at = serving(&sim, &name).await;
    post(at, 11).await;
    sim.stop(&name, StopSignal::SigKill, GRACE).await.unwrap();
    let (oracle, lines) = oracle.join().unwrap();
    assert_eq!(lines, [start(2, &[[10, 10], [12, 12]]), answer(3, 11)]);

    // The oracle goes while it runs.
    let accepted = std::thread::spawn(move || {
        let (stream, _) = oracle.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
    });
    let at = serving(&sim, &name).await;
    accepted.join().unwrap();
    let mut refused = 0;
    for number in 20..30 {
        refused += usize::from(ask(at, "POST", "/", &number.to_string()).await.unwrap().0 == 503);
    }
    assert_eq!(refused, 10);
    for path in ["/count", "/log", "/", "/healthz"] {
        assert_eq!(ask(at, "GET", path, "").await.unwrap().0, 503, "{path}");
    }
    sim.stop(&name, StopSignal::SigKill, GRACE).await.unwrap();
    // It is not there at the start.
    let started = sim.start(&name).await.unwrap();
    let Opened::Watching(watch) = sim.watch(started.pid, &id).unwrap() else {
        panic!("it was started")
    };
    watch.exited().await.unwrap();
    assert!(!sim.inspect(&name).await.unwrap().unwrap().running);
}

#[tokio::test]
async fn a_layer_moves_in_rounds_through_a_gate() {
    let [here, there, gates] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (source, destination) = (engine(here.path()), engine(there.path()));
    let id = create(&source, "source", None).await;
    let from = serving(&source, "source").await;
    post(from, 1).await;
    assert_eq!(ask(from, "POST", "/fill?bytes=200000", "").await.unwrap().0, 200);

    let gate = GateFolder::prepare(gates.path(), "destination").unwrap();
    let gated = create(&destination, "destination", Some(&gate)).await;
    // It is not started, so it does not wait.
    assert!(destination.gated(&gated).await.is_err());
    let to = start(&destination, "destination").await;
    let root = destination.gated(&gated).await.unwrap();
    assert_eq!(ask(to, "GET", "/count", "").await, None, "it is at its gate");

    let layer = source.source(&id).await.unwrap();
    let pass = async |root: &GatedRoot, round: Result<crate::helper::Round, HelperError>| {
        let round = round.unwrap();
        root.apply(round.stream.into()).await.unwrap();
        root.sync().await.unwrap();
        round.figures.data
    };
    assert!(pass(&root, layer.round().await).await > 200_000);
    post(from, 2).await;
    assert!(pass(&root, layer.round().await).await < 10_000);
    post(from, 3).await;
    assert!(layer.last().await.is_err(), "it still runs");
    layer.signal(StopSignal::SigTerm).await.unwrap();
    let Opened::Watching(watch) = source.watch(layer.pid(), &id).unwrap() else {
        panic!("it was started")
    };
    watch.exited().await.unwrap();
    pass(&root, layer.last().await).await;

    gate.open().unwrap();
    assert!(root.sync().await.is_err(), "nothing is written any more");
    let begin = Instant::now();
    while ask(to, "GET", "/healthz", "").await.is_none() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "the gate does not open"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((post(to, 4).await, numbers(to).await), (4, vec![1, 2, 3, 4]));
    let sizes = async |engine: &Engine, name: &str| engine.sizes(name).await.unwrap().writable;
    assert!(sizes(&destination, "destination").await > sizes(&source, "source").await);
}

#[tokio::test]
async fn containers_are_found_by_their_labels_and_cost_what_they_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let sim = engine(dir.path());
    let id = create(&sim, "one", None).await;
    let by = async |value| sim.list(&[(LABEL_NETWORK, value)]).await.unwrap().len();
    assert_eq!(
        (by(Some("net")).await, by(None).await, by(Some("other")).await),
        (1, 1, 0)
    );
    assert_eq!(sim.inspect(&id).await.unwrap().unwrap().name, "one");
    assert_eq!(sim.inspect("../one").await.unwrap(), None);
    assert_eq!(sim.usage("one").await.unwrap(), Usage::default());
    start(&sim, "one").await;
    let usage = sim.usage("one").await.unwrap();
    assert_eq!((usage.memory, usage.cpu_milli), (32 << 20, 500));
    assert!(sim.remove("one", false).await.is_err(), "it runs");
    // A name is used once.
    let service = service();
    let image = sim.pinned(&service.image).await.unwrap();
    let labels = session_labels("net", &[7; 32], "counter");
    let again = ContainerSpec::build(
        &service,
        &image.base(),
        &image.id,
        labels,
        "one".into(),
        "h".into(),
    );
    assert!(sim.create(&again.unwrap()).await.is_err());
}

#[tokio::test]
async fn images_are_those_of_the_declarations_and_do_not_move() {
    let dir = tempfile::tempdir().unwrap();
    let sim = engine(dir.path());
    let mine = service().image;
    let image = sim.pinned(&mine).await.unwrap();
    assert_eq!(sim.image(&image.id).await.unwrap(), Some(image.clone()));
    let held = sim.held_chains().await.unwrap();
    assert_eq!(held.lacking(&image.identity.diff_ids), vec![]);
    let other = Pinned {
        config_digest: Digest::of(b"another"),
        ..mine
    };
    assert!(matches!(sim.pinned(&other).await, Err(ImageError::Absent { .. })));
    let committed = sim.commit("one", "repo", "tag", &[], &[]).await;
    assert!(matches!(committed, Err(EngineError::NoImages { .. })));
    assert!(!sim.has_images());
}

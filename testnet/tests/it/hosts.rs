//! Hosts and links, without engines.

use std::time::Duration;

use blosm_testnet::hosts::{Rate, Road, address};
use blosm_testnet::process::Process;
use blosm_testnet::state::new_id;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Removes the namespaces also when a test fails.
struct Built(Road);

impl Built {
    fn new(hosts: usize) -> Built {
        let built = Built(Road::of(&new_id().unwrap()));
        built.0.build(hosts, Rate::mbit(40)).unwrap();
        built
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}

/// Whether a byte gets from one host to another. A cut link answers nothing, so that side is bounded.
async fn reaches(road: &Road, from: usize, to: usize) -> bool {
    let there = (address(to), 7000);
    let (listening, listens) = tokio::sync::oneshot::channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let host = road.host(to);
    let serve = host.run(move || async move {
        let listener = TcpListener::bind(there).await.unwrap();
        listening.send(()).unwrap();
        tokio::select! {
            stream = listener.accept() => stream.unwrap().0.write_all(b"x").await.unwrap(),
            () = stopped.cancelled() => {}
        }
    });
    let host = road.host(from);
    let ask = async {
        listens.await.unwrap();
        let answer = host.run(move || async move {
            let read = async { TcpStream::connect(there).await?.read_u8().await };
            timeout(Duration::from_secs(2), read)
                .await
                .is_ok_and(|byte| byte.is_ok())
        });
        let answer = answer.await.unwrap();
        stop.cancel();
        answer
    };
    let (served, answer) = tokio::join!(serve, ask);
    served.unwrap();
    answer
}

#[tokio::test]
async fn a_cut_host_is_unreachable_until_it_is_healed() {
    let built = Built::new(2);
    assert!(reaches(&built.0, 1, 2).await);
    built.0.cut(2).unwrap();
    assert!(!reaches(&built.0, 1, 2).await);
    built.0.heal(2).unwrap();
    assert!(reaches(&built.0, 1, 2).await);
}

#[tokio::test]
async fn nothing_is_left_of_a_road() {
    let id = {
        let built = Built::new(1);
        assert_eq!(built.0.existing().len(), 3);
        built.0.clone()
    };
    assert!(id.existing().is_empty());
}

#[tokio::test]
async fn a_killed_process_is_reaped_and_known_as_gone() {
    let built = Built::new(1);
    let dir = tempfile::TempDir::new().unwrap();
    let sleep = blosm_testnet::shell::find("sleep").unwrap();
    let process = Process::spawn(
        &built.0.host(1),
        &sleep,
        &["1000".to_owned()],
        &dir.path().join("log"),
    )
    .unwrap();
    assert!(process.alive());
    process.end(rustix::process::Signal::KILL, Duration::from_secs(10));
    assert!(!process.alive());
    // Reaped, not only dead: an engine believes in a pid file as long as the entry is there.
    let entry = std::path::PathBuf::from(format!("/proc/{}", process.pid));
    while entry.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

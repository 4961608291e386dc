//! Links that are not perfect, between namespaces and without any engine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blosm_testnet::hosts::{LinkQuality, Rate, Road, address};
use blosm_testnet::process::Process;
use rustix::process::Signal;
use tokio::net::UdpSocket;

/// A road of one host that answers datagrams; gone when this value is.
struct Echo {
    road: Road,
    dir: tempfile::TempDir,
    relay: Option<Process>,
    heard: Arc<AtomicUsize>,
}

impl Echo {
    async fn start(id: &str) -> Echo {
        let echo = Echo {
            road: Road::of(id),
            dir: tempfile::TempDir::new().unwrap(),
            relay: None,
            heard: Arc::default(),
        };
        echo.road.build(1, Rate::mbit(40)).unwrap();
        let (heard, (ready, listens)) = (echo.heard.clone(), tokio::sync::oneshot::channel());
        let host = echo.road.host(1);
        // Ends with the test's process.
        std::thread::spawn(move || {
            host.block_on(|| async move {
                let socket = UdpSocket::bind((address(1), 7)).await.unwrap();
                ready.send(()).unwrap();
                let mut datagram = [0; 64];
                while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
                    heard.fetch_add(1, Ordering::SeqCst);
                    let _ = socket.send_to(&datagram[..length], from).await;
                }
            })
        });
        listens.await.unwrap();
        echo
    }

    fn impair(&mut self, quality: &LinkQuality) {
        let relay = self.road.impair(1, quality, self.dir.path(), self.relay);
        self.relay = Some(relay.unwrap());
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    /// Sends so many datagrams from the cars, one after another, each given half a second; gives the quickest round
    /// trip and how many came back.
    async fn ask(&self, count: usize, patience: Duration) -> (Option<Duration>, usize) {
        let ask = move || async move {
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect(SocketAddr::from((address(1), 7))).await.unwrap();
            let (mut quickest, mut answered) = (None::<Duration>, 0);
            for n in 0..count as u64 {
                let (sent, mut answer) = (Instant::now(), [0; 64]);
                socket.send(&n.to_le_bytes()).await.unwrap();
                while let Ok(Ok(length)) = tokio::time::timeout(patience, socket.recv(&mut answer)).await {
                    if answer[..length] == n.to_le_bytes() {
                        answered += 1;
                        let took = sent.elapsed();
                        quickest = Some(quickest.map_or(took, |known| known.min(took)));
                        break;
                    }
                }
            }
            (quickest, answered)
        };
        self.road.cars().run(ask).await.unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(relay) = self.relay {
            relay.end(Signal::TERM, Duration::from_secs(5));
        }
        self.road.remove().unwrap();
    }
}

#[tokio::test]
async fn packets_wait_as_long_as_was_asked_for() {
    let mut echo = Echo::start("links-delay").await;
    let slow: LinkQuality = serde_json::from_str(
        r#"{"up": {"delay_ms": 60, "jitter_ms": 10, "loss": 0, "cut": false},
            "down": {"delay_ms": 40, "jitter_ms": 0, "loss": 0, "cut": false}}"#,
    )
    .unwrap();
    echo.impair(&slow);
    let (during, answered) = echo.ask(20, Duration::from_secs(2)).await;
    assert!(during.unwrap() >= Duration::from_millis(100), "{during:?}");
    assert_eq!(answered, 20, "nothing is lost");
    let relay = echo.relay.take().unwrap();
    echo.road.mend(1, relay).unwrap();
    assert!(!relay.alive());
    assert_eq!(
        echo.ask(20, Duration::from_secs(2)).await.1,
        20,
        "the link is as before"
    );
}

#[tokio::test]
async fn a_share_of_the_packets_is_lost() {
    let mut echo = Echo::start("links-loss").await;
    let mut lossy = LinkQuality::default();
    lossy.down.loss = "50%".parse().unwrap();
    echo.impair(&lossy);
    let (_, answered) = echo.ask(200, Duration::from_millis(20)).await;
    // Of 200 fair coins less than 50 or more than 150 fall on one side once in 10^12 times.
    assert!((50..=150).contains(&echo.heard()), "{}", echo.heard());
    assert!(answered <= echo.heard());
}

#[tokio::test]
async fn a_link_that_is_cut_one_way_carries_the_other() {
    let mut echo = Echo::start("links-oneway").await;
    let mut cut = LinkQuality::default();
    cut.up.cut = true;
    // The answers to address requests go up as well: what was learnt before the cut holds.
    assert_eq!(echo.ask(1, Duration::from_secs(2)).await.1, 1);
    let known = echo.heard();
    echo.impair(&cut);
    assert_eq!(echo.ask(5, Duration::from_millis(100)).await.1, 0);
    assert_eq!(echo.heard(), known + 5, "they arrived");
    echo.impair(&LinkQuality::default());
    assert_eq!(echo.ask(5, Duration::from_secs(2)).await.1, 5);
}

//! What a flood of invalid gossip costs honest messages, and this process's memory: `make flood`. It fails when the p99 of
//! honest delivery is not below twice the quiet one of the same run, or when memory does not return to its level.
//!
//! ```text
//!   a --(a link of 20 ms)-- node -- b      a's messages reach b through the node alone
//!                             |
//!                  flooders, a new one each quarter of a second
//! ```
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../tests/it/harness.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod harness;
#[path = "../tests/it/raw.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod raw;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blosm_net::{Misdeed, Multiaddr, NetEvent, PeerId, Refusal, Topic, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use harness::{LIMIT, Node, until};
use raw::{GOSSIPSUB, Raw, Script, gossip};

/// What the link of the honest sender adds, one way: a roadside link's order.
const LINK: Duration = Duration::from_millis(20);
/// Rounds in quiet, and as many under the flood, by turns.
const ROUNDS: u8 = 5;
/// Honest messages of one round, and the time between two of them.
const MESSAGES: u64 = 200;
const EVERY: Duration = Duration::from_millis(10);
/// Flooders of one round: each is kept out within moments.
const FLOODERS: u8 = 8;
/// Invalid messages that a flooder sends at a time, and how often: 10,000 a second.
const BATCH: u64 = 200;
const PAUSE: Duration = Duration::from_millis(20);
/// Memory that the allocator may keep of what was freed, in KiB.
const KEPT: u64 = 16 * 1024;
/// Within this memory has to be back: what was seen is remembered for two minutes.
const BACK: Duration = Duration::from_secs(180);

/// Never the same twice, whoever floods; about 1 KiB each.
fn batch() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (topic, first) = (gossip::topic("tx"), NEXT.fetch_add(BATCH, Ordering::Relaxed));
    let one = |n: u64| gossip::publish(&topic, format!("bad {n} {}", "x".repeat(1000)).as_bytes());
    (first..first + BATCH).flat_map(one).collect()
}

/// Floods, and knocks again and again once it is out.
async fn flood(mut bad: Raw, to: PeerId, address: Multiaddr) {
    loop {
        bad.connect(to, address.clone()).await;
        let script = Script {
            parts: vec![gossip::hello()],
            pause: PAUSE,
            endless: Some(batch),
            hold: true,
        };
        bad.send(to, script);
        bad.closed().await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Flooders on a thread of their own, as if on other machines; gone with this value.
struct Flood {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn begin(flooders: Vec<Raw>, to: PeerId, address: Multiaddr) -> Flood {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let one_after_the_other = async {
                    for bad in flooders {
                        tokio::spawn(flood(bad, to, address.clone()));
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = one_after_the_other => {}
                    _ = stopped => {}
                }
            });
        });
        Flood {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A way to a port of loopback on which everything arrives later.
async fn late_link(to: u16) -> Multiaddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((here, _)) = listener.accept().await {
            let there = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            for stream in [&here, &there] {
                stream.set_nodelay(true).unwrap();
            }
            let ((here_in, here_out), (there_in, there_out)) = (here.into_split(), there.into_split());
            carry(here_in, there_out);
            carry(there_in, here_out);
        }
    });
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    // When full, the sender waits, as on a link.
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if put
                .send((Instant::now() + LINK, buffer[..count].to_vec()))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = take.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}

/// Judges what a node hears.
fn judge(mut node: Node) {
    tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            if let NetEvent::Gossip { data, id, .. } = event {
                let bad = data.starts_with(b"bad");
                node.net
                    .verdict(id, if bad { Verdict::Reject } else { Verdict::Accept });
            }
        }
    });
}

/// The honest sender, and what arrives at the other end.
struct Delivery {
    from: Node,
    arrivals: mpsc::Receiver<(u64, Instant)>,
    next: u64,
}

impl Delivery {
    fn new(from: Node, mut to: Node) -> Delivery {
        // When full, the reader waits, and is late itself; a round is far shorter.
        let (arrived, arrivals) = mpsc::channel(4096);
        tokio::spawn(async move {
            loop {
                let (_, data) = to.heard().await;
                let now = Instant::now();
                let text = std::str::from_utf8(&data).unwrap();
                let number = text.split(' ').nth(1).unwrap().parse().unwrap();
                if arrived.send((number, now)).await.is_err() {
                    return;
                }
            }
        });
        Delivery {
            from,
            arrivals,
            next: 0,
        }
    }

    fn publish(&mut self) -> (u64, Instant) {
        let number = self.next;
        self.next += 1;
        let data = format!("good {number} {}", "x".repeat(400)).into_bytes();
        self.from.net.publish(Topic::Tx, data).unwrap();
        (number, Instant::now())
    }

    /// Publishes until one arrives: who listens has to be told first.
    async fn settle(&mut self) {
        loop {
            self.publish();
            let arrived = tokio::time::timeout(Duration::from_millis(200), self.arrivals.recv());
            if arrived.await.is_ok() {
                return;
            }
        }
    }

    /// The time that 99 of 100 messages took at most. Each has to arrive.
    async fn p99(&mut self) -> Duration {
        let mut sent = Vec::new();
        let mut ticks = tokio::time::interval(EVERY);
        for _ in 0..MESSAGES {
            ticks.tick().await;
            sent.push(self.publish());
        }
        let (first, _) = sent[0];
        let mut took = vec![None; sent.len()];
        while took.iter().any(Option::is_none) {
            let arrival = tokio::time::timeout(LIMIT, self.arrivals.recv()).await;
            let (number, at) = arrival.expect("every honest message arrives").unwrap();
            // What was left of the settling comes first.
            if let Some(place) = number.checked_sub(first) {
                let place = usize::try_from(place).unwrap();
                took[place] = Some(at - sent[place].1);
            }
        }
        let mut took: Vec<Duration> = took.into_iter().flatten().collect();
        took.sort();
        took[took.len() * 99 / 100 - 1]
    }
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

fn port(address: &Multiaddr) -> u16 {
    address.to_string().rsplit('/').next().unwrap().parse().unwrap()
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let (mut node, mut a, mut b) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    let (id, address) = (node.id(), node.address());
    node.know(a.id());
    a.net.set_addresses(id, vec![late_link(port(&address)).await]);
    a.connected(id).await;
    b.connect(&mut node).await;
    let net = node.net.clone();
    judge(node);
    let mut delivery = Delivery::new(a, b);
    delivery.settle().await;

    let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
    let (mut level, mut most, mut out, mut knocked) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let one = |n| Raw::new(10 + round * FLOODERS + n, GOSSIPSUB);
        let flooders: Vec<Raw> = (0..FLOODERS).map(one).collect();
        for bad in &flooders {
            net.set_addresses(bad.id(), vec![]);
        }
        quiet.push(delivery.p99().await);
        level = if level == 0 { resident() } else { level };
        let flood = Flood::begin(flooders, id, address.clone());
        flooded.push(delivery.p99().await);
        most = most.max(resident());
        out += u64::from(FLOODERS);
        until("each of them is kept out", || {
            net.counters().peers_kept_out == out
        })
        .await;
        until("and knocks again", || {
            net.counters().refused(Refusal::Score) > knocked
        })
        .await;
        knocked = net.counters().refused(Refusal::Score);
        drop(flood);
        println!(
            "round {}: p99 in quiet {:.1?}, under the flood {:.1?}",
            round + 1,
            quiet[usize::from(round)],
            flooded[usize::from(round)]
        );
    }
    let (quiet, flooded) = (median(quiet), median(flooded));
    let ratio = flooded.as_secs_f64() / quiet.as_secs_f64();
    println!(
        "{out} flooders were kept out for {} invalid messages and knocked {knocked} times",
        net.counters().misdeeds(Misdeed::Message)
    );
    println!(
        "honest p99, median of {ROUNDS} rounds: {quiet:.1?} in quiet, {flooded:.1?} under the flood, {ratio:.2} times (bar: below 2)"
    );
    let begin = Instant::now();
    while resident() > level + KEPT && begin.elapsed() < BACK {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let back = resident() <= level + KEPT;
    println!(
        "resident {level} KiB before, {most} KiB at most, {} KiB after {} s (bar: {KEPT} KiB above the level, within {} s)",
        resident(),
        begin.elapsed().as_secs(),
        BACK.as_secs()
    );
    if ratio < 2.0 && back {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

//! Members that misbehave. They are let in, since only a member gets this far; the others must not notice.

use std::time::Duration;

use blosm_net::{Misdeed, NetEvent, NetHandle, Protocol, Refusal, Topic, Verdict};
use libp2p::request_response::OutboundFailure;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinHandle;

use crate::harness::{Node, config, gossip_flows, until};
use crate::raw::{GOSSIPSUB, Raw, Script, gossip, own};

/// A node, a member that keeps the rules, and one that does not and speaks `protocol`.
pub async fn three(seed: u8, protocol: &str) -> (Node, Node, Raw) {
    let (mut node, mut honest) = (Node::start(seed).await, Node::start(seed + 1).await);
    honest.connect(&mut node).await;
    let mut bad = Raw::new(seed + 2, protocol);
    node.know(bad.id());
    let (id, address, peer) = (node.id(), node.address(), bad.id());
    // It is refused until the node has heard that it is a member.
    tokio::select! {
        () = node.connected(peer) => {}
        () = bad.insist(id, address) => {}
    }
    (node, honest, bad)
}

/// Answers requests with `size` bytes, and rejects gossip that begins with `bad`. Gives the messages that it accepted.
pub fn serve(mut node: Node, size: usize) -> (NetHandle, JoinHandle<()>, Receiver<Vec<u8>>) {
    let net = node.net.clone();
    let (accepted, heard) = mpsc::channel(1024);
    let task = tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            match event {
                NetEvent::Request { reply, .. } => reply.send(vec![7; size]),
                NetEvent::Gossip { data, id, .. } => {
                    let bad = data.starts_with(b"bad");
                    node.net
                        .verdict(id, if bad { Verdict::Reject } else { Verdict::Accept });
                    if !bad {
                        // Nobody may be listening.
                        let _ = accepted.try_send(data);
                    }
                }
                NetEvent::Connected { .. } | NetEvent::Disconnected { .. } => {}
            }
        }
    });
    (net, task, heard)
}

pub async fn is_served(honest: &Node, node: &NetHandle, protocol: Protocol) {
    let answer = honest.net.request(node.local_peer(), protocol, vec![1]).await;
    assert!(answer.is_ok(), "{answer:?}");
}

/// Publishes good messages one after the other, without end.
async fn publish(honest: &Node, topic: Topic) {
    for n in 0.. {
        honest
            .net
            .publish(topic, format!("good {n}").into_bytes())
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An honest node publishes until one of its messages is heard, and nothing else is.
pub async fn honest_is_heard(honest: &Node, topic: Topic, heard: &mut Receiver<Vec<u8>>) {
    tokio::select! {
        () = publish(honest, topic) => {}
        data = heard.recv() => assert!(data.unwrap().starts_with(b"good")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_over_the_limit_cost_score_until_the_peer_is_kept_out() {
    let (node, honest, mut bad) = three(131, &own("ledger")).await;
    let (id, address) = (node.id(), node.address());
    let (net, _serving, _) = serve(node, 10);
    let limit = Protocol::Ledger.limits().max_request;
    let claim = |length: usize| Script::bytes(u32::try_from(length).unwrap().to_be_bytes().to_vec());
    let huge = Script::bytes((1u64 << 63).to_be_bytes().to_vec());
    for script in [claim(limit + 1), claim(u32::MAX as usize), huge] {
        bad.send(id, script);
        assert!(bad.answered().await.is_err());
    }
    until("they are noted", || net.counters().misdeeds(Misdeed::Frame) == 3).await;
    let peer = bad.id();
    let score = || net.peers().iter().find(|info| info.peer == peer).unwrap().score;
    until("it shows", || score() == -30).await;
    is_served(&honest, &net, Protocol::Ledger).await;
    // As long as the limit allows is no misdeed.
    bad.send(id, Script::frame(&vec![0; limit]));
    bad.answered().await.unwrap();
    for _ in 0..3 {
        bad.send(id, claim(limit + 1));
    }
    bad.closed().await;
    until("it is kept out", || net.counters().peers_kept_out == 1).await;
    bad.connect(id, address).await;
    bad.closed().await;
    until("it is refused", || net.counters().refused(Refusal::Score) > 0).await;
    assert_eq!(net.connected(), vec![honest.id()]);
    is_served(&honest, &net, Protocol::Ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_drips_is_given_up_and_others_are_served() {
    let (node, honest, mut bad) = three(134, &own("ledger")).await;
    let id = node.id();
    let (net, _serving, _) = serve(node, 10);
    let mut parts = vec![1000u32.to_be_bytes().to_vec()];
    parts.extend((0..1000).map(|_| vec![1]));
    // As many as the protocol lets in, and some more.
    for _ in 0..200 {
        bad.send(
            id,
            Script {
                parts: parts.clone(),
                pause: Duration::from_secs(1),
                ..Script::default()
            },
        );
    }
    let dripping = tokio::spawn(bad.live());
    until("they are given up", || {
        net.counters().misdeeds(Misdeed::Stalled) > 0
    })
    .await;
    is_served(&honest, &net, Protocol::Ledger).await;
    assert_eq!(net.peers().len(), 2, "slowness alone keeps nobody out");
    dripping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_streams_do_not_starve_anybody() {
    let (node, honest, mut bad) = three(137, &own("session")).await;
    let id = node.id();
    let (net, _serving, _) = serve(node, 10);
    for _ in 0..512 {
        bad.send(
            id,
            Script {
                hold: true,
                ..Script::default()
            },
        );
    }
    let holding = tokio::spawn(bad.live());
    for protocol in Protocol::ALL {
        is_served(&honest, &net, protocol).await;
    }
    until("they are given up", || {
        net.counters().misdeeds(Misdeed::Stalled) > 0
    })
    .await;
    is_served(&honest, &net, Protocol::Session).await;
    holding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_never_read_are_bounded_and_let_go() {
    let (node, honest, mut bad) = three(140, &own("relay")).await;
    let id = node.id();
    let size = Protocol::Relay.limits().max_response;
    let (net, _serving, _) = serve(node, size);
    // 17 of them are over 256 MiB. It says its request, and then neither closes the stream nor reads.
    for _ in 0..24 {
        bad.send(
            id,
            Script {
                parts: vec![crate::raw::frame(b"hello")],
                hold: true,
                ..Script::default()
            },
        );
    }
    let holding = tokio::spawn(bad.live());
    until("no more are held", || net.counters().answers_dropped > 0).await;
    // Room comes back, though the peer still holds its streams.
    let served = async {
        loop {
            if let Ok(answer) = honest.net.request(id, Protocol::Relay, vec![1]).await {
                assert_eq!(answer.len(), size);
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(crate::harness::LIMIT, served).await.unwrap();
    holding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_invalid_messages_ends_and_honest_ones_arrive() {
    let (node, honest, mut bad) = three(143, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let topic = gossip::topic("tx");
    let mut parts = vec![gossip::hello()];
    for batch in 0..100 {
        let one =
            |n: i32| gossip::publish(&topic, format!("bad {batch} {n} {}", "x".repeat(1000)).as_bytes());
        parts.push((0..200).flat_map(one).collect());
    }
    bad.send(
        id,
        Script {
            parts,
            pause: Duration::from_millis(10),
            hold: true,
            ..Script::default()
        },
    );
    bad.closed().await;
    let flooding = tokio::spawn(bad.live());
    until("it is kept out", || net.counters().peers_kept_out == 1).await;
    honest_is_heard(&honest, Topic::Tx, &mut heard).await;
    assert!(net.counters().misdeeds(Misdeed::Message) >= 10);
    // It is counted before its connection has ended.
    until("only the honest one is left", || {
        net.connected() == vec![honest.id()]
    })
    .await;
    flooding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_that_are_not_even_wrong_ends() {
    let (node, honest, mut bad) = three(181, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let topic = gossip::topic("tx");
    let mut parts = vec![gossip::hello()];
    for batch in 0..1_000 {
        let one = |n: i32| gossip::publish(&topic, format!("good {batch} {n}").as_bytes());
        parts.push((0..200).flat_map(one).collect());
    }
    bad.send(
        id,
        Script {
            parts,
            pause: Duration::ZERO,
            hold: true,
            ..Script::default()
        },
    );
    bad.closed().await;
    let flooding = tokio::spawn(bad.live());
    until("it is kept out", || net.counters().peers_kept_out == 1).await;
    assert!(net.counters().misdeeds(Misdeed::Flood) >= 5_000);
    assert_eq!(net.counters().misdeeds(Misdeed::Message), 0);
    // It is counted before its connection has ended.
    until("only the honest one is left", || {
        net.connected() == vec![honest.id()]
    })
    .await;
    // What it had sent is behind.
    while heard.try_recv().is_ok() {}
    honest_is_heard(&honest, Topic::Block, &mut heard).await;
    flooding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_grafts_is_a_misdeed() {
    let (node, honest, mut bad) = three(146, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let topic = gossip::topic("tx");
    // After a prune a graft has to wait for a minute.
    let storm = [gossip::prune(&topic), gossip::graft(&topic)].concat().repeat(20);
    let mut parts = vec![gossip::hello()];
    parts.extend((0..2000).map(|_| storm.clone()));
    bad.send(
        id,
        Script {
            parts,
            pause: Duration::from_millis(20),
            hold: true,
            ..Script::default()
        },
    );
    let storming = tokio::spawn(async move {
        bad.closed().await;
        bad.live().await;
    });
    until("it is kept out", || net.counters().peers_kept_out == 1).await;
    assert!(net.counters().misdeeds(Misdeed::Control) > 0);
    honest_is_heard(&honest, Topic::Block, &mut heard).await;
    storming.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_its_own_and_endless_frames_do_no_harm() {
    let (node, honest, mut bad) = three(149, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let many = (0..101).map(|n| format!("/blosm/0a1b2c3d/own{n}/1"));
    let long = gossip::publish(&gossip::topic("tx"), &vec![1; Topic::Tx.max_bytes() + 1024]);
    bad.send(
        id,
        Script {
            parts: vec![gossip::hello(), gossip::subscribe(many), long, gossip::endless()],
            pause: Duration::from_millis(100),
            hold: true,
            ..Script::default()
        },
    );
    let holding = tokio::spawn(bad.live());
    let published = publish(&honest, Topic::Tx);
    let hundred = async {
        for _ in 0..100 {
            let data = heard.recv().await.unwrap();
            assert!(data.starts_with(b"good"), "the long one is not handed on");
        }
    };
    tokio::select! {
        () = published => {}
        () = hundred => {}
    }
    is_served(&honest, &net, Protocol::Ledger).await;
    let page = net.metrics();
    assert!(page.contains("/tx/1"), "topics are labels:\n{page}");
    assert!(
        !page.contains("/own"),
        "but not those that a peer has made up:\n{page}"
    );
    holding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_late_messages_cost_nothing() {
    let (node, honest, mut bad) = three(152, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let message = gossip::publish(&gossip::topic("tx"), b"the same again");
    let mut parts = vec![gossip::hello()];
    parts.extend((0..20).map(|_| message.repeat(50)));
    parts.push(gossip::publish(&gossip::topic("tx"), b"last"));
    let peer = bad.id();
    bad.send(
        id,
        Script {
            parts,
            pause: Duration::from_millis(20),
            hold: true,
            ..Script::default()
        },
    );
    let repeating = tokio::spawn(bad.live());
    assert_eq!(heard.recv().await.unwrap(), b"the same again");
    assert_eq!(heard.recv().await.unwrap(), b"last", "each counts once");
    assert!(
        Misdeed::ALL
            .iter()
            .all(|misdeed| net.counters().misdeeds(*misdeed) == 0)
    );
    let score = net.peers().iter().find(|info| info.peer == peer).unwrap().score;
    assert_eq!(score, 0);
    assert!(net.is_connected(&honest.id()));
    repeating.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_from_one_address_leave_room_for_others_and_go() {
    let mut settings = config(155, "/ip4/127.0.0.1/tcp/0");
    settings.per_address = 16;
    let mut node = Node::start_with(settings).await;
    let mut honest = Node::start(156).await;
    honest.connect(&mut node).await;
    let port: u16 = node
        .address()
        .to_string()
        .rsplit('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    until("most are refused", || {
        node.net.counters().refused(Refusal::Address) >= 200 - 16
    })
    .await;
    // Who is connected stays so, and the places come back though nobody closes anything here.
    gossip_flows(&honest, &mut node, "meanwhile").await;
    let mut late = Node::start(157).await;
    late.connect(&mut node).await;
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_members_at_one_address_are_all_let_in() {
    let mut settings = config(158, "/ip4/127.0.0.1/tcp/0");
    settings.per_address = 2;
    let mut node = Node::start_with(settings).await;
    let mut members = Vec::new();
    for seed in 200..212 {
        let member = Raw::new(seed, &own("ledger"));
        node.know(member.id());
        members.push(member);
    }
    let mut living = Vec::new();
    for mut member in members {
        let (id, address) = (node.id(), node.address());
        living.push(tokio::spawn(async move {
            member.insist(id, address).await;
        }));
    }
    until("all are connected at once", || node.net.connected().len() == 12).await;
    for task in living {
        task.abort();
    }
}

/// Asks more often than any honest peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_questions_are_refused_and_cost_no_score() {
    let (node, honest, mut bad) = three(160, &own("join")).await;
    let id = node.id();
    let (net, _serving, _) = serve(node, 1);
    let mut refused = 0;
    for _ in 0..40 {
        bad.send(id, Script::frame(b"me"));
        match bad.answered().await {
            Ok(_) => {}
            Err(OutboundFailure::Io(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    let limited = net.counters().limited(blosm_net::Intake::Request(Protocol::Join));
    assert_eq!(limited, refused);
    assert!(net.peers().iter().all(|peer| peer.score == 0));
    is_served(&honest, &net, Protocol::Join).await;
}

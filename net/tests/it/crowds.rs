//! Strangers by the dozen, and what a member may ask for or promise without end.

use std::time::Duration;

use blosm_net::{Direction, Intake, Misdeed, NetEvent, NetHandle, PeerId, Protocol, Refusal, Topic};
use futures::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::harness::{LIMIT, Node, config, from, gossip_flows, until};
use crate::hostile::{honest_is_heard, serve, three};
use crate::raw::{GOSSIPSUB, Raw, Script, gossip, own};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sybils_take_no_members_place() {
    const SYBILS: u8 = 20;
    const PLACES: usize = 4;
    let mut settings = config(226, "/ip4/127.0.0.1/tcp/0");
    settings.strangers = PLACES;
    let mut node = Node::start_with(settings).await;
    let id = node.id();
    // From two addresses, since one has half of the places at most.
    let ways = [node.address(), from("127.0.0.2", &node.address()).await];
    let sybils = (20..20 + SYBILS).map(|seed| {
        let address = ways[usize::from(seed % 2)].clone();
        tokio::spawn(async move { Raw::new(seed, &own("join")).insist(id, address).await })
    });
    let sybils: Vec<_> = sybils.collect();
    until("most of them find no place", || {
        let counters = node.net.counters();
        counters.refused(Refusal::Strangers) + counters.refused(Refusal::Address) > u64::from(SYBILS)
            && counters.refused(Refusal::Strangers) > 0
    })
    .await;
    // One that dials, and one that is dialled.
    let (mut late, mut asked) = (Node::start(227).await, Node::start(228).await);
    late.connect(&mut node).await;
    gossip_flows(&late, &mut node, "in").await;
    node.connect(&mut asked).await;
    gossip_flows(&node, &mut asked, "out").await;
    let mut members = [late.id(), asked.id()];
    members.sort();
    assert_eq!(node.net.connected(), members, "no stranger is a peer");
    for sybil in sybils {
        sybil.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_strangers_of_one_address_keep_nobody_from_joining() {
    const SILENT: u8 = 20;
    const PLACES: usize = 8;
    let mut settings = config(231, "/ip4/127.0.0.1/tcp/0");
    settings.strangers = PLACES;
    let mut node = Node::start_with(settings).await;
    let (id, address) = (node.id(), node.address());
    // They take all places that they find, say nothing, and come again when they are sent away.
    let silent = (20..20 + SILENT).map(|seed| {
        let address = address.clone();
        tokio::spawn(async move { Raw::new(seed, &own("join")).insist(id, address).await })
    });
    let silent: Vec<_> = silent.collect();
    until("they have what there is for one address", || {
        node.net.counters().refused(Refusal::Address) > u64::from(SILENT)
    })
    .await;
    let way = from("127.0.0.2", &address).await;
    let mut asker = Raw::new(19, &own("join"));
    asker.connect(id, way).await;
    asker.send(id, Script::frame(b"hello"));
    let name = asker.id();
    let asked = async {
        match node.events.recv().await {
            Some(NetEvent::Request { peer, reply, .. }) if peer == name => reply.send(b"olleh".to_vec()),
            other => panic!("{other:?}"),
        }
    };
    let asking = async { tokio::join!(asked, asker.answered()) };
    let ((), answer) = tokio::time::timeout(LIMIT, asking).await.unwrap();
    assert_eq!(answer.unwrap(), crate::raw::frame(b"olleh"));
    until("the silent ones lose their places", || {
        node.net.counters().refused(Refusal::Overdue) >= PLACES as u64
    })
    .await;
    for task in silent {
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_finds_the_door_crowded_is_dialled_from_inside() {
    let mut settings = config(229, "/ip4/127.0.0.1/tcp/0");
    settings.per_address = 2;
    let mut node = Node::start_with(settings).await;
    let address = node.address().to_string();
    let port: u16 = address.rsplit('/').next().unwrap().parse().unwrap();
    // They say nothing until they are closed, and come again.
    let silent = (0..8).map(|_| {
        tokio::spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
                    let mut nothing = Vec::new();
                    let _ = stream.read_to_end(&mut nothing).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    });
    let silent: Vec<_> = silent.collect();
    until("the address is full", || {
        node.net.counters().refused(Refusal::Address) > 0
    })
    .await;
    let mut late = Node::start(230).await;
    node.connect(&mut late).await;
    let known = node.net.peers();
    assert_eq!(known[0].direction, Direction::Outbound);
    gossip_flows(&late, &mut node, "in").await;
    gossip_flows(&node, &mut late, "out").await;
    for task in silent {
        task.abort();
    }
}

/// Sends a script on gossipsub's protocol until it is cut off, and then only lives.
fn play(mut bad: Raw, script: Script, to: PeerId) -> tokio::task::JoinHandle<()> {
    bad.send(to, script);
    tokio::spawn(bad.live())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_that_nobody_keeps_are_a_misdeed() {
    let (node, honest, bad) = three(231, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let topic = gossip::topic("tx");
    let promise = |n: u32| {
        let ids = (0..100u32).map(|k| gossip::id("nobody has it", &(n * 100 + k).to_be_bytes()));
        gossip::ihave(&topic, ids)
    };
    let script = Script {
        parts: [gossip::hello()]
            .into_iter()
            .chain((0..1000).map(promise))
            .collect(),
        pause: Duration::from_millis(20),
        hold: true,
        ..Script::default()
    };
    let promising = play(bad, script, id);
    until("it is kept out", || net.counters().peers_kept_out == 1).await;
    assert!(net.counters().misdeeds(Misdeed::Control) > 0);
    // It is counted before its connection has ended.
    until("only the honest one is left", || {
        net.connected() == vec![honest.id()]
    })
    .await;
    honest_is_heard(&honest, Topic::Tx, &mut heard).await;
    promising.abort();
}

/// Messages of the topic of transactions that a node has sent.
fn sent(net: &NetHandle) -> u64 {
    let page = net.metrics();
    let name = format!(
        "libp2p_gossipsub_topic_msg_sent_counts_total{{hash=\"{}\"}} ",
        gossip::topic("tx")
    );
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_not_sent_again_as_often_as_it_is_asked_for() {
    const ASKED: usize = 2000;
    let (node, honest, bad) = three(234, GOSSIPSUB).await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 10);
    let topic = gossip::topic("tx");
    let ask = gossip::iwant([gossip::id(&topic, b"good")]).repeat(ASKED / 20);
    let mut parts = vec![gossip::hello(), gossip::publish(&topic, b"good")];
    parts.extend((0..20).map(|_| ask.clone()));
    parts.push(gossip::publish(&topic, b"last"));
    let script = Script {
        parts,
        pause: Duration::from_millis(20),
        hold: true,
        ..Script::default()
    };
    let asking = play(bad, script, id);
    assert_eq!(heard.recv().await.unwrap(), b"good");
    assert_eq!(
        heard.recv().await.unwrap(),
        b"last",
        "every question has been read"
    );
    // gossipsub sends one again three times to whoever asks, and both go to the honest one.
    until("it was sent again", || sent(&net) >= 3).await;
    assert!(sent(&net) <= 10, "{} for {ASKED} questions", sent(&net));
    assert!(net.is_connected(&honest.id()));
    asking.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_peer_in_a_hurry_is_neither_limited_nor_blamed() {
    let (mut node, mut honest) = (Node::start(237).await, Node::start(238).await);
    honest.connect(&mut node).await;
    gossip_flows(&honest, &mut node, "before").await;
    let id = node.id();
    let (net, _serving, mut heard) = serve(node, 100);
    for protocol in Protocol::ALL {
        // Joining is for strangers, and has a bucket of its own.
        let rounds = if protocol == Protocol::Join { 1 } else { 20 };
        for _ in 0..rounds {
            let at_once = (0..protocol.limits().in_flight).map(|_| honest.net.request(id, protocol, vec![1]));
            for answer in join_all(at_once).await {
                assert!(answer.is_ok(), "{protocol:?}: {answer:?}");
            }
        }
    }
    for n in 0..3000 {
        let data = format!("good {n} {}", "x".repeat(300)).into_bytes();
        while honest.net.publish(Topic::Tx, data.clone()).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let end = async {
        for n in 0.. {
            let data = format!("end {n}").into_bytes();
            // It may be busy still.
            let _ = honest.net.publish(Topic::Tx, data);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let heard_out = async { while !heard.recv().await.unwrap().starts_with(b"end") {} };
    tokio::select! {
        () = end => {}
        () = heard_out => {}
    }
    for side in [&net, &honest.net] {
        let counters = side.counters();
        assert!(
            Intake::ALL.iter().all(|kind| counters.limited(*kind) == 0),
            "{counters:?}"
        );
        assert!(
            Misdeed::ALL
                .iter()
                .all(|misdeed| counters.misdeeds(*misdeed) == 0),
            "{counters:?}"
        );
        assert_eq!(counters.peers_kept_out, 0);
        assert!(side.peers().iter().all(|peer| peer.score == 0));
    }
}

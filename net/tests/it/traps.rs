//! What gossip and connection limits are known to do to honest networks, and that ours bears it.

use std::collections::BTreeSet;
use std::time::Duration;

use blosm_net::{Misdeed, NetEvent, Refusal, Topic, Verdict};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::harness::{Node, config, gossip_flows, until};
use crate::hostile::serve;
use crate::raw::{Raw, own};

/// Nobody among these has anything against another.
fn assert_nothing_is_held_against_anybody(nodes: &[Node]) {
    for node in nodes {
        let peers = node.net.peers();
        assert!(peers.iter().all(|peer| peer.score == 0), "{peers:?}");
        let counters = node.net.counters();
        assert!(
            Misdeed::ALL
                .iter()
                .all(|misdeed| counters.misdeeds(*misdeed) == 0)
        );
    }
}

/// Each node publishes one message, and hears those of all others; the first is the one in the middle.
async fn all_hear_all(nodes: &mut [Node], mark: &str) {
    let messages: Vec<_> = (0..nodes.len())
        .map(|number| format!("{mark} {number}").into_bytes())
        .collect();
    for (node, message) in nodes.iter().zip(&messages) {
        node.net.publish(Topic::Tx, message.clone()).unwrap();
    }
    for (node, own) in nodes.iter_mut().zip(&messages) {
        let mut missing: BTreeSet<_> = messages.iter().filter(|message| *message != own).collect();
        while !missing.is_empty() {
            let (_, data) = node.heard().await;
            let is_new = missing.remove(&data) || !data.starts_with(mark.as_bytes());
            assert!(is_new, "{} comes twice", String::from_utf8_lossy(&data));
        }
    }
}

/// With more leaves than a mesh may have, the hub prunes some of those that graft it, for a minute: what it publishes must
/// not depend on its mesh, nor what the leaves tell it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_of_a_star_hears_its_leaves_and_is_heard_by_each() {
    const LEAVES: u8 = 14;
    let mut nodes = vec![Node::start(61).await];
    for seed in 0..LEAVES {
        let mut leaf = Node::start(62 + seed).await;
        leaf.connect(&mut nodes[0]).await;
        nodes.push(leaf);
    }
    let (hub, leaves) = nodes.split_at_mut(1);
    for (number, leaf) in leaves.iter_mut().enumerate() {
        gossip_flows(&hub[0], leaf, &format!("there {number}:")).await;
        gossip_flows(leaf, &mut hub[0], &format!("back {number}:")).await;
    }
    for round in 0..3 {
        // A heartbeat, which grafts and prunes.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let (hub, leaves) = nodes.split_at_mut(1);
        let from_hub = format!("round {round}: the hub").into_bytes();
        hub[0].net.publish(Topic::Block, from_hub.clone()).unwrap();
        let mut missing = BTreeSet::new();
        for (number, leaf) in leaves.iter_mut().enumerate() {
            while leaf.heard().await != (Topic::Block, from_hub.clone()) {}
            let from_leaf = format!("round {round}: leaf {number}").into_bytes();
            leaf.net.publish(Topic::Tx, from_leaf.clone()).unwrap();
            missing.insert(from_leaf);
        }
        while !missing.is_empty() {
            let (_, data) = hub[0].heard().await;
            missing.remove(&data);
        }
    }
    assert_nothing_is_held_against_anybody(&nodes);
}

/// A mesh that stays below its low-water mark looks for more members at each heartbeat, and finds none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_and_three_nodes_are_a_network() {
    let mut nodes = vec![Node::start(81).await, Node::start(82).await];
    for count in 2..4 {
        let (first, rest) = nodes.split_at_mut(1);
        if count == 2 {
            rest[0].connect(&mut first[0]).await;
        } else {
            let mut third = Node::start(83).await;
            third.connect(&mut first[0]).await;
            nodes.push(third);
        }
        let (first, rest) = nodes.split_at_mut(1);
        for other in rest {
            gossip_flows(&first[0], other, &format!("there {count}")).await;
            gossip_flows(other, &mut first[0], &format!("back {count}")).await;
        }
        for round in 0..3 {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            all_hear_all(&mut nodes, &format!("{count} nodes, round {round}:")).await;
        }
    }
    assert_nothing_is_held_against_anybody(&nodes);
}

/// What a node ignored, because it could not judge it yet, gossip never brings again: it has to be asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ignored_message_does_not_come_again_from_another_neighbour() {
    let (mut a, mut b, mut c) = (
        Node::start(91).await,
        Node::start(92).await,
        Node::start(93).await,
    );
    a.connect(&mut b).await;
    c.connect(&mut b).await;
    gossip_flows(&a, &mut b, "from a").await;
    gossip_flows(&c, &mut b, "from c").await;
    a.net.publish(Topic::Block, b"too early".to_vec()).unwrap();
    let (mut early, mut marks) = (0, 0);
    while marks < 3 {
        let NetEvent::Gossip { data, id, .. } = b.event().await else {
            continue;
        };
        if data == b"too early" {
            early += 1;
            b.net.verdict(id, Verdict::Ignore);
            // It was not passed on, so it is new to this one; of one publisher messages come in order.
            c.net.publish(Topic::Block, b"too early".to_vec()).unwrap();
            for mark in 0..3 {
                c.net
                    .publish(Topic::Block, format!("mark {mark}").into_bytes())
                    .unwrap();
            }
        } else {
            marks += usize::from(data.starts_with(b"mark"));
            b.net.verdict(id, Verdict::Accept);
        }
    }
    assert_eq!(early, 1);
    assert_nothing_is_held_against_anybody(&[a, b, c]);
}

/// Where all places for connections from outside are taken, an authority is let in, and another member is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_finds_a_place_where_all_are_taken() {
    const PLACES: u16 = 512;
    // Both ends of each connection are in this process; a shell allows 1,024 files.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    assert!(
        files.maximum.is_none_or(|most| most >= 2_048),
        "too few files may be open: {files:?}"
    );
    let (mut authority, late) = (Node::start(95).await, Node::start(96).await);
    let mut settings = config(97, "/ip4/127.0.0.1/tcp/0");
    settings.authorities = vec![authority.id()];
    settings.per_address = usize::from(2 * PLACES);
    let mut node = Node::start_with(settings).await;
    node.know(late.id());
    let (id, address) = (node.id(), node.address());
    let members: Vec<_> = (0..PLACES)
        .map(|number| {
            let mut seed = [98; 32];
            seed[..2].copy_from_slice(&number.to_be_bytes());
            Raw::with_seed(seed, &own("ledger"))
        })
        .collect();
    members.iter().for_each(|member| node.know(member.id()));
    let (net, serving, _heard) = serve(node, 1);
    let mut living = JoinSet::new();
    for mut member in members {
        let address = address.clone();
        living.spawn(async move { member.insist(id, address).await });
    }
    until("all places are taken", || {
        net.connected().len() == usize::from(PLACES)
    })
    .await;
    // The crowd at the door may have met another limit.
    let before = net.counters().refused(Refusal::Full);
    late.net.set_addresses(id, vec![address.clone()]);
    until("a member is refused", || {
        net.counters().refused(Refusal::Full) > before
    })
    .await;
    authority.net.set_addresses(id, vec![address]);
    authority.connected(id).await;
    until("the authority is in", || net.is_connected(&authority.id())).await;
    assert!(!net.is_connected(&late.id()));
    living.shutdown().await;
    serving.abort();
}

//! Who is let in, who is not, and what a stranger reaches.

use std::time::Duration;

use blosm_net::{JoinQuestion, Multiaddr, NetEvent, PeerId, Protocol, Refusal, ask_to_join, peer_of_key};
use libp2p::request_response::OutboundFailure;

use crate::harness::{NET8, Node, config, free_address, from, gossip_flows, until};
use crate::raw::{GOSSIPSUB, Raw, Script, own};

/// A node that takes strangers.
async fn authority(seed: u8, strangers: usize) -> Node {
    let mut settings = config(seed, "/ip4/127.0.0.1/tcp/0");
    settings.strangers = strangers;
    Node::start_with(settings).await
}

/// Answers every request with its own bytes reversed, and says who asked on which protocol.
fn answer(mut node: Node) -> tokio::task::JoinHandle<Vec<(Protocol, PeerId)>> {
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(event) = node.events.recv().await {
            if let NetEvent::Request {
                protocol,
                peer,
                mut data,
                reply,
            } = event
            {
                if data == b"end" {
                    return asked;
                }
                asked.push((protocol, peer));
                data.reverse();
                reply.send(data);
            }
        }
        asked
    })
}

fn full(node: &Node) -> Multiaddr {
    format!("{}/p2p/{}", node.address(), node.id()).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_connection_ends_after_the_handshake() {
    let mut node = Node::start(101).await;
    for name in ["ledger", "session", "relay", "transfer", "join", "kad", "reach"] {
        let mut stranger = Raw::new(102, &own(name));
        stranger.connect(node.id(), node.address()).await;
        stranger.send(node.id(), Script::frame(b"hello"));
        let outcome = stranger.answered().await;
        assert!(
            matches!(
                outcome,
                Err(OutboundFailure::ConnectionClosed
                    | OutboundFailure::DialFailure
                    | OutboundFailure::Io(_))
            ),
            "{name}: {outcome:?}"
        );
    }
    assert!(node.net.counters().refused(Refusal::Stranger) >= 7);
    assert!(node.net.connected().is_empty());
    assert!(node.events.try_recv().is_err(), "the reader never hears of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_reaches_the_join_protocol_alone() {
    let node = authority(103, 4).await;
    let (id, address, net) = (node.id(), node.address(), node.net.clone());
    let reader = answer(node);
    let silent = [
        &own("ledger"),
        &own("session"),
        &own("relay"),
        &own("transfer"),
        &own("kad"),
        &own("reach"),
    ];
    let others = [GOSSIPSUB, "/ipfs/id/1.0.0"];
    for (seed, name) in (121..).zip(silent.into_iter().map(String::as_str).chain(others)) {
        let mut stranger = Raw::new(seed, name);
        stranger.connect(id, address.clone()).await;
        stranger.send(id, Script::frame(b"hello"));
        let outcome = stranger.answered().await;
        assert!(
            matches!(outcome, Err(OutboundFailure::UnsupportedProtocols)),
            "{name}: {outcome:?}"
        );
    }
    let mut stranger = Raw::new(104, &own("join"));
    stranger.connect(id, address).await;
    stranger.send(id, Script::frame(b"hello"));
    assert_eq!(stranger.answered().await.unwrap(), crate::raw::frame(b"olleh"));
    assert!(!net.is_connected(&stranger.id()), "a stranger is no peer");
    stranger.send(id, Script::frame(b"end"));
    assert!(stranger.answered().await.is_err());
    assert_eq!(reader.await.unwrap(), vec![(Protocol::Join, stranger.id())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_have_few_places_and_few_questions() {
    let node = authority(105, 2).await;
    let (id, address, net) = (node.id(), node.address(), node.net.clone());
    let reader = answer(node);
    let (mut first, mut second) = (Raw::new(106, &own("join")), Raw::new(107, &own("join")));
    // One address has half of the places at most.
    let other = from("127.0.0.2", &address).await;
    for (stranger, way) in [(&mut first, &address), (&mut second, &other)] {
        stranger.connect(id, way.clone()).await;
        stranger.send(id, Script::frame(b"hello"));
        stranger.answered().await.unwrap();
    }
    let mut third = Raw::new(108, &own("join"));
    third.connect(id, address.clone()).await;
    third.closed().await;
    assert!(net.counters().refused(Refusal::Strangers) > 0);

    // One that asks again and again is sent away, and leaves its place to another.
    let away = async {
        loop {
            first.send(id, Script::frame(b"again"));
            if let Err(OutboundFailure::ConnectionClosed) = first.answered().await {
                return;
            }
        }
    };
    away.await;
    assert!(net.counters().refused(Refusal::Overdue) > 0);
    third.connect(id, address).await;
    third.send(id, Script::frame(b"hello"));
    assert_eq!(third.answered().await.unwrap(), crate::raw::frame(b"olleh"));

    // One that only stays goes too.
    second.closed().await;
    reader.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_asks_to_join_and_its_node_connects() {
    let mut authority = authority(111, 4).await;
    let seed = [112; 32];
    let listening = free_address();
    let (net, question) = (
        authority.net.clone(),
        JoinQuestion {
            net8: NET8.to_owned(),
            authority: full(&authority),
            listen: vec![listening.clone()],
            request: b"let me in".to_vec(),
        },
    );
    let asking = tokio::spawn(async move { ask_to_join(&seed, question).await });
    let (protocol, peer, data, reply) = authority.asked().await;
    assert_eq!((protocol, data.as_slice()), (Protocol::Join, &b"let me in"[..]));
    let third_party = "/ip4/192.0.2.1/tcp/4401".parse().unwrap();
    let back = net.dial_back(peer, vec![third_party, listening.clone()]).await;
    assert_eq!(back, Some(listening));
    net.set_addresses(peer, vec![]);
    reply.send(b"welcome".to_vec());
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.response, b"welcome");
    assert!(answer.dialled_back);
    assert!(answer.rtt.is_some_and(|rtt| rtt > Duration::ZERO));

    let mut node = Node::start(112).await;
    assert_eq!(node.id(), peer);
    node.net.set_addresses(authority.id(), vec![authority.address()]);
    authority.connected(peer).await;
    node.connected(authority.id()).await;
    gossip_flows(&node, &mut authority, "hello").await;

    // A member may ask too: its answer may have been lost.
    let question = JoinQuestion {
        net8: NET8.to_owned(),
        authority: full(&authority),
        listen: vec![],
        request: b"again".to_vec(),
    };
    node.net.shutdown().await;
    authority.disconnected(peer).await;
    let asking = tokio::spawn(async move { ask_to_join(&seed, question).await });
    let (.., data, reply) = authority.asked().await;
    assert_eq!(data, b"again");
    reply.send(b"yes".to_vec());
    let answer = asking.await.unwrap().unwrap();
    assert_eq!((answer.response, answer.dialled_back), (b"yes".to_vec(), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_cannot_be_answered_says_why() {
    let member = Node::start(113).await;
    let question = |authority: Multiaddr| JoinQuestion {
        net8: NET8.to_owned(),
        authority,
        listen: vec![],
        request: vec![1],
    };
    let ask = async |question| ask_to_join(&[114; 32], question).await.unwrap_err().to_string();
    let text = ask(question(full(&member))).await;
    assert!(
        text.contains("no authority") || text.contains("cannot reach"),
        "{text}"
    );
    let text = ask(question(member.address())).await;
    assert!(text.contains("/p2p/"), "{text}");
    let nobody = format!("{}/p2p/{}", free_address(), peer_of_key(&[9; 32]));
    let text = ask(question(nobody.parse().unwrap())).await;
    assert!(text.contains("cannot reach") && text.contains(&nobody), "{text}");
    let mut long = question(full(&member));
    long.request = vec![0; Protocol::Join.limits().max_request + 1];
    let text = ask(long).await;
    assert!(text.contains("16385"), "{text}");
    let authority = authority(115, 1).await;
    let mut other = question(full(&authority));
    other.net8 = "ffffffff".to_owned();
    let text = ask(other).await;
    assert!(text.contains("of another network"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_peer_is_cut_off_and_cannot_return() {
    let (mut a, mut b, mut c) = (
        Node::start(116).await,
        Node::start(117).await,
        Node::start(118).await,
    );
    a.connect(&mut b).await;
    a.connect(&mut c).await;
    gossip_flows(&c, &mut a, "before").await;
    a.net.forget(c.id());
    a.disconnected(c.id()).await;
    // With its old key, by our protocols and by none of them.
    c.net.set_addresses(a.id(), vec![a.address()]);
    until("its node is refused", || {
        a.net.counters().refused(Refusal::Stranger) > 0
    })
    .await;
    c.net.shutdown().await;
    let mut old = Raw::new(118, &own("ledger"));
    assert_eq!(old.id(), c.id());
    for _ in 0..3 {
        old.connect(a.id(), a.address()).await;
        old.send(a.id(), Script::frame(b"hello"));
        assert!(old.answered().await.is_err());
    }
    assert_eq!(a.net.connected(), vec![b.id()]);
    assert!(a.net.request(c.id(), Protocol::Ledger, vec![1]).await.is_err());
    gossip_flows(&b, &mut a, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_are_members_before_the_ledger_says_so() {
    let mut settings = config(119, "/ip4/127.0.0.1/tcp/0");
    let mut authority = Node::start(120).await;
    settings.authorities = vec![authority.id()];
    let mut node = Node::start_with(settings).await;
    authority.net.set_addresses(node.id(), vec![node.address()]);
    node.connected(authority.id()).await;
    authority.connected(node.id()).await;
    gossip_flows(&authority, &mut node, "hello").await;
}

//! Nodes that meet a later version.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blosm_ledger::{
    AckBody, Certificate, Hash, NEWEST_VERSION, Newer, Payload, PublicKey, SealedBlock, SecretKey, Status,
    StatusBody,
};
use blosm_net::{NetEvent, Protocol, Topic};
use tokio::sync::mpsc;

use super::harness::{Node, genesis, key, network, until};
use crate::chain::wire::{LedgerRequest, LedgerResponse, WireHead};
use crate::chain::{BlockId, Needs};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stop_before_a_later_header_serve_on_and_continue_with_one_that_they_read() {
    let mut nodes = network(2).await;
    let mut place = nodes.remove(0).stop().await;
    let (b, c) = (&nodes[0], &nodes[1]);
    let view = b.chain.snapshot();
    let height = view.height;
    c.reaches(height).await;
    // The next block, as the authority of a later version seals it, and its word on it.
    let mut later = b.chain.block(BlockId::Height(height)).await.unwrap().encode();
    later[..2].copy_from_slice(&(NEWEST_VERSION + 1).to_le_bytes());
    let head = WireHead {
        height: height + 1,
        hash: Hash([8; 32]),
        confirmed_height: 0,
    };
    let status = |time_ms| {
        let body = StatusBody {
            chain_id: genesis().chain_id(),
            proposer: key(0).public(),
            version: NEWEST_VERSION + 1,
            height: head.height,
            hash: head.hash,
            confirmed_height: 0,
            newest: vec![],
            time_ms,
        };
        Status::sign(&key(0), body).encode()
    };
    let (net, events) = place.swarm(&[b, c]).await;
    let acks = Arc::new(Mutex::new(BTreeMap::new()));
    let answers = tokio::spawn(authority(events, head, later, acks.clone()));
    let newer = Newer::Header(NEWEST_VERSION + 1);
    let needs = Some(Needs {
        height: head.height,
        newer,
    });
    // Topics are told some time after a connection is up: a message that nobody gets is lost.
    let round = AtomicU64::new(1 << 60);
    until("both say which version they need", || async {
        let time_ms = round.fetch_add(1, Ordering::Relaxed);
        net.publish(Topic::Status, status(time_ms)).unwrap();
        [b, c].iter().all(|node| node.chain.snapshot().needs == needs)
    })
    .await;
    let text = b.chain.snapshot().needs.unwrap().to_string();
    assert!(
        text.contains("block 4 has header version 2") && text.contains("install a newer blosm"),
        "{text}"
    );
    // They serve on: what they hold, and each other. Nobody was cut off for it.
    for (node, other) in [(b, c), (c, b)] {
        assert_eq!(node.chain.snapshot().height, height);
        assert!(node.chain.block(BlockId::Height(height)).await.is_some());
        let head = LedgerRequest::Head.encode();
        let answer = other
            .net
            .request(node.net.local_peer(), Protocol::Ledger, head)
            .await
            .unwrap();
        let Some(LedgerResponse::Head(head)) = LedgerResponse::decode(&answer) else {
            panic!("{answer:?}");
        };
        assert_eq!(head.height, height);
        let peers = node.net.peers();
        let seen = peers.iter().find(|peer| peer.peer == net.local_peer());
        assert_eq!(seen.unwrap().score, 0, "nothing is held against it");
    }
    // The authority hears which version they read.
    until("both have said which version they read", || async {
        let acks = acks.lock().unwrap();
        acks.len() == 2
            && acks
                .values()
                .all(|body: &AckBody| body.protocol == NEWEST_VERSION && body.height == height)
    })
    .await;

    // The chain goes on with a block that can be read.
    net.shutdown().await;
    answers.abort();
    let a = place.start(&[]).await;
    let sealed = seal_patiently(&a, b, 1).await;
    for node in [b, c] {
        node.sees(|view| view.height >= sealed && view.needs.is_none())
            .await;
    }
    a.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

/// Answers as an authority with that head would whose blocks are all `block`, and notes what the members acknowledge.
async fn authority(
    mut events: mpsc::Receiver<NetEvent>,
    head: WireHead,
    block: Vec<u8>,
    acks: Arc<Mutex<BTreeMap<PublicKey, AckBody>>>,
) {
    while let Some(event) = events.recv().await {
        let NetEvent::Request { data, reply, .. } = event else {
            continue;
        };
        let answer = match LedgerRequest::decode(&data) {
            Some(LedgerRequest::Head) => LedgerResponse::Head(head),
            Some(LedgerRequest::Ack(ack)) => {
                acks.lock().unwrap().insert(ack.body.member, ack.body);
                LedgerResponse::Acked { head, time_ms: 0 }
            }
            Some(LedgerRequest::Range { .. }) => LedgerResponse::Blocks(vec![block.clone()]),
            _ => LedgerResponse::Unavailable,
        };
        answer.answer(reply);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_of_a_later_version_stops_nobody_for_good() {
    let mut nodes = network(2).await;
    let mut place = nodes.remove(0).stop().await;
    let (b, c) = (&nodes[0], &nodes[1]);
    let view = b.chain.snapshot();
    // The next block, as an authority of a later version would have made it.
    let later = of_a_later_kind(&next_block(b, &key(0)).await);
    let (net, mut events) = place.swarm(&[b, c]).await;
    let answers = tokio::spawn({
        let (net, later) = (net.clone(), later.clone());
        let head = WireHead {
            height: view.height + 1,
            hash: blosm_ledger::Hash([8; 32]),
            confirmed_height: 0,
        };
        async move {
            while let Some(event) = events.recv().await {
                match event {
                    NetEvent::Request { data, reply, .. } => {
                        let answer = match LedgerRequest::decode(&data) {
                            Some(LedgerRequest::Head) => LedgerResponse::Head(head),
                            Some(LedgerRequest::Ack(_)) => LedgerResponse::Acked { head, time_ms: 0 },
                            Some(LedgerRequest::Range { .. }) => LedgerResponse::Blocks(vec![later.clone()]),
                            _ => LedgerResponse::Unavailable,
                        };
                        reply.send(answer.encode());
                    }
                    NetEvent::Connected { .. } => {
                        net.publish(Topic::Block, later.clone()).unwrap();
                    }
                    _ => {}
                }
            }
        }
    });
    let needs = Some(Needs {
        height: view.height + 1,
        newer: Newer::Kind(11),
    });
    for node in [b, c] {
        node.sees(|view| view.needs == needs).await;
        assert!(
            node.net.is_connected(&net.local_peer()),
            "it is not held against it"
        );
    }
    let text = b.chain.snapshot().needs.unwrap().to_string();
    assert!(text.contains("transaction kind 11 (`take_over`)"), "{text}");

    // The chain goes on with a block that can be read, so there is nothing to complain about.
    net.shutdown().await;
    answers.abort();
    let a = place.start(&[]).await;
    let sealed = seal_patiently(&a, b, 2).await;
    for node in [b, c] {
        node.sees(|view| view.height >= sealed && view.needs.is_none())
            .await;
    }
    a.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

/// Has `of` open a session, until the authority `a`, which has just started, has sealed that.
async fn seal_patiently(a: &Node, of: &Node, n: u32) -> u64 {
    let open = of.opening(n).1;
    super::submit_patiently(a, open).await
}

/// The transactions of the node's newest block in a block after it, sealed by that key.
pub(super) async fn next_block(node: &Node, by: &SecretKey) -> SealedBlock {
    let height = node.chain.snapshot().height;
    let mut block = node.chain.block(BlockId::Height(height)).await.unwrap();
    block.block.header.previous_hash = block.hash();
    block.block.header.height += 1;
    block.block.header.timestamp_ms += 1;
    block.block.header.nonce += 1;
    block.certificate = Certificate::of_one(by, block.block.header.chain_id, block.height(), block.hash());
    block
}

/// The block with a kind that this version does not know in its first transaction.
pub(super) fn of_a_later_kind(block: &SealedBlock) -> Vec<u8> {
    let mut bytes = block.encode();
    let transaction = block.block.transactions[0].encode();
    let place = bytes
        .windows(transaction.len())
        .position(|window| window == transaction)
        .unwrap();
    // chain_id, sender and, on the kinds that expire, max_height stand before the kind.
    let (expiry, tag) = match &block.block.transactions[0].payload {
        Payload::Admit(_) => (1 + 8, 0),
        Payload::Open(_) => (1, 2),
        other => panic!("{other:?}"),
    };
    let kind = place + 32 + 32 + expiry;
    assert_eq!(bytes[kind], tag);
    bytes[kind] = 11;
    bytes
}

//! Nodes that meet a later version.

use blosm_ledger::{Certificate, HEADER_VERSION, Newer, Payload, SealedBlock, SecretKey};
use blosm_net::{NetEvent, Protocol, Topic};

use super::harness::{Node, key, network, until};
use crate::chain::wire::{LedgerRequest, LedgerResponse, WireHead};
use crate::chain::{BlockId, Needs};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stop_before_a_later_header_serve_on_and_continue_after_an_upgrade() {
    let mut nodes = network(2).await;
    let height = nodes[0].chain.snapshot().height;
    let mut place = nodes.remove(0).stop().await;
    place.version = HEADER_VERSION + 1;
    let a = place.start(&[]).await;
    let (b, c) = (&nodes[0], &nodes[1]);
    b.connected(&a).await;
    c.connected(&a).await;

    // What an older node asks for is still sealed; it only cannot read the block.
    let sealed = seal_patiently(&a, b, 1).await;
    assert_eq!(sealed, height + 1);
    let newer = Newer::Header(HEADER_VERSION + 1);
    for node in [b, c] {
        node.sees(|view| {
            view.needs
                == Some(Needs {
                    height: sealed,
                    newer,
                })
        })
        .await;
        assert_eq!(node.chain.snapshot().height, height);
    }
    let text = b.chain.snapshot().needs.unwrap().to_string();
    assert!(
        text.contains("block 4 has header version 2") && text.contains("install a newer blosm"),
        "{text}"
    );
    // They serve on: what they hold, and each other. Nobody was cut off for it.
    for (node, other) in [(b, c), (c, b)] {
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
        assert!(node.net.is_connected(&a.net.local_peer()));
    }
    // The authority's operator sees who has to be upgraded.
    until("both have said which version they read", || async {
        let acks = a.chain.acks().await;
        acks.len() == 2
            && acks
                .iter()
                .all(|ack| ack.body.protocol == HEADER_VERSION && ack.body.height == height)
    })
    .await;

    let mut place = nodes.remove(0).stop().await;
    place.version = HEADER_VERSION + 1;
    let b = place.start(&[]).await;
    b.sees(|view| view.height == sealed && view.needs.is_none()).await;
    assert_eq!(nodes[0].chain.snapshot().height, height);
    a.stop().await;
    b.stop().await;
    for node in nodes {
        node.stop().await;
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

//! Topics, verdicts and order.

use std::time::Duration;

use blosm_net::{NetEvent, PublishError, Topic, Verdict};

use crate::harness::{LIMIT, Node, gossip_flows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_accepted_messages_go_on() {
    let (mut a, mut b, mut c) = (
        Node::start(11).await,
        Node::start(12).await,
        Node::start(13).await,
    );
    a.connect(&mut b).await;
    b.connect(&mut c).await;
    gossip_flows(&a, &mut b, "warm").await;
    gossip_flows(&b, &mut c, "warm too").await;

    let (a, b) = (a.net.clone(), (b.net.clone(), b.events));
    let publisher = tokio::spawn(async move {
        for n in 0u32.. {
            for mark in ["ignore", "reject", "accept"] {
                // More than a few would cost the publisher its place.
                if mark == "reject" && n >= 5 {
                    continue;
                }
                if a.publish(Topic::Tx, format!("{mark} {n}").into_bytes()) == Err(PublishError::Stopped) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let middle = tokio::spawn(async move {
        let (net, mut events) = b;
        while let Some(event) = events.recv().await {
            if let NetEvent::Gossip { data, id, .. } = event {
                let verdict = match &data[..4] {
                    b"acce" | b"warm" => Verdict::Accept,
                    b"igno" => Verdict::Ignore,
                    _ => Verdict::Reject,
                };
                net.verdict(id, verdict);
            }
        }
    });
    // Ten that came through the middle, and none among them that the middle held back.
    let mut accepted = 0;
    while accepted < 10 {
        let (topic, data) = c.heard().await;
        assert_eq!(topic, Topic::Tx);
        let known = data.starts_with(b"accept") || data.starts_with(b"warm");
        assert!(known, "{}", String::from_utf8_lossy(&data));
        accepted += usize::from(data.starts_with(b"accept"));
    }
    publisher.abort();
    middle.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_keep_their_order() {
    let (mut a, mut b) = (Node::start(21).await, Node::start(22).await);
    a.connect(&mut b).await;
    gossip_flows(&a, &mut b, "warm").await;

    const COUNT: u32 = 200;
    for n in 0..COUNT {
        let mut block = vec![0; 2000];
        block[..4].copy_from_slice(&n.to_be_bytes());
        a.net.publish(Topic::Block, block).unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < COUNT as usize {
        let (topic, data) = b.heard().await;
        if topic == Topic::Block {
            heard.push(u32::from_be_bytes(data[..4].try_into().unwrap()));
        }
    }
    assert_eq!(heard, (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn longest_block_arrives_and_a_longer_one_is_refused() {
    let (mut a, mut b) = (Node::start(31).await, Node::start(32).await);
    a.connect(&mut b).await;
    gossip_flows(&a, &mut b, "warm").await;

    let limit = Topic::Block.max_bytes();
    assert_eq!(
        a.net.publish(Topic::Block, vec![1; limit + 1]),
        Err(PublishError::TooLarge {
            size: limit + 1,
            limit
        })
    );
    a.net.publish(Topic::Block, vec![1; limit]).unwrap();
    a.net.publish(Topic::Tx, vec![2; Topic::Tx.max_bytes()]).unwrap();
    let mut longest = [0, 0];
    tokio::time::timeout(LIMIT, async {
        while longest != [limit, Topic::Tx.max_bytes()] {
            let (topic, data) = b.heard().await;
            let slot = &mut longest[usize::from(topic == Topic::Tx)];
            *slot = data.len().max(*slot);
        }
    })
    .await
    .unwrap();
}

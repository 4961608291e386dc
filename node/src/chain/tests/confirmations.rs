//! Algorithm 1 between real swarms: who counts, who is told, and what false words change.

use std::time::Duration;

use blosm_ledger::{Ack, AckBody, Confirmations, Count, HEADER_VERSION, Hash, Status, StatusBody};
use blosm_net::{NetHandle, Protocol, Topic, peer_of_key};
use futures::future::join_all;

use super::harness::{LIMIT, Node, Place, genesis, key, network, until};
use crate::chain::BlockId;
use crate::chain::wire::{LedgerRequest, LedgerResponse};

/// Longer than a proposer grants.
const LONG: Duration = Duration::from_secs(3600);

fn of(acked: u32, members: u32) -> Confirmations {
    Confirmations { acked, members }
}

/// Asks as a submitter does, until `enough`; gives all that it was told.
async fn follow(node: &Node, height: u64, enough: impl Fn(Confirmations) -> bool) -> Vec<Confirmations> {
    let mut seen: Vec<Confirmations> = Vec::new();
    let asked = async {
        loop {
            let beyond = seen.last().map_or(0, |last| last.acked);
            let Some(found) = node.chain.wait_confirmed(height, beyond, LONG).await else {
                node.reaches(height).await;
                continue;
            };
            if seen.last() != Some(&found) {
                seen.push(found);
            }
            if enough(found) {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, asked)
        .await
        .unwrap_or_else(|_| panic!("node {} was told {seen:?}", node.place.index));
    assert!(
        seen.is_sorted_by(|a, b| a.acked < b.acked),
        "it only grows: {seen:?}"
    );
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_of_ten_confirm_and_eight_of_ten_do_not() {
    let mut nodes = network(9).await;
    let ninth = nodes.pop().unwrap().stop().await;
    let b = &nodes[1];
    let height = b.chain.submit(b.opening(1).1).await.unwrap();
    let seen = follow(b, height, |found| found.confirmed()).await;
    assert_eq!(seen.last(), Some(&of(9, 10)));
    // Every block until then was sealed here, and timed.
    assert_eq!(nodes[0].chain.shared.meter.confirmations(), height);
    // Everybody learns of it, and of the counts.
    for node in &nodes {
        node.sees(|view| {
            view.confirmed_height >= height
                && view
                    .newest
                    .iter()
                    .any(|count| count.height == height && count.acked >= 9)
        })
        .await;
    }

    let eighth = nodes.pop().unwrap().stop().await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let second = b.chain.submit(b.opening(2).1).await.unwrap();
    let seen = follow(b, second, |found| found.acked == 8).await;
    assert!(seen.iter().all(|found| !found.confirmed()), "{seen:?}");
    // A time-out is a result.
    let short = Duration::from_millis(300);
    assert_eq!(b.chain.wait_confirmed(second, 8, short).await, Some(of(8, 10)));
    assert_eq!(a.chain.wait_confirmed(second, 8, short).await, Some(of(8, 10)));
    assert_eq!(
        a.chain.wait_confirmed(second, u32::MAX, short).await,
        Some(of(8, 10))
    );
    assert_eq!(a.chain.snapshot().confirmed_height, height);
    assert_eq!(a.chain.shared.meter.confirmations(), height);
    // Nothing else waits for it: blocks are sealed, and carry what is confirmed.
    let third = b.chain.submit(b.opening(3).1).await.unwrap();
    let block = a.chain.block(BlockId::Height(third)).await.unwrap();
    assert_eq!(block.block.header.confirmed_height, height);

    // Whoever waits is told of the ninth, also who waits for nothing less.
    let waiting = [(b, 8), (a, 8), (a, u32::MAX)].map(|(node, beyond)| {
        let chain = node.chain.clone();
        tokio::spawn(async move {
            loop {
                match chain.wait_confirmed(second, beyond, LONG).await {
                    Some(found) if found.confirmed() => return found,
                    _ => {}
                }
            }
        })
    });
    let eighth = eighth.start(&[]).await;
    for waiting in waiting {
        assert_eq!(
            tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap(),
            of(9, 10)
        );
    }
    for node in &nodes {
        node.sees(|view| view.confirmed_height >= second).await;
    }
    assert!(nodes[0].chain.shared.meter.confirmations() >= second);
    drop(ninth);
    eighth.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_by_its_key_alone_counts_in_the_denominator_of_later_blocks_only() {
    let nodes = network(1).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let before = a.chain.snapshot().height;
    let dark = a.chain.submit(a.admission_of(50, vec![])).await.unwrap();
    assert_eq!(
        follow(b, before, |found| found.confirmed()).await.last(),
        Some(&of(2, 2))
    );
    assert_eq!(
        follow(b, dark, |found| found.acked == 2).await.last(),
        Some(&of(2, 3))
    );
    assert!(!of(2, 3).confirmed());
    let hash = a
        .chain
        .block(BlockId::Height(dark))
        .await
        .unwrap()
        .block
        .transactions[0]
        .hash();
    let status = b
        .chain
        .wait_transaction(hash, 2, Duration::from_millis(200))
        .await
        .unwrap();
    assert_eq!((status.height, status.confirmations), (dark, of(2, 3)));
    let unknown = Hash([1; 32]);
    let none = b
        .chain
        .wait_transaction(unknown, 0, Duration::from_millis(50))
        .await;
    assert_eq!(none, None);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_proposer_a_member_knows_what_it_was_told_last() {
    let mut nodes = network(2).await;
    let height = nodes[1].chain.submit(nodes[1].opening(1).1).await.unwrap();
    nodes[2].reaches(height).await;
    nodes[2].sees(|view| view.confirmed_height >= height).await;
    let a = nodes.remove(0);
    let peer = a.net.local_peer();
    let a = a.stop().await;
    let c = &nodes[1];
    until("it is gone", || async { !c.net.is_connected(&peer) }).await;
    assert_eq!(c.chain.confirmations(height).await, Some(of(3, 3)));
    assert_eq!(c.chain.wait_confirmed(height, 9, LONG).await, Some(of(3, 3)));
    assert_eq!(c.chain.confirmations(height + 1).await, None);
    drop(a);
    for node in nodes {
        node.stop().await;
    }
}

/// A member that is nothing but a swarm.
struct Puppet {
    index: u8,
    net: NetHandle,
    /// Gone with its place, the events end.
    _place: Place,
}

impl Puppet {
    async fn new(index: u8, authority: &Node) -> Puppet {
        let mut place = Place::new(index);
        let (net, mut events) = place.swarm(&[authority]).await;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let peer = authority.net.local_peer();
        until("it is connected", || async { net.is_connected(&peer) }).await;
        Puppet {
            index,
            net,
            _place: place,
        }
    }

    fn ack(&self, height: u64, hash: Hash, number: u64) -> AckBody {
        AckBody {
            chain_id: genesis().chain_id(),
            member: key(self.index).public(),
            height,
            hash,
            software: "test".to_owned(),
            protocol: HEADER_VERSION,
            run: 1,
            number,
        }
    }

    async fn say(&self, authority: &Node, ack: Ack) -> Option<LedgerResponse> {
        let request = LedgerRequest::Ack(ack).encode();
        let answer = self
            .net
            .request(authority.net.local_peer(), Protocol::Ledger, request)
            .await
            .ok()?;
        LedgerResponse::decode(&answer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn false_acknowledgements_change_nothing_and_cost_their_sender() {
    let a = Place::new(0).start(&[]).await;
    a.chain.submit(a.admission(&a, true)).await.unwrap();
    let mut puppets = Vec::new();
    for i in 10..16 {
        a.chain.submit(a.admission_of(i, vec![])).await.unwrap();
        puppets.push(Puppet::new(i, &a).await);
    }
    let view = a.chain.snapshot();
    let (height, hash) = (view.height, view.hash);
    let honest = |puppet: &Puppet, number| Ack::sign(&key(puppet.index), puppet.ack(height, hash, number));
    let count = || async { a.chain.confirmations(height).await.unwrap() };
    assert_eq!(count().await, of(1, 7));

    // Each lie by another member, so that none hides behind the price of the one before.
    let mut forged = honest(&puppets[0], 1);
    forged.body.number += 1;
    let elses = honest(&puppets[5], 1);
    let other_block = Ack::sign(&key(12), puppets[2].ack(height, Hash([1; 32]), 1));
    let above = Ack::sign(&key(13), puppets[3].ack(height + 1, Hash([1; 32]), 1));
    let lies = [
        (&puppets[0], forged, "ack_signature"),
        (&puppets[1], elses, "ack_other_member"),
        (&puppets[2], other_block, "ack_other_block"),
        (&puppets[3], above, "ack_above_head"),
    ];
    for (puppet, lie, reason) in lies {
        let answer = puppet.say(&a, lie).await;
        assert_eq!(answer, Some(LedgerResponse::Unavailable), "{reason}");
        assert_eq!(a.chain.shared.meter.rejections(reason), 1, "{reason}");
        assert_eq!(count().await, of(1, 7), "{reason}");
    }
    // For a while nothing more is taken from a liar.
    assert_eq!(
        puppets[0].say(&a, honest(&puppets[0], 5)).await,
        Some(LedgerResponse::Unavailable)
    );
    assert_eq!(count().await, of(1, 7));

    // A flood of the truth: it counts once, and most of it is not even looked at.
    let number = std::cell::Cell::new(0);
    until("the flood is stemmed", || {
        let said = (0..50).map(|_| {
            number.set(number.get() + 1);
            puppets[4].say(&a, honest(&puppets[4], number.get()))
        });
        let said: Vec<_> = said.collect();
        async {
            join_all(said).await;
            a.chain.shared.meter.rejections("ack_flood") > 1
        }
    })
    .await;
    assert_eq!(count().await, of(2, 7));

    // Who is no member says nothing at all, even where its connection is let in, and an honest one is heard as before.
    a.net.set_addresses(peer_of_key(&key(30).public().0), vec![]);
    let stranger = Puppet::new(30, &a).await;
    assert_eq!(
        stranger.say(&a, honest(&stranger, 1)).await,
        Some(LedgerResponse::Unavailable)
    );
    assert_eq!(a.chain.shared.meter.rejections("ack_not_member"), 1);
    let answer = puppets[5].say(&a, honest(&puppets[5], 2)).await;
    assert!(matches!(answer, Some(LedgerResponse::Acked { .. })), "{answer:?}");
    assert_eq!(count().await, of(3, 7));
    for puppet in puppets.into_iter().chain([stranger]) {
        puppet.net.shutdown().await;
    }
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_believed_only_from_the_authority_and_only_as_far_as_the_own_chain_goes() {
    let mut nodes = network(1).await;
    let b = nodes.pop().unwrap();
    let a = nodes.pop().unwrap();
    let height = a.chain.submit(a.admission_of(11, vec![])).await.unwrap();
    b.reaches(height).await;
    let a = a.stop().await;
    let view = b.chain.snapshot();
    let body = |time_ms, height: u64, confirmed_height, acked| StatusBody {
        chain_id: genesis().chain_id(),
        proposer: key(0).public(),
        version: HEADER_VERSION,
        height,
        hash: if height == view.height {
            view.hash
        } else {
            Hash([7; 32])
        },
        confirmed_height,
        newest: vec![Count {
            height,
            acked,
            members: 100,
        }],
        time_ms,
    };
    let puppet = Puppet::new(11, &b).await;
    // Signed by another; of another block than the one here; one that fits; of a head that nobody can show.
    let far = view.height + 100;
    let statuses = |time_ms| {
        let strange = StatusBody {
            hash: Hash([9; 32]),
            ..body(time_ms, view.height, view.height, 77)
        };
        [
            Status::sign(&key(1), body(time_ms, far + 1, far + 1, 98)),
            Status::sign(&key(0), strange),
            Status::sign(&key(0), body(time_ms, view.height, view.height, 2)),
            Status::sign(&key(0), body(time_ms, far, far, 99)),
        ]
    };
    // Topics are told some time after a connection is up: a message that nobody gets is lost.
    let round = std::cell::Cell::new(1 << 60);
    let heard = b.net.counters().gossip_received;
    until("it hears what the puppet says", || async {
        round.set(round.get() + 1);
        let honest = Status::sign(&key(0), body(round.get(), view.height, view.height, 1));
        puppet.net.publish(Topic::Status, honest.encode()).unwrap();
        b.net.counters().gossip_received > heard
    })
    .await;
    // Once: each lie costs the peer that tells it.
    for status in statuses(round.get() + 1) {
        puppet.net.publish(Topic::Status, status.encode()).unwrap();
    }
    until("the last of them is known", || async {
        b.chain.snapshot().newest.iter().any(|count| count.acked == 99)
    })
    .await;
    let after = b.chain.snapshot();
    assert_eq!(after.confirmed_height, view.height, "never above the own head");
    assert_eq!((after.height, after.hash), (view.height, view.hash));
    // Of how many members there are it believes itself alone.
    assert_eq!(b.chain.confirmations(view.height).await, Some(of(3, 3)));
    puppet.net.shutdown().await;
    drop(a);
    b.stop().await;
}

//! The ledger task with real swarms on loopback and real databases.

mod clocks;
mod confirmations;
mod harness;
mod misbehaving;
mod versions;

use blosm_ledger::{Confirmations, Evict, Payload, SessionStatus};
use blosm_net::{Misdeed, Protocol, Refusal, peer_of_key};

use self::harness::{LIMIT, Place, copy, key, network, until};
use super::client::SubmitAnswer;
use super::wire::{LedgerRequest, LedgerResponse};
use super::{BlockId, ChainOptions, SubmitError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_transactions_spread_and_are_confirmed_by_all() {
    let nodes = network(2).await;
    let (a, b, c) = (&nodes[0], &nodes[1], &nodes[2]);
    assert!(a.chain.is_proposer() && !b.chain.is_proposer());
    assert_eq!(b.chain.proposer(), a.name());

    let (session, open) = b.opening(1);
    let hash = open.hash();
    let height = b.chain.submit(open.clone()).await.unwrap();
    assert_eq!(
        b.chain.submit(open).await.unwrap(),
        height,
        "a repeated submission is answered with its height"
    );
    for node in &nodes {
        node.sees(|view| view.state.session(&session).is_some_and(|s| s.owner == b.name()))
            .await;
    }
    until("three of three members confirm", || async {
        c.chain.confirmations(height).await == Some(Confirmations { acked: 3, members: 3 })
    })
    .await;
    let status = c.chain.transaction(hash).await.unwrap();
    assert_eq!(status.height, height);
    assert_eq!(status.confirmations, Confirmations { acked: 3, members: 3 });
    a.sees(|view| view.confirmed_height >= height).await;

    let block = a.chain.block(BlockId::Height(height)).await.unwrap();
    assert_eq!(c.chain.block(BlockId::Hash(block.hash())).await, Some(block));
    assert_eq!(c.chain.block(BlockId::Height(height + 1)).await, None);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_joiner_pulls_what_it_missed() {
    let nodes = network(1).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    // Only members read the chain.
    a.chain.submit(a.admission_of(5, vec![])).await.unwrap();
    // More blocks than one answer carries.
    for n in 0..300 {
        a.chain.submit(b.opening(n).1).await.unwrap();
    }
    let height = a.chain.snapshot().height;
    let late = Place::new(5).start(&[a]).await;
    late.chain.sync_to_best(LIMIT).await;
    late.reaches(height).await;
    assert_eq!(late.chain.snapshot().hash, a.chain.snapshot().hash);
    assert_eq!(late.chain.snapshot().state.session_count(), 300);

    // Without the authority the other member has it all.
    b.reaches(height).await;
    let late = late.stop().await;
    let mut nodes = nodes.into_iter();
    let a = nodes.next().unwrap().stop().await;
    let b = nodes.next().unwrap();
    std::fs::remove_dir_all(late.ledger()).unwrap();
    let late = late.start(&[&b]).await;
    late.chain.sync_to_best(LIMIT).await;
    late.reaches(height).await;
    drop(a);
    late.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_tells_when_it_reached_each_member() {
    let nodes = network(2).await;
    let (a, b, c) = (&nodes[0], &nodes[1], &nodes[2]);
    let others = std::collections::BTreeSet::from([a.key().public(), c.key().public()]);
    let end = tokio::time::Instant::now() + LIMIT;
    // Gossip may not know yet who listens.
    let report = loop {
        let report = b.chain.probe(500).await.unwrap();
        assert_eq!(report.members, 3);
        if report.arrivals.len() == 2 {
            break report;
        }
        assert!(tokio::time::Instant::now() < end, "{report:?}");
    };
    assert_eq!(
        report
            .arrivals
            .iter()
            .map(|arrival| arrival.node)
            .collect::<std::collections::BTreeSet<_>>(),
        others
    );
    assert!(
        report
            .arrivals
            .iter()
            .all(|arrival| arrival.unix_us >= report.sent_unix_us)
    );
    assert_eq!(report.reached(0.9), Some(report.arrivals[1].after));

    // Who is no member draws no answers: nobody hears it.
    let stranger = Place::new(9).start(&[a, b, c]).await;
    for node in [a, b, c] {
        until("the stranger is refused", || async {
            node.net.counters().refused(Refusal::Stranger) > 0
        })
        .await;
    }
    let report = stranger.chain.probe(500).await.unwrap();
    assert_eq!(report.arrivals, vec![]);
    assert_eq!(
        stranger.chain.probe(10).await,
        Err(crate::chain::ProbeError::Length)
    );
    stranger.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_submissions_share_blocks_and_all_are_answered() {
    let nodes = network(1).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let before = a.chain.snapshot().height;
    let submissions: Vec<_> = (0..200)
        .map(|n| {
            let (chain, open) = (
                if n % 4 == 0 { &b.chain } else { &a.chain }.clone(),
                b.opening(n).1,
            );
            tokio::spawn(async move { chain.submit(open).await.unwrap() })
        })
        .collect();
    for submission in submissions {
        let height = submission.await.unwrap();
        assert!(height > before);
    }
    let after = a.chain.snapshot();
    assert_eq!(after.state.session_count(), 200);
    assert!(after.height - before < 200, "load is batched");
    b.reaches(after.height).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submission_outlives_a_restart_of_the_proposer() {
    let mut nodes = network(2).await;
    let height = nodes[0].chain.snapshot().height;
    let a = nodes.remove(0);
    let (b, c) = (&nodes[0], &nodes[1]);
    let (session, open) = b.opening(1);
    let a = a.stop().await;
    let chain = b.chain.clone();
    let submission = tokio::spawn(async move {
        loop {
            // Callers that must not give up call again.
            match chain.submit(open.clone()).await {
                Ok(height) => return height,
                Err(SubmitError::Refused(reason)) => panic!("{reason}"),
                Err(SubmitError::Timeout | SubmitError::Unreachable) => {}
            }
        }
    });
    let a = a.start(&[]).await;
    assert_eq!(
        tokio::time::timeout(LIMIT, submission).await.unwrap().unwrap(),
        height + 1
    );
    for node in [&a, b, c] {
        node.sees(|view| view.state.session(&session).is_some()).await;
    }
    a.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_that_lost_its_tail_catches_up_before_it_seals() {
    let mut nodes = network(2).await;
    let a = nodes.remove(0).stop().await;
    let old = tempfile::tempdir().unwrap();
    copy(&a.ledger(), old.path());

    let a = a.start(&[]).await;
    let b = &nodes[0];
    let mut height = 0;
    for n in 0..3 {
        height = submit_patiently(&a, b.opening(n).1).await;
    }
    for node in &nodes {
        node.reaches(height).await;
    }
    let a = a.stop().await;
    std::fs::remove_dir_all(a.ledger()).unwrap();
    copy(old.path(), &a.ledger());

    let a = a.start(&[]).await;
    assert_eq!(submit_patiently(&a, b.opening(9).1).await, height + 1);
    for node in &nodes {
        node.sees(|view| view.state.session_count() == 4).await;
    }
    a.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_without_half_of_the_members_seals_only_when_told_so() {
    let mut places = Vec::new();
    let mut nodes = network(2).await;
    let b_open = nodes[1].opening(1).1;
    let c = nodes.pop().unwrap().stop().await;
    for node in nodes {
        places.push(node.stop().await);
    }
    let height = |node: &harness::Node| node.chain.snapshot().height;

    // Nobody answers: whatever is submitted, nothing is sealed.
    let a = places.remove(0).start(&[]).await;
    let before = height(&a);
    let answer = a.chain.shared.ledger.submit(b_open.encode()).await;
    assert_eq!(answer, Some(SubmitAnswer::NotSealing));
    let a = a.stop().await;

    let alone = ChainOptions {
        alone: true,
        ..ChainOptions::default()
    };
    let a = a.start_with(&[], alone).await;
    assert_eq!(submit_patiently(&a, b_open).await, before + 1);
    let place = a.stop().await;

    // One of two others is half.
    let a = place.start(&[]).await;
    let c = c.start(&[&a]).await;
    let (_, open) = c.opening(2);
    assert_eq!(submit_patiently(&a, open).await, before + 2);
    c.reaches(before + 2).await;
    a.stop().await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_reasons_and_early_transactions_wait_for_their_predecessor() {
    let nodes = network(2).await;
    let (b, c) = (&nodes[1], &nodes[2]);
    let (session, open) = b.opening(1);

    // The hand-over is sent before the opening, as by a destination that submits for a source that died.
    let early = b.hand_over(session, 0, c);
    let refused = nodes[0].chain.shared.ledger.submit(early.encode()).await.unwrap();
    assert!(
        matches!(refused, SubmitAnswer::Refused { is_final: false, .. }),
        "{refused:?}"
    );
    let chain = b.chain.clone();
    let early = tokio::spawn(async move { chain.submit(early).await });
    let opened = b.chain.submit(open).await.unwrap();
    assert!(early.await.unwrap().unwrap() >= opened);
    c.sees(|view| {
        view.state
            .session(&session)
            .is_some_and(|s| s.owner == c.name() && s.epoch == 1)
    })
    .await;
    let again = b
        .chain
        .submit(b.hand_over(session, 0, &nodes[0]))
        .await
        .unwrap_err();
    assert!(
        matches!(&again, SubmitError::Refused(reason) if reason.contains("epoch")),
        "{again:?}"
    );

    let forged = [
        (c.hand_over(session, 1, b), "signature"),
        (c.opening(1).1, "not its sender's"),
    ];
    for (mut forged, why) in forged {
        forged.sender = b.name();
        let refused = c.chain.submit(forged).await.unwrap_err();
        assert!(
            matches!(&refused, SubmitError::Refused(reason) if reason.contains(why)),
            "{refused:?}"
        );
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_reaches_a_proposer_that_only_gossip_can_reach() {
    let a = Place::new(0).start(&[]).await;
    let b = Place::new(1).start(&[&a]).await;
    let c = Place::new(2).start(&[&b]).await;
    // No addresses on the chain: the three stay a line.
    for node in [&a, &b, &c] {
        a.chain.submit(a.admission(node, false)).await.unwrap();
    }
    let height = a.chain.snapshot().height;
    b.reaches(height).await;
    c.reaches(height).await;
    assert!(!c.net.is_connected(&a.net.local_peer()));

    let (session, open) = c.opening(1);
    let sealed = loop {
        match c.chain.submit(open.clone()).await {
            Ok(height) => break height,
            Err(SubmitError::Refused(reason)) => panic!("{reason}"),
            // Gossip may not have known its way yet.
            Err(SubmitError::Timeout | SubmitError::Unreachable) => {}
        }
    };
    for node in [&a, &b, &c] {
        node.reaches(sealed).await;
        assert!(node.chain.snapshot().state.session(&session).is_some());
    }
    assert!(!c.net.is_connected(&a.net.local_peer()));
    for node in [c, b, a] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evicted_member_is_cut_off_and_strangers_reach_nothing() {
    let nodes = network(2).await;
    let (a, b, c) = (&nodes[0], &nodes[1], &nodes[2]);
    for node in [a, b] {
        node.connected(c).await;
    }
    let evict = Evict {
        key: c.name(),
        reason: "gone".to_owned(),
        lost: true,
    };
    let height = a.chain.submit(a.sign(Payload::Evict(evict))).await.unwrap();
    b.reaches(height).await;
    // It hears of it before anybody cuts it off.
    let evicted = c.name();
    c.sees(|view| view.state.members().evicted(&evicted).is_some())
        .await;
    a.disconnected(c).await;
    b.disconnected(c).await;

    let stranger = Place::new(9).start(&[a]).await;
    until("the stranger is refused", || async {
        a.net.counters().refused(Refusal::Stranger) > 0
    })
    .await;
    for request in [
        LedgerRequest::Submit(stranger.opening(1).1.encode()),
        LedgerRequest::Head,
    ] {
        let answer = stranger
            .net
            .request(
                peer_of_key(&key(0).public().0),
                Protocol::Ledger,
                request.encode(),
            )
            .await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(!a.net.is_connected(&stranger.net.local_peer()));
    assert_eq!(stranger.chain.snapshot().height, 0);
    stranger.stop().await;

    // The network file of a node that starts again may still name whom the ledger has evicted.
    let mut nodes = nodes;
    let place = nodes.remove(1).stop().await;
    let (a, c) = (&nodes[0], &nodes[1]);
    let b = place.start(&[a, c]).await;
    b.connected(a).await;
    // It has heard of its eviction and talks to the authority only; now it dials in spite of it.
    let way = b.full_address();
    c.net.set_addresses(b.net.local_peer(), vec![way]);
    until("the evicted member is refused", || async {
        b.net.counters().refused(Refusal::Stranger) > 0
    })
    .await;
    b.disconnected(c).await;
    b.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_member_comes_in_for_the_chain_once_and_not_for_more() {
    let mut nodes = network(2).await;
    let b = nodes.pop().unwrap();
    let key = b.name();
    let place = b.stop().await;
    let a = &nodes[0];
    let evict = Evict {
        key,
        reason: "gone".to_owned(),
        lost: true,
    };
    let before = a.chain.snapshot().height;
    let height = a.chain.submit(a.sign(Payload::Evict(evict))).await.unwrap();
    until("it is cut off", || async { a.chain.let_in(key).await }).await;
    assert!(!a.chain.let_in(key).await, "once is enough for a while");
    let stranger = harness::key(7).public();
    assert!(!a.chain.let_in(stranger).await && !a.chain.let_in(nodes[1].name()).await);
    assert!(!nodes[1].chain.let_in(key).await, "only the authority has a door");

    let b = place.start(&[a]).await;
    assert_eq!(b.chain.snapshot().height, before);
    b.reaches(height).await;
    assert!(b.chain.snapshot().state.members().evicted(&key).is_some());
    assert_eq!(b.chain.isolated(), None, "an evicted node has nobody to reach");
    // In spite of its open door it is no member: what it has sealed is nothing.
    let open = LedgerRequest::Submit(b.opening(1).1.encode()).encode();
    let answer = b.net.request(a.net.local_peer(), Protocol::Ledger, open).await;
    if let Ok(answer) = answer {
        assert_eq!(LedgerResponse::decode(&answer), Some(LedgerResponse::Unavailable));
    }
    a.disconnected(&b).await;
    b.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_nobody_says_so() {
    let mut nodes = network(1).await;
    let b = nodes.pop().unwrap();
    assert_eq!(b.chain.isolated(), None);
    let place = nodes.pop().unwrap().stop().await;
    until("it says so", || async { b.chain.isolated().is_some() }).await;
    let a = place.start(&[]).await;
    until("it has somebody again", || async { b.chain.isolated().is_none() }).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_member_is_refused_and_nothing_stops() {
    let nodes = network(1).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let authority = a.net.local_peer();
    let mut tampered = a.chain.block(BlockId::Height(1)).await.unwrap();
    tampered.block.header.timestamp_ms += 1;
    let requests = [
        vec![],
        vec![255; 1000],
        LedgerRequest::Submit(vec![1, 2, 3]).encode(),
        LedgerRequest::Block(vec![0; 600 * 1024]).encode(),
        LedgerRequest::Block(tampered.encode()).encode(),
        LedgerRequest::Range {
            from: u64::MAX,
            max: u16::MAX,
        }
        .encode(),
        LedgerRequest::Range { from: 0, max: 0 }.encode(),
        LedgerRequest::Confirmations { height: u64::MAX }.encode(),
        LedgerRequest::WaitConfirmed {
            height: u64::MAX,
            beyond: u32::MAX,
            timeout_ms: u32::MAX,
        }
        .encode(),
    ];
    for request in requests {
        if let Ok(answer) = b.net.request(authority, Protocol::Ledger, request).await {
            assert!(LedgerResponse::decode(&answer).is_some());
        }
    }
    // Two that are no requests, a transaction and two blocks that are none. Questions without an answer cost nothing.
    let misdeeds = || a.net.counters().misdeeds(Misdeed::Message);
    until("they are held against it", || async { misdeeds() >= 5 }).await;
    let (session, open) = b.opening(1);
    b.chain.submit(open).await.unwrap();
    a.sees(|view| {
        view.state
            .session(&session)
            .is_some_and(|s| s.status == SessionStatus::Open)
    })
    .await;
    assert_eq!(misdeeds(), 5);
    for node in nodes {
        node.stop().await;
    }
}

/// Submits until it is sealed: an authority that has just started does not seal at once.
async fn submit_patiently(node: &harness::Node, transaction: blosm_ledger::Transaction) -> u64 {
    let submit = async {
        loop {
            match node.chain.submit(transaction.clone()).await {
                Ok(height) => return height,
                Err(SubmitError::Refused(reason)) => panic!("{reason}"),
                Err(SubmitError::Timeout | SubmitError::Unreachable) => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, submit).await.unwrap()
}

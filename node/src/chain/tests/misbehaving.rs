//! Members that do not do what a member does. Each has a key, a place on the chain and a swarm, and no ledger: it sends
//! whatever bytes it likes. What has to hold: the honest nodes' chain, their confirmations and their links stay as they
//! are, and honest traffic goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blosm_ledger::{
    Admit, Certificate, Hash, Ledger, Location, Payload, SealedBlock, SecretKey, Submitted, Transaction,
};
use blosm_net::{
    Misdeed, NetConfig, NetEvent, NetHandle, Network, PeerId, Protocol, RequestError, Topic, Verdict,
    peer_of_key,
};

use super::harness::{LIMIT, Node, Place, copy, genesis, key, network, until};
use super::submit_patiently;
use super::versions::{next_block, of_a_later_kind};
use crate::chain::client::SubmitAnswer;
use crate::chain::wire::{LedgerRequest, LedgerResponse, WireHead};
use crate::chain::{BlockId, Unopened};

/// Answers what it is asked by a script.
type Script = Arc<dyn Fn(&LedgerRequest) -> Option<LedgerResponse> + Send + Sync>;

struct Bad {
    key: SecretKey,
    net: NetHandle,
    asked: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    /// While it stands, what the script does not answer is left open, where else it is refused.
    mute: Arc<AtomicBool>,
}

impl Bad {
    /// A member of index `i`, connected to these nodes.
    async fn admitted(i: u8, nodes: &[&Node], script: Script) -> Bad {
        let bad = Bad::stranger(i, nodes, script).await;
        let admit = Admit {
            key: bad.key.public(),
            admission: Hash([i; 32]),
            addresses: vec![bad.net.listeners()[0].to_string()],
            gateway: format!("http://127.0.0.1:{}", 8000 + u16::from(i)),
            metrics: None,
            location: Location { lat_e7: 0, lon_e7: 0 },
            radius_m: 300,
            label: format!("bad{i}"),
        };
        let authority = nodes[0];
        let height = authority
            .chain
            .submit(authority.sign(Payload::Admit(admit)))
            .await
            .unwrap();
        for node in nodes {
            node.reaches(height).await;
            for (one, other) in [(&node.net, &bad.net), (&bad.net, &node.net)] {
                let (mut peers, peer) = (one.watch_peers(), other.local_peer());
                let met = peers.wait_for(|peers| peers.contains_key(&peer));
                tokio::time::timeout(LIMIT, met).await.unwrap().unwrap();
            }
        }
        bad
    }

    async fn stranger(i: u8, nodes: &[&Node], script: Script) -> Bad {
        let key = key(i);
        let config = NetConfig {
            seed: *key.seed(),
            net8: genesis().chain_id().short(8),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            bootstrap: nodes.iter().map(|node| node.full_address()).collect(),
            authorities: vec![peer_of_key(&genesis().authorities[0].0)],
            advertise: vec![],
            strangers: 0,
            per_address: 64,
            mdns: false,
            // Tests say who knows whose address.
            kad: false,
            agent: "bad".to_owned(),
        };
        let (net, mut events) = Network::spawn(config).await.unwrap();
        let asked: Arc<Mutex<BTreeMap<&'static str, usize>>> = Arc::default();
        let mute = Arc::new(AtomicBool::new(false));
        let (listener, counts, muted) = (net.clone(), asked.clone(), mute.clone());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Some(event) = events.recv().await {
                match event {
                    NetEvent::Gossip { id, .. } => listener.verdict(id, Verdict::Accept),
                    NetEvent::Request {
                        protocol: Protocol::Ledger,
                        data,
                        reply,
                        ..
                    } => {
                        let Some(request) = LedgerRequest::decode(&data) else {
                            continue;
                        };
                        *counts
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .entry(name(&request))
                            .or_default() += 1;
                        match script(&request) {
                            Some(answer) => reply.send(answer.encode()),
                            None if muted.load(Ordering::Relaxed) => open.push(reply),
                            None => {}
                        }
                    }
                    _ => {}
                }
            }
        });
        Bad {
            key,
            net,
            asked,
            mute,
        }
    }

    async fn ask(&self, of: &Node, request: &LedgerRequest) -> Option<LedgerResponse> {
        let answer = ask(&self.net, of, request).await;
        LedgerResponse::decode(&answer.ok()?)
    }

    fn asked(&self, what: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(what).copied().unwrap_or_default()
    }
}

/// Asks, and asks again if the connection was lost meanwhile: where both ends have dialled, the surplus connection is closed,
/// and a request that was under way on it goes with it.
async fn ask(net: &NetHandle, of: &Node, request: &LedgerRequest) -> Result<Vec<u8>, RequestError> {
    let peer: PeerId = of.net.local_peer();
    let mut answer = net.request(peer, Protocol::Ledger, request.encode()).await;
    if matches!(answer, Err(RequestError::ConnectionLost)) {
        answer = net.request(peer, Protocol::Ledger, request.encode()).await;
    }
    answer
}

fn name(request: &LedgerRequest) -> &'static str {
    match request {
        LedgerRequest::Head => "head",
        LedgerRequest::Range { .. } => "range",
        _ => "other",
    }
}

/// Says nothing to anybody.
fn silent() -> Script {
    Arc::new(|_| None)
}

/// Honest traffic still goes through: a new session is sealed and everybody hears of it.
async fn goes_on(nodes: &[Node], n: u32) {
    let (session, open) = nodes[1].opening(n);
    nodes[1].chain.submit(open).await.unwrap();
    for node in nodes {
        node.sees(|view| view.state.session(&session).is_some()).await;
    }
}

/// Gossips and waits until the node has had all of it in its hands.
async fn gossip(bad: &Bad, to: &Node, topic: Topic, messages: Vec<Vec<u8>>) {
    let (before, count) = (to.net.counters().gossip_received, messages.len() as u64);
    for message in messages {
        bad.net.publish(topic, message).unwrap();
    }
    until("the messages have arrived", || async {
        to.net.counters().gossip_received >= before + count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_repeated_transactions_change_nothing() {
    let nodes = network(1).await;
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1]], silent()).await;
    // One asks and the other gossips: all of it would be too much for one score.
    let gossiper = Bad::admitted(8, &[&nodes[0], &nodes[1]], silent()).await;
    let (session, open) = nodes[1].opening(1);
    let height = nodes[1].chain.submit(open.clone()).await.unwrap();

    let mut other_signature = nodes[1].opening(2).1;
    other_signature.sender = bad.key.public();
    let mut other_sender = nodes[1].hand_over(session, 0, &nodes[0]);
    other_sender.sender = nodes[0].name();
    // Its own key, and yet not its session.
    let stolen = nodes[1].hand_over(session, 0, &nodes[0]);
    let stolen = Transaction::sign(&bad.key, genesis().chain_id(), 0, stolen.payload);
    let other_network = Transaction::sign(&bad.key, Hash([7; 32]), 0, nodes[1].opening(3).1.payload);
    // Only an authority admits.
    let admission = Transaction::sign(
        &bad.key,
        genesis().chain_id(),
        0,
        nodes[0].admission(&nodes[1], true).payload,
    );
    let mut trailing = nodes[1].opening(4).1.encode();
    trailing.push(0);
    let forged = [
        &other_signature,
        &other_sender,
        &stolen,
        &other_network,
        &admission,
    ]
    .map(Transaction::encode)
    .into_iter()
    .chain([trailing, vec![0xff; 300], vec![]])
    .collect::<Vec<_>>();
    for bytes in &forged {
        let answer = bad.ask(&nodes[0], &LedgerRequest::Submit(bytes.clone())).await;
        assert!(
            matches!(answer, Some(LedgerResponse::Refused { .. })),
            "{answer:?}"
        );
    }
    // What is sealed already is answered with its place, from whomever it comes.
    let again = bad.ask(&nodes[0], &LedgerRequest::Submit(open.encode())).await;
    assert_eq!(again, Some(LedgerResponse::Sealed { height }));
    assert_eq!(nodes[0].chain.snapshot().height, height);
    // Six are wrong whatever the state is. The two that only the state refuses, and the repeated one, cost nothing.
    let misdeeds = || nodes[0].net.counters().misdeeds(Misdeed::Message);
    until("they are held against it", || async { misdeeds() >= 6 }).await;
    for bytes in forged.iter().filter(|bytes| !bytes.is_empty()) {
        gossip(&gossiper, &nodes[0], Topic::Tx, vec![bytes.clone()]).await;
    }
    gossip(&gossiper, &nodes[0], Topic::Tx, vec![open.encode()]).await;
    let rejections = |reason| nodes[0].chain.shared.meter.rejections(reason);
    for reason in ["signature", "other_network", "owner", "not_authority"] {
        let twice = || async { rejections(reason) >= 2 };
        until("each is counted, once asked and once gossiped", twice).await;
    }
    // Gossiped five of them: nothing cannot be.
    until("they are held against it", || async { misdeeds() >= 6 + 5 }).await;
    goes_on(&nodes, 5).await;
    assert_eq!(misdeeds(), 6 + 5);
    assert_eq!(
        nodes[0].chain.snapshot().height,
        height + 1,
        "only the honest one was sealed"
    );
    let view = nodes[0].chain.snapshot();
    assert_eq!(view.state.session(&session).unwrap().owner, nodes[1].name());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_is_of_no_use_to_whoever_sees_it_first() {
    let nodes = network(1).await;
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1]], silent()).await;
    let (session, open) = nodes[1].opening(1);
    let height = nodes[0].chain.snapshot().height;

    let stolen = Transaction::sign(&bad.key, genesis().chain_id(), height, open.payload.clone());
    let stolen = stolen.encode();
    let answer = bad.ask(&nodes[0], &LedgerRequest::Submit(stolen.clone())).await;
    assert!(
        matches!(answer, Some(LedgerResponse::Refused { is_final: true, .. })),
        "{answer:?}"
    );
    gossip(&bad, &nodes[0], Topic::Tx, vec![stolen]).await;
    let rejections = || nodes[0].chain.shared.meter.rejections("mismatch");
    let misdeeds = || nodes[0].net.counters().misdeeds(Misdeed::Message);
    until("it is counted, once asked and once gossiped", || async {
        rejections() >= 2
    })
    .await;
    until("both are held against it", || async { misdeeds() >= 2 }).await;

    assert_eq!(nodes[1].chain.submit(open).await, Ok(height + 1));
    let sealed = nodes[0].chain.snapshot();
    let record = sealed.state.session(&session).unwrap();
    assert_eq!((record.opener, record.owner), (nodes[1].name(), nodes[1].name()));
    goes_on(&nodes, 2).await;
    assert_eq!(misdeeds(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_blocks_move_no_head() {
    let nodes = network(1).await;
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1]], silent()).await;
    // One asks and the other gossips: all of it would be too much for one score.
    let gossiper = Bad::admitted(8, &[&nodes[0], &nodes[1]], silent()).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let head = b.chain.snapshot();
    let last = a.chain.block(BlockId::Height(head.height)).await.unwrap();
    let next = |change: &dyn Fn(&mut SealedBlock)| {
        let mut block = last.clone();
        block.block.header.height += 1;
        block.block.header.previous_hash = last.hash();
        block.block.header.timestamp_ms += 1;
        change(&mut block);
        block
    };
    let seal = |by: &SecretKey, block: &SealedBlock| {
        Certificate::of_one(by, genesis().chain_id(), block.height(), block.hash())
    };
    let forged: Vec<(&str, SealedBlock)> = vec![
        (
            "another signer",
            next(&|block| block.certificate = seal(&bad.key, block)),
        ),
        ("the seal of another block", next(&|_| ())),
        (
            "no signature",
            next(&|block| block.certificate.signatures.clear()),
        ),
        (
            "one signature twice",
            next(&|block| {
                block.certificate = seal(&key(0), block);
                let twice = block.certificate.signatures[0];
                block.certificate.signatures.push(twice);
            }),
        ),
        (
            "another network",
            next(&|block| {
                block.certificate = Certificate::of_one(&key(0), Hash([7; 32]), block.height(), block.hash());
            }),
        ),
        (
            "a body that is not the header's",
            next(&|block| {
                block.block.transactions.clear();
                block.certificate = seal(&key(0), block);
            }),
        ),
        (
            "roots that are not the state's",
            next(&|block| {
                block.block.header.members_root = Hash([1; 32]);
                block.certificate = seal(&key(0), block);
            }),
        ),
    ];
    for (what, block) in &forged {
        bad.ask(b, &LedgerRequest::Block(block.encode())).await;
        assert_eq!(b.chain.snapshot().hash, head.hash, "{what}");
    }
    let misdeeds = || b.net.counters().misdeeds(Misdeed::Message);
    let all = forged.len() as u64;
    until("each is held against it", || async { misdeeds() == all }).await;
    let mut garbage: Vec<Vec<u8>> = forged.iter().map(|(_, block)| block.encode()).collect();
    let mut trailing = last.encode();
    trailing.push(0);
    garbage.extend([trailing, vec![0xff; 4096]]);
    for message in garbage {
        gossip(&gossiper, b, Topic::Block, vec![message]).await;
    }
    assert_eq!(b.chain.snapshot().hash, head.hash);
    goes_on(&nodes, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_nonsense_is_kept_out() {
    let nodes = network(1).await;
    let a = &nodes[0];
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1]], silent()).await;
    let mut lost = bad.net.watch_peers();
    let (authority, mut asked) = (a.net.local_peer(), 0_u64);
    let garbage = async {
        while lost.borrow_and_update().contains_key(&authority) {
            let answer = bad.net.request(authority, Protocol::Ledger, vec![255; 100]).await;
            assert!(answer.is_err(), "{answer:?}");
            asked += 1;
        }
    };
    tokio::time::timeout(LIMIT, garbage).await.unwrap();
    let counters = a.net.counters();
    assert_eq!(counters.peers_kept_out, 1);
    assert!(
        counters.misdeeds(Misdeed::Message) <= asked && asked < 30,
        "{asked} requests before it was kept out"
    );
    goes_on(&nodes, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_a_far_future_cost_a_bounded_number_of_questions() {
    let nodes = network(1).await;
    // It claims a head that it never shows.
    let script: Script = Arc::new(|request| match request {
        LedgerRequest::Head => Some(LedgerResponse::Head(WireHead {
            height: 1_000_000,
            hash: Hash([3; 32]),
            confirmed_height: 999_999,
        })),
        LedgerRequest::Range { .. } => Some(LedgerResponse::Blocks(Vec::new())),
        _ => None,
    });
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1]], script).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let head = b.chain.snapshot();
    let last = a.chain.block(BlockId::Height(head.height)).await.unwrap();
    // Sealed as if by the authority: whoever has its key may make as many as it likes.
    let orphans = (0..200_u64).map(|n| {
        let mut block = last.clone();
        block.block.header.height += 1000 + n;
        block.certificate = Certificate::of_one(&key(0), genesis().chain_id(), block.height(), block.hash());
        block.encode()
    });
    gossip(&bad, b, Topic::Block, orphans.collect()).await;
    assert_eq!(b.chain.snapshot().hash, head.hash);
    goes_on(&nodes, 1).await;
    let (first, limit) = (bad.asked("range"), 200 + 50);
    assert!(first <= limit, "{first} questions for 200 orphans");
    // And no loop: without another orphan nobody asks again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        bad.asked("range") <= first + 10,
        "{} more",
        bad.asked("range") - first
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_behind_finds_the_truth_among_liars() {
    let nodes = network(1).await;
    let a = &nodes[0];
    for n in 0..5 {
        a.chain.submit(nodes[1].opening(n).1).await.unwrap();
    }
    let head = a.chain.snapshot();
    let mut truth = Vec::new();
    for height in 1..=head.height {
        truth.push(a.chain.block(BlockId::Height(height)).await.unwrap());
    }
    let claim = |height: u64| {
        LedgerResponse::Head(WireHead {
            height,
            hash: Hash([3; 32]),
            confirmed_height: height,
        })
    };
    type Lie = Box<dyn Fn(u64) -> Option<Vec<SealedBlock>> + Send + Sync>;
    let from = |truth: &[SealedBlock], height: u64| truth[(height as usize - 1).min(truth.len())..].to_vec();
    let (t1, t2, t3) = (truth.clone(), truth.clone(), truth.clone());
    let lies: Vec<(&str, Lie)> = vec![
        ("a gap", Box::new(move |at| Some(from(&t1, at + 1)))),
        (
            "another body",
            Box::new(move |at| {
                let mut blocks = from(&t2, at);
                blocks
                    .iter_mut()
                    .for_each(|block| block.block.transactions.clear());
                Some(blocks)
            }),
        ),
        (
            "blocks that nobody sealed",
            Box::new(move |at| {
                let mut blocks = from(&t3, at);
                blocks
                    .iter_mut()
                    .for_each(|block| block.block.header.timestamp_ms += 1);
                Some(blocks)
            }),
        ),
        ("nothing", Box::new(|_| Some(Vec::new()))),
        ("no answer", Box::new(|_| None)),
    ];
    let mut liars = Vec::new();
    for (i, (_, lie)) in (20_u8..).zip(lies) {
        let script: Script = Arc::new(move |request| match request {
            LedgerRequest::Head => Some(claim(1_000)),
            LedgerRequest::Range { from, .. } => {
                let blocks = lie(*from)?;
                Some(LedgerResponse::Blocks(
                    blocks.iter().map(SealedBlock::encode).collect(),
                ))
            }
            _ => None,
        });
        liars.push(Bad::admitted(i, &[a], script).await);
    }
    let height = a.chain.submit(a.admission_of(5, vec![])).await.unwrap();
    let late = Place::new(5).start(&[a]).await;
    // It meets the liars as soon as it has read their addresses, and believes none of them.
    late.reaches(height).await;
    assert_eq!(late.chain.snapshot().hash, a.chain.snapshot().hash);
    goes_on(&nodes, 9).await;
    late.reaches(height + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_version_is_believed_only_of_the_authority() {
    let nodes = network(1).await;
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1]], silent()).await;
    let b = &nodes[1];
    let last = b.chain.snapshot().height;
    let last = b.chain.block(BlockId::Height(last)).await.unwrap();
    let mut header = last.encode();
    header[0] = 2;
    let own_seal = next_block(b, &bad.key).await;
    let no_seal = next_block(b, &key(0)).await;
    let mut unsealed = of_a_later_kind(&no_seal);
    unsealed.truncate(unsealed.len() - 1);
    let forged = [
        ("two bytes", header[..2].to_vec()),
        ("a later header", header),
        ("a kind in a block that is here", of_a_later_kind(&last)),
        ("a kind under a seal of its own", of_a_later_kind(&own_seal)),
        ("a kind under half a seal", unsealed),
    ];
    for (what, bytes) in forged {
        let asked = LedgerRequest::Block(bytes.clone());
        assert!(bad.ask(b, &asked).await.is_some(), "{what}");
        gossip(&bad, b, Topic::Block, vec![bytes]).await;
        assert_eq!(b.chain.snapshot().needs, None, "{what}");
    }
    goes_on(&nodes, 1).await;
    assert_eq!(b.chain.snapshot().needs, None);
    // Nothing of it is held against who passes it on: it may be newer than this node.
    assert_eq!(b.net.counters().misdeeds(Misdeed::Message), 0);
    let sealed = of_a_later_kind(&next_block(b, &key(0)).await);
    bad.ask(b, &LedgerRequest::Block(sealed)).await;
    b.sees(|view| view.needs.is_some()).await;
    goes_on(&nodes, 2).await;
    b.sees(|view| view.needs.is_none()).await;
}

/// The head that it tells, and what it shows for it.
type Claim = (WireHead, Option<Vec<Vec<u8>>>);

/// A script that tells and shows what stands there.
fn claims(claim: &Arc<Mutex<Option<Claim>>>) -> Script {
    let claim = claim.clone();
    Arc::new(move |request| {
        let claim = claim.lock().unwrap_or_else(PoisonError::into_inner);
        let (head, shown) = claim.as_ref()?;
        match request {
            LedgerRequest::Head => Some(LedgerResponse::Head(*head)),
            LedgerRequest::Range { .. } => shown.clone().map(LedgerResponse::Blocks),
            _ => None,
        }
    })
}

fn head(height: u64, hash: Hash) -> WireHead {
    WireHead {
        height,
        hash,
        confirmed_height: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lying_member_keeps_no_restarted_authority_from_sealing() {
    let nodes = network(2).await;
    let claim: Arc<Mutex<Option<Claim>>> = Arc::default();
    let bad = Bad::admitted(9, &[&nodes[0], &nodes[1], &nodes[2]], claims(&claim)).await;
    let [mut a, mut b, c] = <[Node; 3]>::try_from(nodes).ok().unwrap();
    let far = |last: &SealedBlock| {
        let mut block = last.clone();
        block.block.header.height = 1_000;
        block
    };
    let nowhere = head(1_000, Hash([3; 32]));
    type Lie<'a> = Box<dyn Fn(&SealedBlock) -> Claim + 'a>;
    let lies: Vec<(&str, Lie)> = vec![
        ("nothing to show", Box::new(|_| (nowhere, Some(vec![])))),
        (
            "a seal of its own",
            Box::new(|last| {
                let mut block = far(last);
                block.certificate =
                    Certificate::of_one(&key(9), genesis().chain_id(), block.height(), block.hash());
                (head(1_000, block.hash()), Some(vec![block.encode()]))
            }),
        ),
        (
            "an old block",
            Box::new(|last| (nowhere, Some(vec![last.encode()]))),
        ),
        (
            "the own height and another hash",
            Box::new(|last| (head(last.height(), Hash([3; 32])), Some(vec![last.encode()]))),
        ),
        (
            "a later version",
            Box::new(|last| {
                let mut bytes = far(last).encode();
                bytes[0] = 2;
                (nowhere, Some(vec![bytes]))
            }),
        ),
        ("silence", Box::new(|_| (nowhere, None))),
    ];
    let tell = |told: Claim| *claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    for (n, (what, lie)) in (10..).zip(lies) {
        let height = c.chain.snapshot().height;
        let last = c.chain.block(BlockId::Height(height)).await.unwrap();
        let told = lie(&last);
        bad.mute.store(told.1.is_none(), Ordering::Relaxed);
        tell(told);
        let before = bad.asked("range");
        // Of the others the liar and one more are there: not half.
        let resting = b.stop().await;
        a = a.stop().await.start(&[]).await;
        until(what, || async { bad.asked("range") > before }).await;
        until(what, || async {
            a.chain.unopened() == Some(Unopened::Few { missing: 1 })
        })
        .await;
        assert_eq!(a.chain.snapshot().height, height, "{what}");
        b = resting.start(&[&a]).await;
        assert_eq!(
            submit_patiently(&a, c.opening(n).1).await,
            height + 1,
            "{what}: with half of the others it goes on, whatever the liar says"
        );
        assert_eq!(a.chain.unopened(), None);
        c.reaches(height + 1).await;
    }
    // What is shown with a seal is no lie, and if it contradicts the chain here, evidence.
    let last = c.chain.snapshot().height;
    let mut second = c.chain.block(BlockId::Height(last)).await.unwrap();
    second.block.header.timestamp_ms += 1;
    second.certificate = Certificate::of_one(&key(0), genesis().chain_id(), last, second.hash());
    tell((head(last, second.hash()), Some(vec![second.encode()])));
    let resting = b.stop().await;
    a = a.stop().await.start(&[]).await;
    a.sees(|view| view.halted).await;
    until("it seals nothing, and says why elsewhere", || async {
        a.chain.unopened().is_none()
    })
    .await;
    let open = c.opening(99).1.encode();
    let answer = a.chain.shared.ledger.submit(open).await;
    assert_eq!(answer, Some(SubmitAnswer::NotSealing));
    drop(resting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_waits_for_the_one_member_that_holds_its_tail() {
    let mut nodes = network(2).await;
    let c = nodes.pop().unwrap().stop().await;
    let b = nodes.pop().unwrap();
    let a = nodes.pop().unwrap().stop().await;
    let old = tempfile::tempdir().unwrap();
    copy(&a.ledger(), old.path());
    let a = a.start(&[&b]).await;
    let mut height = 0;
    for n in 0..3 {
        height = submit_patiently(&a, b.opening(n).1).await;
    }
    let mut tail = Vec::new();
    for at in 1..=height {
        tail.push(a.chain.block(BlockId::Height(at)).await.unwrap());
    }
    let a = a.stop().await;
    b.stop().await;
    std::fs::remove_dir_all(a.ledger()).unwrap();
    copy(old.path(), &a.ledger());

    let a = a.start(&[]).await;
    let serves = Arc::new(AtomicBool::new(false));
    let (served, truth) = (serves.clone(), tail.clone());
    let script: Script = Arc::new(move |request| match request {
        LedgerRequest::Head => Some(LedgerResponse::Head(head(height, truth.last()?.hash()))),
        LedgerRequest::Range { from, max } if served.load(Ordering::Relaxed) => {
            let blocks = truth.iter().skip(*from as usize - 1).take((*max).into());
            Some(LedgerResponse::Blocks(blocks.map(SealedBlock::encode).collect()))
        }
        _ => None,
    });
    // Its link is slow: the first answer does not come in time.
    let slow = Bad::stranger(1, &[&a], script).await;
    slow.mute.store(true, Ordering::Relaxed);
    until("it is asked", || async { slow.asked("range") > 0 }).await;
    // The other one is half of the others, and knows of no tail.
    let c = c.start(&[&a]).await;
    a.connected(&c).await;
    until("it has told its head", || async {
        c.chain.ping(a.name()).await.is_some()
    })
    .await;
    assert!(a.chain.snapshot().height < height);
    serves.store(true, Ordering::Relaxed);
    assert_eq!(submit_patiently(&a, c.opening(9).1).await, height + 1);
    c.sees(|view| view.state.session_count() == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_of_a_skewed_clock_is_imported_and_the_sealer_goes_on() {
    let nodes = network(1).await;
    let (session, open) = nodes[1].opening(1);
    let mut nodes = nodes.into_iter();
    let a = nodes.next().unwrap().stop().await;
    let b = nodes.next().unwrap();
    // The authority's clock stands a year ahead for one block.
    let ledger = a.ledger();
    let block = tokio::task::spawn_blocking(move || {
        let mut ledger = Ledger::open(&ledger, genesis(), Some(key(0))).unwrap();
        assert_eq!(ledger.submit(open), Ok(Submitted::Pending));
        let year = 365 * 86_400_000;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        let confirmed = ledger.confirmed_height();
        ledger.seal(now + year, confirmed, false).unwrap().unwrap()
    })
    .await
    .unwrap();
    let bad = Bad::stranger(0, &[&b], silent()).await;
    let (mut peers, peer) = (b.net.watch_peers(), bad.net.local_peer());
    tokio::time::timeout(LIMIT, peers.wait_for(|peers| peers.contains_key(&peer)))
        .await
        .unwrap()
        .unwrap();
    bad.ask(&b, &LedgerRequest::Block(block.encode())).await;
    b.reaches(block.height()).await;
    assert!(b.chain.snapshot().state.session(&session).is_some());
    bad.net.shutdown().await;
    // With its clock mended it seals again: time goes on from its last block's.
    let a = a.start(&[]).await;
    let (next, open) = b.opening(2);
    until("the next block", || async {
        b.chain.submit(open.clone()).await.is_ok()
    })
    .await;
    a.sees(|view| view.state.session(&next).is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_honest_messages_cost_nobody_anything() {
    let nodes = network(2).await;
    let (a, b, c) = (&nodes[0], &nodes[1], &nodes[2]);
    b.connected(c).await;
    let head = a.chain.snapshot();
    for height in 1..=head.height {
        let block = a.chain.block(BlockId::Height(height)).await.unwrap().encode();
        for _ in 0..50 {
            ask(&b.net, c, &LedgerRequest::Block(block.clone()))
                .await
                .unwrap();
        }
    }
    assert!(c.net.is_connected(&b.net.local_peer()) && a.net.is_connected(&b.net.local_peer()));
    goes_on(&nodes, 1).await;
    for node in &nodes {
        assert_eq!(node.net.counters().misdeeds(Misdeed::Message), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sealed_blocks_of_one_height_are_noticed_and_the_first_stays() {
    let nodes = network(1).await;
    let (first, second) = (nodes[1].opening(1), nodes[1].opening(2));
    let mut nodes = nodes.into_iter();
    let a = nodes.next().unwrap();
    let b = nodes.next().unwrap();
    // A copy of the authority's database with its key: an operator's mistake, or a thief.
    let twin = tempfile::tempdir().unwrap();
    let a = a.stop().await;
    copy(&a.ledger(), twin.path());
    let other = second.1.clone();
    let path = twin.path().to_owned();
    let evil = tokio::task::spawn_blocking(move || {
        let mut ledger = Ledger::open(&path, genesis(), Some(key(0))).unwrap();
        assert_eq!(ledger.submit(other), Ok(Submitted::Pending));
        let (now, confirmed) = (
            ledger.genesis().time_ms + 1_000_000_000_000,
            ledger.confirmed_height(),
        );
        ledger.seal(now, confirmed, false).unwrap().unwrap()
    })
    .await
    .unwrap();
    let a = a.start(&[]).await;
    until("the honest block", || async {
        b.chain.submit(first.1.clone()).await.is_ok()
    })
    .await;
    b.sees(|view| view.state.session(&first.0).is_some()).await;
    assert_eq!(b.chain.snapshot().height, evil.height());
    let bad = Bad::admitted(9, &[&a, &b], silent()).await;
    let hash = b
        .chain
        .block(BlockId::Height(evil.height()))
        .await
        .unwrap()
        .hash();
    bad.ask(&b, &LedgerRequest::Block(evil.encode())).await;
    until("it is counted", || async {
        b.chain.shared.meter.rejections("equivocation") > 0
    })
    .await;
    assert_eq!(
        b.chain
            .block(BlockId::Height(evil.height()))
            .await
            .unwrap()
            .hash(),
        hash
    );
    assert!(b.chain.snapshot().state.session(&second.0).is_none());
    b.sees(|view| !view.evidence.is_empty()).await;
    let kept = b.chain.snapshot().evidence[0].clone();
    assert_eq!(
        (kept.height, kept.ours, kept.theirs),
        (evil.height(), hash, evil.hash())
    );
    assert!(!b.chain.snapshot().halted, "it is no authority");
    // The authority meets its own second block, and seals no third: not now, not after a restart.
    bad.ask(&a, &LedgerRequest::Block(evil.encode())).await;
    a.sees(|view| view.halted).await;
    let (third, open) = b.opening(3);
    let ask = |to: &Node| to.chain.shared.ledger.clone();
    assert_eq!(
        ask(&a).submit(open.encode()).await,
        Some(SubmitAnswer::NotSealing)
    );
    let a = a.stop().await.start(&[&b]).await;
    assert!(a.chain.snapshot().halted);
    a.connected(&b).await;
    assert_eq!(
        ask(&a).submit(open.encode()).await,
        Some(SubmitAnswer::NotSealing)
    );
    // Its operator says that the copy is gone.
    let a = a.stop().await;
    let ledger = a.ledger();
    tokio::task::spawn_blocking(move || {
        let mut ledger = Ledger::open(&ledger, genesis(), Some(key(0))).unwrap();
        ledger.resume().unwrap();
        assert_eq!((ledger.is_halted(), ledger.evidence().len()), (false, 1));
    })
    .await
    .unwrap();
    let _a = a.start(&[&b]).await;
    until("it seals again", || async {
        b.chain.submit(open.clone()).await.is_ok()
    })
    .await;
    b.sees(|view| view.state.session(&third).is_some()).await;
}

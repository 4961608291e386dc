//! What a follower takes and what it refuses, and whose fault it says that is.

use blosm_ledger::*;

use crate::world::*;

/// The authority's chain, and a follower that holds all of it but the last block, which is given beside.
fn almost_synced() -> (tempfile::TempDir, Ledger, SealedBlock) {
    let (theirs, ours) = (directory(), directory());
    let (_, mut blocks) = sealed_story(&theirs);
    let last = blocks.pop().unwrap();
    let mut ledger = follower(&ours);
    for block in blocks {
        ledger.import(block).unwrap();
    }
    (ours, ledger, last)
}

/// Imports a block that must be refused without any change.
fn refuse(ledger: &mut Ledger, block: SealedBlock) -> ImportError {
    let before = ledger.head();
    let error = ledger.import(block).unwrap_err();
    assert_eq!(ledger.head(), before);
    error
}

macro_rules! refused {
    ($ledger:expr, $block:expr, $pattern:pat, $verdict:ident, $penalty:ident) => {{
        let error = refuse(&mut $ledger, $block);
        assert!(matches!(error, $pattern), "{error:?}");
        assert_eq!(
            (error.verdict(), error.penalty()),
            (GossipVerdict::$verdict, Penalty::$penalty),
            "{error:?}"
        );
    }};
}

#[test]
fn a_follower_ends_with_the_same_head_and_state() {
    let (theirs, ours) = (directory(), directory());
    let (authority, blocks) = sealed_story(&theirs);
    let mut ledger = follower(&ours);
    for block in &blocks {
        let bytes = block.encode();
        let imported = ledger.import(SealedBlock::decode(&bytes).unwrap()).unwrap();
        assert_eq!(imported, Imported::Extended(ledger.head()));
        assert_eq!(ledger.import(block.clone()).unwrap(), Imported::Known);
    }
    assert_eq!(ledger.head(), authority.head());
    assert!(ledger.state().sessions().eq(authority.state().sessions()));
    assert!(
        ledger
            .state()
            .members()
            .iter()
            .eq(authority.state().members().iter())
    );
    assert_eq!(ledger.state().members().len(), 3);
    assert!(!ledger.is_authority());
}

#[test]
fn forged_seals_are_refused_before_anything_else() {
    let (_guard, mut ledger, block) = almost_synced();
    let stranger = Certificate::of_one(&key(1), chain_id(), block.height(), block.hash());
    let mut forged = block.clone();
    forged.certificate = stranger.clone();
    refused!(
        ledger,
        forged,
        ImportError::Certificate(CertificateError::NotAuthority(_)),
        Reject,
        High
    );
    let mut relabelled = block.clone();
    relabelled.certificate.signatures[0].1 = stranger.signatures[0].1;
    refused!(
        ledger,
        relabelled,
        ImportError::Certificate(CertificateError::Signature(_)),
        Reject,
        High
    );
    let mut none = block.clone();
    none.certificate.signatures.clear();
    refused!(
        ledger,
        none,
        ImportError::Certificate(CertificateError::Quorum { .. }),
        Reject,
        High
    );
    let mut twice = block.clone();
    let signature = twice.certificate.signatures[0];
    twice.certificate.signatures.push(signature);
    refused!(
        ledger,
        twice,
        ImportError::Certificate(CertificateError::Order),
        Reject,
        High
    );
    let mut round = block.clone();
    round.certificate.round = 1;
    refused!(
        ledger,
        round,
        ImportError::Certificate(CertificateError::Signature(_)),
        Reject,
        High
    );
    let mut changed = block.clone();
    changed.block.header.timestamp_ms += 1;
    refused!(
        ledger,
        changed,
        ImportError::Certificate(CertificateError::Signature(_)),
        Reject,
        High
    );
    // A forged block is no orphan either, however far ahead it claims to be.
    let mut ahead = block.clone();
    ahead.block.header.height += 10;
    refused!(ledger, ahead, ImportError::Certificate(_), Reject, High);
    ledger.import(block).unwrap();
}

#[test]
fn other_networks_versions_and_authorities_are_refused() {
    let (_guard, mut ledger, block) = almost_synced();
    let other = reseal(block.clone(), |block| block.header.chain_id = Hash::ZERO);
    refused!(ledger, other, ImportError::OtherNetwork(Hash::ZERO), Reject, High);
    let newer = reseal(block.clone(), |block| block.header.version = 2);
    refused!(
        ledger,
        newer.clone(),
        ImportError::UnknownVersion(2),
        Ignore,
        None
    );
    assert_eq!(ImportError::UnknownVersion(2).newer(), Some(Newer::Header(2)));
    assert_eq!(
        SealedBlock::decode(&newer.encode()),
        Err(DecodeError::UnknownVersion(2))
    );
    let set = reseal(block.clone(), |block| block.header.authorities_hash = Hash::ZERO);
    refused!(ledger, set, ImportError::AuthoritySet, Reject, High);
    let next = reseal(block.clone(), |block| {
        block.header.next_authorities_hash = Hash::ZERO
    });
    refused!(ledger, next, ImportError::AuthoritySet, Reject, High);
    let proposer = reseal(block, |block| block.header.proposer = public(1));
    refused!(ledger, proposer, ImportError::Proposer(_), Reject, High);
}

#[test]
fn the_header_must_follow_the_head() {
    let (_guard, mut ledger, block) = almost_synced();
    let head = ledger.head();
    let reseal = |change: fn(&mut Block)| reseal(block.clone(), change);
    refused!(
        ledger,
        reseal(|b| b.header.previous_hash = Hash::ZERO),
        ImportError::Parent { .. },
        Reject,
        Low
    );
    refused!(
        ledger,
        reseal(|b| b.header.nonce = 0),
        ImportError::Nonce { .. },
        Reject,
        Low
    );
    let same_nonce = crate::world::reseal(block.clone(), |b| b.header.nonce = head.nonce);
    refused!(ledger, same_nonce, ImportError::Nonce { .. }, Reject, Low);
    let same_time = crate::world::reseal(block.clone(), |b| b.header.timestamp_ms = head.timestamp_ms);
    refused!(ledger, same_time, ImportError::Timestamp { .. }, Reject, Low);
    let falls = crate::world::reseal(block.clone(), |b| {
        b.header.confirmed_height = head.confirmed_height - 1
    });
    refused!(ledger, falls, ImportError::ConfirmedHeight(_), Reject, Low);
    let itself = crate::world::reseal(block.clone(), |b| b.header.confirmed_height = b.header.height);
    refused!(ledger, itself, ImportError::ConfirmedHeight(_), Reject, Low);
}

#[test]
fn an_orphan_is_ignored_and_imported_after_its_parent() {
    let (theirs, ours) = (directory(), directory());
    let (_, blocks) = sealed_story(&theirs);
    let mut ledger = follower(&ours);
    refused!(
        ledger,
        blocks[1].clone(),
        ImportError::Orphan { height: 2, head: 0 },
        Ignore,
        None
    );
    for block in &blocks[..2] {
        ledger.import(block.clone()).unwrap();
    }
    assert_eq!(ledger.head().height, 2);
}

#[test]
fn a_skewed_clock_refuses_nothing() {
    let (theirs, ours) = (directory(), directory());
    let mut authority = authority(&theirs);
    let mut ledger = follower(&ours);
    authority.submit(admit(0)).unwrap();
    let far = authority.seal(u64::MAX - 10, 0, false).unwrap().unwrap();
    ledger.import(far).unwrap();
    // The clock was set right: time still rises.
    authority.submit(admit(1)).unwrap();
    let next = authority.seal(NOW, 0, false).unwrap().unwrap();
    assert_eq!(next.block.header.timestamp_ms, u64::MAX - 9);
    ledger.import(next).unwrap();
}

#[test]
fn the_body_must_be_the_headers() {
    let (_guard, mut ledger, block) = almost_synced();
    let mut other = block.clone();
    other.block.transactions = vec![open(3, 2)];
    refused!(ledger, other, ImportError::Body, Reject, High);
    let mut empty = block.clone();
    empty.block.transactions.clear();
    refused!(ledger, empty, ImportError::Body, Reject, High);
    let mut more = block.clone();
    more.block.transactions.push(open(3, 2));
    refused!(ledger, more, ImportError::Body, Reject, High);
    let mut signature = block.clone();
    signature.block.transactions[0].signature = Signature([1; 64]);
    refused!(ledger, signature, ImportError::Body, Reject, High);
    let count = reseal(block, |block| block.header.tx_count = 2);
    refused!(ledger, count, ImportError::Body, Reject, High);
}

#[test]
fn sealed_and_yet_invalid_transactions_are_refused() {
    let (_guard, mut ledger, block) = almost_synced();
    let with = |transactions| with_transactions(block.clone(), transactions);

    let mut tampered = open(2, 2);
    tampered.signature = sign(2, admit(9).payload).signature;
    refused!(
        ledger,
        with(vec![tampered]),
        ImportError::Transaction {
            index: 0,
            source: TransactionError::Signature
        },
        Reject,
        Low
    );
    let renamed = Transaction {
        sender: public(1),
        ..release(1, 2, 2)
    };
    refused!(
        ledger,
        with(vec![renamed]),
        ImportError::Transaction {
            source: TransactionError::Signature,
            ..
        },
        Reject,
        Low
    );
    // Signed by the thief itself.
    let stolen = sign(1, open(2, 2).payload);
    refused!(
        ledger,
        with(vec![stolen]),
        ImportError::Transaction {
            source: TransactionError::OtherSession,
            ..
        },
        Reject,
        Low
    );
    let other = Transaction::sign(&key(2), Hash::ZERO, 0, open(2, 2).payload);
    refused!(
        ledger,
        with(vec![other]),
        ImportError::Transaction {
            source: TransactionError::OtherNetwork(_),
            ..
        },
        Reject,
        Low
    );
    refused!(
        ledger,
        with(vec![open(2, 2), claim(1, 1, 0)]),
        ImportError::Refused {
            index: 1,
            source: Refusal::SessionClosed
        },
        Reject,
        Low
    );
    let stranger = open(3, 7);
    refused!(
        ledger,
        with(vec![stranger]),
        ImportError::Refused {
            source: Refusal::NeverAdmitted(_),
            ..
        },
        Reject,
        Low
    );
    let expired = Transaction::sign(&key(0), chain_id(), 2000, evict(2).payload);
    refused!(
        ledger,
        with(vec![expired]),
        ImportError::Refused {
            source: Refusal::ExpiresTooLate(_),
            ..
        },
        Reject,
        Low
    );
    ledger.import(block).unwrap();
}

#[test]
fn nothing_is_sealed_twice() {
    let (_guard, mut ledger, block) = almost_synced();
    let twice = with_transactions(block.clone(), vec![open(2, 2), open(2, 2)]);
    refused!(ledger, twice, ImportError::Duplicate(1), Reject, Low);
    // The eviction of node 3 stands in an earlier block: played again it would be refused as such.
    let replayed = with_transactions(block.clone(), vec![open(2, 2), evict(3)]);
    refused!(ledger, replayed, ImportError::Duplicate(1), Reject, Low);
    let replayed = with_transactions(block, vec![admit(3)]);
    refused!(ledger, replayed, ImportError::Duplicate(0), Reject, Low);
}

#[test]
fn roots_must_be_those_of_the_state() {
    let (_guard, mut ledger, block) = almost_synced();
    let members = reseal(block.clone(), |block| block.header.members_root = Hash::ZERO);
    refused!(ledger, members, ImportError::MembersRoot, Reject, Low);
    let count = reseal(block.clone(), |block| block.header.member_count = 99);
    refused!(ledger, count, ImportError::MembersRoot, Reject, Low);
    let sessions = reseal(block.clone(), |block| block.header.sessions_root = Hash::ZERO);
    refused!(ledger, sessions, ImportError::SessionsRoot, Reject, Low);
    ledger.import(block).unwrap();
}

#[test]
fn a_second_sealed_block_of_one_height_is_evidence() {
    let (_guard, mut ledger, block) = almost_synced();
    let other = reseal(block.clone(), |block| block.header.timestamp_ms += 1);
    ledger.import(block.clone()).unwrap();
    let error = refuse(&mut ledger, other.clone());
    assert!(
        matches!(&error, ImportError::Equivocation { height: 12, ours, theirs }
        if *ours == block.hash() && *theirs == other.hash())
    );
    assert_eq!(
        (error.verdict(), error.penalty()),
        (GossipVerdict::Accept, Penalty::None)
    );
    // The same block with the same seal is no evidence, however often it comes.
    assert_eq!(ledger.import(block).unwrap(), Imported::Known);
}

#[test]
fn blocks_are_bounded() {
    let small = Genesis {
        params: Params {
            max_block_txs: 2,
            max_block_bytes: 16 * 1024,
            max_tx_bytes: 1024,
            ..Params::default()
        },
        ..genesis()
    };
    let directory = directory();
    let mut ledger = Ledger::open(directory.path(), small.clone(), None).unwrap();
    let chain_id = small.chain_id();
    let sign = |i, payload| Transaction::sign(&key(i), chain_id, 0, payload);
    let source = Chain::new(small);
    let propose = |transactions: Vec<Transaction>| {
        let hashed = transactions
            .into_iter()
            .map(|transaction| (transaction.hash(), transaction));
        source.propose(&key(0), NOW, 0, hashed).block.sealed().clone()
    };
    let admits: Vec<_> = (0..3).map(|i| sign(0, admit(i).payload)).collect();
    refused!(
        ledger,
        propose(admits),
        ImportError::TooMany { found: 3, limit: 2 },
        Reject,
        High
    );
    let mut long = match admit(1).payload {
        Payload::Admit(admit) => admit,
        _ => unreachable!("admit makes an admission"),
    };
    long.addresses = vec!["x".repeat(MAX_ADDRESS); MAX_ADDRESSES];
    let large = sign(0, Payload::Admit(long));
    assert!(large.encode().len() > 1024);
    refused!(
        ledger,
        propose(vec![large]),
        ImportError::TransactionSize(0),
        Reject,
        Low
    );
}

#[test]
fn an_unknown_kind_in_a_block_needs_an_upgrade_and_costs_nobody_anything() {
    let (_guard, _ledger, block) = almost_synced();
    let mut bytes = block.encode();
    let transaction = block.block.transactions[0].encode();
    let place = bytes
        .windows(transaction.len())
        .position(|window| window == transaction)
        .unwrap();
    // chain_id, sender, and an absent max_height stand before the kind.
    let kind = place + 32 + 32 + 1;
    assert_eq!(bytes[kind], 2);
    bytes[kind] = 8;
    let error = ImportError::from(SealedBlock::decode(&bytes).unwrap_err());
    assert!(matches!(
        error,
        ImportError::Decode(DecodeError::UnknownKind(UnknownKind(8)))
    ));
    assert_eq!(
        (error.verdict(), error.penalty()),
        (GossipVerdict::Ignore, Penalty::None)
    );
}

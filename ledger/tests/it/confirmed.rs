//! Who holds what: acknowledgements, the confirmed height, the sealer's status; clocks and later versions.

use blosm_ledger::*;

use crate::world::*;

/// An acknowledgement of host `i`, the `number`th of its run.
fn ack(i: u8, height: u64, hash: Hash, number: u64) -> VerifiedAck {
    let body = AckBody {
        chain_id: chain_id(),
        member: public(i),
        height,
        hash,
        software: "0.1.0".into(),
        protocol: HEADER_VERSION,
        run: 1,
        number,
    };
    Ack::sign(&key(i), body).verify(chain_id(), public(i)).unwrap()
}

#[test]
fn acknowledgements_become_the_confirmed_height_of_the_next_header() {
    let directory = directory();
    let mut ledger = authority(&directory);
    let first = seal(&mut ledger, [admit(0), admit(1), admit(2)]);
    let second = seal(&mut ledger, [open(1, 1)]);
    assert_eq!(
        ledger.confirmations(1).unwrap(),
        Some(Confirmations { acked: 1, members: 3 })
    );
    ledger.record_ack(ack(1, 2, second.hash(), 1)).unwrap();
    assert_eq!(ledger.confirmed_height(), 0);
    ledger.record_ack(ack(2, 1, first.hash(), 1)).unwrap();
    assert_eq!(ledger.confirmed_height(), 1);
    assert!(ledger.confirmations(1).unwrap().unwrap().confirmed());
    assert_eq!(
        ledger.confirmations(2).unwrap(),
        Some(Confirmations { acked: 2, members: 3 })
    );
    assert_eq!(ledger.confirmations(3).unwrap(), None);
    let signed = ledger.signed_acks();
    assert_eq!(signed.len(), 2);
    for ack in signed {
        let member = ack.body.member;
        assert!(
            ack.verify(chain_id(), member).is_ok(),
            "what is shown can be checked"
        );
    }
    // It never falls, and whatever is asked for stays below the block that carries it.
    let third = ledger.seal(NOW, u64::MAX, true).unwrap().unwrap();
    assert_eq!(third.block.header.confirmed_height, 2);
    let fourth = ledger.seal(NOW, 0, true).unwrap().unwrap();
    assert_eq!(fourth.block.header.confirmed_height, 2);
    assert_eq!(ledger.confirmed_height(), 2);
}

#[test]
fn false_acknowledgements_change_nothing_and_are_somebodys_fault() {
    let directory = directory();
    let mut ledger = authority(&directory);
    let first = seal(&mut ledger, [admit(0), admit(1), admit(2)]);
    let second = seal(&mut ledger, [open(1, 1)]);
    ledger.record_ack(ack(1, 1, first.hash(), 5)).unwrap();
    let before = (
        ledger.newest_counts().unwrap(),
        ledger.confirmed_height(),
        ledger.signed_acks(),
    );
    let mut refused = |ack: VerifiedAck| {
        let error = ledger.record_ack(ack).unwrap_err();
        assert_eq!(
            (
                ledger.newest_counts().unwrap(),
                ledger.confirmed_height(),
                ledger.signed_acks()
            ),
            before
        );
        (error.reason(), error.penalty())
    };
    assert_eq!(
        refused(ack(7, 1, first.hash(), 1)),
        ("ack_not_member", Penalty::High)
    );
    assert_eq!(
        refused(ack(2, 1, second.hash(), 1)),
        ("ack_other_block", Penalty::High)
    );
    assert_eq!(
        refused(ack(2, 3, second.hash(), 1)),
        ("ack_above_head", Penalty::Low)
    );
    assert_eq!(
        refused(ack(2, u64::MAX, Hash::ZERO, 1)),
        ("ack_above_head", Penalty::Low)
    );
    // What was overtaken on its way is nobody's fault.
    for number in [4, 5] {
        assert_eq!(
            refused(ack(1, 2, second.hash(), number)),
            ("ack_overtaken", Penalty::None)
        );
    }
}

#[test]
fn what_was_confirmed_stays_so_when_the_sealer_starts_again() {
    let directory = directory();
    let mut ledger = authority(&directory);
    let first = seal(&mut ledger, [admit(0), admit(1)]);
    ledger.record_ack(ack(1, 1, first.hash(), 1)).unwrap();
    // The count goes with the process, the header stays.
    let second = seal(&mut ledger, [open(1, 1)]);
    assert_eq!(second.block.header.confirmed_height, 1);
    drop(ledger);
    let ledger = authority(&directory);
    assert_eq!(ledger.confirmed_height(), 1);
    assert_eq!(
        ledger.confirmations(1).unwrap(),
        Some(Confirmations { acked: 2, members: 2 })
    );
    assert_eq!(
        ledger.confirmations(2).unwrap(),
        Some(Confirmations { acked: 1, members: 2 })
    );
}

#[test]
fn a_status_says_no_more_than_the_sealer_holds_and_is_compared_with_the_own_chain() {
    let (directory, other) = (directory(), directory());
    let (mut ledger, mut behind) = (authority(&directory), follower(&other));
    let first = seal(&mut ledger, [admit(0), admit(1)]);
    behind.import(first.clone()).unwrap();
    let verified = |ledger: &Ledger| {
        let status = ledger.status(NOW).unwrap().unwrap();
        Status::verify(&status.encode(), ledger.genesis()).unwrap()
    };
    let early = verified(&ledger);
    assert_eq!(behind.compare_status(&early).unwrap(), StatusMatch::Held);
    ledger.record_ack(ack(1, 1, first.hash(), 1)).unwrap();
    seal(&mut ledger, [open(1, 1)]);
    let late = verified(&ledger);
    assert_eq!(
        (
            late.body().height,
            late.body().confirmed_height,
            late.body().version
        ),
        (2, 1, HEADER_VERSION)
    );
    let count = |height, acked| Count {
        height,
        acked,
        members: 2,
    };
    assert_eq!(late.body().newest, [count(2, 1), count(1, 2)]);
    assert!(late.is_newer_than(&early));
    assert_eq!(behind.compare_status(&late).unwrap(), StatusMatch::Ahead);
    // Whoever holds another block of that height sees it.
    let strange = Status::sign(
        &key(0),
        StatusBody {
            hash: Hash::ZERO,
            ..early.body().clone()
        },
    );
    let strange = Status::verify(&strange.encode(), ledger.genesis()).unwrap();
    assert_eq!(behind.compare_status(&strange).unwrap(), StatusMatch::OtherBlock);
    assert!(
        behind.status(NOW).unwrap().is_none(),
        "only the sealer has a status"
    );
}

#[test]
fn a_clock_in_the_past_seals_one_millisecond_after_the_parent() {
    let (directory, other) = (directory(), directory());
    let (mut ledger, mut member) = (authority(&directory), follower(&other));
    let first = seal(&mut ledger, [admit(0), admit(1)]);
    let next = first.block.header.timestamp_ms + 1;
    member.import(first).unwrap();
    for (now, expected) in [0, 1, NOW - 10_000].into_iter().zip(next..) {
        let block = ledger.seal(now, 0, true).unwrap().unwrap();
        assert_eq!(block.block.header.timestamp_ms, expected);
        member.import(block).unwrap();
    }
}

#[test]
fn a_node_stops_before_a_newer_header_and_goes_on_with_one_that_it_reads() {
    let (directory, other) = (directory(), directory());
    let (mut ledger, mut member) = (authority(&directory), follower(&other));
    let first = seal(&mut ledger, [admit(0), admit(1)]);
    let second = seal(&mut ledger, [open(1, 1)]);
    assert_eq!(second.block.header.version, NEWEST_VERSION);
    assert_eq!(ledger.status(NOW).unwrap().unwrap().body.version, NEWEST_VERSION);

    let import = |member: &mut Ledger, bytes: &[u8]| {
        let block = SealedBlock::decode(bytes)?;
        member.import(block)
    };
    import(&mut member, &first.encode()).unwrap();
    // As a later version may have made it: nothing is known of it but where its version stands.
    let version = NEWEST_VERSION + 1;
    let mut newer = second.encode();
    newer[..2].copy_from_slice(&version.to_le_bytes());
    newer.extend([7; 40]);
    for _ in 0..2 {
        let error = import(&mut member, &newer).unwrap_err();
        assert_eq!(error.newer(), Some(Newer::Header(version)));
        assert_eq!(
            (error.verdict(), error.penalty()),
            (GossipVerdict::Ignore, Penalty::None)
        );
        assert_eq!(member.head().height, 1);
    }
    assert!(matches!(
        import(&mut member, &second.encode()).unwrap(),
        Imported::Extended(_)
    ));
    assert_eq!(member.head(), ledger.head());
}

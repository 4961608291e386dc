//! The fold of journal entries.

use super::*;

const SESSION: SessionId = SessionId([7; 32]);

fn pending(byte: u8) -> Pending {
    Pending {
        hash: Hash([byte; 32]),
        bytes: vec![byte],
    }
}

fn node(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn root() -> Hash {
    Hash([9; 32])
}

fn applied(epoch: u64) -> Entry {
    Entry::Applied {
        session: SESSION,
        service: "counter".into(),
        source: node(1),
        epoch,
        attempt: [1; 16],
        root: root(),
        container: "new".into(),
        image: "image".into(),
    }
}

fn signed(epoch: u64, to: u8) -> Entry {
    Entry::Signed {
        session: SESSION,
        epoch,
        destination: node(to),
        attempt: [1; 16],
        root: root(),
        handover: pending(11),
    }
}

fn record(entries: Vec<Entry>) -> Record {
    let mut record = Record::new(SESSION);
    for entry in entries {
        record.apply(entry);
    }
    record
}

fn opened_and_started() -> Vec<Entry> {
    vec![
        Entry::Opened {
            session: SESSION,
            service: "counter".into(),
            open: pending(10),
        },
        Entry::Creating {
            session: SESSION,
            epoch: 0,
            container: "first".into(),
            image: "base".into(),
        },
        Entry::Starting {
            session: SESSION,
            container: "first".into(),
        },
    ]
}

#[test]
fn nothing_runs_before_the_signed_hand_over_is_journaled() {
    let visitor = record(vec![applied(3)]);
    assert!(!visitor.may_run());
    assert!(visitor.accepts(3, root()));
    assert!(!visitor.accepts(4, root()), "another epoch");
    assert!(!visitor.accepts(3, Hash([8; 32])), "another state");
    let owner = record(vec![
        applied(3),
        Entry::Acquired {
            session: SESSION,
            epoch: 4,
            handover: pending(12),
            pending: vec![pending(10), pending(11)],
        },
    ]);
    assert!(owner.may_run());
    assert_eq!(owner.owned_epoch(), Some(4));
    assert_eq!(
        owner.container.as_ref().map(|container| container.name.as_str()),
        Some("new")
    );
    let hashes: Vec<u8> = owner.pending.iter().map(|pending| pending.bytes[0]).collect();
    assert_eq!(
        hashes,
        [10, 11, 12],
        "submitted in the order in which they were signed"
    );
    assert!(!owner.accepts(3, root()), "a repeated hand-over changes nothing");
}

#[test]
fn after_the_signature_only_a_newer_fact_lets_it_run() {
    let mut entries = opened_and_started();
    entries.push(signed(1, 2));
    let gave = record(entries.clone());
    assert!(!gave.may_run());
    assert!(
        gave.is_hand_back(1, root()),
        "the destination may give the very state back"
    );
    assert!(gave.accepts(1, root()));
    entries.push(Entry::Served {
        session: SESSION,
        epoch: 1,
    });
    assert!(
        !record(entries.clone()).accepts(1, root()),
        "once it has served, the kept container is stale"
    );
    entries.truncate(4);
    entries.push(Entry::Acquired {
        session: SESSION,
        epoch: 2,
        handover: pending(12),
        pending: Vec::new(),
    });
    let back = record(entries.clone());
    assert_eq!(
        back.container.as_ref().map(|container| container.name.as_str()),
        Some("first")
    );
    entries.truncate(4);
    entries.push(Entry::Reclaimed {
        session: SESSION,
        epoch: 1,
        abort_hash: Hash([13; 32]),
    });
    let reclaimed = record(entries);
    assert_eq!(reclaimed.owned_epoch(), Some(1));
    let hashes: Vec<u8> = reclaimed.pending.iter().map(|pending| pending.bytes[0]).collect();
    assert_eq!(
        hashes,
        [10],
        "the hand-over that lost its place is not submitted any more"
    );
}

#[test]
fn a_session_that_returns_runs_in_the_container_that_was_applied() {
    let mut entries = opened_and_started();
    entries.extend([
        signed(1, 2),
        Entry::Served {
            session: SESSION,
            epoch: 1,
        },
        applied(1),
    ]);
    entries.push(Entry::Acquired {
        session: SESSION,
        epoch: 2,
        handover: pending(12),
        pending: Vec::new(),
    });
    let record = record(entries);
    let container = record.container.as_ref().unwrap();
    assert_eq!(
        (container.name.as_str(), container.epoch, container.started),
        ("new", 2, false)
    );
    let stale: Vec<_> = record
        .stale
        .iter()
        .map(|stale| (stale.container.name.as_str(), stale.given))
        .collect();
    assert_eq!(
        stale,
        [("first", Some((0, [1; 16])))],
        "the earlier stay's container waits to be removed"
    );
}

#[test]
fn a_settled_record_has_nothing_left_to_do() {
    let mut entries = opened_and_started();
    entries.extend([
        signed(1, 2),
        Entry::Served {
            session: SESSION,
            epoch: 1,
        },
        Entry::Removed {
            session: SESSION,
            container: "first".into(),
        },
        Entry::Sealed {
            session: SESSION,
            transaction: Hash([10; 32]),
        },
    ]);
    assert!(
        !record(entries.clone()).is_settled(),
        "its hand-over is not sealed"
    );
    entries.push(Entry::Sealed {
        session: SESSION,
        transaction: Hash([11; 32]),
    });
    assert!(record(entries).is_settled());
}

#[test]
fn a_snapshot_is_the_whole_record() {
    let mut entries = opened_and_started();
    entries.extend([signed(1, 2), applied(1)]);
    let whole = record(entries);
    assert_eq!(record(vec![Entry::Snapshot(Box::new(whole.clone()))]), whole);
}

//! Rule 7 and rule 1 as tables: the journal's word against the chain's.

use blosm_ledger::{Hash, Open, ReleaseReason, SecretKey, SessionId, SessionStatus, Token};

use super::*;
use crate::session::{Entry, Pending};

const SESSION: SessionId = SessionId([7; 32]);

fn node(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn pending(byte: u8) -> Pending {
    Pending {
        hash: Hash([byte; 32]),
        bytes: vec![byte],
    }
}

/// The chain's record: owner, epoch, and the transaction that gave the owner the session.
fn chain(owner: u8, epoch: u64, since: u8) -> SessionRecord {
    SessionRecord {
        service: "counter".into(),
        opener: node(1),
        owner: node(owner),
        epoch,
        status: SessionStatus::Open,
        metadata: None,
        invited: Vec::new(),
        claims: Vec::new(),
        since: Hash([since; 32]),
        opened_height: 1,
    }
}

fn closed(owner: u8, epoch: u64, since: u8) -> SessionRecord {
    SessionRecord {
        status: SessionStatus::Closed(ReleaseReason::Client),
        ..chain(owner, epoch, since)
    }
}

fn opened() -> Vec<Entry> {
    vec![Entry::Opened {
        session: SESSION,
        service: "counter".into(),
        open: pending(10),
    }]
}

fn given_to_2() -> Vec<Entry> {
    let mut entries = opened();
    entries.push(Entry::Signed {
        session: SESSION,
        epoch: 1,
        destination: node(2),
        attempt: [1; 16],
        root: Hash([9; 32]),
        handover: pending(11),
    });
    entries
}

fn back_from_2() -> Vec<Entry> {
    let mut entries = given_to_2();
    entries.push(Entry::Acquired {
        session: SESSION,
        epoch: 2,
        handover: pending(12),
        pending: Vec::new(),
    });
    entries
}

fn record(entries: Vec<Entry>) -> Record {
    let mut record = Record::new(SESSION);
    for entry in entries {
        record.apply(entry);
    }
    record
}

#[test]
fn restart_adopts_by_the_newest_fact() {
    let mine = |epoch| Adoption::Mine { epoch };
    let rows: Vec<(&str, Vec<Entry>, Option<SessionRecord>, Adoption)> = vec![
        ("open not sealed", opened(), None, mine(0)),
        ("open sealed", opened(), Some(chain(1, 0, 10)), mine(0)),
        (
            "another open of that session",
            opened(),
            Some(chain(3, 0, 99)),
            Adoption::NotMine,
        ),
        (
            "the chain went on without us",
            opened(),
            Some(chain(2, 1, 98)),
            Adoption::NotMine,
        ),
        (
            "given away, chain behind",
            given_to_2(),
            Some(chain(1, 0, 10)),
            Adoption::NotMine,
        ),
        ("given away, chain empty", given_to_2(), None, Adoption::NotMine),
        ("back, nothing sealed", back_from_2(), None, mine(2)),
        (
            "back, only the open sealed",
            back_from_2(),
            Some(chain(1, 0, 10)),
            mine(2),
        ),
        (
            "back, first hand-over sealed",
            back_from_2(),
            Some(chain(2, 1, 11)),
            mine(2),
        ),
        ("back, all sealed", back_from_2(), Some(chain(1, 2, 12)), mine(2)),
        (
            "back, another hand-over of that epoch was sealed first",
            back_from_2(),
            Some(chain(3, 2, 97)),
            Adoption::NotMine,
        ),
        ("closed", back_from_2(), Some(closed(1, 2, 12)), Adoption::Closed),
        ("never ours", Vec::new(), Some(chain(1, 0, 10)), Adoption::NotMine),
    ];
    for (what, entries, chain, expect) in rows {
        assert_eq!(adopt(&record(entries), chain.as_ref(), node(1)), expect, "{what}");
    }
}

#[test]
fn a_chain_that_has_gone_another_way_takes_the_session() {
    // 1 gave it to 2 and 2 to this node, 3; neither is sealed, and the operator has said that 2 is lost.
    let key = blosm_ledger::SecretKey::from_seed(&[2; 32]);
    let handover = Transaction::sign(
        &key,
        Hash([0; 32]),
        1,
        Payload::HandOver(blosm_ledger::HandOver {
            session: SESSION,
            epoch: 1,
            claim: None,
            destination: node(3),
            manifest_root: Hash([9; 32]),
        }),
    );
    let acquired = Entry::Acquired {
        session: SESSION,
        epoch: 2,
        handover: Pending {
            hash: handover.hash(),
            bytes: handover.encode(),
        },
        pending: vec![pending(11)],
    };
    let record = record(vec![acquired]);
    let by = |chain: SessionRecord| adopt(&record, Some(&chain), node(3));
    let mine = Adoption::Mine { epoch: 2 };
    assert_eq!(by(chain(1, 0, 10)), mine, "it is behind");
    let follows = SessionRecord {
        owner: key.public(),
        ..chain(2, 1, 11)
    };
    assert_eq!(by(follows), mine, "the first hand-over is sealed");
    assert_eq!(
        by(chain(1, 1, 95)),
        Adoption::NotMine,
        "the first owner has it back"
    );
}

#[test]
fn requests_go_to_the_newest_owner() {
    let other = |owner, epoch| KnownOwner::Other {
        owner: node(owner),
        epoch,
    };
    type Row = (
        &'static str,
        Option<Vec<Entry>>,
        Option<SessionRecord>,
        KnownOwner,
    );
    let rows: Vec<Row> = vec![
        ("nobody knows", None, None, KnownOwner::Unknown),
        ("the chain knows", None, Some(chain(3, 4, 90)), other(3, 4)),
        ("mine", Some(opened()), None, KnownOwner::Me),
        (
            "sealed as mine, not journaled yet",
            None,
            Some(chain(1, 3, 90)),
            KnownOwner::Me,
        ),
        (
            "given back in a block, not journaled yet",
            Some(given_to_2()),
            Some(chain(1, 2, 89)),
            KnownOwner::Me,
        ),
        (
            "given, chain behind",
            Some(given_to_2()),
            Some(chain(1, 0, 10)),
            other(2, 1),
        ),
        (
            "given, chain ahead",
            Some(given_to_2()),
            Some(chain(3, 2, 96)),
            other(3, 2),
        ),
        ("overtaken", Some(opened()), Some(chain(2, 1, 95)), other(2, 1)),
        (
            "closed",
            Some(given_to_2()),
            Some(closed(2, 1, 11)),
            KnownOwner::Closed,
        ),
    ];
    for (what, entries, chain, expect) in rows {
        assert_eq!(
            newest_owner(entries.map(record).as_ref(), chain.as_ref(), node(1)),
            expect,
            "{what}"
        );
    }
}

#[test]
fn an_owner_is_proven_by_the_chain_and_signed_facts_only() {
    let gave = |sender, epoch, destination| Fact::HandedOver {
        sender: node(sender),
        epoch,
        destination: node(destination),
    };
    let opened = Fact::Opened { opener: node(1) };
    type Row = (
        &'static str,
        Option<SessionRecord>,
        Option<u8>,
        Vec<Fact>,
        Option<(u8, u64)>,
    );
    let rows: Vec<Row> = vec![
        ("nothing is known", None, None, vec![], None),
        ("the token tells the opener", None, Some(1), vec![], Some((1, 0))),
        ("its open is not sealed", None, None, vec![opened], Some((1, 0))),
        (
            "nor are its hand-overs",
            None,
            None,
            vec![opened, gave(1, 0, 2), gave(2, 1, 3)],
            Some((3, 2)),
        ),
        (
            "the chain goes first",
            Some(chain(2, 1, 11)),
            Some(1),
            vec![opened, gave(2, 1, 3)],
            Some((3, 2)),
        ),
        (
            "a fact that the chain holds already",
            Some(chain(2, 1, 11)),
            None,
            vec![gave(1, 0, 2)],
            Some((2, 1)),
        ),
        (
            "signed by no owner",
            Some(chain(2, 1, 11)),
            None,
            vec![gave(9, 1, 9)],
            Some((2, 1)),
        ),
        (
            "an epoch far ahead",
            Some(chain(2, 1, 11)),
            None,
            vec![gave(2, 1000, 9)],
            Some((2, 1)),
        ),
        ("closed", Some(closed(2, 1, 11)), Some(1), vec![], None),
    ];
    for (what, chain, opener, facts, expect) in rows {
        let expect = expect.map(|(owner, epoch)| (node(owner), epoch));
        assert_eq!(
            proven_owner(chain.as_ref(), opener.map(node), &facts),
            expect,
            "{what}"
        );
    }
}

#[test]
fn an_opening_proves_its_own_sender_or_nothing() {
    let (opener, thief) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let chain_id = Hash([5; 32]);
    let token = Token::mint(&opener, chain_id, "counter", [7; 32]);
    let open = Open::of(&token, "counter");
    let by = |key: &SecretKey, open: &Open| {
        Pending::from(&Transaction::sign(key, chain_id, 0, Payload::Open(open.clone())))
    };
    let read = |pending: Pending| facts(token.session(), &[pending], chain_id);
    let opened = Fact::Opened {
        opener: opener.public(),
    };
    assert_eq!(read(by(&opener, &open)), Some(vec![opened]));
    assert_eq!(read(by(&thief, &open)), None, "copied");
    let own = Open {
        session: SessionId::of(thief.public(), token.hash()),
        ..open
    };
    assert_eq!(read(by(&thief, &own)), Some(Vec::new()), "it is another session");
}

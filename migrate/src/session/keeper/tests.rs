//! The keeper's decisions as tables: what is refused, what is written, what follows.

use std::time::Duration;

use blosm_ledger::{
    Admit, Claim, Evict, Genesis, HandOver, Location, Open, Params, Payload, Release, ReleaseReason,
    SecretKey, State, Token, Transaction, Verdict,
};

use super::*;
use crate::session::{Fate, Found, KnownOwner, Pending, Turn, fate, overtaken, turn};

const ATTEMPT: Attempt = [1; 16];
const ROOT: Hash = Hash([9; 32]);

fn key(byte: u8) -> SecretKey {
    SecretKey::from_seed(&[byte; 32])
}

fn node(byte: u8) -> PublicKey {
    key(byte).public()
}

fn genesis() -> Genesis {
    Genesis {
        name: "road".into(),
        authorities: vec![node(0)],
        recovery: node(99),
        time_ms: 1,
        params: Params::default(),
    }
}

/// Node 1's.
fn token() -> Token {
    Token::mint(&key(1), genesis().chain_id(), "counter", [7; 32])
}

fn session() -> SessionId {
    token().session()
}

fn sign(by: u8, payload: Payload) -> Transaction {
    Transaction::sign(&key(by), genesis().chain_id(), 0, payload)
}

fn open() -> Transaction {
    sign(1, Payload::Open(Open::of(&token(), "counter")))
}

fn hand_over(by: u8, epoch: u64, to: u8) -> Transaction {
    let body = HandOver {
        session: session(),
        epoch,
        claim: None,
        destination: node(to),
        manifest_root: ROOT,
    };
    sign(by, Payload::HandOver(body))
}

fn evict(who: u8) -> Transaction {
    eviction(who, true)
}

fn eviction(who: u8, lost: bool) -> Transaction {
    let evict = Evict {
        key: node(who),
        reason: "gone".into(),
        lost,
    };
    sign(0, Payload::Evict(evict))
}

/// Members 0 to 3, and what these transactions make of it.
fn chain(transactions: &[Transaction]) -> State {
    let mut state = State::genesis(&genesis());
    for member in 0..4 {
        let admit = Admit {
            key: node(member),
            admission: Hash([member; 32]),
            addresses: Vec::new(),
            gateway: String::new(),
            metrics: None,
            location: Location { lat_e7: 0, lon_e7: 0 },
            radius_m: 1,
            label: format!("host{member}"),
        };
        state.apply(&sign(0, Payload::Admit(admit)), 1).unwrap();
    }
    for transaction in transactions {
        state.apply(transaction, 2).unwrap();
    }
    state
}

fn record(entries: Vec<Entry>) -> Record {
    let mut record = Record::new(session());
    entries.into_iter().for_each(|entry| record.apply(entry));
    record
}

fn opened() -> Entry {
    Entry::Opened {
        session: session(),
        service: "counter".into(),
        open: Pending::from(&open()),
    }
}

fn creating(epoch: u64) -> Entry {
    Entry::Creating {
        session: session(),
        epoch,
        container: "c".into(),
        image: "i".into(),
    }
}

fn starting() -> Entry {
    Entry::Starting {
        session: session(),
        container: "c".into(),
    }
}

fn applied(from: u8, epoch: u64) -> Entry {
    Entry::Applied {
        session: session(),
        service: "counter".into(),
        source: node(from),
        epoch,
        attempt: ATTEMPT,
        root: ROOT,
        container: "c".into(),
        image: "i".into(),
    }
}

fn signed(transaction: &Transaction) -> Entry {
    let Payload::HandOver(body) = &transaction.payload else {
        panic!("not a hand-over")
    };
    Entry::Signed {
        session: session(),
        epoch: body.epoch + 1,
        destination: body.destination,
        attempt: ATTEMPT,
        root: body.manifest_root,
        handover: Pending::from(transaction),
    }
}

fn acquired(transaction: &Transaction, epoch: u64) -> Entry {
    Entry::Acquired {
        session: session(),
        epoch,
        handover: Pending::from(transaction),
        pending: Vec::new(),
    }
}

fn keeper(me: u8, record: &Record) -> (Keeper, Instant) {
    let now = Instant::now();
    let keeper = Keeper::new(
        node(me),
        genesis().chain_id(),
        session(),
        Timing::default(),
        now,
        record,
    );
    (keeper, now + Duration::from_secs(60))
}

fn known<'a>(record: &'a Record, chain: &'a State) -> Known<'a> {
    Known {
        record,
        sealed: chain.session(&session()),
        members: chain.members(),
    }
}

#[test]
fn only_the_signed_hand_over_of_the_applied_state_makes_an_owner() {
    let good = hand_over(1, 0, 2);
    let mut forged = good.clone();
    forged.sender = node(3);
    let waiting = || vec![applied(1, 0)];
    type Row = (&'static str, Vec<Entry>, Transaction, Result<bool, No>);
    let rows: Vec<Row> = vec![
        ("what was waited for", waiting(), good.clone(), Ok(true)),
        (
            "nothing was applied",
            vec![],
            good.clone(),
            Err(Refused::Void.into()),
        ),
        (
            "another epoch",
            waiting(),
            hand_over(1, 1, 2),
            Err(Refused::Void.into()),
        ),
        (
            "signed by another member",
            waiting(),
            hand_over(3, 0, 2),
            Err(No::NotAuthorised),
        ),
        ("signed by nobody", waiting(), forged, Err(No::Malformed)),
        (
            "to another member",
            waiting(),
            hand_over(1, 0, 3),
            Err(No::Malformed),
        ),
        ("no hand-over", waiting(), open(), Err(No::Malformed)),
        (
            "the same again",
            vec![applied(1, 0), acquired(&good, 1)],
            good.clone(),
            Ok(false),
        ),
        (
            "long given on",
            vec![applied(1, 0), acquired(&good, 1), signed(&hand_over(2, 1, 3))],
            good.clone(),
            Ok(false),
        ),
    ];
    for (what, entries, transaction, expect) in rows {
        let record = record(entries);
        let (keeper, _) = keeper(2, &record);
        let taken = keeper.take(&record, Pending::from(&transaction), vec![Pending::from(&open())]);
        assert_eq!(
            taken.map(|taken| matches!(taken, Taking::Take { .. })),
            expect,
            "{what}"
        );
    }
    let other = Pending::from(&hand_over(1, 0, 2));
    let lie = Pending {
        hash: ROOT,
        ..other.clone()
    };
    let record = record(waiting());
    let (keeper, _) = keeper(2, &record);
    assert_eq!(keeper.take(&record, other, vec![lie]), Err(No::Malformed));
}

#[test]
fn what_is_written_makes_and_ends_an_owner() {
    let (given, chain) = (hand_over(1, 0, 2), chain(&[]));
    let mut mine = record(vec![opened()]);
    let (mut keeper, now) = keeper(1, &mine);
    assert!(keeper.wants_start(now, &known(&mine, &chain), false));
    assert!(!keeper.wants_start(now, &known(&mine, &chain), true), "it runs");
    // The record is of the disk: as long as the entry is not there, nothing has changed.
    let entry = signed(&given);
    mine.apply(entry.clone());
    keeper.written(now, &entry);
    assert!(!keeper.wants_start(now, &known(&mine, &chain), false));
    assert_eq!(keeper.tell(now, Input::Tick), Err(No::NotOwner));
}

#[test]
fn ready_is_answered_with_the_same_bytes_and_only_once_with_a_signature() {
    let (mine, chain) = (record(vec![opened()]), chain(&[open()]));
    let (mut keeper, now) = keeper(1, &mine);
    let known = known(&mine, &chain);
    assert_eq!(
        keeper.want(now, &known, false, false),
        Err(No::NotAuthorised),
        "neither token nor invitation"
    );
    let claim = Claim {
        session: session(),
        epoch: 0,
        attempt: ATTEMPT,
        verdict: Verdict {
            memory: true,
            cpu: true,
            gpu: true,
            service: true,
            hard: None,
            accepted: true,
        },
    };
    let claimed = keeper.claim(now, &known, node(2), &claim, ROOT);
    assert_eq!(claimed, Err(No::NotAuthorised), "it was not told of the session");
    assert_eq!(keeper.want(now, &known, true, false), Ok(0));
    keeper.welcome(node(2));
    let stale = Claim {
        epoch: 3,
        ..claim.clone()
    };
    assert_eq!(
        keeper.claim(now, &known, node(2), &stale, ROOT),
        Err(No::NotOwner)
    );
    assert_eq!(
        keeper.claim(now, &known, node(2), &claim, ROOT),
        Ok(Some(ATTEMPT))
    );
    let early = keeper.ready(now, &known, node(2), ATTEMPT, ROOT);
    assert_eq!(early, Err(Refused::Void.into()), "nothing is stopped yet");
    keeper
        .tell(
            now,
            Input::Cut {
                attempt: ATTEMPT,
                from: node(2),
            },
        )
        .unwrap();
    assert_eq!(keeper.may_close(&known), None, "it is being cut");
    keeper
        .tell(
            now,
            Input::CutDone {
                attempt: ATTEMPT,
                root: ROOT,
            },
        )
        .unwrap();
    let Ok(Ready::Sign(signing)) = keeper.ready(now, &known, node(2), ATTEMPT, ROOT) else {
        panic!("it is ready")
    };
    let body = keeper.hand_over(&mine, &signing).unwrap();
    assert_eq!((body.epoch, body.destination), (0, node(2)));
    let transaction = sign(1, Payload::HandOver(body.clone()));
    let entry = keeper.signed(&body, ATTEMPT, Pending::from(&transaction));
    let mut gave = mine.clone();
    gave.apply(entry.clone());
    keeper.written(now, &entry);
    let gone = Known {
        record: &gave,
        ..known
    };
    let again = keeper.ready(now, &gone, node(2), ATTEMPT, ROOT);
    assert_eq!(again, Ok(Ready::Again));
    let other = keeper.ready(now, &gone, node(2), ATTEMPT, Hash([8; 32]));
    assert_eq!(other, Err(Refused::OtherRoot.into()));
    assert_eq!(
        keeper.ready(now, &gone, node(3), ATTEMPT, ROOT),
        Err(No::NotOwner)
    );
    assert_eq!(keeper.hand_over(&gave, &signing), None, "once per epoch");
}

#[test]
fn a_moved_chain_takes_and_gives() {
    let given = hand_over(1, 0, 2);
    let back = sign(
        1,
        Payload::Abort(Abort {
            session: session(),
            epoch: 0,
            claim: None,
        }),
    );
    let abort = Moved::Abort(Abort {
        session: session(),
        epoch: 0,
        claim: None,
    });
    let lost = |moved: &Moved| matches!(moved, Moved::Lost { .. });
    let at = |entries: Vec<Entry>, chain: &State| {
        let record = record(entries);
        keeper(1, &record).0.chain_moved(&known(&record, chain))
    };
    let gave = || vec![opened(), signed(&given)];
    assert_eq!(at(vec![opened()], &chain(&[open()])), Moved::Nothing);
    assert!(lost(&at(vec![opened()], &chain(&[open(), given.clone()]))));
    assert!(lost(&at(vec![opened()], &chain(&[open(), evict(1)]))));
    assert_eq!(at(gave(), &chain(&[open()])), Moved::Nothing, "a lagging chain");
    assert_eq!(
        at(gave(), &chain(&[open(), given.clone(), evict(2)])),
        Moved::Nothing
    );
    assert_eq!(
        at(gave(), &chain(&[open(), eviction(2, false)])),
        Moved::Nothing,
        "it may run the session still"
    );
    assert_eq!(at(gave(), &chain(&[open(), evict(2)])), abort);
    let reclaimed = at(gave(), &chain(&[open(), evict(2), back.clone()]));
    let expect = Entry::Reclaimed {
        session: session(),
        epoch: 1,
        abort_hash: back.hash(),
    };
    assert_eq!(reclaimed, Moved::Reclaimed(expect));
    let release = sign(
        1,
        Payload::Release(Release {
            session: session(),
            epoch: 0,
            reason: ReleaseReason::Client,
        }),
    );
    let closed = at(vec![opened()], &chain(&[open(), release]));
    assert!(matches!(closed, Moved::Lost { closed: true, .. }));
    // A hand-over may come in a block.
    let waits = record(vec![applied(1, 0)]);
    let sealed = chain(&[open(), given.clone()]);
    let found = keeper(2, &waits).0.in_block(&known(&waits, &sealed));
    assert_eq!(found, Some(given.hash()));
    let beside = keeper(3, &waits).0;
    assert_eq!(
        beside.passed_over(&known(&waits, &sealed)),
        Some(ATTEMPT),
        "another one got it"
    );
    assert_eq!(beside.passed_over(&known(&waits, &chain(&[open()]))), None);
    assert_eq!(keeper(2, &waits).0.passed_over(&known(&waits, &sealed)), None);
    let takes_nothing = record(vec![applied(1, 4)]);
    let found = keeper(2, &takes_nothing)
        .0
        .in_block(&known(&takes_nothing, &sealed));
    assert_eq!(found, None);
}

#[test]
fn a_container_is_created_once_and_never_afresh_for_a_known_state() {
    let start = |before| Launch::Start {
        container: "c".into(),
        before,
    };
    let absent = |name: &str| Launch::Absent {
        container: name.into(),
    };
    let came = || vec![applied(1, 0), acquired(&hand_over(1, 0, 2), 1)];
    type Row = (&'static str, Vec<Entry>, bool, Launch);
    let rows: Vec<Row> = vec![
        ("new", vec![opened()], false, Launch::Create),
        (
            "never created",
            vec![opened(), creating(0)],
            false,
            Launch::Create,
        ),
        (
            "created",
            vec![opened(), creating(0)],
            true,
            start(Some(starting())),
        ),
        (
            "has run",
            vec![opened(), creating(0), starting()],
            true,
            start(None),
        ),
        (
            "gone",
            vec![opened(), creating(0), starting()],
            false,
            absent("c"),
        ),
        ("has come", came(), true, start(Some(starting()))),
        ("has come and is gone", came(), false, absent("c")),
    ];
    for (what, entries, there, expect) in rows {
        let record = record(entries);
        assert_eq!(keeper(2, &record).0.launch(&record, there), expect, "{what}");
    }
}

#[test]
fn what_does_not_start_is_tried_again_handed_back_or_lost() {
    let fails = |engine_answered, absent| Failure {
        engine_answered,
        absent,
    };
    let three = |me: u8, entries: Vec<Entry>, state: &State, failure| {
        let record = record(entries);
        let (mut keeper, now) = keeper(me, &record);
        let known = known(&record, state);
        let first = keeper.start_failed(now, &known, failure);
        assert!(!keeper.wants_start(now, &known, false), "not at once");
        keeper.start_failed(now, &known, failure);
        (first, keeper.start_failed(now, &known, failure))
    };
    let all = chain(&[]);
    let came = || vec![applied(1, 0), acquired(&hand_over(1, 0, 2), 1)];
    let (first, third) = three(2, came(), &all, fails(true, false));
    assert_eq!(first, Failed::Again);
    let Failed::HandBack { stop: None, signing } = third else {
        panic!("{third:?}")
    };
    assert_eq!((signing.destination, signing.root), (node(1), ROOT));

    let mut ran = came();
    ran.push(starting());
    let (_, third) = three(2, ran.clone(), &all, fails(true, false));
    assert!(matches!(third, Failed::HandBack { stop: Some(name), .. } if name == "c"));
    let (_, third) = three(2, ran.clone(), &all, fails(false, false));
    assert_eq!(
        third,
        Failed::Again,
        "an engine that does not answer shows no exit"
    );
    let (_, third) = three(2, ran, &chain(&[evict(1)]), fails(true, false));
    assert_eq!(third, Failed::Again, "there is nobody to give it back to");

    let (_, third) = three(1, vec![opened(), creating(0)], &all, fails(true, false));
    assert_eq!(third, Failed::Lost, "it never served");
    let (_, third) = three(1, vec![opened(), creating(0)], &all, fails(false, false));
    assert_eq!(third, Failed::Again);
    let ran = vec![opened(), creating(0), starting()];
    let (first, _) = three(1, ran.clone(), &all, fails(true, true));
    assert_eq!(first, Failed::Lost, "its state is gone");
    let (_, third) = three(1, ran, &all, fails(true, false));
    assert_eq!(third, Failed::Again, "its state is there");
}

#[test]
fn what_came_back_through_a_lost_machine_is_caught_up_with_by_aborts() {
    let (gave, back) = (hand_over(1, 0, 2), hand_over(2, 1, 1));
    let mut mine = record(vec![
        opened(),
        creating(0),
        starting(),
        signed(&gave),
        acquired(&back, 2),
    ]);
    let (keeper, _) = keeper(1, &mine);
    let abort = |epoch| Abort {
        session: session(),
        epoch,
        claim: None,
    };
    let at = |transactions: &[Transaction]| keeper.chain_moved(&known(&mine, &chain(transactions)));
    assert_eq!(at(&[open()]), Moved::Nothing);
    assert_eq!(at(&[open(), eviction(2, false)]), Moved::Nothing, "it is sealed");
    assert_eq!(at(&[open(), evict(2)]), Moved::Abort(abort(0)));
    let first = sign(1, Payload::Abort(abort(0)));
    let mut all = vec![open(), evict(2), first];
    assert_eq!(at(&all), Moved::Abort(abort(1)));
    let second = sign(1, Payload::Abort(abort(1)));
    all.push(second.clone());
    let Moved::Reclaimed(entry) = at(&all) else {
        panic!("{:?}", at(&all))
    };
    mine.apply(entry);
    let since = second.hash();
    assert_eq!(mine.standing, Standing::Owner { epoch: 2, since });
    assert_eq!(mine.unsealed(0).or(mine.unsealed(1)), None);
    assert_eq!(keeper.chain_moved(&known(&mine, &chain(&all))), Moved::Nothing);
}

#[test]
fn nothing_is_applied_whose_signature_could_not_be_taken() {
    let wanted = |entries: Vec<Entry>, epoch| {
        let record = record(entries);
        keeper(1, &record).0.wants_applied(&record, &applied(2, epoch))
    };
    let gave_later = || vec![opened(), signed(&hand_over(1, 3, 2))];
    assert!(wanted(vec![], 0));
    assert!(!wanted(vec![opened()], 0), "it owns the session");
    assert!(wanted(gave_later(), 4));
    assert!(!wanted(gave_later(), 1), "passed over by the chain");
}

#[test]
fn a_node_that_was_evicted_begins_anew_before_it_starts_anything() {
    let mine = record(vec![opened(), creating(0), starting()]);
    let (mut keeper, now) = keeper(1, &mine);
    let (member, evicted) = (chain(&[open()]), chain(&[open(), evict(1)]));
    assert!(!keeper.wants_start(now, &known(&mine, &evicted), false));
    assert!(keeper.lose(true));
    assert!(!keeper.lose(false), "once");
    assert!(!keeper.wants_start(now, &known(&mine, &member), false));
    assert_eq!(keeper.chain_moved(&known(&mine, &member)), Moved::Back);
    keeper.begin(now);
    assert!(keeper.wants_start(now, &known(&mine, &member), false));
    assert_eq!(keeper.chain_moved(&known(&mine, &member)), Moved::Nothing);
}

#[test]
fn a_kept_container_goes_when_it_has_had_its_time() {
    let keep = Duration::from_secs(60);
    let mut gave = record(vec![
        opened(),
        creating(0),
        starting(),
        signed(&hand_over(1, 0, 2)),
    ]);
    let (mut keeper, now) = keeper(1, &gave);
    assert_eq!(keeper.removable(now + keep * 9, &gave, keep, false), []);
    assert!(keeper.to_repeat(&gave).is_some());
    assert!(keeper.gave_to(&gave, node(2), 1) && !keeper.gave_to(&gave, node(3), 1));
    assert_eq!(keeper.answered(&gave, 7, true), None, "another epoch");
    let entry = keeper.answered(&gave, 1, true).unwrap();
    gave.apply(entry.clone());
    keeper.written(now, &entry);
    assert!(keeper.to_repeat(&gave).is_none());
    assert_eq!(keeper.answered(&gave, 1, true), None, "known");
    assert_eq!(keeper.removable(now + keep / 2, &gave, keep, false), []);
    assert_eq!(
        keeper.removable(now + keep, &gave, keep, true),
        [],
        "it is coming back"
    );
    let removable = keeper.removable(now + keep, &gave, keep, false);
    assert_eq!(removable.len(), 1);
    assert_eq!(removable[0].given, Some((0, ATTEMPT)));
}

#[test]
fn a_start_stops_what_is_not_its_own_and_clears_what_was_left() {
    let keep = Fate {
        stop: false,
        remove: false,
    };
    let stop = Fate { stop: true, ..keep };
    let remove = Fate { remove: true, ..keep };
    let mine = record(vec![opened(), creating(0), starting()]);
    let gave = record(vec![
        opened(),
        creating(0),
        starting(),
        signed(&hand_over(1, 0, 2)),
    ]);
    let waits = record(vec![applied(3, 0)]);
    let empty = chain(&[]);
    let moved = chain(&[open(), hand_over(1, 0, 2)]);
    type Row<'a> = (
        &'static str,
        Option<&'a Record>,
        &'a State,
        (&'a str, bool, bool),
        Fate,
    );
    let rows: Vec<Row<'_>> = vec![
        ("the own one", Some(&mine), &empty, ("c", true, true), keep),
        (
            "the own one, ended",
            Some(&mine),
            &empty,
            ("c", false, true),
            keep,
        ),
        ("overtaken", Some(&mine), &moved, ("c", true, true), stop),
        ("given away", Some(&gave), &empty, ("c", true, true), stop),
        (
            "waits at its gate",
            Some(&waits),
            &empty,
            ("c", true, false),
            stop,
        ),
        ("left behind", Some(&mine), &empty, ("d", false, false), remove),
        (
            "left behind at its gate",
            None,
            &empty,
            ("d", true, false),
            Fate {
                stop: true,
                remove: true,
            },
        ),
        ("of an earlier stay", None, &empty, ("d", true, true), stop),
    ];
    for (what, record, chain, (name, running, passed), expect) in rows {
        let found = Found {
            name,
            running,
            passed,
            stateless: false,
        };
        let sealed = record.and_then(|_| chain.session(&session()));
        assert_eq!(fate(found, record, sealed, node(1)), expect, "{what}");
    }
}

#[test]
fn a_start_clears_a_stateless_container_that_served_for_an_attempt_that_died() {
    let served = |name| Found {
        name,
        running: true,
        passed: true,
        stateless: true,
    };
    let both = Fate {
        stop: true,
        remove: true,
    };
    assert_eq!(fate(served("d"), None, None, node(1)), both);
    let visitor = record(vec![]);
    assert_eq!(fate(served("d"), Some(&visitor), None, node(1)), both);
    // What a record names is its session's.
    let waits = record(vec![applied(3, 0)]);
    let name = waits.applied.as_ref().unwrap().container.name.clone();
    assert!(!fate(served(&name), Some(&waits), None, node(1)).remove);
    let gave = record(vec![
        opened(),
        creating(0),
        starting(),
        signed(&hand_over(1, 0, 2)),
    ]);
    let name = gave.container.as_ref().unwrap().name.clone();
    assert!(!fate(served(&name), Some(&gave), None, node(1)).remove);
}

#[test]
fn a_request_goes_to_the_owner_to_the_opener_or_nowhere() {
    let other = KnownOwner::Other {
        owner: node(3),
        epoch: 2,
    };
    let rows = [
        (other, node(1), false, Turn::To(node(3))),
        (KnownOwner::Me, node(1), true, Turn::Wait),
        (KnownOwner::Closed, node(1), true, Turn::Gone),
        (KnownOwner::Unknown, node(1), true, Turn::To(node(1))),
        (KnownOwner::Unknown, node(1), false, Turn::Unknown),
        (KnownOwner::Unknown, node(2), true, Turn::Gone),
    ];
    for (owner, opener, opener_known, expect) in rows {
        assert_eq!(
            turn(owner, opener, opener_known, node(2)),
            expect,
            "{owner:?} of {opener}"
        );
    }
}

#[test]
fn a_transaction_is_given_up_only_when_the_chain_has_gone_past_it() {
    let sealed = chain(&[open(), hand_over(1, 0, 2)]);
    let sealed = sealed.session(&session());
    let of = |transaction: Transaction| overtaken(&transaction.payload, sealed);
    assert!(of(open()), "opened before");
    assert!(of(hand_over(1, 0, 3)), "another one was first");
    assert!(!of(hand_over(2, 1, 3)), "its turn");
    assert!(!of(hand_over(2, 2, 3)), "too early");
    assert!(!overtaken(&open().payload, None));
}

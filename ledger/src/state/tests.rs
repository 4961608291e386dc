//! The session state machine and the membership, as tables: every step that is taken and every refusal.

use super::*;
use crate::genesis::Params;
use crate::key::SecretKey;
use crate::payload::*;
use crate::session::{MAX_CLAIMS, SessionStatus};

/// Whose it may be by its id is looked at before the state is asked; see `Transaction::verify`.
const SESSION: SessionId = SessionId([5; 32]);

fn key(i: u8) -> SecretKey {
    SecretKey::from_seed(&[i; 32])
}

fn public(i: u8) -> PublicKey {
    key(i).public()
}

fn genesis() -> Genesis {
    Genesis {
        name: "test".into(),
        authorities: vec![public(0)],
        recovery: public(99),
        time_ms: 1,
        params: Params::default(),
    }
}

fn sign(i: u8, payload: Payload) -> Transaction {
    Transaction::sign(&key(i), genesis().chain_id(), 0, payload)
}

fn admit(i: u8, admission: u8) -> Payload {
    Payload::Admit(Admit {
        key: public(i),
        admission: Hash([admission; 32]),
        addresses: vec![],
        gateway: "http://10.0.0.1:8080".into(),
        metrics: None,
        location: Location { lat_e7: 1, lon_e7: 2 },
        radius_m: 300,
        label: format!("host{i}"),
    })
}

fn evict(i: u8) -> Payload {
    Payload::Evict(Evict {
        key: public(i),
        reason: "broken".into(),
        lost: true,
    })
}

fn leave(i: u8, lost: bool) -> Payload {
    Payload::Evict(Evict {
        key: public(i),
        reason: "left".into(),
        lost,
    })
}

fn open() -> Payload {
    Payload::Open(Open {
        session: SESSION,
        service: "counter".into(),
        token_hash: Hash([6; 32]),
    })
}

fn announce(source: u8, epoch: u64) -> Payload {
    announce_of(source, epoch, "counter")
}

fn announce_of(source: u8, epoch: u64, service: &str) -> Payload {
    Payload::Announce(Announce {
        session: SESSION,
        epoch,
        metadata: Metadata {
            source: public(source),
            addresses: vec![],
            container_id: "abc".into(),
            service: service.into(),
            declaration_hash: Hash::ZERO,
            total_size: 1,
            writable_size: 1,
            memory: 1,
            cpu_usage: 1,
            gpu_usage: 0,
            gpu_memory: 0,
            architecture: "amd64".into(),
            config_digest: [3; 32],
        },
        invited: vec![public(2)],
    })
}

fn claim(epoch: u64, attempt: u8, accepted: bool) -> Payload {
    let verdict = Verdict {
        memory: accepted,
        cpu: true,
        gpu: true,
        service: true,
        hard: None,
        accepted,
    };
    Payload::Claim(Claim {
        session: SESSION,
        epoch,
        attempt: [attempt; 16],
        verdict,
    })
}

fn hand_over(epoch: u64, destination: u8) -> Payload {
    Payload::HandOver(HandOver {
        session: SESSION,
        epoch,
        claim: None,
        destination: public(destination),
        manifest_root: Hash([8; 32]),
    })
}

fn abort(epoch: u64) -> Payload {
    Payload::Abort(Abort {
        session: SESSION,
        epoch,
        claim: None,
    })
}

fn release(epoch: u64) -> Payload {
    Payload::Release(Release {
        session: SESSION,
        epoch,
        reason: ReleaseReason::Client,
    })
}

/// Authority 0 and nodes 1 to 3 are members, 4 was one, 5 never.
fn members() -> State {
    let mut state = State::genesis(&genesis());
    for i in 0..=4 {
        state.apply(&sign(0, admit(i, i + 1)), 1).unwrap();
    }
    state.apply(&sign(0, evict(4)), 2).unwrap();
    state
}

/// The same, and node 1 has opened the session.
fn opened() -> State {
    let mut state = members();
    state.apply(&sign(1, open()), 3).unwrap();
    state
}

fn record(state: &State) -> &SessionRecord {
    state.session(&SESSION).unwrap()
}

/// Applies each step to the same state: what is refused changes nothing.
fn run(mut state: State, steps: Vec<(&str, u8, Payload, Result<(), Refusal>)>) -> State {
    for (step, sender, payload, expected) in steps {
        let before = state.clone();
        assert_eq!(state.apply(&sign(sender, payload), 5), expected, "{step}");
        if expected.is_err() {
            assert_eq!(state.members, before.members, "{step} changed members");
            assert_eq!(state.sessions, before.sessions, "{step} changed sessions");
            assert_eq!(state.changes, before.changes, "{step} left a trace");
        }
    }
    state
}

#[test]
fn membership() {
    let owner = Err(Refusal::NotAuthority(public(1)));
    let state = run(
        members(),
        vec![
            ("a member admits", 1, admit(5, 50), owner),
            ("a member evicts", 1, evict(2), owner),
            (
                "a used admission id",
                0,
                admit(5, 2),
                Err(Refusal::AdmissionUsed(Hash([2; 32]))),
            ),
            (
                "evicting a stranger",
                0,
                evict(5),
                Err(Refusal::NotMember(public(5))),
            ),
            (
                "evicting the authority",
                0,
                evict(0),
                Err(Refusal::EvictsAuthority(public(0))),
            ),
            ("a member's new record", 0, admit(1, 51), Ok(())),
            ("a former member again", 0, admit(4, 52), Ok(())),
            ("evicting it again", 0, evict(4), Ok(())),
            (
                "its old admission played again",
                0,
                admit(4, 52),
                Err(Refusal::AdmissionUsed(Hash([52; 32]))),
            ),
        ],
    );
    assert_eq!(state.members().len(), 4);
    let kept = state.members().get(&public(1)).unwrap();
    assert_eq!((kept.since_height, kept.admission), (1, Hash([51; 32])));
    let evicted = state.members().evicted(&public(4)).unwrap();
    assert_eq!((evicted.height, evicted.lost), (5, true));
    assert!(state.members().ever_admitted(&public(4)) && !state.members().ever_admitted(&public(5)));
}

#[test]
fn a_member_leaves_by_its_own_signature_only() {
    let state = run(
        members(),
        vec![
            (
                "another's name",
                1,
                leave(2, false),
                Err(Refusal::NotAuthority(public(1))),
            ),
            (
                "as lost",
                1,
                leave(1, true),
                Err(Refusal::NotAuthority(public(1))),
            ),
            ("its own", 1, leave(1, false), Ok(())),
            ("again", 1, leave(1, false), Err(Refusal::NotMember(public(1)))),
            (
                "a stranger",
                5,
                leave(5, false),
                Err(Refusal::NotMember(public(5))),
            ),
            (
                "the authority",
                0,
                leave(0, false),
                Err(Refusal::EvictsAuthority(public(0))),
            ),
        ],
    );
    let former: Vec<_> = state
        .members()
        .former()
        .map(|(key, left)| (*key, left.lost))
        .collect();
    let mut expected = vec![(public(1), false), (public(4), true)];
    expected.sort_unstable();
    assert_eq!(former, expected);
}

#[test]
fn opening() {
    let state = run(
        members(),
        vec![
            ("by a stranger", 5, open(), Err(Refusal::NeverAdmitted(public(5)))),
            ("by a former member", 4, open(), Ok(())),
            ("a known session", 1, open(), Err(Refusal::SessionExists)),
        ],
    );
    let record = record(&state);
    assert_eq!(
        (record.owner, record.opener, record.epoch),
        (public(4), public(4), 0)
    );
    assert_eq!((record.opened_height, record.since), (5, sign(4, open()).hash()));
}

#[test]
fn every_step_needs_an_open_session() {
    let steps = |expected: Refusal| {
        vec![
            ("announce", 1, announce(1, 0), Err(expected)),
            ("claim", 2, claim(0, 1, true), Err(expected)),
            ("hand over", 1, hand_over(0, 2), Err(expected)),
            ("abort", 1, abort(0), Err(expected)),
            ("release", 1, release(0), Err(expected)),
        ]
    };
    run(members(), steps(Refusal::UnknownSession));
    let mut closed = opened();
    closed.apply(&sign(1, release(0)), 4).unwrap();
    let closed = run(closed, steps(Refusal::SessionClosed));
    run(
        closed,
        vec![("opening it again", 1, open(), Err(Refusal::SessionExists))],
    );
}

#[test]
fn every_step_names_the_epoch() {
    let steps = |epoch: u64, expected: Refusal| {
        vec![
            ("announce", 2, announce(2, epoch), Err(expected)),
            ("claim", 3, claim(epoch, 1, true), Err(expected)),
            ("hand over", 2, hand_over(epoch, 3), Err(expected)),
            ("abort", 2, abort(epoch), Err(expected)),
            ("release", 2, release(epoch), Err(expected)),
        ]
    };
    let mut state = opened();
    state.apply(&sign(1, hand_over(0, 2)), 4).unwrap();
    let state = run(state, steps(0, Refusal::EpochPassed { named: 0, now: 1 }));
    run(state, steps(2, Refusal::EpochAhead { named: 2, now: 1 }));
}

#[test]
fn only_the_owner_speaks_for_a_session() {
    let not_owner = Err(Refusal::NotOwner { owner: public(1) });
    run(
        opened(),
        vec![
            ("announce", 2, announce(2, 0), not_owner),
            ("hand over", 2, hand_over(0, 3), not_owner),
            ("hand over to itself", 2, hand_over(0, 2), not_owner),
            ("hand over by the authority", 0, hand_over(0, 3), not_owner),
            ("abort", 2, abort(0), not_owner),
            ("release", 2, release(0), not_owner),
        ],
    );
}

#[test]
fn announcing() {
    let state = run(
        opened(),
        vec![
            ("as another", 1, announce(2, 0), Err(Refusal::SourceMismatch)),
            (
                "another service",
                1,
                announce_of(1, 0, "other"),
                Err(Refusal::ServiceMismatch),
            ),
            ("rightly", 1, announce(1, 0), Ok(())),
        ],
    );
    assert_eq!(record(&state).metadata.as_ref().unwrap().source, public(1));
    assert_eq!(record(&state).invited, [public(2)]);
    let mut evicted = opened();
    evicted.apply(&sign(0, evict(1)), 4).unwrap();
    run(
        evicted,
        vec![(
            "by an evicted owner",
            1,
            announce(1, 0),
            Err(Refusal::NotMember(public(1))),
        )],
    );
}

#[test]
fn claiming() {
    let state = run(
        opened(),
        vec![
            ("by the owner", 1, claim(0, 1, true), Err(Refusal::OwnSession)),
            (
                "by a former member",
                4,
                claim(0, 1, true),
                Err(Refusal::NotMember(public(4))),
            ),
            (
                "by a stranger",
                5,
                claim(0, 1, true),
                Err(Refusal::NotMember(public(5))),
            ),
            ("with verdict false", 2, claim(0, 1, false), Ok(())),
            ("beside another", 3, claim(0, 2, true), Ok(())),
            ("again", 2, claim(0, 3, true), Ok(())),
        ],
    );
    let claims = &record(&state).claims;
    let standing: Vec<_> = claims
        .iter()
        .map(|claim| (claim.sender, claim.attempt[0]))
        .collect();
    assert_eq!(standing, [(public(3), 2), (public(2), 3)]);
    assert_eq!((record(&state).owner, record(&state).epoch), (public(1), 0));
    assert_eq!(claims[1].hash, sign(2, claim(0, 3, true)).hash());
}

#[test]
fn at_most_sixteen_claims_stand() {
    let mut state = opened();
    for i in 10..10 + MAX_CLAIMS as u8 + 1 {
        state.apply(&sign(0, admit(i, 100 + i)), 4).unwrap();
    }
    for i in 10..10 + MAX_CLAIMS as u8 {
        state.apply(&sign(i, claim(0, i, true)), 4).unwrap();
    }
    let last = 10 + MAX_CLAIMS as u8;
    let mut state = run(
        state,
        vec![
            ("one too many", last, claim(0, 1, true), Err(Refusal::ClaimsFull)),
            ("the first again", 10, claim(0, 2, true), Ok(())),
        ],
    );
    state.apply(&sign(0, evict(11)), 4).unwrap();
    let state = run(
        state,
        vec![("in an evicted node's place", last, claim(0, 1, true), Ok(()))],
    );
    assert_eq!(record(&state).claims.len(), MAX_CLAIMS);
    assert!(
        record(&state)
            .claims
            .iter()
            .all(|claim| claim.sender != public(11))
    );
}

#[test]
fn handing_over() {
    let mut state = opened();
    state.apply(&sign(1, announce(1, 0)), 4).unwrap();
    state.apply(&sign(2, claim(0, 1, true)), 4).unwrap();
    let state = run(
        state,
        vec![
            ("to itself", 1, hand_over(0, 1), Err(Refusal::DestinationIsOwner)),
            (
                "to a former member",
                1,
                hand_over(0, 4),
                Err(Refusal::DestinationNotMember(public(4))),
            ),
            (
                "to a stranger",
                1,
                hand_over(0, 5),
                Err(Refusal::DestinationNotMember(public(5))),
            ),
            // Node 3 has claimed nothing: no sealed claim is needed.
            ("to a member", 1, hand_over(0, 3), Ok(())),
        ],
    );
    let after = record(&state);
    assert_eq!(
        (after.owner, after.opener, after.epoch),
        (public(3), public(1), 1)
    );
    assert_eq!(after.since, sign(1, hand_over(0, 3)).hash());
    assert!(after.metadata.is_none() && after.claims.is_empty() && after.invited.is_empty());
    let state = run(
        state,
        vec![
            (
                "a second of one epoch",
                1,
                hand_over(0, 2),
                Err(Refusal::EpochPassed { named: 0, now: 1 }),
            ),
            (
                "by the former owner",
                1,
                hand_over(1, 2),
                Err(Refusal::NotOwner { owner: public(3) }),
            ),
            ("back", 3, hand_over(1, 1), Ok(())),
        ],
    );
    assert_eq!((record(&state).owner, record(&state).epoch), (public(1), 2));
}

#[test]
fn an_evicted_owner_still_hands_over_aborts_and_releases() {
    let evicted = || {
        let mut state = opened();
        state.apply(&sign(0, evict(1)), 4).unwrap();
        state
    };
    run(evicted(), vec![("hand over", 1, hand_over(0, 2), Ok(()))]);
    run(evicted(), vec![("abort", 1, abort(0), Ok(()))]);
    run(evicted(), vec![("release", 1, release(0), Ok(()))]);
}

#[test]
fn a_hand_over_to_a_member_that_has_left_is_recorded() {
    let mut state = opened();
    state.apply(&sign(2, leave(2, false)), 4).unwrap();
    let state = run(state, vec![("signed before", 1, hand_over(0, 2), Ok(()))]);
    assert_eq!((record(&state).owner, record(&state).epoch), (public(2), 1));
}

#[test]
fn aborting_stands_in_the_place_of_a_hand_over() {
    let mut state = opened();
    state.apply(&sign(1, announce(1, 0)), 4).unwrap();
    state.apply(&sign(0, evict(2)), 4).unwrap();
    let state = run(
        state,
        vec![
            (
                "the hand-over",
                1,
                hand_over(0, 2),
                Err(Refusal::DestinationNotMember(public(2))),
            ),
            ("the abort", 1, abort(0), Ok(())),
            (
                "the hand-over after it",
                1,
                hand_over(0, 3),
                Err(Refusal::EpochPassed { named: 0, now: 1 }),
            ),
        ],
    );
    let after = record(&state);
    assert_eq!(
        (after.owner, after.epoch, after.since),
        (public(1), 1, sign(1, abort(0)).hash())
    );
    assert!(after.metadata.is_none());
}

#[test]
fn releasing() {
    let state = run(opened(), vec![("by the owner", 1, release(0), Ok(()))]);
    let after = record(&state);
    assert_eq!(after.status, SessionStatus::Closed(ReleaseReason::Client));
    assert_eq!((after.owner, after.epoch), (public(1), 0));
    assert!(!after.is_open());
}

#[test]
fn heights_expire() {
    let mut state = opened();
    let transaction = Transaction::sign(&key(2), genesis().chain_id(), 100, claim(0, 1, true));
    assert_eq!(transaction.max_height, Some(1100));
    assert_eq!(state.apply(&transaction, 99), Err(Refusal::ExpiresTooLate(1100)));
    assert_eq!(state.apply(&transaction, 1101), Err(Refusal::Expired(1100)));
    assert_eq!(state.apply(&transaction, 1100), Ok(()));
}

#[test]
fn roots_follow_the_state() {
    let mut state = members();
    let (before, changes) = state.seal_changes();
    assert_eq!(
        (
            before.member_count,
            changes.members.len(),
            changes.admissions.len()
        ),
        (4, 5, 5)
    );
    let (same, nothing) = state.seal_changes();
    assert_eq!((same, nothing), (before, Changes::default()));
    state.apply(&sign(1, open()), 3).unwrap();
    let (after, changes) = state.seal_changes();
    assert_eq!(changes.sessions.len(), 1);
    assert_eq!(after.members_root, before.members_root);
    assert_ne!(after.sessions_root, before.sessions_root);
    let rebuilt = State::from_parts(&genesis(), state.members.clone(), state.sessions.clone());
    assert_eq!(rebuilt.clone().seal_changes().0, after);
}

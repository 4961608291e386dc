use super::*;

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn session(n: u8) -> SessionId {
    SessionId([n; 32])
}

fn owned(ids: impl IntoIterator<Item = u8>) -> BTreeMap<SessionId, String> {
    ids.into_iter()
        .map(|n| (session(n), "counter".to_owned()))
        .collect()
}

fn plan(ids: impl IntoIterator<Item = u8>) -> Plan {
    let mut plan = Plan::default();
    plan.see(&owned(ids));
    plan
}

fn stage(plan: &Plan, n: u8) -> Stage {
    plan.moves().find(|(id, _)| **id == session(n)).unwrap().1.stage
}

fn error(plan: &Plan, n: u8) -> Option<String> {
    let found = plan.moves().find(|(id, _)| **id == session(n));
    found.unwrap().1.error.clone()
}

#[test]
fn so_many_at_once_to_the_first_member() {
    let now = Instant::now();
    let mut plan = plan(1..=3);
    assert!(!plan.settled());
    let members = [key(8), key(9)];
    let first = plan.next(now, &members, 2);
    assert_eq!(first, [(session(1), key(8)), (session(2), key(8))]);
    assert_eq!(plan.next(now, &members, 0), []);
    plan.ended(now, &session(1), key(8), End::Moved);
    assert_eq!(plan.next(now, &members, 1), [(session(3), key(8))]);
    for n in [2, 3] {
        plan.ended(now, &session(n), key(8), End::Moved);
    }
    assert!(plan.settled());
    assert_eq!(stage(&plan, 3), Stage::Moved(key(8)));
}

#[test]
fn a_member_that_is_unfit_is_not_asked_again() {
    let now = Instant::now();
    let mut plan = plan([1]);
    let members = [key(8), key(9)];
    assert_eq!(plan.next(now, &members, 2), [(session(1), key(8))]);
    plan.ended(now, &session(1), key(8), End::Unfit("no room".into()));
    assert_eq!(plan.next(now, &members, 2), [(session(1), key(9))]);
    plan.ended(now, &session(1), key(9), End::Unfit("no memory".into()));
    assert_eq!(plan.next(now, &members, 2), []);
    assert_eq!(stage(&plan, 1), Stage::Remains);
    assert_eq!(error(&plan, 1).as_deref(), Some("no memory"));
    assert!(plan.settled());
}

#[test]
fn a_failure_is_tried_again_after_a_pause_and_not_for_ever() {
    let mut now = Instant::now();
    let mut plan = plan([1]);
    let members = [key(8)];
    for _ in 0..TRIES {
        assert_eq!(plan.next(now, &members, 2), [(session(1), key(8))]);
        plan.ended(now, &session(1), key(8), End::Failed("broken".into()));
        assert_eq!(plan.next(now, &members, 2), [], "not at once");
        now += PAUSE;
    }
    assert_eq!(plan.next(now, &members, 2), []);
    assert_eq!(stage(&plan, 1), Stage::Remains);
}

#[test]
fn a_busy_member_is_waited_for_and_then_given_up() {
    let mut now = Instant::now();
    let mut plan = plan([1]);
    let members = [key(8), key(9)];
    let begin = now;
    while now.saturating_duration_since(begin) < BUSY_WAIT {
        assert_eq!(plan.next(now, &members, 2), [(session(1), key(8))]);
        now += PAUSE;
        plan.ended(now, &session(1), key(8), End::Busy);
        now += PAUSE;
    }
    plan.next(now, &members, 2);
    now += BUSY_WAIT;
    plan.ended(now, &session(1), key(8), End::Busy);
    assert_eq!(plan.next(now + PAUSE, &members, 2), [(session(1), key(9))]);
}

#[test]
fn what_remains_is_tried_again_later_with_every_member() {
    let now = Instant::now();
    let mut plan = plan([1]);
    assert_eq!(plan.next(now, &[], 2), []);
    assert_eq!(stage(&plan, 1), Stage::Remains);
    assert!(error(&plan, 1).unwrap().contains("no other connected member"));
    plan.retry(now + RETRY / 2);
    assert!(plan.settled(), "too early");
    plan.retry(now + RETRY);
    assert!(!plan.settled());
    assert_eq!(plan.next(now + RETRY, &[key(8)], 2), [(session(1), key(8))]);
}

#[test]
fn sessions_come_go_and_come_back() {
    let now = Instant::now();
    let mut plan = plan([1, 2]);
    plan.next(now, &[key(8)], 1);
    // The one that is under way is not in the journal's list any more; that says nothing yet.
    plan.see(&owned([3]));
    assert_eq!(stage(&plan, 1), Stage::Moving(key(8)));
    assert_eq!(stage(&plan, 2), Stage::Closed, "its client ended it");
    plan.ended(now, &session(1), key(8), End::Moved);
    plan.see(&owned([1, 3]));
    assert_eq!(stage(&plan, 1), Stage::Waiting, "handed back");
}

#[test]
fn the_end_of_an_earlier_drains_move_says_nothing() {
    let now = Instant::now();
    let mut plan = plan([1]);
    plan.ended(now, &session(1), key(8), End::Moved);
    assert_eq!(stage(&plan, 1), Stage::Waiting);
    plan.ended(now, &session(7), key(8), End::Closed);
}

use super::*;
use crate::oracle::record::{Entry, Report};

const SESSION: &str = "aaaa";

/// Records as they are written, by what is told. The process of an instance is its name's length.
fn history(reports: Vec<Report>) -> History {
    let entries: Vec<Entry> = reports
        .into_iter()
        .map(|report| Entry {
            at_ns: 0,
            pid: report.by().map_or(1, |by| by.len() as i32),
            report,
        })
        .collect();
    History::of(&entries)
}

fn start(instance: &str, time_ns: u64, numbers: &[(u64, u64)]) -> Report {
    Report::Start {
        session: SESSION.to_owned(),
        epoch: 1,
        instance: instance.to_owned(),
        container: format!("c-{instance}"),
        count: numbers.iter().map(|(first, last)| last - first + 1).sum(),
        time_ns,
        numbers: numbers.to_vec(),
    }
}

fn answer(instance: &str, time_ns: u64, count: u64, number: u64) -> Report {
    Report::Answer {
        session: SESSION.to_owned(),
        epoch: 1,
        instance: instance.to_owned(),
        count,
        number,
        time_ns,
    }
}

fn stop(instance: &str, time_ns: u64, count: u64) -> Report {
    Report::Stop {
        session: SESSION.to_owned(),
        epoch: 1,
        instance: instance.to_owned(),
        count,
        time_ns,
    }
}

fn heard(instance: &str, count: u64, number: u64) -> Report {
    Report::Acknowledged {
        instance: instance.to_owned(),
        count,
        number,
    }
}

fn gone(instance: &str) -> Report {
    Report::Gone {
        instance: instance.to_owned(),
    }
}

/// A session that moves once and is killed once, and loses nothing.
fn good() -> Vec<Report> {
    vec![
        start("a", 10, &[]),
        answer("a", 11, 1, 1),
        heard("a", 1, 1),
        answer("a", 12, 2, 2),
        stop("a", 13, 2),
        gone("a"),
        start("bb", 20, &[(1, 2)]),
        // Request 3 failed on its way; the car is told of 4 only after bb is gone.
        answer("bb", 21, 3, 4),
        heard("bb", 3, 4),
        gone("bb"),
        // bb was killed when it had written 5 and told nobody.
        start("ccc", 30, &[(1, 2), (4, 5)]),
        answer("ccc", 31, 5, 6),
        heard("ccc", 5, 6),
    ]
}

/// The names of the checks that do not hold.
fn broken(reports: Vec<Report>) -> Vec<&'static str> {
    let checks = all(&history(reports));
    checks
        .iter()
        .filter(|check| !check.ok())
        .map(|check| check.name)
        .collect()
}

const OVERLAP: &str = "no two instances of a session answer at one time";
const GAP: &str = "counters are contiguous";
const LOST: &str = "nothing that was acknowledged is lost";
const UNSEEN: &str = "no instance answers unseen";

#[test]
fn a_session_that_moves_and_is_killed_holds() {
    assert_eq!(broken(good()), [""; 0]);
    let history = history(good());
    assert_eq!(
        (history.moves(0, 100), history.moves(0, 30), history.restarts()),
        (2, 1, 0)
    );
    let counters = counters(&history);
    assert_eq!(counters.seen, "4 answers, 1 written and not answered at a kill");
}

#[test]
fn an_overlap_of_a_nanosecond_is_found() {
    let mut reports = good();
    reports[6] = start("bb", 12, &[(1, 2)]);
    assert_eq!(broken(reports), [OVERLAP]);
    // It need not answer: that it runs is enough.
    let mut reports = good();
    reports.insert(6, start("x", 19, &[(1, 2)]));
    reports.insert(7, stop("x", 20, 2));
    assert_eq!(broken(reports), [""; 0]);
    let mut reports = good();
    reports.insert(6, start("x", 19, &[(1, 2)]));
    reports.insert(7, stop("x", 21, 2));
    assert_eq!(broken(reports), [OVERLAP]);
}

#[test]
fn one_that_answers_long_after_another_has_taken_over_is_found() {
    // Between them a third, short one.
    let mut reports = good();
    reports.push(answer("a", 40, 3, 9));
    assert!(broken(reports).contains(&OVERLAP));
}

#[test]
fn a_gap_is_found_wherever_it_is() {
    // At a move: a number too few, and one too many after an orderly stop.
    for numbers in [&[(1, 1)][..], &[(1, 3)]] {
        let mut reports = good();
        reports[6] = start("bb", 20, numbers);
        let found = broken(reports);
        assert!(found.contains(&GAP), "{numbers:?}: {found:?}");
    }
    // At a kill: two numbers too many.
    let mut reports = good();
    reports[10] = start("ccc", 30, &[(1, 2), (4, 6)]);
    assert!(broken(reports).contains(&GAP));
    // Within a run.
    let mut reports = good();
    reports[3] = answer("a", 12, 3, 2);
    assert!(broken(reports).contains(&GAP));
    // At a stop.
    let mut reports = good();
    reports[4] = stop("a", 13, 3);
    assert!(broken(reports).contains(&GAP));
    // At the very beginning.
    let mut reports = good();
    reports[0] = start("a", 10, &[(7, 7)]);
    assert!(broken(reports).contains(&GAP));
}

#[test]
fn a_number_that_is_there_twice_is_found() {
    let mut reports = good();
    reports[7] = answer("bb", 21, 3, 2);
    reports[8] = heard("bb", 3, 2);
    reports[10] = start("ccc", 30, &[(1, 2), (5, 5)]);
    assert_eq!(broken(reports), [GAP]);
    // In the state only: three lines, two numbers.
    let mut reports = good();
    if let Report::Start { count, numbers, .. } = &mut reports[10] {
        (*count, *numbers) = (4, vec![(1, 2), (4, 4)]);
    }
    assert_eq!(broken(reports), [GAP]);
}

#[test]
fn what_was_acknowledged_and_is_not_there_in_the_end_is_found() {
    // As many numbers as before, but another one.
    let mut reports = good();
    reports[10] = start("ccc", 30, &[(2, 5)]);
    assert_eq!(broken(reports), [LOST]);
    // The car was not told of number 2 any more, and yet it was answered.
    let mut reports = good();
    reports[10] = start("ccc", 30, &[(1, 1), (3, 5)]);
    assert_eq!(broken(reports), [LOST]);
    // The last instance has forgotten what it acknowledged.
    let mut reports = good();
    reports[11] = answer("ccc", 31, 5, 7);
    assert!(broken(reports).contains(&LOST));
}

#[test]
fn an_answer_that_no_instance_told_is_found() {
    for unseen in [heard("ccc", 6, 7), heard("stranger", 1, 7), heard("ccc", 4, 6)] {
        let mut reports = good();
        reports.push(unseen);
        assert!(broken(reports).contains(&UNSEEN));
    }
    let mut reports = good();
    reports.push(answer("stranger", 99, 1, 1));
    assert_eq!(broken(reports), [UNSEEN]);
    let mut reports = good();
    reports.push(Report::Unreadable { line: "x".to_owned() });
    assert_eq!(broken(reports), [UNSEEN]);
}

#[test]
fn in_the_end_a_session_runs_once_where_its_engine_lists_it() {
    let listed = |pid: Option<i32>, container: &str, session: &str, started| Listed {
        node: 1,
        pid,
        container: container.to_owned(),
        session: session.to_owned(),
        started,
    };
    let ok = |reports, listed: &[Listed]| in_the_end(&history(reports), listed).ok();
    let there = listed(Some(3), "c-ccc", SESSION, true);
    let kept = listed(Some(2), "c-bb", SESSION, true);
    assert!(ok(good(), &[kept.clone(), there.clone()]));
    for wrong in [
        listed(None, "c-ccc", SESSION, true),
        listed(Some(2), "c-ccc", SESSION, true),
        listed(Some(3), "c-bb", SESSION, true),
        listed(Some(3), "c-ccc", "bbbb", true),
        listed(Some(3), "c-ccc", SESSION, false),
    ] {
        assert!(!ok(good(), std::slice::from_ref(&wrong)), "{wrong:?}");
    }
    // Nobody runs it; two do.
    let mut none = good();
    none.push(gone("ccc"));
    assert!(!ok(none, std::slice::from_ref(&there)));
    let mut two = good();
    two.remove(9);
    assert!(!ok(two, &[kept, there]));
}

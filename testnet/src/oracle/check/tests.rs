use super::*;
use crate::oracle::record::{Entry, Report};

const SESSION: &str = "aaaa";

/// Records as they are written, by what is told: read at once, and likewise what has no time of its own. The process of an
/// instance is its name's length.
fn history(reports: Vec<Report>) -> History {
    let mut now = 0;
    let entries: Vec<Entry> = reports
        .into_iter()
        .map(|report| {
            if let Report::Start { time_ns, .. }
            | Report::Answer { time_ns, .. }
            | Report::Stop { time_ns, .. } = &report
            {
                now = *time_ns;
            }
            Entry {
                at_ns: now,
                pid: report.by().map_or(1, |by| by.len() as i32),
                report,
            }
        })
        .collect();
    History::of(&entries)
}

fn start(instance: &str, time_ns: u64, numbers: &[(u64, u64)]) -> Report {
    Report::Start {
        session: SESSION.to_owned(),
        epoch: instance.len() as u64,
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
        car: "car1".to_owned(),
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
const EPOCHS: &str = "each container answers for an epoch of its own, and epochs rise";
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
fn one_that_says_nothing_runs_until_it_is_gone() {
    let after = |end: Report, seen_ns: u64| {
        // What the next one tells gives the time at which the end is seen.
        let mut reports = good();
        reports.drain(9..);
        reports.extend([end, gone("bb")]);
        let mut late = history(reports);
        let runs = late.sessions.get_mut(SESSION).unwrap();
        runs[1].gone_ns = Some(seen_ns);
        let mut next = runs[1].clone();
        (next.instance, next.start_ns, next.gone_ns) = ("ccc".to_owned(), 30 * LATE_NS, None);
        (next.found, next.answers, next.stop) = (runs[1].state(), Vec::new(), None);
        next.start_count = runs[1].end_count();
        runs.push(next);
        overlaps(&late).ok()
    };
    let quiet = || heard("bb", 3, 4);
    assert!(after(quiet(), 30 * LATE_NS));
    assert!(after(quiet(), 31 * LATE_NS));
    assert!(!after(quiet(), 31 * LATE_NS + 1));
    // Whoever has stopped does nothing until it is gone.
    assert!(after(stop("bb", 22, 3), 40 * LATE_NS));
    // It is not gone at all.
    let mut reports = good();
    reports.remove(9);
    assert_eq!(broken(reports), [OVERLAP]);
}

#[test]
fn two_containers_of_one_epoch_are_found_if_both_answer() {
    let other = |reports: &mut Vec<Report>, of: u64| {
        if let Report::Start { epoch, .. } = &mut reports[10] {
            *epoch = of;
        }
    };
    for epoch in [1, 2] {
        let mut reports = good();
        other(&mut reports, epoch);
        assert_eq!(broken(reports), [EPOCHS]);
    }
    // One that answered nobody made nothing of it.
    let mut reports = good();
    other(&mut reports, 2);
    reports.truncate(11);
    assert_eq!(broken(reports), [""; 0]);
}

#[test]
fn a_move_counts_when_the_session_goes_on_in_a_later_epoch() {
    // To ccc and back: it answered nobody. Then the same container answers once more.
    let mut reports = good();
    reports.truncate(11);
    reports.push(gone("ccc"));
    let again = |instance: &str, time_ns| {
        let mut report = start(instance, time_ns, &[(1, 2), (4, 5)]);
        if let Report::Start { container, epoch, .. } = &mut report {
            (*container, *epoch) = ("c-bb".to_owned(), 2);
        }
        report
    };
    reports.extend([again("dddd", 40), answer("dddd", 41, 5, 6)]);
    let found = history(reports.clone());
    assert_eq!((found.moves(0, 100), found.restarts()), (1, 0));
    reports.extend([gone("dddd"), again("eeeee", 50), answer("eeeee", 51, 6, 7)]);
    let found = history(reports);
    assert_eq!((found.moves(0, 100), found.restarts()), (1, 1));
}

#[test]
fn nothing_is_no_proof() {
    assert_eq!(broken(Vec::new()), [OVERLAP, EPOCHS, GAP, LOST, UNSEEN]);
    let history = History::default();
    assert!(!in_the_end(&history, &[]).ok());
    assert!(!one_session(&history, [].into_iter()).ok());
}

#[test]
fn a_car_whose_numbers_lie_in_two_sessions_is_found() {
    let ok = |reports| one_session(&history(reports), ["car1"].into_iter()).ok();
    assert!(ok(good()));
    let mut two = good();
    let mut fresh = start("ffffff", 40, &[]);
    let mut first = answer("ffffff", 41, 1, 7);
    for report in [&mut fresh, &mut first] {
        if let Report::Start { session, .. } | Report::Answer { session, .. } = report {
            *session = "bbbb".to_owned();
        }
    }
    two.extend([fresh, first]);
    // An opening that a car did not hear of leaves a session without one.
    assert!(ok(two.clone()));
    two.push(heard("ffffff", 1, 7));
    assert_eq!(broken(two.clone()), [""; 0], "each session for itself is whole");
    assert!(!ok(two));
    let both = ["car1", "car2"].into_iter();
    assert!(!one_session(&history(good()), both).ok(), "car2 was told nothing");
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
    // bb was killed when it had written 5 and told nobody; ccc counts it once more.
    let mut reports = good();
    reports[11] = answer("ccc", 31, 5, 5);
    reports[12] = heard("ccc", 5, 5);
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
        tells: true,
        numbers: Ok(vec![1, 2, 4, 5, 6]),
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
    // Its disk has one fewer, one more, one twice; or nothing that can be read.
    for numbers in [
        Ok(vec![1, 2, 4, 5]),
        Ok(vec![1, 2, 4, 5, 6, 7]),
        Ok(vec![1, 2, 4, 5, 6, 6]),
        Err("no such file".to_owned()),
    ] {
        let wrong = Listed {
            numbers,
            ..there.clone()
        };
        assert!(!ok(good(), std::slice::from_ref(&wrong)), "{wrong:?}");
    }
    // A container that was started without being heard of; one that was not, or does not tell, is no matter.
    for (started, tells, holds) in [(true, true, false), (false, true, true), (true, false, true)] {
        let strange = Listed {
            tells,
            ..listed(Some(9), "c-x", "cccc", started)
        };
        assert_eq!(ok(good(), &[there.clone(), strange]), holds);
    }
    // Nobody runs it; two do.
    let mut none = good();
    none.push(gone("ccc"));
    assert!(!ok(none, std::slice::from_ref(&there)));
    let mut two = good();
    two.remove(9);
    assert!(!ok(two, &[kept, there]));
}

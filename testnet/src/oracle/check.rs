//! What has to hold of every session, whatever was killed, cut or paused meanwhile.
//!
//! All of it follows from an oracle's records and from the engines' own lists. Nothing here has seen a ledger.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::history::{History, Run};
use super::listing::Listed;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What has to hold.
    pub name: &'static str,
    /// On how much that was found.
    pub seen: String,
    /// Where it does not hold; empty when it does.
    pub violations: Vec<String>,
}

impl Check {
    /// Whether it holds.
    pub fn ok(&self) -> bool {
        self.violations.is_empty()
    }

    /// What holds of nothing says nothing.
    fn of_something(mut self, of: usize) -> Check {
        if of == 0 {
            self.violations.push("nothing was seen".to_owned());
        }
        self
    }
}

/// How much later than it happened the oracle may see that an instance is gone. Whoever is woken by a closed connection is
/// woken later on a machine that is busy; a stop, and each answer, come with the instance's own time.
pub const LATE_NS: u64 = 250_000_000;

/// All checks that an oracle's records allow.
pub fn all(history: &History) -> Vec<Check> {
    let runs = history.runs().count();
    let heard = history.acknowledged.len();
    [
        (overlaps(history), runs),
        (epochs(history), runs),
        (counters(history), runs),
        (lost(history), heard),
        (answers(history), heard),
    ]
    .map(|(check, of)| check.of_something(of))
    .into()
}

/// A session and an instance, as short as they are told apart.
fn name(session: &str, run: &Run) -> String {
    let short: String = session.chars().take(12).collect();
    format!(
        "session {short}, instance {} (epoch {}, process {})",
        run.instance, run.epoch, run.pid
    )
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Until when a run may have answered: its orderly stop, or else until it was gone, as early as that may have been; and in any
/// case as long as it was heard of.
fn until_ns(run: &Run) -> u64 {
    let quiet = match (run.stop, run.gone_ns) {
        (Some((stop_ns, _)), _) => stop_ns,
        (None, Some(gone_ns)) => gone_ns.saturating_sub(LATE_NS),
        (None, None) => u64::MAX,
    };
    quiet.max(run.end_ns())
}

/// No two instances of a session answer in overlapping intervals. An interval is from the start, before which the program has
/// not run, to an orderly stop or the end of its process: one that says nothing may answer nevertheless.
fn overlaps(history: &History) -> Check {
    let mut violations = Vec::new();
    for (session, runs) in &history.sessions {
        let mut latest: Option<&Run> = None;
        for run in runs {
            if let Some(other) = latest.filter(|other| until_ns(other) > run.start_ns) {
                let ended = match until_ns(other) {
                    u64::MAX => "has not ended".to_owned(),
                    end => format!("ended {:.6} s later", seconds(end - run.start_ns)),
                };
                violations.push(format!(
                    "{} started, and instance {} (process {}) before it {ended}",
                    name(session, run),
                    other.instance,
                    other.pid
                ));
            }
            latest = match latest {
                Some(other) if until_ns(other) >= until_ns(run) => Some(other),
                _ => Some(run),
            };
        }
    }
    let (sessions, runs) = (history.sessions.len(), history.runs().count());
    Check {
        name: "no two instances of a session answer at one time",
        seen: format!(
            "{runs} runs of {sessions} sessions, heard of within {:.0} ms",
            history.lag_ns as f64 / 1e6
        ),
        violations,
    }
}

/// Whoever answers answers for an epoch of its own, and for a later one than all before.
fn epochs(history: &History) -> Check {
    let mut violations = Vec::new();
    for (session, runs) in &history.sessions {
        let mut latest: Option<&Run> = None;
        for run in runs.iter().filter(|run| !run.answers.is_empty()) {
            let other = latest.filter(|other| other.container != run.container && other.epoch >= run.epoch);
            violations.extend(other.map(|other| {
                format!(
                    "{} answered, and instance {} of epoch {} in another container before it",
                    name(session, run),
                    other.instance,
                    other.epoch
                )
            }));
            latest = Some(run);
        }
    }
    let answering = history.runs().filter(|run| !run.answers.is_empty()).count();
    Check {
        name: "each container answers for an epoch of its own, and epochs rise",
        seen: format!("{answering} runs that answered"),
        violations,
    }
}

/// Each instance goes on where the one before it ended, and counts each number once.
///
/// One that was killed may have written a number and not told of it any more: nobody has been answered by it. So whoever
/// comes after a run without an orderly stop may find one number more, and no run that stopped leaves one.
fn counters(history: &History) -> Check {
    let (mut violations, mut untold) = (Vec::new(), 0);
    for (session, runs) in &history.sessions {
        let (mut expected, mut may_have_one_more) = (0, false);
        let mut numbers = BTreeSet::new();
        for run in runs {
            let mut say = |what: String| violations.push(format!("{}: {what}", name(session, run)));
            match run.start_count.checked_sub(expected) {
                Some(0) => {}
                Some(1) if may_have_one_more => untold += 1,
                _ => say(format!(
                    "it found {} numbers where {expected} had been counted",
                    run.start_count
                )),
            }
            if run.found.len() as u64 != run.start_count {
                say(format!(
                    "it found {} numbers, of which {} differ",
                    run.start_count,
                    run.found.len()
                ));
            }
            let mut count = run.start_count;
            for answer in &run.answers {
                if answer.count != count + 1 {
                    say(format!("it counted {} after {count}", answer.count));
                }
                count = answer.count;
                // It may have been written by one that was killed before it told so.
                if run.found.contains(&answer.number) || !numbers.insert(answer.number) {
                    say(format!("number {} was counted a second time", answer.number));
                }
            }
            if let Some((_, left)) = run.stop.filter(|(_, left)| *left != count) {
                say(format!("it left {left} numbers after it had counted {count}"));
            }
            (expected, may_have_one_more) = (run.end_count(), run.stop.is_none());
        }
    }
    let answers: usize = history.runs().map(|run| run.answers.len()).sum();
    Check {
        name: "counters are contiguous",
        seen: format!("{answers} answers, {untold} written and not answered at a kill"),
        violations,
    }
}

/// Whatever an instance has answered the next one finds, and whatever a car was told is done is in the state in the end: by what
/// the last one told, which [`in_the_end`] holds against the disk.
fn lost(history: &History) -> Check {
    let mut states: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut session_of: BTreeMap<&str, &str> = BTreeMap::new();
    let mut violations = Vec::new();
    for (session, runs) in &history.sessions {
        session_of.extend(runs.iter().map(|run| (run.instance.as_str(), session.as_str())));
        for pair in runs.windows(2) {
            let missing: Vec<u64> = pair[0].state().difference(&pair[1].found).copied().collect();
            if !missing.is_empty() {
                let before = &pair[0].instance;
                violations.push(format!(
                    "{}: of instance {before}'s state {missing:?} is not there",
                    name(session, &pair[1])
                ));
            }
        }
        if let Some(last) = runs.last() {
            states.insert(session, last.state());
        }
    }
    for told in &history.acknowledged {
        let session = session_of
            .get(told.instance.as_str())
            .copied()
            .unwrap_or_default();
        let kept = states
            .get(session)
            .is_some_and(|state| state.contains(&told.number));
        if !kept {
            violations.push(format!(
                "session {session}: number {}, which instance {} acknowledged, is not in the state in the end",
                told.number, told.instance
            ));
        }
    }
    Check {
        name: "nothing that was acknowledged is lost",
        seen: format!("{} acknowledgements", history.acknowledged.len()),
        violations,
    }
}

/// Whatever a car was told, an instance has told the oracle; and nobody told anything else.
fn answers(history: &History) -> Check {
    let told: BTreeSet<(&str, u64, u64)> = history
        .runs()
        .flat_map(|run| {
            let answers = run.answers.iter();
            answers.map(|answer| (run.instance.as_str(), answer.number, answer.count))
        })
        .collect();
    let mut violations = history.misfits.clone();
    for heard in &history.acknowledged {
        if !told.contains(&(heard.instance.as_str(), heard.number, heard.count)) {
            violations.push(format!(
                "a car was answered {} (count {}) by instance {}, which did not tell so",
                heard.number, heard.count, heard.instance
            ));
        }
    }
    Check {
        name: "no instance answers unseen",
        seen: format!(
            "{} acknowledgements, {} reports by nobody",
            history.acknowledged.len(),
            history.misfits.len()
        ),
        violations,
    }
}

/// Whatever a car was told, one session told it; and each of these cars was told something.
pub fn one_session<'a>(history: &History, cars: impl Iterator<Item = &'a str>) -> Check {
    let mut session_of: BTreeMap<&str, &str> = BTreeMap::new();
    for (session, runs) in &history.sessions {
        session_of.extend(runs.iter().map(|run| (run.instance.as_str(), session.as_str())));
    }
    let mut sessions: BTreeMap<&str, BTreeSet<&str>> = cars.map(|car| (car, BTreeSet::new())).collect();
    let count = sessions.len();
    for told in &history.acknowledged {
        // An instance that nobody knows is another check's.
        let session = session_of.get(told.instance.as_str()).copied();
        sessions
            .entry(&told.car)
            .or_default()
            .insert(session.unwrap_or("of nobody"));
    }
    let wrong = sessions.iter().filter(|(_, sessions)| sessions.len() != 1);
    Check {
        name: "each car has one session",
        seen: format!("{count} cars"),
        violations: wrong
            .map(|(car, sessions)| format!("{car} was answered by {} sessions: {sessions:?}", sessions.len()))
            .collect(),
    }
    .of_something(count)
}

/// In the end each session runs once, and the engine of the node that it runs in lists its container, whose state on the disk
/// is the one that it told of. No list has a session's container that was started and not heard of.
pub fn in_the_end(history: &History, listed: &[Listed]) -> Check {
    let mut violations = Vec::new();
    let strange = listed
        .iter()
        .filter(|one| one.started && one.tells && !history.sessions.contains_key(&one.session));
    violations.extend(strange.map(|one| {
        format!(
            "node {} lists {} of session {}, which nobody told of",
            one.node, one.container, one.session
        )
    }));
    for (session, runs) in &history.sessions {
        let live: Vec<&Run> = runs.iter().filter(|run| run.gone_ns.is_none()).collect();
        let [run] = live[..] else {
            let short: String = session.chars().take(12).collect();
            violations.push(format!("session {short}: {} instances run", live.len()));
            continue;
        };
        let there = listed.iter().find(|one| {
            one.pid == Some(run.pid)
                && one.container == run.container
                && one.session == *session
                && one.started
        });
        let wrong = match there {
            None => Some(format!("no list of its node has {}", run.container)),
            Some(there) => differs(run, &there.numbers),
        };
        violations.extend(wrong.map(|wrong| format!("{}: {wrong}", name(session, run))));
    }
    Check {
        name: "in the end each session runs once, where an engine lists it, with the state that it told of",
        seen: format!("{} sessions, {} containers", history.sessions.len(), listed.len()),
        violations,
    }
    .of_something(history.sessions.len())
}

/// What is wrong with the state on a container's disk, by what its run has told of it.
fn differs(run: &Run, numbers: &Result<Vec<u64>, String>) -> Option<String> {
    let numbers = match numbers {
        Ok(numbers) => numbers,
        Err(error) => return Some(error.clone()),
    };
    let (told, there) = (run.state(), BTreeSet::from_iter(numbers.iter().copied()));
    if there.len() != numbers.len() {
        let twice = numbers.len() - there.len();
        return Some(format!("{twice} numbers are on its disk once more"));
    }
    let missing: Vec<&u64> = told.difference(&there).collect();
    let more: Vec<&u64> = there.difference(&told).collect();
    (!missing.is_empty() || !more.is_empty())
        .then(|| format!("on its disk {missing:?} is missing, and {more:?} is there untold"))
}

#[cfg(test)]
mod tests;

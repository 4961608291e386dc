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
}

/// All checks that an oracle's records allow.
pub fn all(history: &History) -> Vec<Check> {
    vec![
        overlaps(history),
        counters(history),
        lost(history),
        answers(history),
    ]
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

/// No two instances of a session answer in overlapping intervals. An interval is from the start to whatever was last
/// heard: the program has not run before, and nobody is answered after.
fn overlaps(history: &History) -> Check {
    let mut violations = Vec::new();
    for (session, runs) in &history.sessions {
        let mut latest: Option<&Run> = None;
        for run in runs {
            if let Some(other) = latest.filter(|other| other.end_ns() > run.start_ns) {
                let by = seconds(other.end_ns() - run.start_ns);
                violations.push(format!(
                    "{} started {by:.6} s before instance {} (process {}) was last heard of",
                    name(session, run),
                    other.instance,
                    other.pid
                ));
            }
            latest = match latest {
                Some(other) if other.end_ns() >= run.end_ns() => Some(other),
                _ => Some(run),
            };
        }
    }
    let (sessions, runs) = (history.sessions.len(), history.runs().count());
    Check {
        name: "no two instances of a session answer at one time",
        seen: format!("{runs} runs of {sessions} sessions"),
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
                if !numbers.insert(answer.number) {
                    say(format!("number {} was answered a second time", answer.number));
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

/// Whatever an instance has answered the next one finds, and whatever a car was told is done is in the state in the end.
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

/// In the end each session runs once, and the engine of the node that it runs in lists its container.
pub fn in_the_end(history: &History, listed: &[Listed]) -> Check {
    let mut violations = Vec::new();
    for (session, runs) in &history.sessions {
        let live: Vec<&Run> = runs.iter().filter(|run| !run.gone).collect();
        let [run] = live[..] else {
            let short: String = session.chars().take(12).collect();
            violations.push(format!("session {short}: {} instances run", live.len()));
            continue;
        };
        let there = listed.iter().any(|one| {
            one.pid == Some(run.pid)
                && one.container == run.container
                && one.session == *session
                && one.started
        });
        if !there {
            let container = &run.container;
            violations.push(format!(
                "{}: no list of its node has {container}",
                name(session, run)
            ));
        }
    }
    Check {
        name: "in the end each session runs once, where an engine lists it",
        seen: format!("{} sessions, {} containers", history.sessions.len(), listed.len()),
        violations,
    }
}

#[cfg(test)]
mod tests;

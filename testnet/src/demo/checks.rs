//! What must hold at the end of the demo.

use serde_json::Value;

use super::Story;
use crate::car::Tally;

/// One check and what it found.
#[derive(Clone, Debug)]
pub(super) struct Check {
    name: &'static str,
    pub(super) ok: bool,
    detail: String,
}

impl Check {
    pub(super) fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Check {
        Check {
            name,
            ok,
            detail: detail.into(),
        }
    }
}

/// All checks that can be made while the testnet still runs.
pub(super) fn all(story: &Story) -> Vec<Check> {
    let mut checks = vec![
        moves(story),
        method(story),
        contiguous(story),
        answered(story),
        interrupted(story),
        identity(story),
        wire(story),
        single(story),
        neighbour(story),
    ];
    checks.extend(by_hand(story));
    checks
}

fn moves(story: &Story) -> Check {
    let done = story
        .migrations
        .iter()
        .filter(|m| m.report["outcome"] == "completed")
        .count();
    Check::new(
        "at least three migrations completed",
        done >= 3,
        format!("{done}"),
    )
}

fn method(story: &Story) -> Check {
    let taken = |m: &super::Migration| {
        let method = m.report["method"].as_str().unwrap_or("?").to_owned();
        match m.report["fallback"].as_str() {
            Some(why) => format!("{method} ({why})"),
            None => method,
        }
    };
    let taken: Vec<String> = story.migrations.iter().map(taken).collect();
    Check::new(
        "containers moved by the method that was asked for",
        taken.iter().all(|method| method == story.method.as_str()),
        taken.join(", "),
    )
}

fn contiguous(story: &Story) -> Check {
    let found = &story.contiguity;
    let detail = if found.holds() {
        format!(
            "{} numbers, each once, in {} runs",
            story.log.numbers.len(),
            story.log.runs.len()
        )
    } else {
        format!(
            "{} missing, {} twice, {} answered but lost, {} overlapping runs",
            found.gaps.len(),
            found.twice.len(),
            found.lost.len(),
            found.overlaps
        )
    };
    Check::new(
        "the numbers in the container's log are contiguous",
        found.holds(),
        detail,
    )
}

fn answered(story: &Story) -> Check {
    let tally = Tally::of(story.records.iter());
    let first = story.records.iter().find(|record| record.failed());
    let why = first.map(|r| {
        format!(
            "; first: number {}, status {:?}, {}",
            r.number,
            r.status,
            r.error.as_deref().unwrap_or("?")
        )
    });
    let detail = format!(
        "{} sent, {} answered, {} failed{}",
        tally.sent,
        tally.ok,
        tally.failed,
        why.unwrap_or_default()
    );
    Check::new(
        "every request of the car was answered",
        tally.sent > 0 && tally.ok == tally.sent,
        detail,
    )
}

fn interrupted(story: &Story) -> Check {
    let sum = |key: &str| -> u64 {
        story
            .migrations
            .iter()
            .filter_map(|m| m.report["requests"][key].as_u64())
            .sum()
    };
    let (failed, interrupted) = (sum("failed"), sum("interrupted"));
    let detail = format!("{failed} failed, {interrupted} interrupted by the nodes' own count");
    Check::new(
        "no migration failed or interrupted a request",
        failed + interrupted == 0,
        detail,
    )
}

fn identity(story: &Story) -> Check {
    let same =
        |m: &super::Migration| m.identity.source.is_some() && m.identity.source == m.identity.destination;
    let ok = !story.migrations.is_empty() && story.migrations.iter().all(same);
    let detail = story.migrations.iter().map(|m| {
        let id = m.identity.image.trim_start_matches("sha256:");
        let layers = m
            .identity
            .destination
            .as_ref()
            .map_or(0, |identity| identity.diff_ids.len());
        format!(
            "{} ({layers} layers{})",
            id.get(..12).unwrap_or(id),
            if same(m) { "" } else { ", NOT THE SAME" }
        )
    });
    Check::new(
        "config digest and diffIDs are equal on both engines",
        ok,
        detail.collect::<Vec<_>>().join(", "),
    )
}

/// Host 2 had the base, host 3 nothing: only the way to host 3 carries the base.
fn wire(story: &Story) -> Check {
    let wire = |m: &super::Migration| m.report["wire_bytes"].as_u64().unwrap_or(0);
    let (with, without): (Vec<_>, Vec<_>) = story.migrations.iter().partition(|m| m.to == 3);
    let least = with.iter().map(|m| wire(m)).min().unwrap_or(0);
    let most = without.iter().map(|m| wire(m)).max().unwrap_or(0);
    let ok = most > 0 && least > 4 * most;
    Check::new(
        "the base travels only where it is missing",
        ok,
        format!("{least} bytes with it, at most {most} without"),
    )
}

fn single(story: &Story) -> Check {
    let of_session = story.after.iter().flat_map(|engine| {
        engine
            .containers
            .iter()
            .filter(|c| c.session.as_deref() == Some(&story.session))
            .map(|c| (&engine.host, c.running))
    });
    let left: Vec<_> = of_session.collect();
    let owner = format!("host{}", story.owner);
    let ok = left.len() == 1 && left.iter().all(|(host, running)| **host == owner && *running);
    let detail = left
        .iter()
        .map(|(host, running)| format!("{host}: {}", if *running { "running" } else { "stopped" }));
    Check::new(
        "only the owner has a container of the session",
        ok,
        detail.collect::<Vec<_>>().join(", "),
    )
}

fn neighbour(story: &Story) -> Check {
    let seen = &story.neighbour;
    let ok = seen.status == 200
        && seen.served != seen.asked
        && story.after.iter().any(|engine| engine.host == seen.served);
    let answer = if ok {
        String::new()
    } else {
        format!(": {}", seen.body)
    };
    Check::new(
        "a full node's request is served by its neighbour",
        ok,
        format!("{} asked, {} served{answer}", seen.asked, seen.served),
    )
}

/// The log that has come by hand is the one that the drive ended with.
fn by_hand(story: &Story) -> Option<Check> {
    let moved = story.by_hand.as_ref()?;
    let (there, here) = (moved.numbers, story.log.numbers.len() as u64);
    Some(Check::new(
        "what was moved by hand has the same log",
        there == here,
        format!("{there} numbers of {here}"),
    ))
}

/// As lines for the terminal.
pub(super) fn render(checks: &[Check]) -> String {
    let line = |check: &Check| {
        format!(
            "  {}  {}: {}\n",
            if check.ok { "ok  " } else { "FAIL" },
            check.name,
            check.detail
        )
    };
    format!("\nChecks\n{}", checks.iter().map(line).collect::<String>())
}

/// A figure of a report, or zero.
pub(super) fn figure(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

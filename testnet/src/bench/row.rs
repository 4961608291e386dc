//! One row of the document: a migration report and what was seen beside it.

use serde_json::{Map, Value, json};

use super::QUIET;
use super::figures::Gap;
use super::layer::Floor;
use super::plan::Turn;
use super::ride::Seen;
use crate::reports::PHASES;
use crate::service_log::ServiceLog;

/// What a row is about.
pub(super) struct Subject {
    /// The image's name.
    pub(super) image: String,
    /// The service's name.
    pub(super) service: String,
    /// The key of the source's node, and of the destination's.
    pub(super) keys: [Option<String>; 2],
    /// What the link carries from source to destination, in megabits a second.
    pub(super) goodput_mbit: f64,
    /// How, and between which hosts.
    pub(super) turn: Turn,
}

/// What a run has seen.
pub(super) struct Run {
    /// The migration's report, or what takes its place.
    pub(super) report: Value,
    /// When it began, by the wall clock in milliseconds.
    pub(super) began: f64,
    /// When the quiet time before it began.
    pub(super) quiet: f64,
    /// From the source's last answer to the destination's first.
    pub(super) gap: Gap,
    /// The car whose container moved.
    pub(super) car: Seen,
    /// The car beside it.
    pub(super) traffic: Seen,
    /// The least for the link; none where no layer moves or none was there to be read.
    pub(super) floor: Option<Floor>,
    /// What left the source's host while `blosm` moved the container, with headers and all else.
    pub(super) link_bytes: Option<u64>,
    /// The service's log at the destination.
    pub(super) log: ServiceLog,
}

/// A report of a method that makes none itself.
pub(super) fn report(subject: &Subject) -> Value {
    let (turn, [source, destination]) = (&subject.turn, &subject.keys);
    let zero = |names: &[&str]| Value::from_iter(names.iter().map(|name| (*name, Value::from(0))));
    json!({
        "schema": 1,
        "id": null,
        "session": null,
        "service": subject.service,
        "method": turn.method.as_str(),
        "fallback": null,
        "reason": "operator",
        "source": source,
        "destination": destination,
        "verdict": null,
        "verdict_detail": null,
        "outcome": "aborted",
        "state_lost": !turn.method.keeps_state(),
        "started_unix_ms": null,
        "image_bytes": 0,
        "writable_bytes": 0,
        "wire_bytes": 0,
        "chunks_sent": 0,
        "chunks_reused": 0,
        "rounds": [],
        "phases_ms": zero(&PHASES),
        "ledger": null,
        "link": {"mbit": null, "rtt_ms": null},
        "service_down_ms": null,
        "downtime_ms": null,
        "total_ms": null,
        "requests": zero(&["sent", "held", "failed", "interrupted", "max_stall_ms"]),
        "error": null,
    })
}

/// The row of a run that came to its end.
pub(super) fn completed(subject: &Subject, run: Run) -> Value {
    let turn = &subject.turn;
    let served = run.car.unix_ms(run.gap.first_ms);
    let stall = run.car.longest_ms(run.began, served);
    let (answered, failed) = run.car.numbers();
    let interrupted = run
        .car
        .records
        .iter()
        .filter(|record| record.interrupted())
        .count();
    let contiguous = turn
        .method
        .keeps_state()
        .then(|| run.log.check(&answered).holds_but_for(&failed));
    let quiet_end = run.quiet + QUIET.as_secs_f64() * 1000.0;
    let share = |us: Option<u64>| us.map(|us| us as f64 / 1000.0);
    // The run that served last, and the one before it if the log came along.
    let mut runs = run.log.runs.iter().rev();
    let started = runs.next().and_then(|run| run.start_us);
    let stopped = runs.next().and_then(|run| run.stop_us);
    let service = json!({"stop_ms": share(stopped), "start_ms": share(started)});
    let beside = json!({
        "reported_downtime_ms": run.report["downtime_ms"],
        "reported_total_ms": run.report["total_ms"],
        "downtime_ms": stall.max(run.gap.ms),
        "total_ms": served - run.began,
        "floor_ms": run.floor.map(|floor| floor.ms(subject.goodput_mbit)),
        "floor": run.floor.map(|floor| json!({
            "layer_bytes": floor.layer,
            "layer_zstd_bytes": floor.layer_packed,
            "changed_bytes": floor.changed,
            "changed_zstd_bytes": floor.changed_packed,
        })),
        "stage_goodput_mbit": if turn.base_cached { None } else { stage_goodput(&run.report) },
        "link_bytes": run.link_bytes,
        "traffic_p99_quiet_ms": run.traffic.p99_ms(run.quiet, quiet_end),
        "traffic_p99_during_ms": run.traffic.p99_ms(run.began, served),
        "service_share": service,
        "car": {
            "sent": run.car.records.len(),
            "failed": failed.len(),
            "interrupted": interrupted,
            "max_stall_ms": stall,
            "max_quiet_ms": run.car.slowest_ms(run.quiet, quiet_end),
            "gap_ms": run.gap.ms,
            "log_contiguous": contiguous,
        },
        "traffic": {"sent": run.traffic.records.len(), "failed": run.traffic.numbers().1.len()},
    });
    seen(run.report, subject, beside)
}

/// Megabits per second at which the base came: its bytes as they crossed the link, over the time in which they were
/// fetched. The first round is the staging.
fn stage_goodput(report: &Value) -> Option<f64> {
    let round = &report["rounds"][0];
    let (bytes, ms) = (round["wire_bytes"].as_f64()?, round["pull_ms"].as_f64()?);
    (ms > 0.0).then(|| bytes * 8.0 / (ms * 1000.0))
}

/// The row of a run that failed.
pub(super) fn failed(subject: &Subject, error: &anyhow::Error) -> Value {
    let mut row = report(subject);
    row["error"] = format!("{error:#}").into();
    seen(row, subject, json!({}))
}

fn seen(report: Value, subject: &Subject, beside: Value) -> Value {
    let turn = &subject.turn;
    let mut row = match report {
        Value::Object(report) => report,
        _ => Map::new(),
    };
    let always = json!({
        "image": subject.image,
        "method": turn.method.as_str(),
        "run": turn.run,
        "from": format!("host{}", turn.from),
        "to": format!("host{}", turn.to),
        "base_cached": turn.base_cached,
        "goodput_mbit": subject.goodput_mbit,
    });
    for part in [always, beside] {
        row.extend(part.as_object().cloned().unwrap_or_default());
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::plan::Method;
    use super::*;
    use crate::car::Record;

    fn subject(method: Method) -> Subject {
        let turn = Turn {
            image: 0,
            method,
            run: 1,
            from: 2,
            to: 3,
            base_cached: true,
        };
        Subject {
            image: "small".into(),
            service: "bench-small".into(),
            keys: [Some("aa".into()), Some("bb".into())],
            goodput_mbit: 40.0,
            turn,
        }
    }

    fn keys(row: &Value) -> BTreeSet<&str> {
        row.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// A request every 10 ms, the source answering until 100 ms and the destination from 400 ms on.
    fn run(report: Value) -> Run {
        let record = |number: u64| {
            let intended_ms = number as f64 * 10.0;
            let waits = (100.0..400.0).contains(&intended_ms);
            Record {
                number,
                intended_ms,
                sent_ms: intended_ms,
                done_ms: Some(if waits { 401.0 } else { intended_ms + 1.0 }),
                to: usize::from(intended_ms >= 100.0),
                status: Some(200),
                node: None,
                error: None,
            }
        };
        let records: Vec<Record> = (1..=60).map(record).collect();
        let lines = (1..=60).map(|n| format!("{n} {} {n}\n", if n < 10 { "a" } else { "b" }));
        let (first, last): (Vec<String>, Vec<String>) = lines.partition(|line| line.contains(" a "));
        let log = format!(
            "start a 0 100\n{}stop a 9 700\nstart b 10 200\n{}",
            first.concat(),
            last.concat()
        );
        Run {
            report,
            began: 1050.0,
            quiet: 1000.0,
            gap: Gap::of(&records, |r| r.to == 0, |r| r.to == 1).unwrap(),
            car: Seen::at(1000.0, records.clone()),
            traffic: Seen::at(1000.0, records),
            link_bytes: Some(7_000_000),
            floor: Some(Floor {
                layer: 50_000_000,
                layer_packed: 4_000_000,
                changed: 2_000_000,
                changed_packed: 1_000_000,
            }),
            log: ServiceLog::parse(&log).unwrap(),
        }
    }

    #[test]
    fn a_row_has_the_report_and_what_was_seen() {
        let subject = subject(Method::Live);
        let mut report = report(&subject);
        report["outcome"] = "completed".into();
        report["total_ms"] = 345.0.into();
        let row = completed(&subject, run(report.clone()));
        assert!(keys(&row).is_superset(&keys(&report)));
        // 91 to 401 ms is the gap; the request of 100 ms waited for 301.
        assert_eq!(
            (row["downtime_ms"].as_f64(), row["car"]["gap_ms"].as_f64()),
            (Some(310.0), Some(310.0))
        );
        assert_eq!(row["car"]["max_stall_ms"].as_f64(), Some(301.0));
        // The quiet time is over before the last of them is sent: all of the waiting is in it.
        assert_eq!(row["car"]["max_quiet_ms"].as_f64(), Some(301.0));
        assert_eq!(
            (row["total_ms"].as_f64(), row["reported_total_ms"].as_f64()),
            (Some(351.0), Some(345.0))
        );
        assert_eq!(row["floor_ms"].as_f64(), Some(1000.0));
        assert_eq!(row["service_share"], json!({"stop_ms": 0.7, "start_ms": 0.2}));
        assert_eq!(row["car"]["log_contiguous"], true);
        assert_eq!(
            (&row["base_cached"], &row["image"]),
            (&json!(true), &json!("small"))
        );
        assert!(
            row["traffic_p99_during_ms"].as_f64() > row["traffic_p99_quiet_ms"].as_f64().map(|q| q / 2.0)
        );
    }

    #[test]
    fn a_cold_base_comes_at_what_was_fetched_over_the_time_of_fetching() {
        let mut subject = subject(Method::Live);
        let mut report = report(&subject);
        report["rounds"] = json!([
            {"bytes": 9_000_000, "wire_bytes": 5_000_000, "ms": 3000.0, "pull_ms": 1000.0},
            {"bytes": 10, "wire_bytes": 20, "ms": 1.0, "pull_ms": 1.0},
        ]);
        let cached = completed(&subject, run(report.clone()));
        assert_eq!(cached["stage_goodput_mbit"], Value::Null);
        subject.turn.base_cached = false;
        let cold = completed(&subject, run(report));
        assert_eq!(cold["stage_goodput_mbit"].as_f64(), Some(40.0));
        assert_eq!(
            (&cold["base_cached"], &cold["link_bytes"]),
            (&json!(false), &json!(7_000_000))
        );
    }

    #[test]
    fn rows_of_all_methods_have_the_same_report() {
        let all = [Method::Live, Method::Registry, Method::Restart];
        let rows = all.map(|method| failed(&subject(method), &anyhow::anyhow!("it broke")));
        assert!(rows.iter().all(|row| keys(row) == keys(&rows[0])));
        assert_eq!(
            (&rows[1]["error"], &rows[1]["outcome"]),
            (&json!("it broke"), &json!("aborted"))
        );
        assert_eq!(
            (&rows[0]["state_lost"], &rows[2]["state_lost"]),
            (&json!(false), &json!(true))
        );
        let lost = completed(&subject(Method::Restart), run(report(&subject(Method::Restart))));
        assert_eq!(lost["car"]["log_contiguous"], Value::Null);
    }
}

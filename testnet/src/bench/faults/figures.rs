//! What a car's records say of a fault. All times are milliseconds of the car's own clock.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::car::{Record, Tally};

/// A request that waits longer than this met an interruption.
const PROMPT_MS: f64 = 1000.0;

/// What the car went through.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Seen {
    /// Requests.
    pub sent: u64,
    /// Without a success.
    pub failed: u64,
    /// Of these, requests that may have been done all the same.
    pub interrupted: u64,
    /// The longest time without any answer from the migration's begin on, in milliseconds.
    pub longest_stall_ms: f64,
    /// What the requests that failed were told, and how many of them.
    pub reasons: BTreeMap<String, u64>,
}

impl Seen {
    /// From the records of a whole drive whose migration began at `begin`.
    pub fn of(records: &[Record], begin: f64) -> Seen {
        let tally = Tally::of(records.iter());
        let mut reasons = BTreeMap::new();
        for record in records.iter().filter(|record| record.failed()) {
            *reasons.entry(reason(record)).or_default() += 1;
        }
        Seen {
            sent: tally.sent,
            failed: tally.failed,
            interrupted: records.iter().filter(|record| record.interrupted()).count() as u64,
            longest_stall_ms: longest_stall(records, begin),
            reasons,
        }
    }
}

fn reason(record: &Record) -> String {
    let status = record
        .status
        .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    format!("{status}: {}", record.error.as_deref().unwrap_or_default())
}

/// When the first request that was to be sent after `from` had its success.
pub(super) fn served_after(records: &[Record], from: f64) -> Option<f64> {
    let answered = records
        .iter()
        .filter(|record| record.intended_ms >= from && record.ok());
    answered
        .filter_map(|record| record.done_ms)
        .min_by(f64::total_cmp)
}

/// The same, but of a request with which `calm_ms` without any interruption began.
pub(super) fn served_calmly_after(records: &[Record], from: f64, calm_ms: f64) -> Option<f64> {
    let mut since: Vec<&Record> = records
        .iter()
        .filter(|record| record.intended_ms >= from)
        .collect();
    since.sort_by(|a, b| a.intended_ms.total_cmp(&b.intended_ms));
    let last = since.last()?.intended_ms;
    let begins = |(index, first): (usize, &&Record)| {
        let end = first.intended_ms + calm_ms;
        let calm = since[index..]
            .iter()
            .take_while(|record| record.intended_ms <= end)
            .all(|record| prompt(record));
        (last >= end && calm).then_some(first.done_ms)?
    };
    since.iter().enumerate().find_map(begins)
}

fn prompt(record: &Record) -> bool {
    record.ok() && record.latency_ms().is_some_and(|latency| latency <= PROMPT_MS)
}

/// When the last interruption that a request from `from` on met was over; `now`, if it is not over.
pub(super) fn interrupted_until(records: &[Record], from: f64, now: f64) -> f64 {
    let since = records.iter().filter(|record| record.intended_ms >= from);
    since
        .filter_map(|record| match record.done_ms {
            Some(done) if !prompt(record) => Some(done),
            None if now - record.intended_ms > PROMPT_MS => Some(now),
            _ => None,
        })
        .fold(from, f64::max)
}

/// The longest time without any answer from `begin` on.
pub(super) fn longest_stall(records: &[Record], begin: f64) -> f64 {
    let mut answers: Vec<f64> = records
        .iter()
        .filter(|record| record.ok())
        .filter_map(|record| record.done_ms)
        .filter(|done| *done >= begin)
        .collect();
    answers.push(begin);
    answers.sort_by(f64::total_cmp);
    answers
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(intended_ms: f64, done_ms: Option<f64>, status: u16) -> Record {
        Record {
            number: intended_ms as u64,
            intended_ms,
            sent_ms: intended_ms,
            done_ms,
            to: 0,
            status: done_ms.map(|_| status),
            node: None,
            error: None,
        }
    }

    #[test]
    fn a_request_from_before_the_fault_proves_nothing() {
        let records = [
            record(90.0, Some(140.0), 200),
            record(110.0, Some(6000.0), 200),
            record(160.0, Some(5900.0), 200),
        ];
        assert_eq!(served_after(&records, 100.0), Some(5900.0));
        assert_eq!(served_after(&records, 200.0), None);
    }

    #[test]
    fn one_answer_between_two_interruptions_is_not_calm() {
        let mut records = vec![record(100.0, Some(110.0), 200), record(200.0, Some(1900.0), 200)];
        records.extend((0..12).map(|step| {
            let at = 1800.0 + 100.0 * f64::from(step);
            record(at, Some(at + 10.0), 200)
        }));
        assert_eq!(served_after(&records, 50.0), Some(110.0));
        assert_eq!(served_calmly_after(&records, 50.0, 1000.0), Some(1810.0));
        // Not yet known: the last request is not a second later.
        assert_eq!(served_calmly_after(&records, 1950.0, 1000.0), None);
    }

    #[test]
    fn an_interruption_ends_with_the_last_request_that_met_it() {
        let records = [
            record(100.0, Some(5000.0), 200),
            record(200.0, Some(300.0), 503),
            record(5100.0, Some(5110.0), 200),
        ];
        assert_eq!(interrupted_until(&records, 50.0, 6000.0), 5000.0);
        assert_eq!(interrupted_until(&records, 150.0, 6000.0), 300.0);
        assert_eq!(interrupted_until(&records, 4000.0, 6000.0), 4000.0);
        let open = [record(4100.0, None, 0), record(5500.0, None, 0)];
        assert_eq!(interrupted_until(&open, 4000.0, 6000.0), 6000.0);
        assert_eq!(interrupted_until(&open, 5000.0, 6000.0), 5000.0);
    }

    #[test]
    fn a_stall_lies_between_two_successes() {
        let records = [
            record(0.0, Some(10.0), 200),
            record(100.0, Some(900.0), 503),
            record(200.0, Some(1510.0), 200),
            record(1600.0, Some(1610.0), 200),
        ];
        let seen = Seen::of(&records, 500.0);
        assert_eq!((seen.sent, seen.failed), (4, 1));
        assert_eq!(seen.reasons, BTreeMap::from([("503: ".to_owned(), 1)]));
        assert_eq!(seen.longest_stall_ms, 1010.0);
    }
}

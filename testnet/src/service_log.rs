//! The demo service's own log, held against what a car was promised: the one witness that asks no ledger.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

/// What the log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServiceLog {
    /// Numbers in the order in which they were written.
    pub numbers: Vec<u64>,
    /// Each run of the service, in the order of their starts.
    pub runs: Vec<Run>,
}

/// One run of the service: one start of one container's program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Its own random name.
    pub instance: String,
    /// Unix time in nanoseconds. All hosts of a testnet share one clock.
    pub start_ns: u128,
    /// Its orderly stop, if it had one.
    pub stop_ns: Option<u128>,
    /// The last line that it wrote.
    pub last_ns: u128,
    /// Numbers that it wrote.
    pub numbers: u64,
    /// Its own share of its start, from the program's first instruction to this line, in microseconds.
    pub start_us: Option<u64>,
    /// Its own share of its orderly stop, from the signal to this line, in microseconds.
    pub stop_us: Option<u64>,
}

impl ServiceLog {
    /// Reads the service's `/log`.
    ///
    /// # Errors
    /// A line is none that the service writes.
    pub fn parse(text: &str) -> Result<ServiceLog> {
        let mut log = ServiceLog::default();
        let mut by_instance: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines() {
            log.read(line, &mut by_instance)
                .with_context(|| format!("the service's log has the line {line:?}"))?;
        }
        Ok(log)
    }

    fn read(&mut self, line: &str, by_instance: &mut BTreeMap<String, usize>) -> Result<()> {
        let mut words = line.split(' ');
        let (kind, instance) = (
            words.next().context("empty")?,
            words.next().context("no instance")?,
        );
        let at: u128 = words.next().context("no time")?.parse()?;
        let share = words.next().map(str::parse).transpose()?;
        if kind == "start" {
            by_instance.insert(instance.to_owned(), self.runs.len());
            let run = Run {
                instance: instance.to_owned(),
                start_ns: at,
                stop_ns: None,
                last_ns: at,
                numbers: 0,
                start_us: share,
                stop_us: None,
            };
            self.runs.push(run);
            return Ok(());
        }
        let index = *by_instance.get(instance).context("it never started")?;
        let run = &mut self.runs[index];
        run.last_ns = at;
        if kind == "stop" {
            run.stop_ns = Some(at);
            run.stop_us = share;
        } else {
            run.numbers += 1;
            self.numbers.push(kind.parse()?);
        }
        Ok(())
    }

    /// Holds the log against the numbers that were answered with a success.
    pub fn check(&self, answered: &[u64]) -> Contiguity {
        let mut count: BTreeMap<u64, u64> = BTreeMap::new();
        for number in &self.numbers {
            *count.entry(*number).or_default() += 1;
        }
        let highest = count.last_key_value().map_or(0, |(number, _)| *number);
        Contiguity {
            gaps: (1..=highest)
                .filter(|number| !count.contains_key(number))
                .collect(),
            twice: count
                .iter()
                .filter(|(_, times)| **times > 1)
                .map(|(number, _)| *number)
                .collect(),
            lost: answered
                .iter()
                .filter(|number| !count.contains_key(number))
                .copied()
                .collect(),
            overlaps: self.overlaps(),
        }
    }

    /// Runs that wrote after a later one had started: two containers of one session at one time.
    fn overlaps(&self) -> u64 {
        self.runs
            .windows(2)
            .map(|pair| u64::from(pair[0].last_ns > pair[1].start_ns))
            .sum()
    }
}

/// What is wrong with a log; nothing, if all is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Contiguity {
    /// Numbers below the highest that are not there.
    pub gaps: Vec<u64>,
    /// Numbers that were written more than once.
    pub twice: Vec<u64>,
    /// Numbers that the car was told are done and that are not there.
    pub lost: Vec<u64>,
    /// Pairs of runs that overlap.
    pub overlaps: u64,
}

impl Contiguity {
    /// Every number is there once but those that are known to have failed, and only one container ran at a time.
    pub fn holds_but_for(&self, failed: &[u64]) -> bool {
        self.twice.is_empty()
            && self.lost.is_empty()
            && self.overlaps == 0
            && self.gaps.iter().all(|gap| failed.contains(gap))
    }

    /// Every number is there once, and only one container ran at a time.
    pub fn holds(&self) -> bool {
        *self == Contiguity::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_without_loss_is_contiguous_whatever_the_order() {
        let log = "start a 10 250\n1 a 11\n2 a 12\nstop a 13 800\nstart b 20\n4 b 21\n3 b 22\n";
        let log = ServiceLog::parse(log).unwrap();
        assert_eq!(log.numbers, [1, 2, 4, 3]);
        assert_eq!(log.runs[0].stop_ns, Some(13));
        assert_eq!(
            (log.runs[0].start_us, log.runs[0].stop_us),
            (Some(250), Some(800))
        );
        assert_eq!(log.runs[1].numbers, 2);
        assert!(log.check(&[1, 2, 3, 4]).holds());
    }

    #[test]
    fn losses_doubles_and_overlaps_are_told_apart() {
        let log = ServiceLog::parse("start a 10\n1 a 11\nstart b 12\n1 b 13\n4 a 14\n").unwrap();
        let found = log.check(&[1, 4, 5]);
        assert_eq!(
            (found.gaps, found.twice, found.lost, found.overlaps),
            (vec![2, 3], vec![1], vec![5], 1)
        );
    }

    #[test]
    fn a_number_that_failed_may_be_missing() {
        let log = ServiceLog::parse("start a 10\n1 a 11\nstop a 12\nstart b 20\n4 b 21\n").unwrap();
        let found = log.check(&[1, 4]);
        assert!(!found.holds() && found.holds_but_for(&[2, 3]));
        assert!(!found.holds_but_for(&[2]));
    }

    #[test]
    fn foreign_lines_are_refused() {
        for text in ["1 a 5", "start a", "start a x", "hello", "start a 1\nx a 2"] {
            assert!(ServiceLog::parse(text).is_err(), "{text}");
        }
    }
}

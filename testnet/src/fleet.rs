//! Many cars at once, and what they see together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::time::Instant;

use crate::car::{Car, CarPlan, CarView, Record};
use crate::hosts::Seat;

/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(100);

/// The most cars: each is a thread with connections of its own.
pub const MOST: usize = 500;

/// Cars by their names.
pub struct Fleet {
    cars: Vec<(String, Car)>,
}

/// What one car has seen.
#[derive(Debug)]
pub struct Seen {
    /// The car.
    pub name: String,
    /// Its requests by number.
    pub records: Vec<Record>,
    /// The wall clock at the records' zero, in milliseconds since 1970.
    pub origin_unix_ms: f64,
}

/// Counts over all cars.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FleetTally {
    /// Cars.
    pub cars: usize,
    /// Requests sent.
    pub sent: u64,
    /// Answered with a success.
    pub ok: u64,
    /// Over, without a success.
    pub failed: u64,
    /// Of these, those that were sent and may have taken effect.
    pub interrupted: u64,
    /// Under way.
    pub open: u64,
    /// How often two successes of a car in a row came from two nodes. An oracle counts the moves of a session; a car may
    /// ask twice within two of them.
    pub changes: u64,
    /// Half of all requests were over within this, in milliseconds.
    pub median_ms: f64,
    /// Ninety-nine of a hundred were, in milliseconds.
    pub p99_ms: f64,
    /// The longest wait, in milliseconds.
    pub max_ms: f64,
    /// Why requests failed, and how many for each reason.
    pub reasons: BTreeMap<String, u64>,
}

impl Fleet {
    /// Starts cars in the network of `seat`, all at once.
    ///
    /// # Errors
    /// One cannot be started; the others stop.
    pub fn start(seat: &Seat, plans: Vec<(String, CarPlan)>) -> Result<Fleet> {
        let cars = plans.into_iter().map(|(name, plan)| {
            let car = Car::start(seat.clone(), plan).with_context(|| format!("car {name}"))?;
            Ok((name, car))
        });
        Ok(Fleet {
            cars: cars.collect::<Result<_>>()?,
        })
    }

    /// Views of all of them.
    pub fn views(&self) -> impl Iterator<Item = CarView> {
        self.cars.iter().map(|(_, car)| car.view())
    }

    /// Waits until each car has had an answer with a success: those of a stateful service have a session then.
    ///
    /// # Errors
    /// One of them has not, in that time.
    pub async fn answered(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for (name, car) in &self.cars {
            while car.tally().ok == 0 {
                if !car.running() || Instant::now() > deadline {
                    let why = car.records().iter().rev().find_map(|record| record.error.clone());
                    bail!(
                        "{name} is not answered: {}",
                        why.unwrap_or_else(|| "nobody answers".to_owned())
                    );
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// What they have seen so far.
    pub fn tally(&self) -> FleetTally {
        let mut counting = Counting::default();
        for (_, car) in &self.cars {
            car.look(|records| counting.add(records));
        }
        counting.tally()
    }

    /// Cars that an error has ended.
    pub fn stranded(&self) -> usize {
        self.cars.iter().filter(|(_, car)| !car.running()).count()
    }

    /// They send no more; waits for what is under way. Cars that failed are told by their names.
    pub async fn finish(self) -> Vec<(String, Result<Seen>)> {
        let mut all = Vec::new();
        // They stop together, and are waited for one after the other.
        let stopped = self.cars.into_iter().map(|(name, car)| {
            let origin_unix_ms = car.origin_unix_ms;
            let seen = tokio::spawn(car.finish());
            (name, origin_unix_ms, seen)
        });
        let stopped: Vec<_> = stopped.collect();
        for (name, origin_unix_ms, seen) in stopped {
            let records = seen.await.map_err(anyhow::Error::from).and_then(|seen| seen);
            let seen = records.map(|records| Seen {
                name: name.clone(),
                records,
                origin_unix_ms,
            });
            all.push((name, seen));
        }
        all
    }
}

/// The cars that drove to the end, and why the others did not.
pub(crate) fn part(cars: Vec<(String, Result<Seen>)>) -> (Vec<Seen>, Vec<String>) {
    let (mut seen, mut broken) = (Vec::new(), Vec::new());
    for (name, car) in cars {
        match car {
            Ok(car) => seen.push(car),
            Err(error) => broken.push(format!("{name}: {error:#}")),
        }
    }
    (seen, broken)
}

impl FleetTally {
    /// Over the records of some cars.
    pub fn of<'a>(cars: impl Iterator<Item = &'a [Record]>) -> FleetTally {
        let mut counting = Counting::default();
        cars.for_each(|records| counting.add(&mut records.iter()));
        counting.tally()
    }
}

/// A tally on its way: one car after the other.
#[derive(Default)]
struct Counting {
    tally: FleetTally,
    waits: Vec<f64>,
}

impl Counting {
    fn add(&mut self, records: &mut dyn Iterator<Item = &Record>) {
        let tally = &mut self.tally;
        tally.cars += 1;
        let mut served: Option<&str> = None;
        for record in records {
            tally.sent += 1;
            tally.ok += u64::from(record.ok());
            tally.failed += u64::from(record.failed());
            tally.interrupted += u64::from(record.interrupted());
            tally.open += u64::from(record.done_ms.is_none());
            self.waits.extend(record.latency_ms());
            if let Some(reason) = record.reason() {
                *tally.reasons.entry(reason).or_default() += 1;
            }
            if let Some(node) = record.node.as_deref().filter(|_| record.ok()) {
                tally.changes += u64::from(served.is_some_and(|before| before != node));
                served = Some(node);
            }
        }
    }

    fn tally(self) -> FleetTally {
        let Counting { mut tally, mut waits } = self;
        waits.sort_by(f64::total_cmp);
        let at = |hundredths: usize| waits.get(waits.len() * hundredths / 100).copied().unwrap_or(0.0);
        (tally.median_ms, tally.p99_ms) = (at(50), at(99));
        tally.max_ms = waits.last().copied().unwrap_or(0.0);
        tally
    }
}

impl fmt::Display for FleetTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cars: {} sent, {} answered, {} failed, {} under way; {} changes of node; median {:.1} ms, 99 % {:.0} ms, worst {:.0} ms",
            self.cars,
            self.sent,
            self.ok,
            self.failed,
            self.open,
            self.changes,
            self.median_ms,
            self.p99_ms,
            self.max_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, status: Option<u16>, node: &str) -> Record {
        Record {
            number,
            intended_ms: 0.0,
            sent_ms: 0.0,
            done_ms: status.map(|_| number as f64),
            to: 0,
            status,
            node: Some(node.to_owned()),
            error: None,
        }
    }

    #[test]
    fn changes_are_seen_in_what_successes_say() {
        let one = [
            record(1, Some(200), "a"),
            record(2, Some(503), "c"),
            record(3, Some(200), "a"),
            record(4, Some(200), "b"),
            record(5, None, "c"),
            record(6, Some(200), "a"),
        ];
        let other = [record(1, Some(200), "c"), record(2, Some(200), "c")];
        let tally = FleetTally::of([&one[..], &other[..], &[]].into_iter());
        assert_eq!(
            (tally.cars, tally.sent, tally.ok, tally.failed, tally.open),
            (3, 8, 6, 1, 1)
        );
        assert_eq!((tally.changes, tally.median_ms, tally.max_ms), (2, 2.0, 6.0));
        assert_eq!(tally.reasons, BTreeMap::from([("503 ".to_owned(), 1)]));
    }
}

//! A car: numbered requests at a fixed rate to the nearest node, whatever happens to the earlier ones.
//!
//! It is an open loop: each request has its intended time of sending, latency counts from there, and a slow answer
//! does not slow the next request down. Nothing is sent twice: a number that failed stays failed, so the service's
//! own log can be held against what the car saw.

mod plan;
mod record;
mod requests;

pub use plan::{CarPlan, FASTEST, MOST_REQUESTS, MOST_STATE, OPENINGS, Roadside};
pub use record::{Record, Tally};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::hosts::Seat;
use crate::oracle::Reporter;
use crate::road::{Motion, location};

/// The client's token, issued with the first response.
pub const SESSION: &str = "x-blosm-session";
/// Who served.
pub const NODE: &str = "x-blosm-node";
/// Where the car is.
pub const POSITION: &str = "x-blosm-position";

/// A car on the road.
pub struct Car {
    /// The wall clock at the records' zero, in milliseconds since 1970.
    pub origin_unix_ms: f64,
    shared: Arc<Shared>,
    /// It stops sending when it is dropped, too.
    stop: DropGuard,
    thread: JoinHandle<Result<()>>,
}

struct Shared {
    plan: CarPlan,
    start: Instant,
    /// Hears what the car was told is done.
    reporter: Option<Reporter>,
    state: Mutex<CarState>,
}

struct CarState {
    motion: Motion,
    avoid: Option<usize>,
    token: Option<String>,
    records: BTreeMap<u64, Record>,
    /// Why what it was told could not be reported.
    unreported: Option<String>,
}

impl Car {
    /// Starts a car in the network of `seat`. Its first request opens the session, the second waits for that answer,
    /// and from then on the loop is open.
    ///
    /// # Errors
    /// No thread can be started, or the oracle that it is to report to does not listen.
    pub fn start(seat: impl Into<Seat>, plan: CarPlan) -> Result<Car> {
        let reporter = plan.oracle.as_ref().map(Reporter::connect).transpose()?;
        let motion = Motion {
            position: plan.start,
            target: plan.start,
            speed: plan.speed,
        };
        let state = CarState {
            motion,
            avoid: None,
            token: None,
            records: BTreeMap::new(),
            unreported: None,
        };
        let shared = Arc::new(Shared {
            plan,
            start: Instant::now(),
            reporter,
            state: Mutex::new(state),
        });
        let stop = CancellationToken::new();
        let (driver, stopped, seat) = (Arc::clone(&shared), stop.clone(), seat.into());
        let origin = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock stands before 1970")?;
        let thread = std::thread::Builder::new()
            .name("car".to_owned())
            .spawn(move || seat.block_on(|| requests::drive(driver, stopped))?)?;
        Ok(Car {
            origin_unix_ms: origin.as_secs_f64() * 1000.0,
            shared,
            stop: stop.drop_guard(),
            thread,
        })
    }

    /// A view of it.
    pub fn view(&self) -> CarView {
        CarView {
            origin_unix_ms: self.origin_unix_ms,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Drives on to another place, unless it has a route of its own.
    pub fn drive_to(&self, metres: f64) {
        self.shared.state().motion.target = metres;
    }

    /// Never asks that node until told otherwise, as if its radio were off.
    pub fn avoid(&self, node: Option<usize>) {
        self.shared.state().avoid = node;
    }

    /// Whether it stands where it was sent.
    pub fn arrived(&self) -> bool {
        self.shared.state().motion.arrived()
    }

    /// Where it is: latitude and longitude in degrees.
    pub fn location(&self) -> (f64, f64) {
        self.shared.location()
    }

    /// Its session's token, once a node has issued one.
    pub fn token(&self) -> Option<String> {
        self.shared.state().token.clone()
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        Tally::of(self.shared.state().records.values())
    }

    /// Whether that node, by its index, has answered one of the latest requests with a success.
    pub fn answered_by(&self, node: usize) -> bool {
        let state = self.shared.state();
        let mut latest = state.records.values().rev().take(self.shared.plan.rate as usize);
        latest.any(|record| record.to == node && record.ok())
    }

    /// What it has seen so far, request by request.
    pub fn records(&self) -> Vec<Record> {
        self.shared.state().records.values().cloned().collect()
    }

    /// Looks at what it has seen so far, in the order of the numbers, while it waits: for what is over soon.
    pub fn look<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &Record>) -> T) -> T {
        look(&mut self.shared.state().records.values())
    }

    /// Whether it still drives: false after an error that ended it.
    pub fn running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Sends no more, waits for the answers that are under way, and gives all records by number.
    ///
    /// # Errors
    /// The car could not open its session at all, or an oracle that it reports to is gone.
    pub async fn finish(self) -> Result<Vec<Record>> {
        drop(self.stop);
        let thread = self.thread;
        tokio::task::spawn_blocking(move || thread.join())
            .await?
            .map_err(|_| anyhow!("the car's thread panicked"))??;
        let state = self.shared.state();
        if let Some(why) = &state.unreported {
            return Err(anyhow!("{why}"));
        }
        Ok(state.records.values().cloned().collect())
    }
}

/// Looks at a car without keeping it on the road.
#[derive(Clone)]
pub struct CarView {
    origin_unix_ms: f64,
    shared: Arc<Shared>,
}

impl CarView {
    /// Where it is: latitude and longitude in degrees.
    pub fn location(&self) -> (f64, f64) {
        self.shared.location()
    }

    /// Its requests that were to be sent after that time and are over: when, how long it took in milliseconds, and
    /// whether it was answered with a success.
    pub fn since(&self, unix_ms: f64) -> Vec<(f64, f64, bool)> {
        let state = self.shared.state();
        let young = |record: &&Record| self.origin_unix_ms + record.intended_ms > unix_ms;
        let mut found: Vec<_> = state
            .records
            .values()
            .rev()
            .take_while(young)
            .filter_map(|record| {
                let took = record.latency_ms()?;
                Some((self.origin_unix_ms + record.intended_ms, took, record.ok()))
            })
            .collect();
        found.reverse();
        found
    }
}

impl fmt::Debug for CarView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CarView")
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, CarState> {
        // Every change to it is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn location(&self) -> (f64, f64) {
        self.place(&self.state(), Instant::now())
    }

    fn place(&self, state: &CarState, at: Instant) -> (f64, f64) {
        match &self.plan.route {
            Some(route) => route.at(at.saturating_duration_since(self.start).as_secs_f64()),
            None => location(state.motion.position),
        }
    }
}

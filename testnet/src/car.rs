//! A car: numbered requests at a fixed rate to the nearest node, whatever happens to the earlier ones.
//!
//! It is an open loop: each request has its intended time of sending, latency counts from there, and a slow answer
//! does not slow the next request down. Nothing is sent twice: a number that failed stays failed, so the service's
//! own log can be held against what the car saw.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use reqwest::Client;
use reqwest::header::HeaderMap;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::hosts::Seat;
use crate::road::{Motion, location, nearest, stand};
use crate::state::State;

/// The client's token, issued with the first response.
pub const SESSION: &str = "x-blosm-session";
/// Who served.
pub const NODE: &str = "x-blosm-node";
/// Where the car is.
pub const POSITION: &str = "x-blosm-position";
/// A request that has no answer by then has failed. Longer than any node holds one.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a car does.
#[derive(Clone, Debug)]
pub struct CarPlan {
    /// Where requests go, such as `/counter/`: the first segment names the service.
    pub path: String,
    /// No session is opened, so no request waits for the first one's answer.
    pub stateless: bool,
    /// Requests a second.
    pub rate: u32,
    /// Where it starts, in metres along the road.
    pub start: f64,
    /// Metres a second.
    pub speed: f64,
    /// The gateways along the road.
    pub nodes: Vec<Roadside>,
}

impl CarPlan {
    /// A car of the demo's stateful service that starts at the first host and knows all of them.
    pub fn past(state: &State, rate: u32, speed: f64) -> CarPlan {
        let nodes = state.hosts.iter().map(|host| Roadside {
            stand: stand(host.number),
            gateway: SocketAddr::from((host.address, host.ports.gateway)),
        });
        CarPlan {
            path: "/counter/".to_owned(),
            stateless: false,
            rate,
            start: stand(1),
            speed,
            nodes: nodes.collect(),
        }
    }
}

/// One node as a car knows it.
#[derive(Clone, Debug)]
pub struct Roadside {
    /// Where along the road it stands, in metres.
    pub stand: f64,
    /// Its gateway.
    pub gateway: SocketAddr,
}

/// One request. Times are milliseconds since the car started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Its number, from 1.
    pub number: u64,
    /// When it was to be sent.
    pub intended_ms: f64,
    /// When it was sent.
    pub sent_ms: f64,
    /// When its answer was complete, or it failed; none while it is under way.
    pub done_ms: Option<f64>,
    /// The index of the node that it went to.
    pub to: usize,
    /// The answer's status.
    pub status: Option<u16>,
    /// Who served it, in the answer's words.
    pub node: Option<String>,
    /// The body of an answer that is not a success, or why there was none.
    pub error: Option<String>,
}

impl Record {
    /// From the intended time to the end, in milliseconds.
    pub fn latency_ms(&self) -> Option<f64> {
        self.done_ms.map(|done| done - self.intended_ms)
    }

    /// Whether it was answered with a success.
    pub fn ok(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether it failed after it was sent, so that nobody can tell whether it took effect.
    pub fn interrupted(&self) -> bool {
        let error = self.error.as_deref().unwrap_or_default();
        self.failed()
            && match self.status {
                None => !error.contains("(Connect)"),
                Some(_) => error.contains("interrupted"),
            }
    }

    /// Whether it is over and was not answered with a success.
    pub fn failed(&self) -> bool {
        self.done_ms.is_some() && !self.ok()
    }
}

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
    state: Mutex<CarState>,
}

struct CarState {
    motion: Motion,
    avoid: Option<usize>,
    token: Option<String>,
    records: BTreeMap<u64, Record>,
}

impl Car {
    /// Starts a car in the network of `seat`. Its first request opens the session, the second waits for that answer,
    /// and from then on the loop is open.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(seat: impl Into<Seat>, plan: CarPlan) -> Result<Car> {
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
        };
        let shared = Arc::new(Shared {
            plan,
            state: Mutex::new(state),
        });
        let stop = CancellationToken::new();
        let (driver, stopped, seat) = (Arc::clone(&shared), stop.clone(), seat.into());
        let start = Instant::now();
        let origin = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock stands before 1970")?;
        let thread = std::thread::Builder::new()
            .name("car".to_owned())
            .spawn(move || seat.block_on(|| drive(driver, stopped, start))?)?;
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

    /// Drives on to another place.
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

    /// Where it is, in metres along the road.
    pub fn position(&self) -> f64 {
        self.shared.state().motion.position
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

    /// Whether it still drives: false after an error that ended it.
    pub fn running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Sends no more, waits for the answers that are under way, and gives all records by number.
    ///
    /// # Errors
    /// The car could not open its session at all.
    pub async fn finish(self) -> Result<Vec<Record>> {
        drop(self.stop);
        let thread = self.thread;
        tokio::task::spawn_blocking(move || thread.join())
            .await?
            .map_err(|_| anyhow!("the car's thread panicked"))??;
        Ok(self.shared.state().records.values().cloned().collect())
    }
}

/// Looks at a car without keeping it on the road.
#[derive(Clone)]
pub struct CarView {
    origin_unix_ms: f64,
    shared: Arc<Shared>,
}

impl CarView {
    /// Where it is, in metres along the road.
    pub fn position(&self) -> f64 {
        self.shared.state().motion.position
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
}

async fn drive(shared: Arc<Shared>, stop: CancellationToken, start: Instant) -> Result<()> {
    let client = Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .tcp_nodelay(true)
        .retry(reqwest::retry::never())
        .build()?;
    let first = begin(&shared, 1, start, start)?;
    send(Arc::clone(&shared), client.clone(), first, start).await;
    let opening = shared
        .state()
        .records
        .get(&1)
        .cloned()
        .context("the first request is on record")?;
    if !shared.plan.stateless && shared.state().token.is_none() {
        let why = opening
            .error
            .unwrap_or_else(|| format!("status {:?}", opening.status));
        return Err(anyhow!("no session was opened at {}: {why}", shared.plan.path));
    }
    let period = Duration::from_secs(1) / shared.plan.rate.max(1);
    let mut ticks = interval_at(Instant::now(), period);
    // A tick that comes late keeps its intended time: that is what makes the loop open.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    for number in 2.. {
        let intended = tokio::select! {
            intended = ticks.tick() => intended,
            () = stop.cancelled() => break,
        };
        shared.state().motion.advance(period.as_secs_f64());
        let request = begin(&shared, number, intended, start)?;
        under_way.spawn(send(Arc::clone(&shared), client.clone(), request, start));
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    Ok(())
}

/// What one request is made of.
struct Outgoing {
    number: u64,
    gateway: SocketAddr,
    position: String,
    token: Option<String>,
}

/// Chooses the node and puts the request on record.
fn begin(shared: &Shared, number: u64, intended: Instant, start: Instant) -> Result<Outgoing> {
    let mut state = shared.state();
    let nodes = &shared.plan.nodes;
    let stands: Vec<f64> = nodes
        .iter()
        .enumerate()
        // A node that is avoided is beyond every horizon.
        .map(|(index, node)| {
            if state.avoid == Some(index) {
                f64::INFINITY
            } else {
                node.stand
            }
        })
        .collect();
    let to = nearest(state.motion.position, &stands).context("a road has nodes")?;
    let (latitude, longitude) = location(state.motion.position);
    let record = Record {
        number,
        intended_ms: millis(intended, start),
        sent_ms: millis(Instant::now(), start),
        done_ms: None,
        to,
        status: None,
        node: None,
        error: None,
    };
    state.records.insert(number, record);
    Ok(Outgoing {
        number,
        gateway: nodes[to].gateway,
        position: format!("{latitude:.6},{longitude:.6}"),
        token: state.token.clone(),
    })
}

async fn send(shared: Arc<Shared>, client: Client, request: Outgoing, start: Instant) {
    let mut call = client
        .post(format!("http://{}{}", request.gateway, shared.plan.path))
        .header("x-number", request.number)
        .header(POSITION, request.position)
        .body(request.number.to_string());
    if let Some(token) = request.token {
        call = call.header(SESSION, token);
    }
    let answer = async {
        let response = call.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok::<_, reqwest::Error>((status, headers, response.text().await?))
    };
    let answer = answer.await;
    let mut state = shared.state();
    let done = millis(Instant::now(), start);
    if let Ok((_, headers, _)) = &answer
        && let Some(token) = text(headers, SESSION)
    {
        state.token = Some(token);
    }
    if let Some(record) = state.records.get_mut(&request.number) {
        record.done_ms = Some(done);
        match answer {
            Ok((status, headers, body)) => {
                record.status = Some(status);
                record.node = text(&headers, NODE);
                record.error = (!record.ok()).then(|| body.trim().to_owned());
            }
            Err(error) => record.error = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn millis(at: Instant, start: Instant) -> f64 {
    at.saturating_duration_since(start).as_secs_f64() * 1000.0
}

/// Counts over a car's records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Numbers given out.
    pub sent: u64,
    /// Answered with a success.
    pub ok: u64,
    /// Over, without a success.
    pub failed: u64,
    /// Under way.
    pub open: u64,
    /// The longest wait, in milliseconds.
    pub max_ms: f64,
    /// Half of the requests were answered within this, in milliseconds.
    pub median_ms: f64,
    /// Who served the latest of them.
    pub last_node: Option<String>,
}

impl Tally {
    /// The counts over these records.
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Tally {
        let mut tally = Tally::default();
        let mut waits = Vec::new();
        let mut last = 0.0;
        for record in records {
            tally.sent += 1;
            tally.ok += u64::from(record.ok());
            tally.failed += u64::from(record.failed());
            tally.open += u64::from(record.done_ms.is_none());
            if let (Some(latency), Some(done)) = (record.latency_ms(), record.done_ms) {
                waits.push(latency);
                if record.ok() && done >= last {
                    last = done;
                    tally.last_node = record.node.clone();
                }
            }
        }
        waits.sort_by(f64::total_cmp);
        tally.max_ms = waits.last().copied().unwrap_or(0.0);
        tally.median_ms = waits.get(waits.len() / 2).copied().unwrap_or(0.0);
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, status: Option<u16>, done_ms: Option<f64>) -> Record {
        let intended_ms = number as f64 * 50.0;
        Record {
            number,
            intended_ms,
            sent_ms: intended_ms,
            done_ms,
            to: 0,
            status,
            node: None,
            error: None,
        }
    }

    #[test]
    fn latency_counts_from_the_intended_time() {
        let mut late = record(2, Some(200), Some(180.0));
        late.sent_ms = 170.0;
        assert_eq!(late.latency_ms(), Some(80.0));
    }

    #[test]
    fn tally_tells_open_from_failed() {
        let records = [
            record(1, Some(200), Some(60.0)),
            record(2, Some(503), Some(120.0)),
            record(3, None, None),
        ];
        let tally = Tally::of(records.iter());
        assert_eq!((tally.sent, tally.ok, tally.failed, tally.open), (3, 1, 1, 1));
        assert_eq!(tally.max_ms, 20.0);
    }
}

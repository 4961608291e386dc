//! Probes: how fast gossip reaches the members.
//!
//! A node floods a message of a given length on a topic of its own and notes the time. Every member forwards it as it
//! would a block, and after a random pause, so that the answers do not disturb what they measure, tells the origin how
//! long ago the message came. So no two clocks need to agree: the origin takes that pause and half of the round trip from
//! the time at which the answer is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blosm_ledger::PublicKey;
use blosm_net::{Topic, Verdict, peer_of_key};
use borsh::{BorshDeserialize, BorshSerialize};
use tokio::sync::Notify;

use super::handle::Shared;
use super::sync::HEAD_WAIT;
use super::wire::LedgerRequest;

/// Probes of one node or of many that are forwarded and answered in a second. One more is let fall: whoever forged another's
/// name as a probe's origin can draw no more answers to it than that from each member.
const PER_SECOND: u32 = 4;
/// The answers of so many members come in a second.
const ANSWERS_PER_SECOND: usize = 200;
/// The least time over which answers are spread.
const SPREAD_MIN: Duration = Duration::from_millis(50);
/// The longest time over which answers are spread.
const SPREAD_MAX: Duration = Duration::from_secs(2);
/// How long the origin waits for answers beyond the time over which they are spread: some members are connected to first.
const PATIENCE: Duration = Duration::from_secs(2);

/// The gossiped message.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Probe {
    origin: PublicKey,
    id: [u8; 16],
    /// Makes the message as long as it is to be.
    filler: Vec<u8>,
}

/// The bytes of a probe without filler.
const BARE: usize = 32 + 16 + 4;

/// How long a probe may be, in bytes.
pub const PROBE_BYTES: std::ops::RangeInclusive<usize> = BARE..=1024;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// When it left, in microseconds since the Unix epoch, by this node's clock.
    pub sent_unix_us: u64,
    /// The members that there were, this node among them.
    pub members: usize,
    /// When it came to each of the other members that answered, the earliest first.
    pub arrivals: Vec<Arrival>,
}

/// When a probe came to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The member.
    pub node: PublicKey,
    /// After it had left, as this node reckons.
    pub after: Duration,
    /// By the member's own clock, in microseconds since the Unix epoch.
    pub unix_us: u64,
}

/// A probe cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// One at a time.
    #[error("another probe of this node is still out")]
    Busy,
    /// Its length.
    #[error("a probe has {} to {} bytes", PROBE_BYTES.start(), PROBE_BYTES.end())]
    Length,
    /// No network.
    #[error("the probe could not be sent: {0}")]
    NotSent(String),
}

/// The probes that this node has out, and how many of others it has seen lately.
#[derive(Debug, Default)]
pub(super) struct Probes {
    out: Mutex<Option<Out>>,
    seen: Mutex<Window>,
    answered: Notify,
}

#[derive(Debug)]
struct Out {
    id: [u8; 16],
    sent: Instant,
    arrivals: BTreeMap<PublicKey, Arrival>,
}

/// Counts within the second that began at `since`.
#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    count: u32,
}

impl Window {
    fn take(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1))
        {
            *self = Window {
                since: Some(now),
                count: 0,
            };
        }
        self.count += 1;
        self.count <= PER_SECOND
    }
}

impl ProbeReport {
    /// The time after which that share of all members had it, counting this node at once; none if too few answered.
    #[must_use]
    pub fn reached(&self, share: f64) -> Option<Duration> {
        // As Algorithm 1 counts: at least this share of all nodes.
        let needed = (self.members as f64 * share).ceil() as usize;
        match needed.saturating_sub(1) {
            0 => Some(Duration::ZERO),
            others => self.arrivals.get(others - 1).map(|arrival| arrival.after),
        }
    }
}

/// Floods a probe of `bytes` and waits for the members' answers.
pub(super) async fn send(shared: &Shared, bytes: usize) -> Result<ProbeReport, ProbeError> {
    if !PROBE_BYTES.contains(&bytes) {
        return Err(ProbeError::Length);
    }
    let members = super::sync::others(shared).len();
    let (mut id, mut filler) = ([0; 16], vec![0; bytes - BARE]);
    getrandom::fill(&mut id)
        .and_then(|()| getrandom::fill(&mut filler))
        .map_err(|error| ProbeError::NotSent(error.to_string()))?;
    let probe = Probe {
        origin: shared.me,
        id,
        filler,
    };
    let message = borsh::to_vec(&probe).expect("writing to memory cannot fail");
    debug_assert_eq!(message.len(), bytes);
    // It goes when this future does: a caller that gives up leaves no probe behind.
    let out = shared.probes.begin(id)?;
    let sent_unix_us = unix_us();
    shared
        .net
        .publish(Topic::Probe, message)
        .map_err(|error| ProbeError::NotSent(error.to_string()))?;
    let end = tokio::time::Instant::now() + spread(members) + PATIENCE;
    loop {
        let answered = shared.probes.answered.notified();
        if out.count() >= members || tokio::time::timeout_at(end, answered).await.is_err() {
            break;
        }
    }
    Ok(ProbeReport {
        sent_unix_us,
        members: members + 1,
        arrivals: out.take(),
    })
}

/// A probe of another node, at the moment at which it has come. What is said of it is its verdict; a good one is answered.
pub(super) fn on_gossip(shared: &Arc<Shared>, data: &[u8]) -> Verdict {
    let (arrived, arrived_unix_us) = (Instant::now(), unix_us());
    let Ok(probe) = borsh::from_slice::<Probe>(data) else {
        return Verdict::Reject;
    };
    if probe.origin == shared.me {
        return Verdict::Ignore;
    }
    let view = shared.snapshot();
    let members = view.state.members();
    if !members.contains(&probe.origin)
        || !shared
            .probes
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(arrived)
    {
        return Verdict::Ignore;
    }
    let pause = spread(members.len().saturating_sub(1)).mul_f64(fraction());
    let shared = shared.clone();
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        let peer = peer_of_key(&probe.origin.0);
        if !shared.net.is_connected(&peer) {
            // Else the time to connect would count as the probe's.
            shared.ask(peer, &LedgerRequest::Head, HEAD_WAIT).await;
        }
        let answer = LedgerRequest::Probed {
            id: probe.id,
            held_us: micros(arrived.elapsed()),
            arrived_unix_us,
        };
        // An answer that is lost is one member less in the report.
        shared.ask(peer, &answer, HEAD_WAIT).await;
    });
    Verdict::Accept
}

/// A member's answer.
pub(super) fn on_answer(shared: &Shared, from: PublicKey, id: [u8; 16], held_us: u64, unix_us: u64) {
    let now = Instant::now();
    let peer = peer_of_key(&from.0);
    let peers = shared.net.watch_peers();
    let way = peers
        .borrow()
        .get(&peer)
        .and_then(|peer| peer.rtt)
        .unwrap_or_default()
        / 2;
    shared
        .probes
        .arrived(from, id, now, Duration::from_micros(held_us) + way, unix_us);
}

impl Probes {
    fn begin(&self, id: [u8; 16]) -> Result<OutGuard<'_>, ProbeError> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.is_some() {
            return Err(ProbeError::Busy);
        }
        *out = Some(Out {
            id,
            sent: Instant::now(),
            arrivals: BTreeMap::new(),
        });
        Ok(OutGuard(self))
    }

    fn arrived(&self, from: PublicKey, id: [u8; 16], now: Instant, ago: Duration, unix_us: u64) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(out) = out.as_mut().filter(|out| out.id == id) {
            let after = now.duration_since(out.sent).saturating_sub(ago);
            // The first word of a member counts.
            out.arrivals.entry(from).or_insert(Arrival {
                node: from,
                after,
                unix_us,
            });
        }
        drop(out);
        self.answered.notify_one();
    }
}

/// Ends the probe that is out.
struct OutGuard<'a>(&'a Probes);

impl OutGuard<'_> {
    fn count(&self) -> usize {
        let out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.as_ref().map_or(0, |out| out.arrivals.len())
    }

    fn take(self) -> Vec<Arrival> {
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        let arrivals = out.take().map(|out| out.arrivals).unwrap_or_default();
        drop(out);
        let mut arrivals: Vec<Arrival> = arrivals.into_values().collect();
        arrivals.sort_by_key(|arrival| arrival.after);
        arrivals
    }
}

impl Drop for OutGuard<'_> {
    fn drop(&mut self) {
        *self.0.out.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Over which time the answers of so many members are spread.
fn spread(members: usize) -> Duration {
    let seconds = members as f64 / ANSWERS_PER_SECOND as f64;
    Duration::from_secs_f64(seconds).clamp(SPREAD_MIN, SPREAD_MAX)
}

/// A random number of [0, 1). Without randomness all answers come at the same time, which is only slower.
fn fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

fn unix_us() -> u64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    #[test]
    fn arrivals_are_counted_back_from_the_answers_and_once_for_each_member() {
        let probes = Probes::default();
        let out = probes.begin([1; 16]).unwrap();
        assert_eq!(probes.begin([2; 16]).err(), Some(ProbeError::Busy));
        let sent = probes.out.lock().unwrap().as_ref().unwrap().sent;
        let at = |ms| sent + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        probes.arrived(key(1), [1; 16], at(100), ms(70), 1);
        probes.arrived(key(2), [1; 16], at(50), ms(40), 2);
        // Another probe's answer, a second word, and a pause longer than the time since.
        probes.arrived(key(3), [9; 16], at(60), ms(1), 3);
        probes.arrived(key(1), [1; 16], at(110), ms(1), 4);
        probes.arrived(key(4), [1; 16], at(5), ms(500), 5);
        assert_eq!(out.count(), 3);
        let arrivals: Vec<_> = out.take().iter().map(|a| (a.node, a.after, a.unix_us)).collect();
        assert_eq!(
            arrivals,
            [(key(4), ms(0), 5), (key(2), ms(10), 2), (key(1), ms(30), 1)]
        );
        assert!(probes.begin([2; 16]).is_ok(), "the former one is over");
    }

    #[test]
    fn share_counts_the_origin_and_needs_enough_answers() {
        let arrival = |n: u8| Arrival {
            node: key(n),
            after: Duration::from_millis(n.into()),
            unix_us: 0,
        };
        let report = ProbeReport {
            sent_unix_us: 0,
            members: 10,
            arrivals: (1..=8).map(arrival).collect(),
        };
        assert_eq!(report.reached(0.9), Some(Duration::from_millis(8)));
        assert_eq!(report.reached(0.5), Some(Duration::from_millis(4)));
        assert_eq!(report.reached(0.1), Some(Duration::ZERO));
        assert_eq!(report.reached(1.0), None);
    }

    #[test]
    fn probes_of_a_second_are_bounded() {
        let (mut window, now) = (Window::default(), Instant::now());
        let taken = (0..20).filter(|_| window.take(now)).count();
        assert_eq!(taken, PER_SECOND as usize);
        assert!(window.take(now + Duration::from_secs(1)));
    }
}

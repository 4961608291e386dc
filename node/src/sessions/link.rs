//! What the links to the other members carry: measured on order, remembered for forecasts, and given to those who measure.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blosm_ledger::PublicKey;
use blosm_migrate::transfer::sample::{self, Bandwidth};
use blosm_migrate::transfer::{PullError, TransferBody, TransferRequest, TransferResponse, WireError};
use blosm_net::{Protocol, peer_of_key};

use super::unix_ms;
use crate::parts::Parts;

/// A node that has asked for no sample for so long has ended its measurement.
const LEASE: Duration = Duration::from_secs(2);
/// What one node may take in a row: longer than any measurement that `blosm bandwidth` makes.
const TURN: Duration = Duration::from_secs(310);

type Fetched = Result<TransferResponse, Box<dyn std::error::Error + Send + Sync>>;
/// Sends one request of the transfer protocol to one node.
pub(super) type Fetch =
    Box<dyn Fn(TransferRequest) -> Pin<Box<dyn Future<Output = Fetched> + Send>> + Send + Sync>;

/// The way to fetch from a node.
pub(super) fn fetch(parts: Arc<Parts>, from: PublicKey) -> Fetch {
    let peer = peer_of_key(&from.0);
    Box::new(move |request| {
        let parts = parts.clone();
        Box::pin(async move {
            let measures = matches!(request.body, TransferBody::Sample { .. });
            let bytes = borsh::to_vec(&request).expect("a request is plain data");
            let answer = parts.net.request(peer, Protocol::Transfer, bytes).await?;
            if !measures {
                parts.metrics.fetched(answer.len());
            }
            borsh::from_slice::<TransferResponse>(&answer).map_err(|_| "the answer can't be read".into())
        })
    })
}

/// The round trip to a node, as the swarm's pings have last found it.
pub(super) fn round_trip(parts: &Parts, node: PublicKey) -> Option<Duration> {
    let peer = peer_of_key(&node.0);
    parts.net.peers().iter().find(|known| known.peer == peer)?.rtt
}

/// What was measured, and who measures.
#[derive(Debug, Default)]
pub(crate) struct Links {
    measured: Mutex<BTreeMap<PublicKey, Measured>>,
    taker: Mutex<Option<Taker>>,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// When, in milliseconds of the wall clock.
    pub(super) unix_ms: u64,
    /// 10^6 bits per second, from that node to this one.
    pub(super) mbit: f64,
}

/// The node that measures its link to this one.
#[derive(Debug, Clone, Copy)]
struct Taker {
    node: PublicKey,
    since: Instant,
    last: Instant,
}

impl Links {
    /// The last measurement of the link from a node.
    pub(super) fn measured(&self, from: &PublicKey) -> Option<Measured> {
        lock(&self.measured).get(from).copied()
    }

    /// Answers a node that measures: one at a time, so that two do not halve each other's figure, and no node for ever.
    pub(super) fn give(&self, to: PublicKey, bytes: u32, now: Instant) -> TransferResponse {
        let mut taker = lock(&self.taker);
        let since = match *taker {
            Some(known) if now.saturating_duration_since(known.last) >= LEASE => now,
            Some(known) if known.node == to && now.saturating_duration_since(known.since) < TURN => {
                known.since
            }
            Some(_) => return TransferResponse::Refused(WireError::Busy),
            None => now,
        };
        *taker = Some(Taker {
            node: to,
            since,
            last: now,
        });
        drop(taker);
        sample::answer(bytes)
    }
}

/// Measures for so long what comes from a node, and remembers it.
///
/// # Errors
/// The node does not answer, or lets another one measure.
pub(super) async fn measure(
    parts: &Arc<Parts>,
    from: PublicKey,
    time: Duration,
) -> Result<Bandwidth, PullError> {
    let found = sample::measure(fetch(parts.clone(), from), round_trip(parts, from), time).await?;
    let measured = Measured {
        unix_ms: unix_ms(),
        mbit: found.mean_mbit,
    };
    let mut links = lock(&parts.links.measured);
    // Bounded by the members; who is none any more is never asked for again.
    let view = parts.chain.snapshot();
    links.retain(|node, _| view.state.members().contains(node));
    links.insert(from, measured);
    Ok(found)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_measures_at_a_time_and_none_for_ever() {
        let (links, begin) = (Links::default(), Instant::now());
        let (a, b) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let given = |to, after: Duration| {
            !matches!(
                links.give(to, 1000, begin + after),
                TransferResponse::Refused(WireError::Busy)
            )
        };
        assert!(given(a, Duration::ZERO));
        assert!(!given(b, Duration::from_secs(1)), "a measures");
        assert!(given(a, Duration::from_millis(1500)));
        assert!(!given(b, Duration::from_secs(3)));
        assert!(given(b, Duration::from_millis(3500)), "a has ended");
        let mut at = Duration::from_secs(4);
        while given(b, at) {
            at += Duration::from_secs(1);
            assert!(at < TURN + Duration::from_secs(10), "b takes for ever");
        }
        assert!(given(a, at + LEASE));
    }
}

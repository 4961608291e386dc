//! How much one peer may send in a while: token buckets, far above what an honest peer reaches. Pure.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;

use crate::protocol::Protocol;

/// A kind of traffic with a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intake {
    /// Messages on any topic.
    Gossip,
    /// Requests on a protocol.
    Request(Protocol),
    /// Requests to be dialled back.
    Reach,
}

impl Intake {
    /// All kinds.
    pub const ALL: [Intake; 7] = [
        Intake::Gossip,
        Intake::Request(Protocol::Ledger),
        Intake::Request(Protocol::Session),
        Intake::Request(Protocol::Relay),
        Intake::Request(Protocol::Transfer),
        Intake::Request(Protocol::Join),
        Intake::Reach,
    ];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Intake::Gossip => "gossip",
            Intake::Request(protocol) => protocol.name(),
            Intake::Reach => "reach",
        }
    }

    pub(crate) fn index(self) -> usize {
        Intake::ALL
            .iter()
            .position(|kind| *kind == self)
            .expect("ALL has every kind")
    }

    /// What comes back per second, and what a full bucket holds.
    fn allowance(self) -> Allowance {
        let (rate, burst) = match self {
            // Both are bounded again by how many may wait. A bench on one machine reaches a tenth of this.
            Intake::Gossip => (5_000.0, 10_000.0),
            Intake::Request(Protocol::Ledger) => (5_000.0, 10_000.0),
            Intake::Request(Protocol::Session) => (1_000.0, 2_000.0),
            // One client's request each.
            Intake::Request(Protocol::Relay) => (10_000.0, 20_000.0),
            // At a full MiB each, 10 Gbit/s are 1,200 of them.
            Intake::Request(Protocol::Transfer) => (5_000.0, 10_000.0),
            Intake::Request(Protocol::Join) => (1.0, 8.0),
            Intake::Reach => (0.1, 3.0),
        };
        Allowance { rate, burst }
    }
}

struct Allowance {
    rate: f64,
    burst: f64,
}

/// The buckets that are not full.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    buckets: HashMap<(PeerId, Intake), Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, allowance: &Allowance, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * allowance.rate).min(allowance.burst);
        self.at = now;
    }
}

impl Buckets {
    /// Takes one token. Returns whether there was one.
    pub(crate) fn take(&mut self, peer: PeerId, kind: Intake, now: Instant) -> bool {
        let allowance = kind.allowance();
        let bucket = self.buckets.entry((peer, kind)).or_insert(Bucket {
            tokens: allowance.burst,
            at: now,
        });
        bucket.fill(&allowance, now);
        let granted = bucket.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }

    /// Forgets buckets that are full again, so that strangers leave nothing behind.
    pub(crate) fn round(&mut self, now: Instant) {
        self.buckets.retain(|(_, kind), bucket| {
            let allowance = kind.allowance();
            bucket.fill(&allowance, now);
            bucket.tokens < allowance.burst
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut buckets, peer, start) = (Buckets::default(), PeerId::random(), Instant::now());
        let kind = Intake::Request(Protocol::Join);
        for n in 0..8 {
            assert!(buckets.take(peer, kind, start), "{n}");
        }
        assert!(!buckets.take(peer, kind, start));
        let later = start + Duration::from_millis(1100);
        assert!(buckets.take(peer, kind, later));
        assert!(!buckets.take(peer, kind, later));
        assert!(buckets.take(peer, Intake::Gossip, later), "each kind has its own");
        assert!(buckets.take(PeerId::random(), kind, later), "so has each peer");
    }

    #[test]
    fn a_full_bucket_is_forgotten() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        for _ in 0..1000 {
            buckets.take(PeerId::random(), Intake::Request(Protocol::Join), start);
        }
        buckets.round(start + Duration::from_millis(500));
        assert_eq!(buckets.buckets.len(), 1000);
        buckets.round(start + Duration::from_millis(1100));
        assert!(buckets.buckets.is_empty());
    }

    #[test]
    fn as_much_as_may_be_unanswered_never_runs_dry() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        for protocol in Protocol::ALL {
            let peer = PeerId::random();
            for n in 0..protocol.limits().in_flight {
                assert!(
                    buckets.take(peer, Intake::Request(protocol), start),
                    "{protocol:?} {n}"
                );
            }
        }
    }

    #[test]
    fn every_kind_has_its_place() {
        for (index, kind) in Intake::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
        }
        for protocol in Protocol::ALL {
            assert_eq!(
                Intake::ALL[Intake::Request(protocol).index()].name(),
                protocol.name()
            );
        }
    }
}

//! The swarm's metrics: a snapshot of its counters and its peers at each reading. Gossip by topic and the times of requests
//! stand in libp2p's registry, since the swarm counts them itself.

use blosm_net::{Counters, Intake, Misdeed, PeerInfo, Refusal};
use prometheus::{Error, Gauge, GaugeVec, IntCounterVec};

use super::register::{Register, raise};

/// What is known about whether others can dial this node.
const REACHABLE: [(&str, Option<bool>); 3] = [("yes", Some(true)), ("no", Some(false)), ("unknown", None)];

#[derive(Debug)]
pub(super) struct NetMetrics {
    /// Connected peers.
    peers: Gauge,
    /// Those of them that have lost score.
    scored_down: Gauge,
    /// The lowest score of a connected peer.
    lowest_score: Gauge,
    /// This node's clock less the authority's; NaN while it has not been measured.
    clock_offset: Gauge,
    /// 1 for the answer that holds, 0 for the others.
    reachable: GaugeVec,
    /// All that the swarm counts by a plain number, by its name.
    events: IntCounterVec,
    /// Connections refused or ended, by reason.
    refused: IntCounterVec,
    /// Messages and requests over a peer's allowance, by kind.
    limited: IntCounterVec,
    /// Misdeeds that cost score, by kind.
    misdeeds: IntCounterVec,
}

impl NetMetrics {
    pub(super) fn register(register: Register<'_>) -> Result<Self, Error> {
        let counters = |name, help, label| register.counters(name, help, &[label]);
        let metrics = Self {
            peers: register.gauge("blosm_net_peers", "Connected peers")?,
            scored_down: register.gauge(
                "blosm_net_scored_down_peers",
                "Connected peers that have lost score by their behaviour",
            )?,
            lowest_score: register.gauge(
                "blosm_net_lowest_score",
                "Lowest score of a connected peer: 0 is best, at -50 it is kept out",
            )?,
            clock_offset: register.gauge(
                "blosm_net_clock_offset_seconds",
                "Clock of the node less that of the authority; NaN while it is not known",
            )?,
            reachable: register.gauges(
                "blosm_net_reachable",
                "Whether other members can dial this node",
                &["verdict"],
            )?,
            events: counters(
                "blosm_net_events_total",
                "Messages and peers that the swarm sent, took and had to let fall",
                "event",
            )?,
            refused: counters(
                "blosm_net_refused_total",
                "Connections refused or ended",
                "reason",
            )?,
            limited: counters(
                "blosm_net_limited_total",
                "Messages and requests over a peer's allowance",
                "kind",
            )?,
            misdeeds: counters(
                "blosm_net_misdeeds_total",
                "Misdeeds that cost a member score",
                "kind",
            )?,
        };
        metrics.clock_offset.set(f64::NAN);
        Ok(metrics)
    }

    pub(super) fn clock_offset(&self, seconds: Option<f64>) {
        self.clock_offset.set(seconds.unwrap_or(f64::NAN));
    }

    pub(super) fn set(&self, peers: &[PeerInfo], reachable: Option<bool>, counters: &Counters) {
        self.peers.set(peers.len() as f64);
        let down = peers.iter().filter(|peer| peer.score < 0).count();
        self.scored_down.set(down as f64);
        let lowest = peers.iter().map(|peer| peer.score).min().unwrap_or(0);
        self.lowest_score.set(f64::from(lowest));
        for (word, verdict) in REACHABLE {
            let holds = f64::from(u8::from(verdict == reachable));
            self.reachable.with_label_values(&[word]).set(holds);
        }
        for (event, total) in counters.named() {
            raise(&self.events.with_label_values(&[event]), total);
        }
        for reason in Refusal::ALL {
            raise(
                &self.refused.with_label_values(&[reason.name()]),
                counters.refused(reason),
            );
        }
        for kind in Intake::ALL {
            raise(
                &self.limited.with_label_values(&[kind.name()]),
                counters.limited(kind),
            );
        }
        for misdeed in Misdeed::ALL {
            raise(
                &self.misdeeds.with_label_values(&[misdeed.name()]),
                counters.misdeeds(misdeed),
            );
        }
    }
}

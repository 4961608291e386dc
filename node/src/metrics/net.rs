//! The swarm's metrics: a snapshot of its counters at each reading.

use std::sync::{Mutex, PoisonError};

use blosm_net::{Counters, Intake, Misdeed, Refusal};
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What is known about whether others can dial this node.
const REACHABLE: [(&str, Option<bool>); 3] = [("yes", Some(true)), ("no", Some(false)), ("unknown", None)];

#[derive(Debug)]
pub(super) struct NetMetrics {
    /// Connected peers.
    peers: IntGauge,
    /// 1 for the answer that holds, 0 for the others.
    reachable: GaugeVec,
    /// Gossip messages, by what became of them.
    gossip: IntCounterVec,
    /// Requests, by what became of them.
    requests: IntCounterVec,
    /// Connections refused or ended, by reason.
    refused: IntCounterVec,
    /// Messages and requests over a peer's allowance, by kind.
    limited: IntCounterVec,
    /// Misdeeds that cost score, by kind.
    misdeeds: IntCounterVec,
    /// Members kept out for a while.
    kept_out: IntCounter,
    /// Peers dropped since they had fallen silent.
    silent: IntCounter,
    /// Connections of strangers that were let in.
    strangers: IntCounter,
    /// All that the swarm counts by a plain number, by its name.
    events: IntCounterVec,
    /// Readings come from several scrapes at a time; a counter is raised by one at a time.
    raising: Mutex<()>,
}

impl NetMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone())).map(|()| counters)
        };
        let peers = IntGauge::new("blosm_net_peers", "Connected peers")?;
        registry.register(Box::new(peers.clone()))?;
        let reachable = GaugeVec::new(
            Opts::new("blosm_net_reachable", "Whether other members can dial this node"),
            &["verdict"],
        )?;
        registry.register(Box::new(reachable.clone()))?;
        Ok(Self {
            peers,
            reachable,
            gossip: counters(
                "blosm_net_gossip_total",
                "Gossip messages by what became of them",
                "outcome",
            )?,
            requests: counters(
                "blosm_net_requests_total",
                "Requests by what became of them",
                "outcome",
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
            kept_out: counter(
                "blosm_net_kept_out_total",
                "Members kept out for a while by their score",
            )?,
            silent: counter(
                "blosm_net_silent_total",
                "Peers dropped since they had fallen silent",
            )?,
            strangers: counter(
                "blosm_net_strangers_total",
                "Connections of strangers that were let in",
            )?,
            events: counters(
                "blosm_net_events_total",
                "Messages and peers that the swarm sent, took and had to let fall",
                "event",
            )?,
            raising: Mutex::new(()),
        })
    }

    pub(super) fn set(&self, connected: usize, reachable: Option<bool>, counters: &Counters) {
        self.peers.set(i64::try_from(connected).unwrap_or(i64::MAX));
        for (word, verdict) in REACHABLE {
            let holds = f64::from(u8::from(verdict == reachable));
            self.reachable.with_label_values(&[word]).set(holds);
        }
        let _one = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, count) in [
            ("received", counters.gossip_received),
            ("published", counters.gossip_published),
            ("ignored", counters.gossip_dropped),
            ("unpublished", counters.publish_dropped),
        ] {
            raise(&self.gossip.with_label_values(&[outcome]), count);
        }
        for (outcome, count) in [
            ("received", counters.requests_received),
            ("refused", counters.requests_dropped),
            ("unanswered", counters.answers_dropped),
            ("sent", counters.requests_sent),
            ("failed", counters.requests_failed),
        ] {
            raise(&self.requests.with_label_values(&[outcome]), count);
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
        raise(&self.kept_out, counters.peers_kept_out);
        raise(&self.silent, counters.peers_silent);
        raise(&self.strangers, counters.strangers);
    }
}

/// Brings a counter up to what has been counted elsewhere.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    #[test]
    fn counters_follow_the_swarms_and_never_fall() {
        let registry = Registry::new();
        let metrics = NetMetrics::register(&registry).unwrap();
        let mut counters = Counters::default();
        for (received, connected) in [(3, 1), (7, 2), (7, 2)] {
            counters.gossip_received = received;
            counters.peers_kept_out = received;
            metrics.set(connected, Some(false), &counters);
        }
        let mut out = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in [
            "blosm_net_peers 2",
            "blosm_net_gossip_total{outcome=\"received\"} 7",
            "blosm_net_kept_out_total 7",
            "blosm_net_refused_total{reason=\"stranger\"} 0",
            "blosm_net_limited_total{kind=\"join\"} 0",
            "blosm_net_misdeeds_total{kind=\"message\"} 0",
            "blosm_net_reachable{verdict=\"no\"} 1",
            "blosm_net_reachable{verdict=\"yes\"} 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}

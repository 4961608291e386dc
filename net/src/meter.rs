//! What Prometheus reads of the swarm beside the counters: gossip by topic and verdict, how long requests take, and what
//! libp2p's events say of connections, pings and searches.
//!
//! Label sets are closed: topics, verdicts, protocols and outcomes are words of the program.

use std::time::Duration;

use libp2p::metrics::{Metrics, Recorder};
use libp2p::swarm::SwarmEvent;
use libp2p::{kad, ping};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::event::Verdict;
use crate::protocol::{Protocol, Topic};

/// From a round trip on one machine to a session that waits for its cut, in seconds.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// The outcome of a request that has brought an answer.
pub(crate) const ANSWERED: &str = "answered";

/// What became of a gossip message that came from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The reader gave its verdict.
    Judged(Verdict),
    /// Ignored for want of room.
    Dropped,
    /// Ignored, since its peer has sent more than its allowance.
    Limited,
}

impl Fate {
    const ALL: [Fate; 5] = [
        Fate::Judged(Verdict::Accept),
        Fate::Judged(Verdict::Ignore),
        Fate::Judged(Verdict::Reject),
        Fate::Dropped,
        Fate::Limited,
    ];

    fn word(self) -> &'static str {
        match self {
            Fate::Judged(Verdict::Accept) => "accept",
            Fate::Judged(Verdict::Ignore) => "ignore",
            Fate::Judged(Verdict::Reject) => "reject",
            Fate::Dropped => "dropped",
            Fate::Limited => "limited",
        }
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The swarm's meters, in the registry that libp2p counts in too.
pub(crate) struct Meter {
    gossip: Family<Labels<2>, Counter>,
    published: Family<Labels<1>, Counter>,
    requests: Family<Labels<2>, Histogram, fn() -> Histogram>,
    libp2p: Metrics,
}

impl Meter {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let meter = Self {
            gossip: Family::default(),
            published: Family::default(),
            requests: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            libp2p: Metrics::new(registry),
        };
        registry.register(
            "blosm_net_gossip_messages",
            "Gossip messages of peers by topic and what became of them",
            meter.gossip.clone(),
        );
        registry.register(
            "blosm_net_gossip_published",
            "Gossip messages that this node published by topic",
            meter.published.clone(),
        );
        registry.register(
            "blosm_net_requests_seconds",
            "Time from a request to its answer or failure by protocol and outcome",
            meter.requests.clone(),
        );
        // A series that begins at 0 shows its first step.
        for topic in Topic::ALL {
            drop(meter.published.get_or_create(&[("topic", topic.name())]));
            for fate in Fate::ALL {
                let labels = [("topic", topic.name()), ("verdict", fate.word())];
                drop(meter.gossip.get_or_create(&labels));
            }
        }
        // Without those that fail: a histogram for each way to fail would be half of the page, on every node.
        for protocol in Protocol::ALL {
            let labels = [("protocol", protocol.name()), ("outcome", ANSWERED)];
            drop(meter.requests.get_or_create(&labels));
        }
        meter
    }

    pub(crate) fn gossip(&self, topic: Topic, fate: Fate) {
        let labels = [("topic", topic.name()), ("verdict", fate.word())];
        self.gossip.get_or_create(&labels).inc();
    }

    pub(crate) fn published(&self, topic: Topic) {
        self.published.get_or_create(&[("topic", topic.name())]).inc();
    }

    /// A request has come to its end after `took`; `outcome` is [`ANSWERED`] or what [`crate::RequestError::word`] calls it.
    pub(crate) fn request(&self, protocol: Protocol, outcome: &'static str, took: Duration) {
        let labels = [("protocol", protocol.name()), ("outcome", outcome)];
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Only what this node's own transport says of connections, dials and listeners. libp2p labels each address with its
    /// stack of protocols, and those that others tell us, as those that they see us at, may be of any stack at all.
    pub(crate) fn swarm<T>(&self, event: &SwarmEvent<T>) {
        if matches!(
            event,
            SwarmEvent::ConnectionEstablished { .. }
                | SwarmEvent::ConnectionClosed { .. }
                | SwarmEvent::IncomingConnection { .. }
                | SwarmEvent::IncomingConnectionError { .. }
                | SwarmEvent::OutgoingConnectionError { .. }
                | SwarmEvent::Dialing { .. }
                | SwarmEvent::NewListenAddr { .. }
                | SwarmEvent::ExpiredListenAddr { .. }
                | SwarmEvent::ListenerClosed { .. }
                | SwarmEvent::ListenerError { .. }
        ) {
            self.libp2p.record(event);
        }
    }

    pub(crate) fn ping(&self, event: &ping::Event) {
        self.libp2p.record(event);
    }

    pub(crate) fn kad(&self, event: &kad::Event) {
        self.libp2p.record(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn each_meter_moves_under_its_own_labels() {
        let mut registry = Registry::default();
        let meter = Meter::new(&mut registry);
        meter.gossip(Topic::Block, Fate::Judged(Verdict::Accept));
        meter.gossip(Topic::Block, Fate::Judged(Verdict::Accept));
        meter.gossip(Topic::Tx, Fate::Limited);
        meter.published(Topic::Status);
        meter.request(Protocol::Relay, "answered", Duration::from_millis(3));
        meter.request(Protocol::Ledger, "timeout", Duration::from_secs(10));
        let page = text::render(&registry);
        for line in [
            "blosm_net_gossip_messages_total{topic=\"block\",verdict=\"accept\"} 2",
            "blosm_net_gossip_messages_total{topic=\"tx\",verdict=\"limited\"} 1",
            "blosm_net_gossip_messages_total{topic=\"tx\",verdict=\"reject\"} 0",
            "blosm_net_gossip_published_total{topic=\"status\"} 1",
            "# TYPE blosm_net_requests_seconds histogram",
            "blosm_net_requests_seconds_count{protocol=\"relay\",outcome=\"answered\"} 1",
            "blosm_net_requests_seconds_bucket{le=\"0.005\",protocol=\"relay\",outcome=\"answered\"} 1",
            "blosm_net_requests_seconds_bucket{le=\"0.0025\",protocol=\"relay\",outcome=\"answered\"} 0",
            "blosm_net_requests_seconds_sum{protocol=\"ledger\",outcome=\"timeout\"} 10.0",
            "blosm_net_requests_seconds_count{protocol=\"session\",outcome=\"answered\"} 0",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is not in\n{page}"
            );
        }
    }

    #[test]
    fn addresses_that_others_tell_make_no_labels() {
        let mut registry = Registry::default();
        let meter = Meter::new(&mut registry);
        let address: libp2p::Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1/p2p-circuit".parse().unwrap();
        meter.swarm(&SwarmEvent::<()>::NewListenAddr {
            listener_id: libp2p::core::transport::ListenerId::next(),
            address: "/ip4/192.0.2.2/tcp/1".parse().unwrap(),
        });
        for event in [
            SwarmEvent::<()>::NewExternalAddrCandidate {
                address: address.clone(),
            },
            SwarmEvent::ExternalAddrConfirmed {
                address: address.clone(),
            },
            SwarmEvent::ExternalAddrExpired { address },
        ] {
            meter.swarm(&event);
        }
        let page = text::render(&registry);
        assert!(page.contains("protocols=\"/ip4/tcp\""), "{page}");
        assert!(!page.contains("quic"), "{page}");
    }
}

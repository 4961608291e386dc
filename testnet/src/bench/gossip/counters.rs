//! What the nodes of a testnet count, summed up.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::testnet::Testnet;

/// Nodes that are asked at the same time.
const ASKED: usize = 8;

/// Messages and bytes of all nodes that run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counted {
    /// Gossip messages sent, forwarded ones too, by the topic's short name.
    pub(super) gossip_by_topic: BTreeMap<String, f64>,
    /// Requests sent.
    pub(super) requests: f64,
    /// Answers given.
    pub(super) responses: f64,
    /// Bytes sent, with all that libp2p adds.
    pub(super) bytes_sent: f64,
}

impl Counted {
    /// Since the nodes' starts.
    pub(super) async fn of(testnet: &Testnet) -> Result<Counted> {
        let clients = testnet
            .state()
            .hosts
            .iter()
            .filter(|host| host.node.is_some_and(|node| node.alive()))
            .map(|host| testnet.client(host.number));
        let clients: Vec<_> = clients.collect::<Result<_>>()?;
        let pages = stream::iter(clients).map(|client| async move { client.metrics().await });
        let pages: Vec<String> = pages.buffer_unordered(ASKED).try_collect().await?;
        let mut sum = Counted::default();
        for page in &pages {
            sum.read(page)?;
        }
        Ok(sum)
    }

    fn read(&mut self, page: &str) -> Result<()> {
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').context("a sample has a value")?;
            let value = || value.parse::<f64>().with_context(|| line.to_owned());
            if let Some(labels) = name.strip_prefix("libp2p_gossipsub_topic_msg_sent_counts_total") {
                // {hash="/blosm/<net8>/<topic>/1"}
                let topic = labels.split('/').nth(3).unwrap_or("other");
                *self.gossip_by_topic.entry(topic.to_owned()).or_default() += value()?;
            } else if name.starts_with("libp2p_bandwidth_bytes_total")
                && name.contains("direction=\"Outbound\"")
            {
                self.bytes_sent += value()?;
            } else if name == "blosm_net_events_total{event=\"requests_sent\"}" {
                self.requests += value()?;
            } else if name == "blosm_net_events_total{event=\"responses_sent\"}" {
                self.responses += value()?;
            }
        }
        Ok(())
    }

    /// Everything that one node sent to another.
    pub(super) fn messages(&self) -> f64 {
        self.gossip_by_topic.values().sum::<f64>() + self.requests + self.responses
    }

    pub(super) fn since(&self, before: &Counted) -> Counted {
        self.with(before, |now, before| now - before)
    }

    /// Without what would have been anyway. What is rarer than it was while idle counts as nothing.
    pub(super) fn minus(&self, idle: &Counted) -> Counted {
        self.with(idle, |all, idle| (all - idle).max(0.0))
    }

    pub(super) fn over(&self, parts: f64) -> Counted {
        self.with(self, |all, _| all / parts)
    }

    pub(super) fn times(&self, factor: f64) -> Counted {
        self.with(self, |all, _| all * factor)
    }

    fn with(&self, other: &Counted, f: impl Fn(f64, f64) -> f64) -> Counted {
        let theirs = |topic: &String| other.gossip_by_topic.get(topic).copied().unwrap_or(0.0);
        Counted {
            gossip_by_topic: self
                .gossip_by_topic
                .iter()
                .map(|(topic, count)| (topic.clone(), f(*count, theirs(topic))))
                .collect(),
            requests: f(self.requests, other.requests),
            responses: f(self.responses, other.responses),
            bytes_sent: f(self.bytes_sent, other.bytes_sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# TYPE blosm_net_events_total counter
blosm_net_events_total{event="requests_sent"} 10
blosm_net_events_total{event="responses_sent"} 9
blosm_net_events_total{event="gossip_received"} 99
libp2p_bandwidth_bytes_total{protocols="/ip4/tcp/p2p",direction="Inbound"} 5
libp2p_bandwidth_bytes_total{protocols="/ip4/tcp",direction="Outbound"} 7
libp2p_bandwidth_bytes_total{protocols="/ip4/tcp/p2p",direction="Outbound"} 8
libp2p_gossipsub_topic_msg_sent_counts_total{hash="/blosm/0a1b2c3d/block/1"} 100
libp2p_gossipsub_topic_msg_sent_counts_total{hash="/blosm/0a1b2c3d/tx/1"} 3
"#;

    #[test]
    fn pages_add_up_and_idle_traffic_is_taken_off() {
        let mut two = Counted::default();
        two.read(PAGE).unwrap();
        two.read(PAGE).unwrap();
        assert_eq!(two.messages(), 2.0 * (100.0 + 3.0 + 10.0 + 9.0));
        assert_eq!(two.bytes_sent, 30.0);
        let mut one = Counted::default();
        one.read(PAGE).unwrap();
        assert_eq!(two.since(&one), one);
        let own = two.minus(&one.times(0.5)).over(3.0);
        assert_eq!((own.gossip_by_topic["block"], own.requests), (50.0, 5.0));
        assert_eq!(one.minus(&two).messages(), 0.0);
        assert!(
            Counted::default()
                .read("blosm_net_events_total{event=\"requests_sent\"} x")
                .is_err()
        );
    }
}

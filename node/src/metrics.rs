//! What Prometheus reads: one registry per node, passed around as [`Metrics`].
//!
//! Label sets are closed: a service that the node does not declare counts as `other`, and no label holds
//! a session, a client or a path. Gauges of ledger and network are set when they are read, so that no
//! task has to report them.

mod net;

use std::collections::BTreeSet;
use std::time::Duration;

use blosm_net::Counters;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use self::net::NetMetrics;
use crate::chain::LedgerMeter;
use crate::config::Config;

/// Label of services that this node does not declare.
const OTHER_SERVICE: &str = "other";
/// From a hand-over without a pause to a whole image over a slow link, in seconds.
const DOWNTIME_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// The node's metrics. Cheap to update from any task.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Height of the newest block that this node has imported.
    ledger_height: IntGauge,
    /// Greatest height that 90 % of the members are known to have imported.
    ledger_confirmed_height: IntGauge,
    /// Members of the network.
    ledger_members: IntGauge,
    /// What happens on the ledger's thread.
    ledger: LedgerMeter,
    /// This node's clock less the authority's; NaN while it has not been measured.
    net_clock_offset: Gauge,
    /// The swarm's.
    net: NetMetrics,
    /// Migrations that ended at this node, at their source or their destination, by method and outcome.
    migrate_total: IntCounterVec,
    /// Whether a container can come and go by the method: 1 or 0.
    migrate_method_available: GaugeVec,
    /// How often the node's own layer helper has ended.
    helper_ended_total: IntCounter,
    /// Longest time for which a request of the session waited because of a completed migration.
    migrate_downtime_seconds: HistogramVec,
    /// Requests answered by the gateway, by service, route and status code.
    gateway_requests_total: IntCounterVec,
    /// Memory that the node offers, in bytes, by kind (total, reserved, free).
    resource_memory_bytes: GaugeVec,
    /// Processor that the node offers, in cores, by kind (total, reserved, free).
    resource_cpu_cores: GaugeVec,
    services: BTreeSet<String>,
}

impl Metrics {
    /// All metrics of the node of `config`, in a registry of their own.
    pub fn new(config: &Config) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let services = config.services.keys().cloned().collect();
        let metrics = Self::register(registry, services)?;
        metrics.identify(config)?;
        Ok(metrics)
    }

    fn register(registry: Registry, services: BTreeSet<String>) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone())).map(|()| gauges)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone())).map(|()| counters)
        };
        let ended = IntCounter::new(
            "blosm_helper_ended_total",
            "Times that the layer helper which the node itself has started has ended",
        )?;
        registry.register(Box::new(ended.clone()))?;
        let downtime = HistogramVec::new(
            HistogramOpts::new(
                "blosm_migrate_downtime_seconds",
                "Longest time for which a request of the session waited because of a completed migration",
            )
            .buckets(DOWNTIME_BUCKETS.into()),
            &["method"],
        )?;
        registry.register(Box::new(downtime.clone()))?;
        let clock_offset = Gauge::new(
            "blosm_net_clock_offset_seconds",
            "Clock of the node less that of the authority; NaN while it is not known",
        )?;
        clock_offset.set(f64::NAN);
        registry.register(Box::new(clock_offset.clone()))?;
        Ok(Self {
            ledger_height: gauge("blosm_ledger_height", "Height of the newest imported block")?,
            ledger_confirmed_height: gauge(
                "blosm_ledger_confirmed_height",
                "Greatest height that 90 % of the members are known to have imported",
            )?,
            ledger_members: gauge("blosm_ledger_members", "Members of the network")?,
            ledger: LedgerMeter::register(&registry)?,
            net_clock_offset: clock_offset,
            net: NetMetrics::register(&registry)?,
            migrate_total: counters(
                "blosm_migrate_total",
                "Migrations that ended at this node as source or destination",
                &["method", "outcome"],
            )?,
            migrate_method_available: gauges(
                "blosm_migrate_method_available",
                "Whether a container can come and go by the method",
                &["method"],
            )?,
            helper_ended_total: ended,
            migrate_downtime_seconds: downtime,
            gateway_requests_total: counters(
                "blosm_gateway_requests_total",
                "Requests answered by the gateway",
                &["service", "route", "code"],
            )?,
            resource_memory_bytes: gauges(
                "blosm_resource_memory_bytes",
                "Memory that the node offers to containers",
                &["kind"],
            )?,
            resource_cpu_cores: gauges(
                "blosm_resource_cpu_cores",
                "Processor that the node offers to containers",
                &["kind"],
            )?,
            registry,
            services,
        })
    }

    /// Registers what does not change while the node runs.
    fn identify(&self, config: &Config) -> Result<(), prometheus::Error> {
        let labels = Opts::new(
            "blosm_node_info",
            "Version, network and runtime of the node; always 1",
        )
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("network", config.network.genesis.name.clone())
        .const_label("runtime", config.engine.runtime.as_str());
        let info = IntGauge::with_opts(labels)?;
        info.set(1);
        self.registry.register(Box::new(info))?;
        for (name, help, value) in [
            (
                "blosm_node_latitude_degrees",
                "Latitude of the node (WGS84)",
                config.node.location.latitude(),
            ),
            (
                "blosm_node_longitude_degrees",
                "Longitude of the node (WGS84)",
                config.node.location.longitude(),
            ),
        ] {
            let gauge = Gauge::new(name, help)?;
            gauge.set(value);
            self.registry.register(Box::new(gauge))?;
        }
        Ok(())
    }

    /// The gateway has answered a request for `service` by `route` (a word of a small fixed set) with `code`.
    pub fn gateway_request(&self, service: &str, route: &'static str, code: u16) {
        let service = if self.services.contains(service) {
            service
        } else {
            OTHER_SERVICE
        };
        // At most 500 codes: a container may answer with any number.
        let code = if (100..600).contains(&code) { code } else { 0 };
        self.gateway_requests_total
            .with_label_values(&[service, route, &code.to_string()])
            .inc();
    }

    /// A migration by `method` has ended with `outcome`; `downtime` as its session's requests saw it, if known.
    pub fn migration(&self, method: &'static str, outcome: &'static str, downtime: Option<Duration>) {
        self.migrate_total.with_label_values(&[method, outcome]).inc();
        if let Some(downtime) = downtime {
            self.migrate_downtime_seconds
                .with_label_values(&[method])
                .observe(downtime.as_secs_f64());
        }
    }

    /// Whether a method works here.
    pub fn method_available(&self, method: &'static str, available: bool) {
        self.migrate_method_available
            .with_label_values(&[method])
            .set(f64::from(u8::from(available)));
    }

    /// How often the node's own layer helper has ended.
    pub fn helper_ended(&self, times: u64) {
        // Only the task that looks after the methods counts.
        self.helper_ended_total
            .inc_by(times.saturating_sub(self.helper_ended_total.get()));
    }

    /// Where the ledger stands.
    pub fn ledger(&self, height: u64, confirmed_height: u64, members: usize) {
        self.ledger_height.set(i64::try_from(height).unwrap_or(i64::MAX));
        self.ledger_confirmed_height
            .set(i64::try_from(confirmed_height).unwrap_or(i64::MAX));
        self.ledger_members
            .set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    /// Where the ledger task counts.
    pub fn ledger_meter(&self) -> LedgerMeter {
        self.ledger.clone()
    }

    /// How far this node's clock is ahead of the authority's, if that is known.
    pub fn clock_offset(&self, seconds: Option<f64>) {
        self.net_clock_offset.set(seconds.unwrap_or(f64::NAN));
    }

    /// How many peers are connected, whether others can dial this node, and what the swarm has counted.
    pub fn net(&self, connected: usize, reachable: Option<bool>, counters: &Counters) {
        self.net.set(connected, reachable, counters);
    }

    /// What is offered to containers: bytes of memory and thousandths of a core.
    pub fn resources(&self, memory: Amount, cpu_milli: Amount) {
        for (kind, memory, cpu) in [
            ("total", memory.total, cpu_milli.total),
            ("reserved", memory.reserved, cpu_milli.reserved),
            ("free", memory.free, cpu_milli.free),
        ] {
            self.resource_memory_bytes
                .with_label_values(&[kind])
                .set(memory as f64);
            self.resource_cpu_cores
                .with_label_values(&[kind])
                .set(cpu as f64 / 1000.0);
        }
    }

    /// The registry in Prometheus' text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// An amount of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// All that is offered (R_tot).
    pub total: u64,
    /// Booked by containers and accepted claims.
    pub reserved: u64,
    /// What a new container may have.
    pub free: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::register(Registry::new(), BTreeSet::from(["counter".to_owned()])).unwrap()
    }

    #[test]
    fn every_metric_moves() {
        let metrics = metrics();
        metrics.ledger(7, 6, 3);
        metrics.clock_offset(Some(-1.5));
        let mut counted = Counters::default();
        counted.requests_sent = 4;
        // Read twice, counted once.
        metrics.net(2, Some(true), &counted);
        metrics.net(2, Some(true), &counted);
        metrics.migration("image", "completed", Some(Duration::from_millis(300)));
        metrics.migration("image", "aborted", None);
        metrics.helper_ended(2);
        metrics.helper_ended(3);
        metrics.gateway_request("counter", "local", 200);
        metrics.resources(
            Amount {
                total: 4,
                reserved: 3,
                free: 1,
            },
            Amount {
                total: 2000,
                reserved: 500,
                free: 1500,
            },
        );
        let text = metrics.render().unwrap();
        for line in [
            "blosm_ledger_height 7",
            "blosm_ledger_confirmed_height 6",
            "blosm_ledger_members 3",
            "blosm_net_clock_offset_seconds -1.5",
            "blosm_ledger_transactions_total{kind=\"hand_over\"} 0",
            "blosm_ledger_seal_seconds_count 0",
            "blosm_ledger_import_seconds_count 0",
            "blosm_net_peers 2",
            "blosm_net_events_total{event=\"requests_sent\"} 4",
            "blosm_migrate_total{method=\"image\",outcome=\"completed\"} 1",
            "blosm_migrate_total{method=\"image\",outcome=\"aborted\"} 1",
            "blosm_helper_ended_total 3",
            "blosm_migrate_downtime_seconds_sum{method=\"image\"} 0.3",
            "blosm_migrate_downtime_seconds_count{method=\"image\"} 1",
            "blosm_gateway_requests_total{code=\"200\",route=\"local\",service=\"counter\"} 1",
            "blosm_resource_memory_bytes{kind=\"free\"} 1",
            "blosm_resource_cpu_cores{kind=\"reserved\"} 0.5",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_client_cannot_make_labels() {
        let metrics = metrics();
        for name in ["a", "b", "c"] {
            metrics.gateway_request(name, "local", 404);
        }
        metrics.gateway_request("counter", "local", 999);
        let text = metrics.render().unwrap();
        assert!(
            text.contains("{code=\"404\",route=\"local\",service=\"other\"} 3"),
            "{text}"
        );
        assert!(
            text.contains("{code=\"0\",route=\"local\",service=\"counter\"} 1"),
            "{text}"
        );
    }
}

//! The metrics of sessions and their moves. A move is counted once in a network, by its destination, which alone knows how
//! it ended; what leaves a node is told by bytes, by what is under way and by how long sessions had stayed.

use std::time::Duration;

use prometheus::{Error, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::register::{Register, raise};
use crate::config::Method;
use crate::sessions::{MigrationOutcome, MigrationReport, MoveReason, Phases};

/// From a hand-over without a pause to a whole image over a slow link, in seconds.
const DOWNTIME: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];
/// A move as a whole, in seconds.
const DURATION: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];
/// A phase of it: fewer, since there are many phases.
const PHASE: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 15.0, 120.0];
/// How long a session stays: from one that bounces to a parked car's, in seconds.
const STAY: [f64; 9] = [5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 1800.0, 14_400.0];
/// An entry of the journal with its sync, in seconds.
const JOURNAL: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

/// What is taken in the place of what was wanted: an image where no container can come as it runs, and what keeps it running
/// where there are no images to move, under simulated containers.
const FALLBACKS: [(Method, Method); 3] = [
    (Method::Live, Method::Image),
    (Method::Image, Method::Live),
    (Method::Image, Method::Stateless),
];

/// What a container that came consists of: its image, and what it has written itself.
const PARTS: [&str; 2] = ["image", "layer"];

#[derive(Debug)]
pub(super) struct MigrateMetrics {
    total: IntCounterVec,
    failed: IntCounterVec,
    fallbacks: IntCounterVec,
    phases: HistogramVec,
    downtime: HistogramVec,
    service_down: HistogramVec,
    duration: HistogramVec,
    bytes: IntCounterVec,
    chunks: IntCounterVec,
    container_bytes: IntCounterVec,
    requests: IntCounterVec,
    stay: Histogram,
    under_way: GaugeVec,
    method_available: GaugeVec,
    helper_ended: IntCounter,
    journal: Histogram,
    owned: GaugeVec,
    unsealed: Gauge,
    opened: IntCounterVec,
}

impl MigrateMetrics {
    pub(super) fn register(register: Register<'_>) -> Result<Self, Error> {
        let counters = |name, help, labels: &[&str]| register.counters(name, help, labels);
        let metrics = Self {
            total: counters(
                "blosm_migrate_total",
                "Migrations that ended at this node as their destination",
                &["service", "method", "outcome", "reason"],
            )?,
            failed: counters(
                "blosm_migrate_failed_total",
                "Migrations to this node that were relayed or aborted by cause",
                &["why"],
            )?,
            fallbacks: counters(
                "blosm_migrate_fallbacks_total",
                "Migrations to this node by another method than was wanted",
                &["wanted", "method"],
            )?,
            phases: register.histograms(
                "blosm_migrate_phase_seconds",
                "Time that a phase of a completed migration took",
                &["method", "phase"],
                &PHASE,
            )?,
            downtime: register.histograms(
                "blosm_migrate_downtime_seconds",
                "Longest time for which a request of the session waited because of a completed migration",
                &["service", "method"],
                &DOWNTIME,
            )?,
            service_down: register.histograms(
                "blosm_migrate_service_down_seconds",
                "From the last moment at which the source could answer to the first healthy answer of the destination",
                &["method"],
                &DOWNTIME,
            )?,
            duration: register.histograms(
                "blosm_migrate_duration_seconds",
                "From the first word to the last of a completed migration",
                &["method"],
                &DURATION,
            )?,
            bytes: counters(
                "blosm_migrate_transfer_bytes_total",
                "Bytes of migrations that crossed the link: in those that were fetched, out those that were given",
                &["direction"],
            )?,
            chunks: counters(
                "blosm_migrate_chunks_total",
                "Chunks that migrations to this node needed: fetched from the link, or held here already",
                &["source"],
            )?,
            container_bytes: counters(
                "blosm_migrate_container_bytes_total",
                "Size of the containers that completed migrations brought here: their image, and their own layer",
                &["service", "part"],
            )?,
            requests: counters(
                "blosm_migrate_requests_total",
                "Requests of sessions during completed migrations: all, and those that were held, failed or interrupted",
                &["fate"],
            )?,
            stay: register.histogram(
                "blosm_migrate_stay_seconds",
                "How long a session had been at this node when it was handed over",
                &STAY,
            )?,
            under_way: register.gauges(
                "blosm_migrate_under_way",
                "Migrations from (out) and to (in) this node that are under way",
                &["direction"],
            )?,
            method_available: register.gauges(
                "blosm_migrate_method_available",
                "Whether a container can come and go by the method",
                &["method"],
            )?,
            helper_ended: register.counter(
                "blosm_helper_ended_total",
                "Times that the layer helper which the node itself has started has ended",
            )?,
            journal: register.histogram(
                "blosm_session_journal_seconds",
                "Time to write entries to the session journal, with the sync of the disk",
                &JOURNAL,
            )?,
            owned: register.gauges(
                "blosm_session_owned",
                "Sessions that this node owns",
                &["service"],
            )?,
            unsealed: register.gauge(
                "blosm_session_unsealed_transactions",
                "Transactions of sessions that this node has to get onto the chain",
            )?,
            opened: counters(
                "blosm_session_opened_total",
                "Sessions that this node opened for their clients",
                &["service"],
            )?,
        };
        // What there is a series of from the start shows its first step.
        for method in Method::ALL.map(Method::as_str) {
            for times in [&metrics.service_down, &metrics.duration] {
                times.with_label_values(&[method]);
            }
            for (phase, _) in phases(&Phases::default()) {
                metrics.phases.with_label_values(&[method, phase]);
            }
        }
        for (wanted, method) in FALLBACKS {
            metrics
                .fallbacks
                .with_label_values(&[wanted.as_str(), method.as_str()]);
        }
        for fate in ["all", "held", "failed", "interrupted"] {
            metrics.requests.with_label_values(&[fate]);
        }
        for direction in ["in", "out"] {
            metrics.bytes.with_label_values(&[direction]);
        }
        for source in ["fetched", "held"] {
            metrics.chunks.with_label_values(&[source]);
        }
        Ok(metrics)
    }

    /// The causes for which a migration to this node can fail.
    pub(super) fn may_fail(&self, causes: &[&'static str]) {
        for why in causes {
            self.failed.with_label_values(&[why]);
        }
    }

    /// A service of which sessions can be opened here and come here: it has its series from the start.
    pub(super) fn may_come(&self, service: &str) {
        self.opened.with_label_values(&[service]);
        for method in Method::ALL.map(Method::as_str) {
            for outcome in MigrationOutcome::ENDS {
                for reason in MoveReason::ALL {
                    self.total
                        .with_label_values(&[service, method, outcome.name(), reason.name()]);
                }
            }
            self.downtime.with_label_values(&[service, method]);
        }
        for part in PARTS {
            self.container_bytes.with_label_values(&[service, part]);
        }
    }

    /// A migration of a session of `service` to this node has ended by `method`, which was taken `instead_of` another one if
    /// that is named; `why` when it is not completed.
    pub(super) fn ended(
        &self,
        service: &str,
        method: Method,
        instead_of: Option<Method>,
        report: &MigrationReport,
        why: Option<&'static str>,
    ) {
        let method = method.as_str();
        let counted = |counters: &IntCounterVec, label, by| counters.with_label_values(&[label]).inc_by(by);
        self.total
            .with_label_values(&[service, method, report.outcome.name(), &report.reason])
            .inc();
        counted(&self.chunks, "fetched", report.chunks_sent);
        counted(&self.chunks, "held", report.chunks_reused);
        if let Some(wanted) = instead_of {
            self.fallbacks.with_label_values(&[wanted.as_str(), method]).inc();
        }
        if let Some(why) = why {
            counted(&self.failed, why, 1);
        }
        if report.outcome != MigrationOutcome::Completed {
            return;
        }
        let seconds = |ms: f64| (ms / 1000.0).max(0.0);
        self.downtime
            .with_label_values(&[service, method])
            .observe(seconds(report.downtime_ms));
        for (times, ms) in [
            (&self.service_down, report.service_down_ms),
            (&self.duration, report.total_ms),
        ] {
            times.with_label_values(&[method]).observe(seconds(ms));
        }
        for (phase, ms) in phases(&report.phases_ms) {
            self.phases
                .with_label_values(&[method, phase])
                .observe(seconds(ms));
        }
        for (part, bytes) in PARTS.into_iter().zip([report.image_bytes, report.writable_bytes]) {
            self.container_bytes
                .with_label_values(&[service, part])
                .inc_by(bytes);
        }
        let requests = &report.requests;
        counted(&self.requests, "all", requests.sent);
        counted(&self.requests, "held", requests.held);
        counted(&self.requests, "failed", requests.failed);
        counted(&self.requests, "interrupted", requests.interrupted);
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.bytes.with_label_values(&["in"]).inc_by(bytes);
    }

    pub(super) fn given(&self, bytes: u64) {
        self.bytes.with_label_values(&["out"]).inc_by(bytes);
    }

    pub(super) fn left(&self, after: Duration) {
        self.stay.observe(after.as_secs_f64());
    }

    pub(super) fn under_way(&self, outgoing: usize, incoming: usize) {
        for (direction, count) in [("out", outgoing), ("in", incoming)] {
            self.under_way.with_label_values(&[direction]).set(count as f64);
        }
    }

    pub(super) fn method_available(&self, method: &'static str, available: bool) {
        let value = f64::from(u8::from(available));
        self.method_available.with_label_values(&[method]).set(value);
    }

    pub(super) fn helper_ended(&self, times: u64) {
        raise(&self.helper_ended, times);
    }

    pub(super) fn journal(&self) -> Histogram {
        self.journal.clone()
    }

    pub(super) fn opened(&self, service: &str) {
        self.opened.with_label_values(&[service]).inc();
    }

    pub(super) fn owned(&self, service: &str, sessions: usize) {
        self.owned.with_label_values(&[service]).set(sessions as f64);
    }

    pub(super) fn unsealed(&self, transactions: usize) {
        self.unsealed.set(transactions as f64);
    }
}

/// Every phase of a report by its name: a new one has to be taken up here.
fn phases(phases: &Phases) -> [(&'static str, f64); 11] {
    let Phases {
        announce,
        evaluate,
        stage,
        precopy,
        drain,
        stop,
        commit,
        transfer,
        start,
        handover,
        ledger_wait,
    } = *phases;
    [
        ("announce", announce),
        ("evaluate", evaluate),
        ("stage", stage),
        ("precopy", precopy),
        ("drain", drain),
        ("stop", stop),
        ("commit", commit),
        ("transfer", transfer),
        ("start", start),
        ("handover", handover),
        ("ledger_wait", ledger_wait),
    ]
}

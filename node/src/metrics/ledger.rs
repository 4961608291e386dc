//! Where the ledger stands, and what its store says of itself. What happens on its thread counts [`LedgerMeter`].
//!
//! [`LedgerMeter`]: crate::chain::LedgerMeter

use blosm_ledger::StoreFigures;
use prometheus::{Error, Gauge, GaugeVec, IntCounter};

use super::register::{Register, raise};
use crate::chain::ChainView;

#[derive(Debug)]
pub(super) struct LedgerMetrics {
    height: Gauge,
    confirmed_height: Gauge,
    members: Gauge,
    block_time: Gauge,
    confirmations: Gauge,
    confirmations_of: Gauge,
    outdated: Gauge,
    tables: GaugeVec,
    memory: GaugeVec,
    backlog: Gauge,
    jobs: Gauge,
    errors: IntCounter,
    stopped: Gauge,
}

impl LedgerMetrics {
    pub(super) fn register(register: Register<'_>) -> Result<Self, Error> {
        let gauge = |name, help| register.gauge(name, help);
        Ok(Self {
            height: gauge("blosm_ledger_height", "Height of the newest imported block")?,
            confirmed_height: gauge(
                "blosm_ledger_confirmed_height",
                "Greatest height that 90 % of the members are known to have imported",
            )?,
            members: gauge("blosm_ledger_members", "Members of the network")?,
            block_time: gauge(
                "blosm_ledger_block_timestamp_seconds",
                "Time of the newest imported block, in seconds since the Unix epoch",
            )?,
            confirmations: gauge(
                "blosm_ledger_confirmations",
                "Members that hold the newest block of which the authority has said so",
            )?,
            confirmations_of: gauge(
                "blosm_ledger_confirmations_of",
                "Members that there were at that block",
            )?,
            outdated: gauge(
                "blosm_ledger_outdated",
                "1 when no blocks are imported, since a newer version is needed for that",
            )?,
            tables: register.gauges(
                "blosm_ledger_store_table_bytes",
                "Tables of the ledger's store on the disk",
                &["column"],
            )?,
            memory: register.gauges(
                "blosm_ledger_store_memory_bytes",
                "Memory of the ledger's store: what waits to be written to tables, and the cache",
                &["kind"],
            )?,
            backlog: gauge(
                "blosm_ledger_store_backlog_bytes",
                "Bytes that compactions of the ledger's store have to rewrite, by estimate",
            )?,
            jobs: gauge(
                "blosm_ledger_store_jobs",
                "Flushes and compactions of the ledger's store that run",
            )?,
            errors: register.counter(
                "blosm_ledger_store_errors_total",
                "Flushes and compactions of the ledger's store that have failed",
            )?,
            stopped: gauge(
                "blosm_ledger_store_stopped",
                "1 while writes to the ledger's store wait for compactions",
            )?,
        })
    }

    pub(super) fn chain(&self, view: &ChainView) {
        self.height.set(view.height as f64);
        self.confirmed_height.set(view.confirmed_height as f64);
        self.members.set(view.state.members().len() as f64);
        self.block_time.set(view.timestamp_ms as f64 / 1000.0);
        self.outdated.set(f64::from(u8::from(view.needs.is_some())));
        if let Some(newest) = view.newest.first() {
            self.confirmations.set(f64::from(newest.acked));
            self.confirmations_of.set(f64::from(newest.members));
        }
    }

    pub(super) fn store(&self, figures: &StoreFigures) {
        for (column, bytes) in &figures.table_bytes {
            self.tables.with_label_values(&[column]).set(*bytes as f64);
        }
        for (kind, bytes) in [
            ("memtables", figures.memtable_bytes),
            ("cache", figures.cache_bytes),
        ] {
            self.memory.with_label_values(&[kind]).set(bytes as f64);
        }
        self.backlog.set(figures.compaction_backlog_bytes as f64);
        self.jobs.set(figures.background_jobs as f64);
        raise(&self.errors, figures.background_errors);
        self.stopped.set(f64::from(u8::from(figures.writes_stopped)));
    }
}

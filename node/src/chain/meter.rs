//! What Prometheus reads of the ledger. Label sets are closed: kinds and reasons are words of the program.

use std::time::Duration;

use blosm_ledger::KIND_NAMES;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

/// From a sync on a fast disk to a disk that is stuck, in seconds.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// The ledger's meters. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct LedgerMeter {
    /// Time to build, sign and store a block, with the sync of the disk.
    seal: Histogram,
    /// Time to verify and store a block from elsewhere.
    import: Histogram,
    /// Transactions in blocks that were sealed or imported here, by kind.
    transactions: IntCounterVec,
    /// Transactions, blocks and acknowledgements that were not taken, by reason.
    rejected: IntCounterVec,
}

impl LedgerMeter {
    /// Meters in `registry`.
    ///
    /// # Errors
    /// It has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<LedgerMeter, prometheus::Error> {
        let meter = LedgerMeter::new()?;
        let all: [Box<dyn Collector>; 4] = [
            Box::new(meter.seal.clone()),
            Box::new(meter.import.clone()),
            Box::new(meter.transactions.clone()),
            Box::new(meter.rejected.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        Ok(meter)
    }

    fn new() -> Result<LedgerMeter, prometheus::Error> {
        let times = |name: &str, help: &str| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.into()))
        };
        let transactions = IntCounterVec::new(
            Opts::new(
                "blosm_ledger_transactions_total",
                "Transactions in blocks that this node sealed or imported",
            ),
            &["kind"],
        )?;
        for kind in KIND_NAMES {
            transactions.with_label_values(&[kind]);
        }
        Ok(LedgerMeter {
            seal: times(
                "blosm_ledger_seal_seconds",
                "Time to build, sign and store a block, with the sync of the disk",
            )?,
            import: times(
                "blosm_ledger_import_seconds",
                "Time to verify and store a block from elsewhere, with the sync of the disk",
            )?,
            transactions,
            rejected: IntCounterVec::new(
                Opts::new(
                    "blosm_ledger_rejected_total",
                    "Transactions, blocks and acknowledgements that this node did not take",
                ),
                &["reason"],
            )?,
        })
    }

    pub(super) fn sealed(&self, took: Duration) {
        self.seal.observe(took.as_secs_f64());
    }

    pub(super) fn imported(&self, took: Duration) {
        self.import.observe(took.as_secs_f64());
    }

    /// Transactions of a block that is on the chain now.
    pub(super) fn transactions(&self, kinds: impl IntoIterator<Item = &'static str>) {
        for kind in kinds {
            self.transactions.with_label_values(&[kind]).inc();
        }
    }

    /// Something was not taken; `reason` is a word of the program.
    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// How often something was not taken for `reason`.
    #[cfg(test)]
    pub(super) fn rejections(&self, reason: &str) -> u64 {
        self.rejected.with_label_values(&[reason]).get()
    }
}

impl Default for LedgerMeter {
    /// Meters that nobody reads.
    fn default() -> LedgerMeter {
        LedgerMeter::new().expect("names and labels are constants that Prometheus allows")
    }
}

//! What Prometheus reads of the ledger. Label sets are closed: kinds and reasons are words of the program.

use std::time::Duration;

use blosm_ledger::{AckError, DecodeError, ImportError, KIND_NAMES, Refusal};
use prometheus::{Histogram, IntCounterVec, Registry};

use crate::metrics::Register;

/// From a sync on a fast disk to a disk that is stuck, in seconds.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];
/// From a network on one machine to one with a member that is away, in seconds.
const CONFIRM: [f64; 14] = [
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0,
];

/// The reason for acknowledgements that come faster than their toll allows.
pub(super) const ACK_FLOOD: &str = "ack_flood";

/// The ledger's meters. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct LedgerMeter {
    /// Time to build, sign and store a block, with the sync of the disk.
    seal: Histogram,
    /// Time to verify and store a block from elsewhere.
    import: Histogram,
    /// Time from a sealed block to 90 % of the members.
    confirm: Histogram,
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
        let register = Register(registry);
        let meter = LedgerMeter {
            seal: register.histogram(
                "blosm_ledger_seal_seconds",
                "Time to build, sign and store a block, with the sync of the disk",
                &SECONDS,
            )?,
            import: register.histogram(
                "blosm_ledger_import_seconds",
                "Time to verify and store a block from elsewhere, with the sync of the disk",
                &SECONDS,
            )?,
            confirm: register.histogram(
                "blosm_ledger_confirm_seconds",
                "Time from a block that this node sealed until 90 % of the members are known to hold it",
                &CONFIRM,
            )?,
            transactions: register.counters(
                "blosm_ledger_transactions_total",
                "Transactions in blocks that this node sealed or imported",
                &["kind"],
            )?,
            rejected: register.counters(
                "blosm_ledger_rejected_total",
                "Transactions, blocks and acknowledgements that this node did not take",
                &["reason"],
            )?,
        };
        // What there is a series of from the start shows its first step.
        for kind in KIND_NAMES {
            meter.transactions.with_label_values(&[kind]);
        }
        for reason in reasons() {
            meter.rejected.with_label_values(&[reason]);
        }
        Ok(meter)
    }

    pub(super) fn sealed(&self, took: Duration) {
        self.seal.observe(took.as_secs_f64());
    }

    pub(super) fn imported(&self, took: Duration) {
        self.import.observe(took.as_secs_f64());
    }

    /// 90 % of the members are known to hold a block that was sealed here so long ago.
    pub(super) fn confirmed(&self, after: Duration) {
        self.confirm.observe(after.as_secs_f64());
    }

    /// How many blocks have been confirmed.
    #[cfg(test)]
    pub(super) fn confirmations(&self) -> u64 {
        self.confirm.get_sample_count()
    }

    /// Transactions of a block that is on the chain now.
    pub(super) fn transactions(&self, kinds: impl IntoIterator<Item = &'static str>) {
        for kind in kinds {
            self.transactions.with_label_values(&[kind]).inc();
        }
    }

    /// Something was not taken; `reason` is a word of the program.
    pub(super) fn rejected(&self, reason: &'static str) {
        #[cfg(test)]
        assert!(reasons().any(|known| known == reason), "{reason}");
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// How often something was not taken for `reason`.
    #[cfg(test)]
    pub(super) fn rejections(&self, reason: &str) -> u64 {
        self.rejected.with_label_values(&[reason]).get()
    }
}

/// Every reason for which something is not taken; some stand in several lists.
fn reasons() -> impl Iterator<Item = &'static str> {
    let submitted = Refusal::REASONS.into_iter().chain(DecodeError::REASONS);
    let received = ImportError::REASONS.into_iter().chain(AckError::REASONS);
    submitted.chain(received).chain([ACK_FLOOD])
}

impl Default for LedgerMeter {
    /// Meters that nobody reads.
    fn default() -> LedgerMeter {
        LedgerMeter::register(&Registry::new())
            .expect("names and labels are constants that Prometheus allows")
    }
}

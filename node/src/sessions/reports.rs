//! The last migrations that this node took part in, for the API.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use blosm_ledger::Hash;
use blosm_migrate::session::Attempt;
use serde::Serialize;
use tokio::sync::broadcast;

use super::report::MigrationReport;

/// Reports kept; the oldest go first.
const KEPT: usize = 256;
/// Events that a slow reader may lag behind before it misses some.
const EVENTS: usize = 256;

/// A step of a migration as it happens.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// The attempt's name.
    pub migration: String,
    /// Hash of the session's token.
    pub session: String,
    /// The step: `announce`, `claim`, `stage`, `drain`, `stop`, `commit`, `transfer`, `applied`, `signed`, `acquired`,
    /// `serving`, `relayed`, `aborted`.
    pub phase: String,
    /// Milliseconds since the epoch.
    pub unix_ms: u64,
}

/// The book of reports.
#[derive(Debug)]
pub struct Reports {
    reports: Mutex<VecDeque<MigrationReport>>,
    events: broadcast::Sender<Event>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            reports: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }
}

impl Reports {
    /// Adds a report, or replaces the one with its id.
    pub fn put(&self, report: MigrationReport) {
        let mut reports = self.lock();
        if let Some(known) = reports.iter_mut().find(|known| known.id == report.id) {
            *known = report;
            return;
        }
        if reports.len() == KEPT {
            reports.pop_front();
        }
        reports.push_back(report);
    }

    /// Changes the report with this id, if there is one.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut MigrationReport)) {
        if let Some(report) = self.lock().iter_mut().find(|report| report.id == id) {
            change(report);
        }
    }

    /// Notes where the chain holds a transaction of a migration.
    pub fn sealed(&self, hash: &Hash, height: u64) {
        let hash = hash.to_string();
        let now = super::unix_ms() as f64;
        for report in self.lock().iter_mut() {
            for transaction in &mut report.ledger.transactions {
                if transaction.hash == hash && transaction.height.is_none() {
                    transaction.height = Some(height);
                    if let (Some(signed), "handover") = (transaction.unix_ms, transaction.kind.as_str()) {
                        report.ledger.sealed_ms = now - signed as f64;
                    }
                }
            }
        }
    }

    /// All reports, oldest first.
    pub fn all(&self) -> Vec<MigrationReport> {
        self.lock().iter().cloned().collect()
    }

    /// The report whose id begins with `prefix`.
    pub fn get(&self, prefix: &str) -> Option<MigrationReport> {
        self.lock()
            .iter()
            .find(|report| report.id.starts_with(prefix))
            .cloned()
    }

    /// Says that a migration reached a step: to the log and to those who listen.
    pub fn event(&self, attempt: &Attempt, session: &blosm_ledger::SessionId, phase: &'static str) {
        let migration = hex::encode(attempt);
        tracing::info!(phase, attempt = %migration, session = %session, "migration");
        let event = Event {
            migration,
            session: session.to_string(),
            phase: phase.to_owned(),
            unix_ms: super::unix_ms(),
        };
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    /// Follows the events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<MigrationReport>> {
        self.reports
            .lock()
            .expect("nothing panics while it holds the reports")
    }
}

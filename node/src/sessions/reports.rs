//! The last migrations that this node took part in, for the API.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use blosm_ledger::{Hash, SessionId};
use blosm_migrate::session::Attempt;
use serde::Serialize;
use tokio::sync::broadcast;

use super::progress::{Progress, Step};
use super::report::MigrationReport;

/// Reports kept; the oldest go first.
const KEPT: usize = 256;
/// Events that a slow reader may lag behind before it misses some.
const EVENTS: usize = 256;
/// Between two events of one phase: more often nobody can look.
const SELDOM: Duration = Duration::from_millis(200);

/// A step of a migration as it happens: a new phase, or how far the present one is.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// The attempt's name.
    pub migration: String,
    /// The session.
    pub session: String,
    /// The phase: `announce`, `claim`, `stage`, `drain`, `stop`, `commit`, `transfer`, `applied`, `signed`, `acquired`,
    /// `serving`, `relayed`, `aborted`.
    pub phase: &'static str,
    /// How far it is, as far as that is known.
    #[serde(flatten)]
    pub progress: Progress,
    /// Milliseconds since the epoch.
    pub unix_ms: u64,
}

/// The book of reports.
#[derive(Debug)]
pub struct Reports {
    reports: Mutex<VecDeque<MigrationReport>>,
    /// Where the attempts are that this node has heard of last, newest last.
    steps: Mutex<VecDeque<Reached>>,
    events: broadcast::Sender<Event>,
}

/// The phase that an attempt is in.
#[derive(Debug, Clone, Copy)]
struct Reached {
    attempt: Attempt,
    phase: &'static str,
    progress: Progress,
    /// When it was last told to those who listen.
    told: Instant,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            reports: Mutex::default(),
            steps: Mutex::default(),
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

    /// Says that a migration reached a phase: to the log and to those who listen.
    pub fn event(&self, attempt: &Attempt, session: &SessionId, phase: &'static str) {
        tracing::info!(phase, attempt = %hex::encode(attempt), session = %session, "migration");
        self.reach(attempt, phase, Progress::default());
        self.tell(attempt, session, phase, Progress::default());
    }

    /// Says how far the present phase of a migration is, to those who listen. May be called as often as one likes.
    pub fn progress(&self, attempt: &Attempt, session: &SessionId, progress: Progress) {
        self.progress_at(Instant::now(), attempt, session, progress);
    }

    fn progress_at(&self, now: Instant, attempt: &Attempt, session: &SessionId, progress: Progress) {
        let phase = {
            let mut steps = self.steps();
            let Some(reached) = steps.iter_mut().find(|reached| reached.attempt == *attempt) else {
                return;
            };
            let other_round = reached.progress.round != progress.round;
            reached.progress = progress;
            if !other_round && !progress.is_whole() && now.saturating_duration_since(reached.told) < SELDOM {
                return;
            }
            reached.told = now;
            reached.phase
        };
        self.tell(attempt, session, phase, progress);
    }

    /// The phase that an attempt is in, and how far that is.
    pub(crate) fn reached(&self, attempt: &Attempt) -> Option<(&'static str, Progress)> {
        let steps = self.steps();
        let reached = steps.iter().find(|reached| reached.attempt == *attempt)?;
        Some((reached.phase, reached.progress))
    }

    /// Where an attempt is, for the other end.
    pub(crate) fn step(&self, attempt: &Attempt) -> Option<Step> {
        let steps = self.steps();
        let reached = steps.iter().find(|reached| reached.attempt == *attempt)?;
        Step::new(reached.phase, reached.progress)
    }

    /// The other end has said where it is. What is known here already is not said again.
    pub(crate) fn told(&self, attempt: &Attempt, session: &SessionId, step: Step) {
        let Some(phase) = step.phase() else {
            return;
        };
        let known = {
            let steps = self.steps();
            steps
                .iter()
                .find(|reached| reached.attempt == *attempt)
                .is_some_and(|reached| reached.phase == phase && reached.progress == step.progress)
        };
        if !known {
            self.reach(attempt, phase, step.progress);
            self.tell(attempt, session, phase, step.progress);
        }
    }

    fn reach(&self, attempt: &Attempt, phase: &'static str, progress: Progress) {
        let mut steps = self.steps();
        steps.retain(|reached| reached.attempt != *attempt);
        if steps.len() == KEPT {
            steps.pop_front();
        }
        steps.push_back(Reached {
            attempt: *attempt,
            phase,
            progress,
            told: Instant::now(),
        });
    }

    fn tell(&self, attempt: &Attempt, session: &SessionId, phase: &'static str, progress: Progress) {
        let event = Event {
            migration: hex::encode(attempt),
            session: session.to_string(),
            phase,
            progress,
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

    fn steps(&self) -> MutexGuard<'_, VecDeque<Reached>> {
        self.steps
            .lock()
            .expect("nothing panics while it holds the steps")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Attempt = [1; 16];
    const SESSION: SessionId = SessionId([2; 32]);

    fn drained(events: &mut broadcast::Receiver<Event>) -> Vec<(&'static str, Option<u64>)> {
        std::iter::from_fn(|| events.try_recv().ok())
            .map(|event| (event.phase, event.progress.bytes))
            .collect()
    }

    #[test]
    fn progress_belongs_to_the_phase_and_is_told_seldom() {
        let reports = Reports::default();
        let mut events = reports.events();
        let now = Instant::now();
        let at = |bytes| Progress::of(bytes, 100, Duration::from_secs(1)).in_round(1);
        reports.progress(&ATTEMPT, &SESSION, at(1));
        assert_eq!(drained(&mut events), [], "of an attempt that nobody has heard of");
        reports.event(&ATTEMPT, &SESSION, "stage");
        for bytes in [1, 2, 3, 100] {
            reports.progress_at(now, &ATTEMPT, &SESSION, at(bytes));
        }
        assert_eq!(
            drained(&mut events),
            [("stage", None), ("stage", Some(1)), ("stage", Some(100))],
            "a round's beginning and its end are never left out"
        );
        reports.progress_at(now + SELDOM, &ATTEMPT, &SESSION, at(4));
        assert_eq!(drained(&mut events), [("stage", Some(4))]);
        assert_eq!(reports.step(&ATTEMPT).unwrap().progress, at(4));
        reports.event(&ATTEMPT, &SESSION, "drain");
        assert_eq!(reports.step(&ATTEMPT).unwrap().progress, Progress::default());
    }

    #[test]
    fn what_the_other_end_says_is_passed_on_once() {
        let (here, there) = (Reports::default(), Reports::default());
        there.event(&ATTEMPT, &SESSION, "transfer");
        let step = there.step(&ATTEMPT).unwrap();
        let mut events = here.events();
        here.told(&ATTEMPT, &SESSION, step);
        here.told(&ATTEMPT, &SESSION, step);
        assert_eq!(drained(&mut events), [("transfer", None)]);
    }

    #[test]
    fn an_event_has_only_what_is_known() {
        let reports = Reports::default();
        let mut events = reports.events();
        reports.event(&ATTEMPT, &SESSION, "stage");
        let json = serde_json::to_value(events.try_recv().unwrap()).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["migration", "phase", "session", "unix_ms"]);
        reports.progress(
            &ATTEMPT,
            &SESSION,
            Progress::of(5, 10, Duration::from_secs(1)).in_round(2),
        );
        let json = serde_json::to_value(events.try_recv().unwrap()).unwrap();
        assert_eq!(
            (&json["round"], &json["bytes"], &json["eta_ms"]),
            (&2.into(), &5.into(), &1000.into())
        );
    }
}

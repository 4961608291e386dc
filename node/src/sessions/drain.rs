//! Emptying a node (`blosm drain`): it takes no session, and moves those that it has.
//!
//! ```text
//!  blosm drain ──> begin ── drain.json, is_on() ──> open, visit, room, readyz say no
//!                    └─ wakes ─> run: Plan::next ──> Command::Migrate, follow the report ──> Plan::ended
//! ```
//! What nobody takes stays where it is, and requests for it are relayed here as before. The state is a file: a node that
//! is started again is still drained.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use blosm_ledger::{PublicKey, SessionId};
use blosm_migrate::session::Standing;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::actor::MoveOrder;
use super::wire::Refusal;
use super::{MigrationOutcome, SessionsHandle};
use crate::durable::replace;

mod plan;

use plan::{End, Plan, Stage};

/// Name of the file in the data directory; it exists while the node is drained.
const FILE: &str = "drain.json";
/// Sessions that are moved at once, if `max_out` allows as many.
const AT_ONCE: usize = 2;
/// Between two looks at what the node owns while it is drained.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at the report of a migration.
const FOLLOW: Duration = Duration::from_millis(100);
/// How long a session that was signed over may take to serve before it counts as moved all the same.
const SERVE_WAIT: Duration = Duration::from_secs(60);
/// A migration that has not ended by then is not followed any longer: its report may have been lost with an invitation.
const MOVE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Why a node can't be drained, or its state not be read.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The destination is this node.
    #[error("a node can't be drained to itself; name another member with --to")]
    Here,
    /// The file can't be written, read or removed.
    #[error("{path} can't be {what}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what a node writes.
    #[error("{path} can't be understood ({source}); remove it, and drain the node again if it shall be", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    /// Where everything goes; absent: to the nearest connected member that takes it.
    to: Option<PublicKey>,
    since_unix_ms: u64,
}

/// Whether the node is drained, and how far that is.
#[derive(Debug)]
pub(crate) struct Drain {
    path: PathBuf,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: Option<Order>,
    plan: Plan,
}

impl Drain {
    /// Reads whether the node of that data directory is drained.
    ///
    /// # Errors
    /// The file is there and can't be read.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, DrainError> {
        let path = data_dir.join(FILE);
        let order = match std::fs::read(&path) {
            Ok(bytes) => Some(
                serde_json::from_slice(&bytes).map_err(|source| DrainError::Damaged {
                    path: path.clone(),
                    source,
                })?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(DrainError::File {
                    path,
                    what: "read",
                    source,
                });
            }
        };
        Ok(Self {
            path,
            state: Mutex::new(State {
                order,
                plan: Plan::default(),
            }),
            changed: Notify::new(),
        })
    }

    /// Whether the node takes no session.
    pub(crate) fn is_on(&self) -> bool {
        self.state().order.is_some()
    }

    /// From now on, and after a restart, the node takes no session. `owned` is what has to be moved.
    fn begin(&self, to: Option<PublicKey>, owned: &BTreeMap<SessionId, String>) -> Result<(), DrainError> {
        let order = Order {
            to,
            since_unix_ms: super::unix_ms(),
        };
        let bytes = serde_json::to_vec(&order).expect("a key and a number are plain data");
        replace(&self.path, &bytes).map_err(|source| DrainError::File {
            path: self.path.clone(),
            what: "written",
            source,
        })?;
        let mut state = self.state();
        state.order = Some(order);
        state.plan = Plan::default();
        state.plan.see(owned);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The node takes sessions again. Migrations that are under way go on.
    pub(super) fn end(&self) -> Result<(), DrainError> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(DrainError::File {
                    path: self.path.clone(),
                    what: "removed",
                    source,
                });
            }
        }
        self.state().order = None;
        self.changed.notify_one();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the drain's state")
    }
}

/// How far a drain is, as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct DrainView {
    /// Whether the node takes no session.
    pub drained: bool,
    /// The member that everything goes to, if one was named.
    pub to: Option<String>,
    /// Since when, by this machine's clock.
    pub since_unix_ms: Option<u64>,
    /// Whether every session was moved, or everybody was asked for it.
    pub settled: bool,
    /// Sessions that were moved.
    pub moved: usize,
    /// Sessions that are still here.
    pub remaining: usize,
    /// All of them.
    pub sessions: Vec<SessionDrain>,
}

/// One session of a drained node.
#[derive(Debug, Clone, Serialize)]
pub struct SessionDrain {
    /// The session.
    pub session: String,
    /// Name of the service.
    pub service: String,
    /// `waiting`, `moving`, `moved`, `remains` or `closed`.
    pub state: &'static str,
    /// The member it is moved to, or was.
    pub to: Option<String>,
    /// Its label.
    pub to_label: Option<String>,
    /// The migration, in `/v1/migrations/{id}`.
    pub migration: Option<String>,
    /// Why the last try was in vain.
    pub error: Option<String>,
}

impl SessionsHandle {
    /// Empties this node: it takes no session from now on, and moves those that it has, to `to` or to whoever takes them.
    ///
    /// # Errors
    /// `to` is this node, or the state can't be written down.
    pub fn drain(&self, to: Option<PublicKey>) -> Result<DrainView, DrainError> {
        if to == Some(self.parts().me) {
            return Err(DrainError::Here);
        }
        self.parts().drain.begin(to, &self.owned())?;
        tracing::info!("drained: no session is taken any more");
        Ok(self.drain_view())
    }

    /// This node takes sessions again.
    ///
    /// # Errors
    /// The state can't be written down.
    pub fn undrain(&self) -> Result<DrainView, DrainError> {
        self.parts().drain.end()?;
        tracing::info!("no longer drained");
        Ok(self.drain_view())
    }

    /// How far it is.
    pub fn drain_view(&self) -> DrainView {
        let parts = self.parts();
        let state = parts.drain.state();
        let sessions: Vec<SessionDrain> = state
            .plan
            .moves()
            .map(|(session, known)| {
                let (name, to) = match known.stage {
                    Stage::Waiting => ("waiting", None),
                    Stage::Moving(to) => ("moving", Some(to)),
                    Stage::Moved(to) => ("moved", Some(to)),
                    Stage::Remains => ("remains", None),
                    Stage::Closed => ("closed", None),
                };
                SessionDrain {
                    session: session.to_string(),
                    service: known.service.clone(),
                    state: name,
                    to: to.map(|to| to.to_string()),
                    to_label: to.map(|to| self.label(to)),
                    migration: known.migration.clone(),
                    error: known.error.clone(),
                }
            })
            .collect();
        let count = |wanted: &[&str]| {
            let of = |session: &&SessionDrain| wanted.contains(&session.state);
            sessions.iter().filter(of).count()
        };
        DrainView {
            drained: state.order.is_some(),
            to: state.order.and_then(|order| order.to).map(|to| to.to_string()),
            since_unix_ms: state.order.map(|order| order.since_unix_ms),
            settled: state.plan.settled(),
            moved: count(&["moved"]),
            remaining: count(&["waiting", "moving", "remains"]),
            sessions,
        }
    }

    /// The sessions that this node owns, with their services.
    pub(super) fn owned(&self) -> BTreeMap<SessionId, String> {
        let records = self.parts().journal.records();
        let mine = records.iter().filter(|record| {
            record.may_run() && self.owner(&record.session) == super::handle::KnownOwner::Me
        });
        mine.map(|record| (record.session, record.service.clone()))
            .collect()
    }

    /// One try of moving a session away.
    async fn move_away(&self, session: SessionId, to: PublicKey) -> End {
        let attempt = match self.send_away(session, to, MoveOrder::drain()).await {
            Some(Ok(attempt)) => hex::encode(attempt),
            Some(Err(Refusal::Busy | Refusal::TooSoon)) => return End::Busy,
            Some(Err(Refusal::NotOwner)) => return End::Closed,
            Some(Err(refusal @ Refusal::Drained)) => return End::Unfit(refusal.to_string()),
            Some(Err(refusal)) => return End::Failed(refusal.to_string()),
            None => return End::Failed("the node is stopping".into()),
        };
        let parts = self.parts();
        parts.drain.state().plan.started(&session, attempt.clone());
        let (begin, mut gone) = (Instant::now(), None::<Instant>);
        while begin.elapsed() < MOVE_LIMIT {
            let report = parts.reports.get(&attempt);
            let outcome = report.as_ref().map(|report| report.outcome);
            let why = report.and_then(|report| report.error).unwrap_or_default();
            let record = parts.journal.record(&session);
            let standing = record.map(|record| record.standing);
            match (standing, outcome) {
                (_, Some(MigrationOutcome::Completed)) => return End::Moved,
                (Some(Standing::Closed), _) => return End::Closed,
                (Some(Standing::Owner { .. }), Some(MigrationOutcome::Relayed)) => return End::Unfit(why),
                (Some(Standing::Owner { .. }), Some(MigrationOutcome::Aborted)) => return End::Failed(why),
                (Some(Standing::Owner { .. }), Some(MigrationOutcome::Running)) => gone = None,
                // The book keeps the last reports only: so many have begun since.
                (Some(Standing::Owner { .. }), None) => return End::Failed("its report is gone".into()),
                // Signed over: it serves there soon, or is handed back.
                (_, _) if gone.is_some_and(|since| since.elapsed() > SERVE_WAIT) => return End::Moved,
                (_, _) => {
                    gone.get_or_insert_with(Instant::now);
                }
            }
            tokio::time::sleep(FOLLOW).await;
        }
        End::Failed("the migration has not ended in hours".into())
    }
}

/// Moves what a drained node has, until the node stops.
pub(super) async fn run(sessions: SessionsHandle) {
    let parts = sessions.parts().clone();
    let at_once = AT_ONCE.min(parts.config.migration.max_out);
    let mut moving: JoinSet<(SessionId, PublicKey, End)> = JoinSet::new();
    loop {
        let order = parts.drain.state().order;
        if let Some(order) = order {
            let members = match order.to {
                Some(to) => vec![to],
                None => sessions.nearest_members(),
            };
            let (owned, now) = (sessions.owned(), Instant::now());
            let next = {
                let plan = &mut parts.drain.state().plan;
                plan.see(&owned);
                plan.retry(now);
                plan.next(now, &members, at_once.saturating_sub(moving.len()))
            };
            for (session, to) in next {
                let sessions = sessions.clone();
                moving.spawn(async move { (session, to, sessions.move_away(session, to).await) });
            }
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = parts.drain.changed.notified() => {}
            Some(ended) = moving.join_next(), if !moving.is_empty() => match ended {
                Ok((session, to, end)) => {
                    tracing::info!(%session, to = %to, ?end, "drain");
                    parts.drain.state().plan.ended(Instant::now(), &session, to, end);
                }
                Err(error) => tracing::error!(%error, "a move of the drain has ended by itself"),
            },
            () = tokio::time::sleep(LOOK), if order.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_node_is_drained_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let drain = Drain::open(dir.path()).unwrap();
        assert!(!drain.is_on());
        drain.end().unwrap();
        let to = PublicKey([7; 32]);
        drain.begin(Some(to), &BTreeMap::new()).unwrap();
        assert!(drain.is_on());
        let again = Drain::open(dir.path()).unwrap();
        assert_eq!(again.state().order.and_then(|order| order.to), Some(to));
        again.end().unwrap();
        assert!(!again.is_on() && !Drain::open(dir.path()).unwrap().is_on());
    }

    #[test]
    fn a_damaged_file_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let error = Drain::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("drain.json can't be understood") && error.contains("remove it"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }
}

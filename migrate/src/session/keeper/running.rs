//! The owner's container: when it may be started, and what follows when it does not serve (rules 4, 6 and 7).

use std::time::{Duration, Instant};

use blosm_ledger::PublicKey;

use super::{HANDED_BACK, Keeper, Known, Signing};
use crate::session::entry::Entry;
use crate::session::record::{Container, Record};

/// A container that never became healthy is given up after this many tries.
const MAX_FIRST_STARTS: u32 = 3;
/// A session that has just come is handed back after this many starts that failed.
const MAX_FRESH_STARTS: u32 = 3;

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// This container, once the entry is written.
    Start {
        /// Its name in the engine.
        container: String,
        /// `Starting`, unless that stands in the journal.
        before: Option<Entry>,
    },
    /// A new one: the session has no state yet. `Creating` is written before the engine hears of it.
    Create,
    /// Nothing: the state was in this container, which the engine does not have.
    Absent {
        /// Its name in the engine; empty if it never had one.
        container: String,
    },
}

/// How a start ended that did not lead to a healthy answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Whether the engine has answered, so that what it said of the container holds.
    pub engine_answered: bool,
    /// Whether the container is not in the engine any more.
    pub absent: bool,
}

/// What follows from a failed start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// It is tried again when [`Keeper::wants_start`] says so.
    Again,
    /// Rule 6: stop this container, if one is named, and see its exit; then sign.
    HandBack {
        /// What may have run here.
        stop: Option<String>,
        /// The hand-over.
        signing: Signing,
    },
    /// The session's state exists nowhere any more: close it.
    Lost,
}

impl Keeper {
    /// Whether the container is to be started now. `live` says that one runs.
    ///
    /// Rule 4: only the owner's, by its journal and by all that the chain says against it, and never during a cut. A node
    /// that was evicted begins anew first ([`Moved::Back`](super::Moved::Back)): nothing is started before that.
    #[must_use]
    pub fn wants_start(&self, now: Instant, known: &Known<'_>, live: bool) -> bool {
        let begun = self.source.as_ref().is_some_and(|source| !source.is_cut());
        !live && begun && self.mine(known).is_ok() && self.next_start.is_none_or(|at| now >= at)
    }

    /// Nothing is started before `at`.
    pub fn put_off(&mut self, at: Instant) {
        self.next_start = Some(at);
    }

    /// Nothing stands against a start at once: the container has ended, or a cut is rolled back.
    pub fn start_at_once(&mut self) {
        self.next_start = None;
    }

    /// How many starts have failed, one after the other.
    #[must_use]
    pub fn failed_starts(&self) -> u32 {
        self.failed_starts
    }

    /// Whether a container that was prepared for this stay is the session's.
    #[must_use]
    pub fn is_current(&self, record: &Record, container: &str) -> bool {
        let current = record.container.as_ref();
        current.is_some_and(|current| current.name == container)
    }

    /// What to start. `there` says whether the engine has the container that the record names.
    #[must_use]
    pub fn launch(&self, record: &Record, there: bool) -> Launch {
        match &record.container {
            Some(container) if there => Launch::Start {
                container: container.name.clone(),
                before: self.starting(container),
            },
            Some(container) if container.started => Launch::Absent {
                container: container.name.clone(),
            },
            _ if record.owned_epoch() == Some(0) => Launch::Create,
            // A session that came from elsewhere has its state in the container that was applied, and nowhere else.
            container => Launch::Absent {
                container: container
                    .as_ref()
                    .map_or_else(String::new, |container| container.name.clone()),
            },
        }
    }

    /// What is written before a container's own program runs for the first time.
    #[must_use]
    pub fn starting(&self, container: &Container) -> Option<Entry> {
        (!container.started).then(|| Entry::Starting {
            session: self.session,
            container: container.name.clone(),
        })
    }

    /// The container has answered and is about to be routed to. What is written before that, and who gave the session, if
    /// it has come from elsewhere: after this it can't be handed back, since requests will have changed it.
    pub fn healthy(&mut self, record: &Record) -> Option<(Entry, PublicKey)> {
        self.failed_starts = 0;
        self.next_start = None;
        self.has_served = true;
        let session = self.session;
        record.came.map(|(from, _)| (Entry::Routed { session }, from))
    }

    /// A start did not lead to a healthy answer.
    pub fn start_failed(&mut self, now: Instant, known: &Known<'_>, failure: Failure) -> Failed {
        self.failed_starts += 1;
        let backoff = Duration::from_millis(200) * self.failed_starts.min(25);
        self.next_start = Some(now + backoff);
        let record = known.record;
        let container = record.container.as_ref();
        if let Some((from, root)) = record.came {
            if self.failed_starts < MAX_FRESH_STARTS || !known.members.contains(&from) {
                return Failed::Again;
            }
            let may_have_run = container.filter(|container| container.started);
            // Only a seen exit allows a signature (rule 3), and an engine that does not answer shows none.
            if may_have_run.is_some() && !failure.engine_answered {
                return Failed::Again;
            }
            return Failed::HandBack {
                stop: may_have_run.map(|container| container.name.clone()),
                signing: Signing {
                    attempt: HANDED_BACK,
                    destination: from,
                    claim: None,
                    root,
                },
            };
        }
        if !failure.engine_answered {
            return Failed::Again;
        }
        let lost =
            failure.absent && container.is_none_or(|container| container.started || container.epoch > 0);
        // A container that never served holds nothing that a client was told.
        let stillborn = record.owned_epoch() == Some(0)
            && !self.has_served
            && !self.ran_before
            && self.failed_starts >= MAX_FIRST_STARTS;
        if lost || stillborn {
            Failed::Lost
        } else {
            Failed::Again
        }
    }

    /// Whether the owner may close the session now; gives the epoch.
    #[must_use]
    pub fn may_close(&self, known: &Known<'_>) -> Option<u64> {
        self.mine(known).ok().filter(|_| !self.is_cut())
    }
}

//! Which session of a drained node goes where next. Pure: `now` and the members that can be asked are passed in.
//!
//! ```text
//!  Waiting ──next──> Moving ──Moved──> Moved            every member that may take it is asked, the nearest first;
//!     ^                 │ ──Closed─> Closed             one that judges itself unfit is not asked again, one that
//!     └── Busy, Failed ─┤                               fails is asked a few times, one that is busy for a while
//!                       └─ nobody is left ─> Remains ──retry──> Waiting
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blosm_ledger::{PublicKey, SessionId};

/// How often one member may fail to take one session.
const TRIES: u32 = 3;
/// Between two tries of a session.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a member that says that it is busy is asked again: others' moves take that long.
const BUSY_WAIT: Duration = Duration::from_secs(120);
/// What remains is tried again after this, as long as the node is drained.
const RETRY: Duration = Duration::from_secs(30);

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The member serves it.
    Moved,
    /// The session is over.
    Closed,
    /// Not now.
    Busy,
    /// The member will not take it, and says why.
    Unfit(String),
    /// It did not work out.
    Failed(String),
}

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is going to be tried.
    Waiting,
    /// It is on its way to that member.
    Moving(PublicKey),
    /// That member has it.
    Moved(PublicKey),
    /// Nobody takes it: it stays, and requests for it are relayed here.
    Remains,
    /// It is over, or went by itself.
    Closed,
}

/// One session of the node.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) service: String,
    pub(super) stage: Stage,
    /// The last migration that was begun for it.
    pub(super) migration: Option<String>,
    /// Why the last try was in vain.
    pub(super) error: Option<String>,
    failed: BTreeMap<PublicKey, u32>,
    not_before: Option<Instant>,
    busy_since: Option<Instant>,
}

impl Move {
    fn new(service: String) -> Self {
        Self {
            service,
            stage: Stage::Waiting,
            migration: None,
            error: None,
            failed: BTreeMap::new(),
            not_before: None,
            busy_since: None,
        }
    }
}

/// All sessions that a drained node has, or had when that began.
#[derive(Debug, Default)]
pub(super) struct Plan {
    moves: BTreeMap<SessionId, Move>,
    settled_at: Option<Instant>,
}

impl Plan {
    /// Takes note of the sessions that the node owns now, with their services.
    pub(super) fn see(&mut self, owned: &BTreeMap<SessionId, String>) {
        for (session, service) in owned {
            let fresh = || Move::new(service.clone());
            let known = self.moves.entry(*session).or_insert_with(fresh);
            // Handed back, or come again.
            if matches!(known.stage, Stage::Moved(_) | Stage::Closed) {
                *known = fresh();
            }
        }
        for (session, known) in &mut self.moves {
            if matches!(known.stage, Stage::Waiting | Stage::Remains) && !owned.contains_key(session) {
                known.stage = Stage::Closed;
            }
        }
    }

    /// The next sessions to move, `free` of them at most, each with its destination. `members` can be asked, in this
    /// order.
    pub(super) fn next(
        &mut self,
        now: Instant,
        members: &[PublicKey],
        free: usize,
    ) -> Vec<(SessionId, PublicKey)> {
        let mut next = Vec::new();
        for (session, known) in &mut self.moves {
            let due = known.not_before.is_none_or(|at| now >= at);
            if known.stage != Stage::Waiting || !due {
                continue;
            }
            let untried =
                |member: &&PublicKey| known.failed.get(*member).is_none_or(|failed| *failed < TRIES);
            match members.iter().find(untried) {
                Some(member) if next.len() < free => {
                    known.stage = Stage::Moving(*member);
                    next.push((*session, *member));
                }
                Some(_) => {}
                None => {
                    known.stage = Stage::Remains;
                    let nobody = || "there is no other connected member to take it".to_owned();
                    known.error.get_or_insert_with(nobody);
                }
            }
        }
        if self.settled() {
            self.settled_at.get_or_insert(now);
        } else {
            self.settled_at = None;
        }
        next
    }

    /// A migration of that name was begun for the session.
    pub(super) fn started(&mut self, session: &SessionId, migration: String) {
        if let Some(known) = self.moves.get_mut(session) {
            known.migration = Some(migration);
        }
    }

    /// The try of moving the session to `to` has ended.
    pub(super) fn ended(&mut self, now: Instant, session: &SessionId, to: PublicKey, end: End) {
        let Some(known) = self.moves.get_mut(session) else {
            return;
        };
        // Of a drain that was ended and begun again meanwhile.
        if known.stage != Stage::Moving(to) {
            return;
        }
        known.stage = Stage::Waiting;
        known.not_before = Some(now + PAUSE);
        if end != End::Busy {
            known.busy_since = None;
        }
        match end {
            End::Moved => {
                known.stage = Stage::Moved(to);
                known.error = None;
            }
            End::Closed => known.stage = Stage::Closed,
            End::Busy => {
                let since = *known.busy_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= BUSY_WAIT {
                    known.busy_since = None;
                    known.failed.insert(to, TRIES);
                    known.error = Some("the destination is busy with other moves".into());
                }
            }
            End::Unfit(why) => {
                known.not_before = None;
                known.failed.insert(to, TRIES);
                known.error = Some(why);
            }
            End::Failed(why) => {
                *known.failed.entry(to).or_default() += 1;
                known.error = Some(why);
            }
        }
    }

    /// Whether every session was moved, or everybody was asked for it.
    pub(super) fn settled(&self) -> bool {
        let open = |known: &Move| matches!(known.stage, Stage::Waiting | Stage::Moving(_));
        !self.moves.values().any(open)
    }

    /// Tries again what remains, if the last time is long enough ago.
    pub(super) fn retry(&mut self, now: Instant) {
        let due = |at: Instant| now.saturating_duration_since(at) >= RETRY;
        if !self.settled_at.is_some_and(due) {
            return;
        }
        self.settled_at = None;
        for known in self.moves.values_mut() {
            if known.stage == Stage::Remains {
                *known = Move {
                    error: known.error.take(),
                    ..Move::new(known.service.clone())
                };
            }
        }
    }

    /// All sessions by id.
    pub(super) fn moves(&self) -> impl Iterator<Item = (&SessionId, &Move)> {
        self.moves.iter()
    }
}

#[cfg(test)]
mod tests;

//! What a node does with one session: every decision of the task that owns the session here, and none of its work.
//!
//! ```text
//!  journal: Record ───────────────┐
//!  chain: SessionRecord, Members ─┼─> Keeper ──> an entry to write, then what follows from it
//!  peers, time, engine ───────────┘      ^                 │
//!                                        └──── written ────┘
//! ```
//! The caller waits for disks, engines and peers; here nothing waits. What is decided is decided by a [`Record`] that is
//! on the disk, and what the node is to the session changes only in [`Keeper::written`], which is told of an entry once
//! it is there: so nothing can be done, or said, on what was not written.
//!
//! | file | of |
//! |---|---|
//! | `keeper.rs` | whose the session is: journal and chain (rules 3, 4 and 7) |
//! | `keeper/running.rs` | the owner's container: started, started again, given up |
//! | `keeper/giving.rs` | the source's side of a hand-over (rules 2, 3 and 5) |
//! | `keeper/taking.rs` | the destination's side (rules 4 and 6) |
//! | `keeper/given.rs` | what a former owner still has to do (rules 4 and 6) |

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use blosm_ledger::{Abort, Hash, Members, PublicKey, SessionId, SessionRecord};

use super::entry::{Attempt, Entry};
use super::ownership::{Adoption, adopt};
use super::record::{Record, Standing};
use super::source::{Effect, Input, Refused, Source, Timing};

mod given;
mod giving;
mod running;
mod taking;

pub use giving::{Ready, Signing};
pub use running::{Failed, Failure, Launch};
pub use taking::Taking;

/// Transactions that a new owner is given to submit, beside the hand-over itself.
pub const MAX_PENDING: usize = 128;
/// The attempt that a session handed back is signed under: none.
const HANDED_BACK: Attempt = [0; 16];

/// What is known of a session at the moment of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What the journal says: only what is on the disk.
    pub record: &'a Record,
    /// What the chain says.
    pub sealed: Option<&'a SessionRecord>,
    /// The members by the chain, and those who were members.
    pub members: &'a Members,
}

/// Why a request about the session is not followed. None of them ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum No {
    /// This node does not own it, or not at that epoch.
    #[error("this node does not own the session")]
    NotOwner,
    /// The asker has neither the token nor an invitation, or signed what it may not sign.
    #[error("the asker has no right to it")]
    NotAuthorised,
    /// A transaction can't be read, is not signed by its sender, or is about something else.
    #[error("the request contradicts itself")]
    Malformed,
    /// More of its transactions are unsealed than a new owner takes over.
    #[error("too many of its transactions are not sealed yet")]
    Unsealed,
    /// The source's machine says no.
    #[error(transparent)]
    Source(#[from] Refused),
}

/// What a movement of the chain means to the session here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Nothing.
    Nothing,
    /// This node was evicted and is a member again: the session is its own as before.
    Back,
    /// The session is not, or no longer, this node's: its container is stopped, its exit seen, and kept.
    Lost {
        /// For the log.
        why: &'static str,
        /// Whether it is nobody's any more.
        closed: bool,
    },
    /// Rule 3: write this; the session is this node's again.
    Reclaimed(Entry),
    /// Rule 3: the destination was evicted before the hand-over was sealed. Have this sealed in its place.
    Abort(Abort),
}

/// The decisions about one session on one node.
#[derive(Debug, Clone)]
pub struct Keeper {
    me: PublicKey,
    chain_id: Hash,
    session: SessionId,
    timing: Timing,
    /// Hand-overs of the present epoch; exists while this node owns the session.
    source: Option<Source>,
    /// When this node came to own it.
    owned_since: Instant,
    /// Members that were told of the session since this node owns it: only they may claim it.
    welcome: BTreeSet<PublicKey>,
    failed_starts: u32,
    next_start: Option<Instant>,
    /// Whether the container has served since this process began to look after it.
    has_served: bool,
    /// Whether the journal says that it ran before that.
    ran_before: bool,
    /// When the new owner was first known to serve.
    served_at: Option<Instant>,
}

impl Keeper {
    /// Begins to look after `session` on the node `me` of the network `chain_id`, with what the journal says of it.
    #[must_use]
    pub fn new(
        me: PublicKey,
        chain_id: Hash,
        session: SessionId,
        timing: Timing,
        now: Instant,
        record: &Record,
    ) -> Self {
        let container = record.container.as_ref();
        let mut keeper = Self {
            me,
            chain_id,
            session,
            timing,
            source: None,
            owned_since: now,
            welcome: BTreeSet::new(),
            failed_starts: 0,
            next_start: None,
            has_served: false,
            ran_before: container.is_some_and(|container| container.started),
            served_at: None,
        };
        if record.may_run() {
            keeper.begin(now);
        }
        keeper
    }

    /// This node owns the session from now on.
    pub fn begin(&mut self, now: Instant) {
        self.owned_since = now;
        self.source = Some(Source::new(self.timing, now));
        self.welcome.clear();
    }

    /// An entry of this session is on the disk. Not before does the node become, or cease to be, the session's owner.
    pub fn written(&mut self, now: Instant, entry: &Entry) {
        match entry {
            Entry::Acquired { .. } => {
                self.served_at = None;
                self.failed_starts = 0;
                self.next_start = None;
                self.begin(now);
            }
            Entry::Reclaimed { .. } => self.begin(now),
            Entry::Signed { .. } | Entry::Closed { .. } => self.source = None,
            Entry::Served { .. } => self.served_at = Some(now),
            _ => {}
        }
    }

    /// Rule 7, asked again whenever the chain has moved.
    #[must_use]
    pub fn adoption(&self, known: &Known<'_>) -> Adoption {
        // An evicted node runs nothing of the network's. What it owned is still its own on the chain: it is kept.
        if self.is_evicted(known) && known.record.may_run() {
            return Adoption::NotMine;
        }
        adopt(known.record, known.sealed, self.me)
    }

    fn is_evicted(&self, known: &Known<'_>) -> bool {
        known.members.evicted(&self.me).is_some()
    }

    /// The epoch at which the session is this node's.
    fn mine(&self, known: &Known<'_>) -> Result<u64, No> {
        match self.adoption(known) {
            Adoption::Mine { epoch } => Ok(epoch),
            Adoption::NotMine | Adoption::Closed => Err(No::NotOwner),
        }
    }

    /// Whether a hand-over has begun, so that the container may be neither started nor closed.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.source.as_ref().is_some_and(Source::is_cut)
    }

    /// The source's machine, while this node owns the session.
    #[must_use]
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Tells the source's machine of something.
    ///
    /// # Errors
    /// It says no, or this node does not own the session.
    pub fn tell(&mut self, now: Instant, input: Input) -> Result<Effect, No> {
        let source = self.source.as_mut().ok_or(No::NotOwner)?;
        Ok(source.handle(now, input)?)
    }

    /// The chain has moved: it may hold a newer fact than the journal.
    #[must_use]
    pub fn chain_moved(&self, known: &Known<'_>) -> Moved {
        if let Some(moved) = self.catch_up(known) {
            return moved;
        }
        match known.record.standing {
            Standing::Owner { .. } => match self.adoption(known) {
                Adoption::Mine { .. } if self.source.is_none() => Moved::Back,
                Adoption::Mine { .. } => Moved::Nothing,
                Adoption::NotMine if self.is_evicted(known) => Moved::Lost {
                    why: "this node was evicted",
                    closed: false,
                },
                Adoption::NotMine => Moved::Lost {
                    why: "the chain holds a newer owner",
                    closed: false,
                },
                Adoption::Closed => Moved::Lost {
                    why: "the session is closed on the chain",
                    closed: true,
                },
            },
            Standing::Gave => self.reclaim(known),
            Standing::Visitor | Standing::Closed => Moved::Nothing,
        }
    }

    /// How long this node has owned the session, or the present process has, if that began later.
    pub fn owned_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.owned_since)
    }

    /// Whether there is something to look at again although the chain has not moved since.
    #[must_use]
    pub fn is_unsettled(&self, known: &Known<'_>) -> bool {
        match known.record.standing {
            Standing::Gave | Standing::Owner { .. } => {
                self.mine(known).is_err() || self.catch_up(known).is_some()
            }
            Standing::Visitor | Standing::Closed => false,
        }
    }

    /// The session is lost by [`Moved::Lost`]. Whether there is a container to stop; `live` says that one runs.
    pub fn lose(&mut self, live: bool) -> bool {
        self.source.take().is_some() || live
    }

    /// The container of a lost session could not be stopped: asked again with the next movement of the chain.
    pub fn not_stopped(&mut self) {
        self.source = Some(Source::new(self.timing, self.owned_since));
    }

    /// Rule 4: the sealed hand-over that gives the session to this node, which has not journaled it yet.
    #[must_use]
    pub fn in_block(&self, known: &Known<'_>) -> Option<Hash> {
        let (record, sealed) = (known.record, known.sealed?);
        let applied = record.applied.as_ref();
        let comes = applied.is_some_and(|applied| applied.epoch + 1 == sealed.epoch);
        let gave = record.gave.as_ref();
        let comes_back = gave.is_some_and(|gave| gave.epoch + 1 == sealed.epoch && !gave.served);
        (sealed.owner == self.me && !record.may_run() && (comes || comes_back)).then_some(sealed.since)
    }
}

#[cfg(test)]
mod tests;

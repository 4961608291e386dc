//! After the signature: the hand-over is repeated, the kept container waits, and goes (rules 3, 4 and 6).

use std::time::{Duration, Instant};

use blosm_ledger::{Abort, PublicKey};

use super::{Keeper, Known, Moved};
use crate::session::entry::Entry;
use crate::session::record::{Gave, Record, Stale, Standing};

impl Keeper {
    /// Rule 4: the hand-over that its signer repeats until the new owner serves.
    #[must_use]
    pub fn to_repeat<'a>(&self, record: &'a Record) -> Option<&'a Gave> {
        let gave = record.gave.as_ref();
        gave.filter(|gave| !gave.served && record.standing == Standing::Gave)
    }

    /// The new owner at `epoch` has answered: what is to be written, if it is news.
    #[must_use]
    pub fn answered(&self, record: &Record, epoch: u64, serving: bool) -> Option<Entry> {
        let session = self.session;
        let gave = record.gave.as_ref().filter(|gave| gave.epoch == epoch)?;
        if serving && !gave.served {
            Some(Entry::Served { session, epoch })
        } else if !gave.acknowledged {
            Some(Entry::Acknowledged { session, epoch })
        } else {
            None
        }
    }

    /// Whether this node gave the session to `to` at `epoch`.
    #[must_use]
    pub fn gave_to(&self, record: &Record, to: PublicKey, epoch: u64) -> bool {
        let gave = record.gave.as_ref();
        gave.is_some_and(|gave| gave.destination == to && gave.epoch == epoch)
    }

    /// Rule 6: stopped containers that may go. One whose state was given away waits until the destination serves, and
    /// `keep_source` longer; `busy` says that the session is coming back. One of an earlier stay is worth nothing.
    pub fn removable(
        &mut self,
        now: Instant,
        record: &Record,
        keep_source: Duration,
        busy: bool,
    ) -> Vec<Stale> {
        let mut removable = record.stale.clone();
        let served = record.gave.as_ref().filter(|gave| gave.served);
        if let (Standing::Gave, Some(gave)) = (record.standing, served) {
            // After a restart the time begins anew.
            let served_at = *self.served_at.get_or_insert(now);
            let kept_long = now.saturating_duration_since(served_at) >= keep_source;
            if let Some(container) = record.container.clone()
                && kept_long
                && !busy
            {
                let given = Some((gave.epoch - 1, gave.attempt));
                removable.push(Stale { container, given });
            }
        }
        removable
    }

    /// Rule 3: the session went from here through a machine that was lost before the hand-over was sealed, and is here
    /// again. The chain can't follow it there: this node's `Abort`s bring the chain to the epoch that the journal holds.
    pub(super) fn catch_up(&self, known: &Known<'_>) -> Option<Moved> {
        let (Standing::Owner { epoch, since }, Some(sealed)) = (known.record.standing, known.sealed) else {
            return None;
        };
        if sealed.owner != self.me || !sealed.is_open() || self.is_evicted(known) {
            return None;
        }
        if sealed.epoch == epoch && sealed.since != since && !self.is_cut() {
            return Some(Moved::Reclaimed(Entry::Reclaimed {
                session: self.session,
                epoch,
                abort_hash: sealed.since,
            }));
        }
        // What would be sealed next can't be: its destination is lost, or its signer passed over by then.
        let (signer, destination) = known.record.unsealed(sealed.epoch)?;
        let evicted = known.members.evicted(&destination);
        let is_void = signer != self.me || evicted.is_some_and(|evicted| evicted.lost);
        let abort = Abort {
            session: self.session,
            epoch: sealed.epoch,
            claim: None,
        };
        (sealed.epoch < epoch && is_void).then_some(Moved::Abort(abort))
    }

    /// Rule 3: with the destination lost and the hand-over unsealed, this node's sealed `Abort` gives the session back. That
    /// it was evicted is not enough: it may not have heard of it yet, and run the session.
    pub(super) fn reclaim(&self, known: &Known<'_>) -> Moved {
        let (Some(gave), Some(sealed)) = (&known.record.gave, known.sealed) else {
            return Moved::Nothing;
        };
        if sealed.owner != self.me || !sealed.is_open() {
            return Moved::Nothing;
        }
        if sealed.epoch == gave.epoch && sealed.since != gave.handover.hash {
            return Moved::Reclaimed(Entry::Reclaimed {
                session: self.session,
                epoch: gave.epoch,
                abort_hash: sealed.since,
            });
        }
        let destination = known.members.evicted(&gave.destination);
        if sealed.epoch + 1 == gave.epoch && destination.is_some_and(|evicted| evicted.lost) {
            return Moved::Abort(Abort {
                session: self.session,
                epoch: sealed.epoch,
                claim: None,
            });
        }
        Moved::Nothing
    }
}

//! The destination's side of a hand-over: from the applied container to the owned one (rules 4 and 6).

use blosm_ledger::{HandOver, Payload, PublicKey, Transaction};

use super::{HANDED_BACK, Keeper, Known, MAX_PENDING, No};
use crate::session::entry::{Attempt, Entry, Pending};
use crate::session::record::{Applied, Record, Standing};
use crate::session::source::Refused;

/// What a signed hand-over to this node means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taking {
    /// It was taken before, or something later is known. Whether its signer may forget what it has; none: if the
    /// container serves here now.
    Known {
        /// Whether the session has been served since.
        served: Option<bool>,
    },
    /// Write this; the session is this node's then.
    Take {
        /// The entry.
        entry: Box<Entry>,
        /// The attempt under which it was applied here.
        attempt: Option<Attempt>,
    },
}

impl Keeper {
    /// Whether this node may begin to take the session, as far as its journal goes.
    #[must_use]
    pub fn may_visit(&self, record: &Record) -> bool {
        // A container that waits for its signature is settled first: the source may have signed already.
        !record.may_run() && record.applied.is_none() && record.standing != Standing::Closed
    }

    /// Whether a container that holds the final state of this attempt is still wanted. Not if the signature could not be
    /// taken: this node gave the session away at a later epoch, which the chain has passed over.
    #[must_use]
    pub fn wants_applied(&self, record: &Record, applied: &Entry) -> bool {
        let Entry::Applied { epoch, root, .. } = applied else {
            return false;
        };
        let mut then = record.clone();
        then.apply(applied.clone());
        then.accepts(*epoch, *root)
    }

    /// The container that waits for the signature: READY is said again, after a lost answer or a restart, until the
    /// source signs, or says that it has rolled back.
    #[must_use]
    pub fn unsigned<'a>(&self, record: &'a Record) -> Option<&'a Applied> {
        record.applied.as_ref().filter(|_| !record.may_run())
    }

    /// The source will not sign for what was applied under `attempt`: the container that goes.
    #[must_use]
    pub fn void<'a>(&self, record: &'a Record, attempt: Attempt) -> Option<&'a Applied> {
        self.unsigned(record).filter(|applied| applied.attempt == attempt)
    }

    /// The attempt under which something was applied here that waits for a signature which no longer counts: the chain
    /// gave the session to another node at that epoch, and its signer may never say so.
    #[must_use]
    pub fn passed_over(&self, known: &Known<'_>) -> Option<Attempt> {
        let (applied, sealed) = (known.record.applied.as_ref()?, known.sealed?);
        let passed = sealed.epoch > applied.epoch && sealed.owner != self.me;
        passed.then_some(applied.attempt)
    }

    /// Rule 4: the signed hand-over of the state that was applied here makes this node the owner.
    ///
    /// # Errors
    /// It does not; with a reason for whoever brought it.
    pub fn take(&self, record: &Record, handover: Pending, others: Vec<Pending>) -> Result<Taking, No> {
        if let Standing::Owner { since, .. } = record.standing
            && since == handover.hash
        {
            return Ok(Taking::Known { served: None });
        }
        // Repeated by a signer that has not heard what came after it.
        if let Some(epoch) = epoch_of(&handover).map(|epoch| epoch + 1) {
            let later = match (&record.standing, &record.gave) {
                (Standing::Closed, _) => Some(true),
                (Standing::Owner { epoch: owned, .. }, _) if *owned > epoch => Some(true),
                // Handed back without having served: the signer must keep what it has.
                (_, Some(gave)) if gave.epoch == epoch + 1 && gave.attempt == HANDED_BACK => Some(false),
                (_, Some(gave)) if gave.epoch > epoch => Some(true),
                _ => None,
            };
            if later.is_some() {
                return Ok(Taking::Known { served: later });
            }
        }
        let (sender, body) = self.check(&handover, &others)?;
        if !record.accepts(body.epoch, body.manifest_root) {
            return Err(Refused::Void.into());
        }
        let back = record.is_hand_back(body.epoch, body.manifest_root);
        let giver = if back {
            record.gave.as_ref().map(|gave| gave.destination)
        } else {
            record.applied.as_ref().map(|applied| applied.source)
        };
        if giver != Some(sender) {
            return Err(No::NotAuthorised);
        }
        Ok(Taking::Take {
            entry: Box::new(Entry::Acquired {
                session: self.session,
                epoch: body.epoch + 1,
                handover,
                pending: others,
            }),
            attempt: record.applied.as_ref().map(|applied| applied.attempt),
        })
    }

    fn check(&self, handover: &Pending, others: &[Pending]) -> Result<(PublicKey, HandOver), No> {
        if others.len() > MAX_PENDING {
            return Err(No::Malformed);
        }
        for other in others {
            let transaction = other.verified(self.chain_id).ok_or(No::Malformed)?;
            let fits = matches!(&transaction.payload, Payload::Open(_) | Payload::HandOver(_))
                && transaction.payload.session() == Some(self.session);
            if !fits {
                return Err(No::Malformed);
            }
        }
        let transaction = handover.verified(self.chain_id).ok_or(No::Malformed)?;
        match transaction.payload {
            Payload::HandOver(body) if body.session == self.session && body.destination == self.me => {
                Ok((transaction.sender, body))
            }
            _ => Err(No::Malformed),
        }
    }
}

fn epoch_of(handover: &Pending) -> Option<u64> {
    match Transaction::decode(&handover.bytes).ok()?.payload {
        Payload::HandOver(body) => Some(body.epoch),
        _ => None,
    }
}

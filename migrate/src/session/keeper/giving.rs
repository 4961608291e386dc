//! The source's side of a hand-over, beside its machine: who may ask, and what is signed (rules 2, 3 and 5).

use std::time::Instant;

use blosm_ledger::{Claim, HandOver, Hash, PublicKey};

use super::{Keeper, Known, MAX_PENDING, No};
use crate::session::entry::{Attempt, Entry, Pending};
use crate::session::record::Record;
use crate::session::source::{Effect, Input, Refused};

/// What a hand-over will say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    /// The attempt that it ends; all zero for a session handed back.
    pub attempt: Attempt,
    /// The new owner.
    pub destination: PublicKey,
    /// Hash of its claim.
    pub claim: Option<Hash>,
    /// What the destination must have applied.
    pub root: Hash,
}

/// The answer to a destination that has applied the final state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The hand-over that stands in the journal, once more.
    Again,
    /// The point of no return: sign this, write it, then answer with it.
    Sign(Signing),
}

impl Keeper {
    /// Rule 2: whether a member that asks for the session may hear of it; gives the epoch to announce.
    ///
    /// # Errors
    /// With a reason for the asker.
    pub fn want(
        &mut self,
        now: Instant,
        known: &Known<'_>,
        token_presented: bool,
        invited: bool,
    ) -> Result<u64, No> {
        let epoch = self.mine(known)?;
        if !token_presented && !invited {
            return Err(No::NotAuthorised);
        }
        self.tell(now, Input::Want { invited })?;
        Ok(epoch)
    }

    /// The member was told of the session: it may claim it.
    pub fn welcome(&mut self, member: PublicKey) {
        self.welcome.insert(member);
    }

    /// A claim that its sender has signed. Gives the attempt that may go on; none for a verdict of false.
    ///
    /// # Errors
    /// With a reason for the claimant.
    pub fn claim(
        &mut self,
        now: Instant,
        known: &Known<'_>,
        from: PublicKey,
        claim: &Claim,
        hash: Hash,
    ) -> Result<Option<Attempt>, No> {
        let epoch = self.mine(known)?;
        if claim.epoch != epoch {
            return Err(No::NotOwner);
        }
        if !claim.verdict.accepted {
            return Ok(None);
        }
        // A claim is public; the token, or the owner's own invitation, is what lets a member in.
        if !self.welcome.contains(&from) {
            return Err(No::NotAuthorised);
        }
        let attempt = claim.attempt;
        self.tell(
            now,
            Input::Claim {
                attempt,
                destination: from,
                claim: hash,
            },
        )?;
        Ok(Some(attempt))
    }

    /// Whether a cut may begin as far as journal and chain go; gives the epoch.
    ///
    /// # Errors
    /// With a reason for the destination.
    pub fn may_cut(&self, known: &Known<'_>) -> Result<u64, No> {
        let epoch = self.mine(known)?;
        // More than a new owner takes: the proposer has been away for that many hand-overs.
        if known.record.pending.len() >= MAX_PENDING {
            return Err(No::Unsealed);
        }
        Ok(epoch)
    }

    /// Rule 3. What is asked twice is answered with the same bytes.
    ///
    /// # Errors
    /// With a reason for the destination.
    pub fn ready(
        &mut self,
        now: Instant,
        known: &Known<'_>,
        from: PublicKey,
        attempt: Attempt,
        root: Hash,
    ) -> Result<Ready, No> {
        if let Some(gave) = &known.record.gave
            && gave.attempt == attempt
            && gave.destination == from
        {
            return if gave.root == root {
                Ok(Ready::Again)
            } else {
                Err(Refused::OtherRoot.into())
            };
        }
        self.mine(known)?;
        match self.tell(now, Input::Ready { attempt, from, root })? {
            Effect::Sign {
                attempt,
                destination,
                claim,
                root,
            } => Ok(Ready::Sign(Signing {
                attempt,
                destination,
                claim: Some(claim),
                root,
            })),
            _ => Err(Refused::Busy.into()),
        }
    }

    /// The hand-over to sign; none when this node owns nothing to give.
    #[must_use]
    pub fn hand_over(&self, record: &Record, signing: &Signing) -> Option<HandOver> {
        Some(HandOver {
            session: self.session,
            epoch: record.owned_epoch()?,
            claim: signing.claim,
            destination: signing.destination,
            manifest_root: signing.root,
        })
    }

    /// What is on the disk before one byte of the signed hand-over leaves the process.
    #[must_use]
    pub fn signed(&self, handover: &HandOver, attempt: Attempt, transaction: Pending) -> Entry {
        Entry::Signed {
            session: self.session,
            epoch: handover.epoch + 1,
            destination: handover.destination,
            attempt,
            root: handover.manifest_root,
            handover: transaction,
        }
    }
}

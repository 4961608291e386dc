//! The session state machine: who owns a session, and what may change that.
//!
//! ```text
//!  Open ──> Open, epoch 0, owner = opener = its sender, who is in the session's id
//!             │ Announce, Claim      change metadata and claims only
//!             │ HandOver             owner = destination, epoch + 1
//!             │ Abort                owner stays,         epoch + 1
//!             └ Release ──> Closed, for ever
//! ```
//!
//! Every session transaction but Open names the epoch that it speaks of, so none can act twice and none can act
//! after a newer fact.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::hash::Hash;
use crate::key::PublicKey;
use crate::members::Members;
use crate::payload::{Abort, Announce, Claim, HandOver, Metadata, Open, Release, ReleaseReason, Verdict};
use crate::refusal::Refusal;

/// How many claims of one epoch may stand.
pub const MAX_CLAIMS: usize = 16;

/// What the ledger knows of a session.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The service that its container runs.
    pub service: String,
    /// The node that opened it.
    pub opener: PublicKey,
    /// The node that owns it; of a closed session the last.
    pub owner: PublicKey,
    /// How often it has changed hands (an Abort counts too).
    pub epoch: u64,
    /// Whether it is open.
    pub status: SessionStatus,
    /// The newest announcement of this epoch.
    pub metadata: Option<Metadata>,
    /// The nodes that the newest announcement of this epoch invites.
    pub invited: Vec<PublicKey>,
    /// The claims of this epoch, one per sender, in order of arrival.
    pub claims: Vec<ClaimRecord>,
    /// The hash of the transaction that gave the owner the session at this epoch: Open, HandOver or Abort.
    pub since: Hash,
    /// The height at which it was opened.
    pub opened_height: u64,
}

/// Whether a session is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Its owner serves it.
    Open,
    /// It is closed for ever, for this reason.
    Closed(ReleaseReason),
}

/// A claim that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// The hash of the claim.
    pub hash: Hash,
    /// The node that claims.
    pub sender: PublicKey,
    /// Which attempt of that node this is.
    #[serde(with = "crate::hash::hex_bytes")]
    pub attempt: [u8; 16],
    /// What it judged. A false verdict is recorded and changes nothing.
    pub verdict: Verdict,
}

impl SessionRecord {
    /// Whether the session is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.status == SessionStatus::Open
    }

    pub(crate) fn open(
        sender: PublicKey,
        open: &Open,
        hash: Hash,
        height: u64,
        members: &Members,
    ) -> Result<Self, Refusal> {
        // A node may have opened the session before its own eviction was sealed; the client has the token.
        if !members.ever_admitted(&sender) {
            return Err(Refusal::NeverAdmitted(sender));
        }
        Ok(SessionRecord {
            service: open.service.clone(),
            opener: sender,
            owner: sender,
            epoch: 0,
            status: SessionStatus::Open,
            metadata: None,
            invited: Vec::new(),
            claims: Vec::new(),
            since: hash,
            opened_height: height,
        })
    }

    pub(crate) fn announce(
        &mut self,
        sender: PublicKey,
        announce: &Announce,
        members: &Members,
    ) -> Result<(), Refusal> {
        self.at(announce.epoch)?;
        self.by_owner(sender)?;
        if !members.contains(&sender) {
            return Err(Refusal::NotMember(sender));
        }
        if announce.metadata.source != sender {
            return Err(Refusal::SourceMismatch);
        }
        if announce.metadata.service != self.service {
            return Err(Refusal::ServiceMismatch);
        }
        self.metadata = Some(announce.metadata.clone());
        self.invited = announce.invited.clone();
        Ok(())
    }

    pub(crate) fn claim(
        &mut self,
        sender: PublicKey,
        claim: &Claim,
        hash: Hash,
        members: &Members,
    ) -> Result<(), Refusal> {
        self.at(claim.epoch)?;
        if !members.contains(&sender) {
            return Err(Refusal::NotMember(sender));
        }
        if sender == self.owner {
            return Err(Refusal::OwnSession);
        }
        // One per sender, and evicted senders give their places up. A new claim of a sender moves to the end.
        let stands = |standing: &ClaimRecord| standing.sender != sender && members.contains(&standing.sender);
        if self.claims.iter().filter(|standing| stands(standing)).count() >= MAX_CLAIMS {
            return Err(Refusal::ClaimsFull);
        }
        self.claims.retain(stands);
        self.claims.push(ClaimRecord {
            hash,
            sender,
            attempt: claim.attempt,
            verdict: claim.verdict,
        });
        Ok(())
    }

    /// Signer and destination may have been evicted since: the signature moved the session, the ledger only records it.
    /// Not to a destination that is lost: nothing runs there, and the signer's `Abort` may take the place of the hand-over.
    /// No sealed claim is needed.
    pub(crate) fn hand_over(
        &mut self,
        sender: PublicKey,
        hand_over: &HandOver,
        hash: Hash,
        members: &Members,
    ) -> Result<(), Refusal> {
        self.at(hand_over.epoch)?;
        self.by_owner(sender)?;
        if hand_over.destination == self.owner {
            return Err(Refusal::DestinationIsOwner);
        }
        let destination = &hand_over.destination;
        let left = members.evicted(destination).is_some_and(|evicted| !evicted.lost);
        if !members.contains(destination) && !left {
            return Err(Refusal::DestinationNotMember(hand_over.destination));
        }
        self.owner = hand_over.destination;
        self.next_epoch(hash);
        Ok(())
    }

    pub(crate) fn abort(&mut self, sender: PublicKey, abort: &Abort, hash: Hash) -> Result<(), Refusal> {
        self.at(abort.epoch)?;
        self.by_owner(sender)?;
        self.next_epoch(hash);
        Ok(())
    }

    pub(crate) fn release(&mut self, sender: PublicKey, release: &Release) -> Result<(), Refusal> {
        self.at(release.epoch)?;
        self.by_owner(sender)?;
        self.status = SessionStatus::Closed(release.reason);
        self.forget_epoch();
        Ok(())
    }

    fn next_epoch(&mut self, since: Hash) {
        self.epoch += 1;
        self.since = since;
        self.forget_epoch();
    }

    fn forget_epoch(&mut self) {
        self.metadata = None;
        self.invited.clear();
        self.claims.clear();
    }

    fn at(&self, epoch: u64) -> Result<(), Refusal> {
        if !self.is_open() {
            return Err(Refusal::SessionClosed);
        }
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Refusal::EpochPassed {
                named: epoch,
                now: self.epoch,
            }),
            std::cmp::Ordering::Greater => Err(Refusal::EpochAhead {
                named: epoch,
                now: self.epoch,
            }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn by_owner(&self, sender: PublicKey) -> Result<(), Refusal> {
        if sender == self.owner {
            Ok(())
        } else {
            Err(Refusal::NotOwner { owner: self.owner })
        }
    }
}

//! The state: members and sessions after a block, and how a transaction changes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

use crate::genesis::Genesis;
use crate::hash::Hash;
use crate::key::PublicKey;
use crate::members::Members;
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::session::SessionRecord;
use crate::sessions_root::SessionsTree;
use crate::token::SessionId;
use crate::transaction::{MAX_EXPIRY_HEIGHTS, Transaction};

/// Members and sessions after a block. A clone shares its memory and costs almost nothing.
#[derive(Debug, Clone)]
pub struct State {
    authorities: Arc<[PublicKey]>,
    members: Members,
    sessions: OrdMap<SessionId, SessionRecord>,
    tree: SessionsTree,
    changes: Changes,
}

/// What changed since the changes were last taken: what the store has to write and the roots to hash again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) members: BTreeSet<PublicKey>,
    pub(crate) admissions: BTreeSet<Hash>,
    pub(crate) sessions: BTreeSet<SessionId>,
}

/// The roots that a header carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roots {
    pub(crate) members_root: Hash,
    pub(crate) member_count: u32,
    pub(crate) sessions_root: Hash,
}

impl State {
    /// The state before the first block: no member, no session.
    #[must_use]
    pub fn genesis(genesis: &Genesis) -> State {
        State::from_parts(genesis, Members::default(), OrdMap::new())
    }

    /// Rebuilds a state from what the store holds.
    pub(crate) fn from_parts(
        genesis: &Genesis,
        members: Members,
        sessions: OrdMap<SessionId, SessionRecord>,
    ) -> State {
        let mut tree = SessionsTree::empty();
        tree.update(&sessions, sessions.keys().copied());
        State {
            authorities: genesis.authorities.as_slice().into(),
            members,
            sessions,
            tree,
            changes: Changes::default(),
        }
    }

    /// The members and former members.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> Option<&SessionRecord> {
        self.sessions.get(id)
    }

    /// All sessions in id order, closed ones too.
    pub fn sessions(&self) -> impl Iterator<Item = (&SessionId, &SessionRecord)> {
        self.sessions.iter()
    }

    /// How many sessions there are, closed ones too.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Applies one transaction of the block at `height`, or refuses it and changes nothing.
    ///
    /// Presumes that [`Transaction::verify`] passed, and that the transaction's hash is not sealed yet.
    pub fn apply(&mut self, transaction: &Transaction, height: u64) -> Result<(), Refusal> {
        self.apply_hashed(transaction, transaction.hash(), height)
    }

    /// The same, with the transaction's hash at hand.
    pub(crate) fn apply_hashed(
        &mut self,
        transaction: &Transaction,
        hash: Hash,
        height: u64,
    ) -> Result<(), Refusal> {
        if let Some(max_height) = transaction.max_height {
            if max_height < height {
                return Err(Refusal::Expired(max_height));
            }
            if max_height - height > MAX_EXPIRY_HEIGHTS {
                return Err(Refusal::ExpiresTooLate(max_height));
            }
        }
        let sender = transaction.sender;
        match &transaction.payload {
            Payload::Admit(admit) => {
                self.by_authority(sender)?;
                self.members.admit(admit, height)?;
                self.changes.members.insert(admit.key);
                self.changes.admissions.insert(admit.admission);
            }
            Payload::Evict(evict) => {
                // A member may leave: it signs its own eviction. That it is lost only an operator can say.
                if sender != evict.key || evict.lost {
                    self.by_authority(sender)?;
                }
                if self.authorities.contains(&evict.key) {
                    return Err(Refusal::EvictsAuthority(evict.key));
                }
                self.members.evict(evict, height)?;
                self.changes.members.insert(evict.key);
            }
            Payload::Open(open) => {
                if self.sessions.contains_key(&open.session) {
                    return Err(Refusal::SessionExists);
                }
                let record = SessionRecord::open(sender, open, hash, height, &self.members)?;
                self.put(open.session, record);
            }
            Payload::Announce(p) => self.change(p.session, |s, members| s.announce(sender, p, members))?,
            Payload::Claim(p) => self.change(p.session, |s, members| s.claim(sender, p, hash, members))?,
            Payload::HandOver(p) => {
                self.change(p.session, |s, members| s.hand_over(sender, p, hash, members))?
            }
            Payload::Abort(p) => self.change(p.session, |s, _| s.abort(sender, p, hash))?,
            Payload::Release(p) => self.change(p.session, |s, _| s.release(sender, p))?,
        }
        Ok(())
    }

    /// Brings the kept hashes up to date and gives the roots, with what changed since the last call.
    pub(crate) fn seal_changes(&mut self) -> (Roots, Changes) {
        let changes = std::mem::take(&mut self.changes);
        self.tree.update(&self.sessions, changes.sessions.iter().copied());
        let roots = Roots {
            members_root: self.members.root(),
            member_count: self.members.count(),
            sessions_root: self.tree.root(),
        };
        (roots, changes)
    }

    fn by_authority(&self, sender: PublicKey) -> Result<(), Refusal> {
        if self.authorities.contains(&sender) {
            Ok(())
        } else {
            Err(Refusal::NotAuthority(sender))
        }
    }

    fn change(
        &mut self,
        id: SessionId,
        step: impl FnOnce(&mut SessionRecord, &Members) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut record = self.sessions.get(&id).cloned().ok_or(Refusal::UnknownSession)?;
        step(&mut record, &self.members)?;
        self.put(id, record);
        Ok(())
    }

    fn put(&mut self, id: SessionId, record: SessionRecord) {
        self.sessions.insert(id, record);
        self.changes.sessions.insert(id);
    }
}

#[cfg(test)]
mod tests;

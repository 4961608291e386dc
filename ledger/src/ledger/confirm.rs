//! Who holds what (the paper's Algorithm 1): acknowledgements counted on the sealer, its status, and what the others
//! make of that.

use super::Ledger;
use crate::ack::{Ack, AckError, VerifiedAck};
use crate::acks::{Confirmations, threshold};
use crate::block::NEWEST_VERSION;
use crate::chain::Chain;
use crate::hash::Hash;
use crate::key::SecretKey;
use crate::status::{Count, MAX_COUNTS, Status, StatusBody, StatusMatch, VerifiedStatus};
use crate::store::{Store, StoreError};

impl Ledger {
    /// Counts a member's acknowledgement that it holds a block and all before it.
    ///
    /// One that does not count changes nothing. A lower height than before counts too: the member has lost its tail.
    pub fn record_ack(&mut self, ack: VerifiedAck) -> Result<(), AckError> {
        let body = ack.body();
        let member = body.member;
        if !self.state().members().contains(&member) {
            return Err(AckError::NotMember(member));
        }
        let known = self.signed.get(&member).map(|known| &known.body);
        if known.is_some_and(|known| known.run == body.run && known.number >= body.number) {
            return Err(AckError::Overtaken);
        }
        if body.height > self.head().height {
            return Err(AckError::AboveHead(body.height));
        }
        if self.hash_at(body.height)? != Some(body.hash) {
            return Err(AckError::OtherBlock(body.height));
        }
        self.acks.record(member, body.height);
        self.signed.insert(member, ack.into_ack());
        self.advance_confirmed()?;
        Ok(())
    }

    /// The newest acknowledgement of every member that has sent one, as it was signed; on the sealer only.
    #[must_use]
    pub fn signed_acks(&self) -> Vec<Ack> {
        self.signed.values().cloned().collect()
    }

    /// How many members are known here to hold the block of a height; `None` above the head. Only the sealer hears of
    /// all of them.
    ///
    /// A block that was confirmed once has at least so many, although a sealer that was restarted has not heard of all
    /// of them again.
    pub fn confirmations(&self, height: u64) -> Result<Option<Confirmations>, StoreError> {
        let Some(total) = total_at(&self.chain, &self.store, height)? else {
            return Ok(None);
        };
        let mut found = self.acks.confirmations(height, total, self.state().members());
        if height <= self.confirmed_height() {
            found.acked = found.acked.max(threshold(total));
        }
        Ok(Some(found))
    }

    /// The highest height that 90 % of the members hold: what the acknowledgements say, or a header if that says more.
    #[must_use]
    pub fn confirmed_height(&self) -> u64 {
        self.acks.confirmed_height().max(self.head().confirmed_height)
    }

    /// How many members are known here to hold the newest blocks, the highest first, at most [`MAX_COUNTS`].
    pub fn newest_counts(&self) -> Result<Vec<Count>, StoreError> {
        let head = self.head().height;
        let lowest = head.saturating_sub(MAX_COUNTS as u64 - 1).max(1);
        let mut counts = Vec::new();
        for height in (lowest..=head).rev() {
            if let Some(found) = self.confirmations(height)? {
                counts.push(Count {
                    height,
                    acked: found.acked,
                    members: found.members,
                });
            }
        }
        Ok(counts)
    }

    /// The sealer's signed status; `None` on every other node.
    pub fn status(&self, now_ms: u64) -> Result<Option<Status>, StoreError> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let head = self.head();
        let body = StatusBody {
            chain_id: self.chain_id(),
            proposer: key.public(),
            version: self
                .store
                .header(head.height)?
                .map_or(NEWEST_VERSION, |(header, _)| header.version),
            height: head.height,
            hash: head.hash,
            confirmed_height: self.confirmed_height(),
            newest: self.newest_counts()?,
            time_ms: now_ms,
        };
        Ok(Some(Status::sign(key, body)))
    }

    /// Whether the block that a status names is the one that is here.
    pub fn compare_status(&self, status: &VerifiedStatus) -> Result<StatusMatch, StoreError> {
        let body = status.body();
        Ok(if body.height > self.head().height {
            StatusMatch::Ahead
        } else if self.hash_at(body.height)? == Some(body.hash) {
            StatusMatch::Held
        } else {
            StatusMatch::OtherBlock
        })
    }

    pub(super) fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError> {
        let head = self.head();
        // Nearly all that is asked about is the head, which at the genesis has the id of the chain.
        if height == head.height {
            return Ok(Some(head.hash));
        }
        if height == 0 {
            return Ok(Some(self.chain_id()));
        }
        Ok(self.store.header(height)?.map(|(header, _)| header.hash()))
    }

    /// The sealer holds what it sealed.
    pub(super) fn count_ourselves(&mut self) -> Result<(), StoreError> {
        let Some(own) = self.key.as_ref().map(SecretKey::public) else {
            return Ok(());
        };
        self.acks.record(own, self.head().height);
        self.advance_confirmed()
    }

    fn advance_confirmed(&mut self) -> Result<(), StoreError> {
        let (chain, store) = (&self.chain, &self.store);
        let total = |height| Ok::<_, StoreError>(total_at(chain, store, height)?.unwrap_or(0));
        self.acks
            .advance(chain.head().height, chain.state().members(), total)?;
        Ok(())
    }
}

/// How many members there were at a block; `None` if there is no such block. At the head the state knows it: each
/// acknowledgement asks, on the thread that seals.
fn total_at(chain: &Chain, store: &Store, height: u64) -> Result<Option<u32>, StoreError> {
    if height > 0 && height == chain.head().height {
        return Ok(Some(chain.state().members().count()));
    }
    Ok(store.header(height)?.map(|(header, _)| header.member_count))
}

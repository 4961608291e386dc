//! The sealer's pool: transactions that are valid one after the other and wait for the next block.

use std::collections::{HashSet, VecDeque};

use crate::hash::Hash;
use crate::refusal::Refusal;
use crate::state::State;
use crate::transaction::Transaction;

/// The most transactions that wait; two full blocks. When it is full, senders are told to try again.
pub const MAX_POOL_TXS: usize = 8192;

/// Transactions that wait, in order of arrival, and the state as it would be after all of them.
#[derive(Debug)]
pub(crate) struct Pool {
    waiting: VecDeque<Waiting>,
    hashes: HashSet<Hash>,
    view: State,
}

#[derive(Debug)]
struct Waiting {
    hash: Hash,
    bytes: usize,
    transaction: Transaction,
}

impl Pool {
    pub(crate) fn new(state: State) -> Pool {
        Pool {
            waiting: VecDeque::new(),
            hashes: HashSet::new(),
            view: state,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn contains(&self, hash: &Hash) -> bool {
        self.hashes.contains(hash)
    }

    /// Takes a verified transaction that is valid after all that wait. `height` is the next block's.
    pub(crate) fn add(
        &mut self,
        transaction: Transaction,
        hash: Hash,
        bytes: usize,
        height: u64,
    ) -> Result<(), Refusal> {
        if self.len() >= MAX_POOL_TXS {
            return Err(Refusal::PoolFull(self.len()));
        }
        self.view.apply_hashed(&transaction, hash, height)?;
        self.hashes.insert(hash);
        self.waiting.push_back(Waiting {
            hash,
            bytes,
            transaction,
        });
        Ok(())
    }

    /// The transactions of the next block: from the front, as many as fit. They stay until the block is imported.
    pub(crate) fn batch(&self, max_txs: usize, max_bytes: usize) -> Vec<(Hash, Transaction)> {
        let mut left = max_bytes;
        let mut batch = Vec::new();
        for waiting in self.waiting.iter().take(max_txs) {
            match left.checked_sub(waiting.bytes) {
                Some(rest) => left = rest,
                None => break,
            }
            batch.push((waiting.hash, waiting.transaction.clone()));
        }
        batch
    }

    /// Follows a new head: `gone` were sealed or refused; what else waits must still be valid after `state`.
    /// Gives back what is not any more.
    pub(crate) fn rebase(&mut self, state: &State, next_height: u64, gone: &[Hash]) -> Vec<(Hash, Refusal)> {
        let gone: HashSet<&Hash> = gone.iter().collect();
        let waiting = std::mem::take(&mut self.waiting);
        let mut dropped = Vec::new();
        self.view = state.clone();
        self.hashes.clear();
        for entry in waiting {
            if gone.contains(&entry.hash) {
                continue;
            }
            match self
                .view
                .apply_hashed(&entry.transaction, entry.hash, next_height)
            {
                Ok(()) => {
                    self.hashes.insert(entry.hash);
                    self.waiting.push_back(entry);
                }
                Err(refusal) => dropped.push((entry.hash, refusal)),
            }
        }
        dropped
    }
}

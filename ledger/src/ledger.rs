//! The ledger as the node runs it: chain, store, and on the authority the pool and the seal. Synchronous: it waits for
//! the disk, so it belongs on a thread of its own.

mod confirm;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use thiserror::Error;
use tracing::error;

use crate::ack::Ack;
use crate::acks::Acks;
use crate::block::{Header, SealedBlock, read_sealed_header};
use crate::chain::{CertifiedBlock, Chain, CheckedBlock, Head, Proposal};
use crate::evidence::{Evidence, MAX_EVIDENCE};
use crate::genesis::{Genesis, GenesisError};
use crate::hash::Hash;
use crate::import_error::ImportError;
use crate::key::{PublicKey, SecretKey};
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::state::State;
use crate::store::{Store, StoreError, StoreFigures};
use crate::transaction::Transaction;

/// How many dropped transactions are remembered until [`Ledger::take_dropped`]; older ones are forgotten, and their
/// senders find out by their own time-out.
const MAX_DROPPED: usize = 1024;

/// The chain with its store, and the seal where this node is the authority.
#[derive(Debug)]
pub struct Ledger {
    chain: Chain,
    store: Store,
    /// The key, only on the authority.
    key: Option<SecretKey>,
    pool: Pool,
    acks: Acks,
    /// The newest acknowledgement of every member, as it was signed.
    signed: BTreeMap<PublicKey, Ack>,
    dropped: Vec<(Hash, Refusal)>,
    /// A write failed: nothing is sealed or imported until a restart, since it is not known what is on disk.
    stopped: bool,
    /// Proofs that the authority sealed twice, oldest first.
    evidence: Vec<Evidence>,
    /// How many of them its operator has answered.
    resumed: u32,
}

/// Why the ledger cannot be opened or sealed.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The genesis is not valid.
    #[error("network.toml is not valid")]
    Genesis(#[from] GenesisError),
    /// This version seals alone or not at all.
    #[error("the network has {0} authorities; this version of blosm seals only as the single authority")]
    ManyAuthorities(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node does not seal.
    #[error("this node's key is not the authority's: it cannot seal")]
    NotSealer,
    /// An earlier write failed.
    #[error("sealing has stopped after an earlier error; see the log, then restart this node")]
    Stopped,
    /// The authority's key sealed two blocks of one height.
    #[error("{HALTED}")]
    Halted,
}

/// What an authority's operator is told when it does not seal any more.
pub(crate) const HALTED: &str = "this authority's key has sealed two blocks of one height, so a copy of it is or was in use: \
    nothing is sealed; see `blosm chain evidence`, end the copy, then start this node with --resume";

/// What became of a submitted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It waits for the next block.
    Pending,
    /// It is sealed already.
    AlreadySealed {
        /// At this height.
        height: u64,
    },
}

/// What became of an imported block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is the new head.
    Extended(Head),
    /// It was imported before.
    Known,
}

/// A sealed transaction and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SealedTransaction {
    /// The block's height.
    pub height: u64,
    /// The place in the block.
    pub index: u32,
    /// The transaction.
    pub transaction: Transaction,
}

impl Ledger {
    /// Opens or makes the ledger in the directory `path`. With a `key` that is the single authority's, this node seals;
    /// any other node's key changes nothing.
    pub fn open(path: &Path, genesis: Genesis, key: Option<SecretKey>) -> Result<Ledger, LedgerError> {
        genesis.validate()?;
        let key = key.filter(|key| genesis.is_authority(&key.public()));
        if key.is_some() && genesis.authorities.len() > 1 {
            return Err(LedgerError::ManyAuthorities(genesis.authorities.len()));
        }
        let (store, loaded) = Store::open(path, &genesis)?;
        let mut ledger = Ledger {
            pool: Pool::new(loaded.state.clone()),
            acks: Acks::starting_at(loaded.head.confirmed_height),
            signed: BTreeMap::new(),
            chain: Chain::at(genesis, loaded.head, loaded.state),
            store,
            key,
            dropped: Vec::new(),
            stopped: false,
            evidence: loaded.evidence,
            resumed: loaded.resumed,
        };
        ledger.count_ourselves()?;
        Ok(ledger)
    }

    /// The newest block.
    #[must_use]
    pub fn head(&self) -> Head {
        self.chain.head()
    }

    /// Members and sessions after the newest block. A clone is cheap.
    #[must_use]
    pub fn state(&self) -> &State {
        self.chain.state()
    }

    /// The genesis.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        self.chain.genesis()
    }

    /// The network's id.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        self.chain.chain_id()
    }

    /// Whether this node seals.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.key.is_some()
    }

    /// How many transactions wait for the next block.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pool.len()
    }

    /// Takes a transaction for the next block, on the sealer. It is checked against the state as it will be after all
    /// that wait. A transaction that is sealed or waits already is not refused. Everywhere else the answer is
    /// [`Refusal::NotSealer`], unless it is sealed already.
    pub fn submit(&mut self, transaction: Transaction) -> Result<Submitted, Refusal> {
        let hash = transaction.hash();
        if let Some(height) = self.sealed_height(&hash)? {
            return Ok(Submitted::AlreadySealed { height });
        }
        if self.key.is_none() {
            return Err(Refusal::NotSealer);
        }
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        if self.is_halted() {
            return Err(Refusal::Halted);
        }
        if self.pool.contains(&hash) {
            return Ok(Submitted::Pending);
        }
        let bytes = self.verify(&transaction)?;
        self.pool.add(transaction, hash, bytes, self.head().height + 1)?;
        Ok(Submitted::Pending)
    }

    /// Whether the state here would take a transaction now, for a node that passes gossip on.
    pub fn judge(&self, transaction: &Transaction) -> Result<Submitted, Refusal> {
        if let Some(height) = self.sealed_height(&transaction.hash())? {
            return Ok(Submitted::AlreadySealed { height });
        }
        self.verify(transaction)?;
        self.state()
            .clone()
            .apply(transaction, self.head().height + 1)
            .map(|()| Submitted::Pending)
    }

    /// Seals what waits into the next block. The block is on disk, synced, before it is returned. `None` when nothing
    /// waits, unless `force_empty`.
    ///
    /// `confirmed_height` goes into the header, brought between the head's and the head itself.
    pub fn seal(
        &mut self,
        now_ms: u64,
        confirmed_height: u64,
        force_empty: bool,
    ) -> Result<Option<SealedBlock>, LedgerError> {
        let Some(key) = &self.key else {
            return Err(LedgerError::NotSealer);
        };
        if self.stopped {
            return Err(LedgerError::Stopped);
        }
        if self.is_halted() {
            return Err(LedgerError::Halted);
        }
        if self.pool.is_empty() && !force_empty {
            return Ok(None);
        }
        let max_txs = self.genesis().params.max_block_txs as usize;
        let batch = self.pool.batch(max_txs, self.chain.body_budget());
        let Proposal { block, refused } = self.chain.propose(key, now_ms, confirmed_height, batch);
        self.drop_refused(refused);
        if block.transaction_hashes().is_empty() && !force_empty {
            return Ok(None);
        }
        let sealed = block.sealed().clone();
        self.store_and_commit(block)?;
        Ok(Some(sealed))
    }

    /// The header of a block that [`SealedBlock::decode`] cannot read for a kind of a later version, if the authorities sealed
    /// it. Says nothing of the transactions.
    #[must_use]
    pub fn sealed_header(&self, bytes: &[u8]) -> Option<Header> {
        read_sealed_header(bytes, self.genesis())
    }

    /// Verifies a block and makes it the head. It is on disk, synced, before this returns.
    pub fn import(&mut self, sealed: SealedBlock) -> Result<Imported, ImportError> {
        if self.stopped {
            return Err(ImportError::Stopped);
        }
        let certified = self.chain.certify(sealed)?;
        if certified.height() <= self.head().height {
            return self.compare(&certified);
        }
        let store = &self.store;
        let block = self
            .chain
            .check(certified, |hash| Ok(store.place(hash)?.is_some()))?;
        let head = block.head();
        self.store_and_commit(block)?;
        Ok(Imported::Extended(head))
    }

    /// The block of a height.
    pub fn block(&self, height: u64) -> Result<Option<SealedBlock>, StoreError> {
        self.store.sealed(height)
    }

    /// The block with this hash.
    pub fn block_by_hash(&self, hash: &Hash) -> Result<Option<SealedBlock>, StoreError> {
        match self.store.height_of(hash)? {
            Some(height) => self.block(height),
            None => Ok(None),
        }
    }

    /// A sealed transaction.
    pub fn transaction(&self, hash: &Hash) -> Result<Option<SealedTransaction>, StoreError> {
        let Some(place) = self.store.place(hash)? else {
            return Ok(None);
        };
        let transaction = self
            .store
            .body(place.height)?
            .and_then(|body| body.into_iter().nth(place.index as usize));
        Ok(transaction.map(|transaction| SealedTransaction {
            height: place.height,
            index: place.index,
            transaction,
        }))
    }

    /// Blocks from height `from` upwards, at most `max_blocks` of them and `max_bytes` together; but always one if
    /// there is one, so that whoever asks gets on.
    pub fn range(
        &self,
        from: u64,
        max_blocks: usize,
        max_bytes: usize,
    ) -> Result<Vec<SealedBlock>, StoreError> {
        let (mut blocks, mut left) = (Vec::new(), max_bytes);
        for height in from.max(1)..=self.head().height {
            if blocks.len() == max_blocks {
                break;
            }
            let Some(block) = self.block(height)? else {
                break;
            };
            match left.checked_sub(block.encode().len()) {
                Some(rest) => left = rest,
                None if blocks.is_empty() => left = 0,
                None => break,
            }
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// What the store holds and does, as the database says.
    ///
    /// # Errors
    /// The database does not say.
    pub fn store_figures(&self) -> Result<StoreFigures, StoreError> {
        self.store.figures()
    }

    /// Transactions that waited and can no longer be sealed, each with the reason, since the last call.
    pub fn take_dropped(&mut self) -> Vec<(Hash, Refusal)> {
        std::mem::take(&mut self.dropped)
    }

    /// All checks that need no state, and the size in bytes.
    fn verify(&self, transaction: &Transaction) -> Result<usize, Refusal> {
        let (found, limit) = (
            transaction.encode().len(),
            self.genesis().params.max_tx_bytes as usize,
        );
        if found > limit {
            return Err(Refusal::TooLarge { found, limit });
        }
        transaction.verify(self.chain_id())?;
        Ok(found)
    }

    fn sealed_height(&self, hash: &Hash) -> Result<Option<u64>, Refusal> {
        match self.store.place(hash) {
            Ok(place) => Ok(place.map(|place| place.height)),
            Err(error) => {
                error!(%error, "the ledger cannot be read");
                Err(Refusal::Stopped)
            }
        }
    }

    /// A sealed block at or below the head: the one that is here, or proof that the authority sealed twice.
    fn compare(&mut self, block: &CertifiedBlock) -> Result<Imported, ImportError> {
        let (height, theirs, head) = (block.height(), block.hash(), self.head().height);
        match self.hash_at(height)? {
            Some(ours) if ours == theirs => Ok(Imported::Known),
            Some(_) if height == 0 => Err(ImportError::Stale { height, head }),
            Some(ours) => {
                self.keep(block.against(ours))?;
                Err(ImportError::Equivocation { height, ours, theirs })
            }
            None => Err(ImportError::Stale { height, head }),
        }
    }

    /// Keeps a proof that the authority sealed twice. It counts from its writing on: an authority that meets its own second
    /// block must not seal a third, after a restart neither.
    fn keep(&mut self, evidence: Evidence) -> Result<(), StoreError> {
        if self.evidence.iter().any(|known| known.theirs == evidence.theirs) {
            return Ok(());
        }
        if self.evidence.len() >= MAX_EVIDENCE {
            self.evidence.remove(0);
            self.resumed = self.resumed.saturating_sub(1);
        }
        let Evidence {
            height, ours, theirs, ..
        } = &evidence;
        error!(height, %ours, %theirs, "the authority sealed two blocks of one height");
        self.evidence.push(evidence);
        self.write_evidence()
    }

    fn write_evidence(&mut self) -> Result<(), StoreError> {
        self.store
            .put_evidence(&self.evidence, self.resumed)
            .inspect_err(|error| {
                error!(%error, "evidence against the authority could not be written; the ledger stops");
                self.stopped = true;
            })
    }

    /// Proofs that the authority sealed two blocks of one height, oldest first. At most [`MAX_EVIDENCE`] are kept.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }

    /// Whether this authority may not seal: there is evidence against it that its operator has not answered.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.key.is_some() && self.evidence.len() > self.resumed as usize
    }

    /// The operator's word that no copy of this authority's key is in use any more: it may seal again.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn resume(&mut self) -> Result<(), StoreError> {
        if self.is_halted() {
            self.resumed = u32::try_from(self.evidence.len()).expect("few are kept");
            self.write_evidence()?;
        }
        Ok(())
    }

    /// Writes a block, then makes it the head. After a failed write nobody knows what is on disk: the ledger stops.
    fn store_and_commit(&mut self, block: CheckedBlock) -> Result<(), StoreError> {
        if let Err(error) = self.store.write(&block) {
            error!(%error, "a block could not be written; the ledger stops");
            self.stopped = true;
            return Err(error);
        }
        let sealed = block.transaction_hashes().to_vec();
        self.chain.commit(block);
        let dropped = self
            .pool
            .rebase(self.chain.state(), self.chain.head().height + 1, &sealed);
        self.remember_dropped(dropped);
        let members = self.chain.state().members();
        self.acks.retain_members(members);
        self.signed.retain(|key, _| members.contains(key));
        // The block is imported whatever becomes of the counting.
        if let Err(error) = self.count_ourselves() {
            error!(%error, "confirmations could not be counted");
        }
        Ok(())
    }

    fn drop_refused(&mut self, refused: Vec<(Hash, Refusal)>) {
        if refused.is_empty() {
            return;
        }
        let gone: Vec<Hash> = refused.iter().map(|(hash, _)| *hash).collect();
        let dropped = self
            .pool
            .rebase(self.chain.state(), self.chain.head().height + 1, &gone);
        self.remember_dropped(refused);
        self.remember_dropped(dropped);
    }

    fn remember_dropped(&mut self, dropped: Vec<(Hash, Refusal)>) {
        self.dropped.extend(dropped);
        let surplus = self.dropped.len().saturating_sub(MAX_DROPPED);
        self.dropped.drain(..surplus);
    }
}

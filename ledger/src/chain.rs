//! The chain's head and state, and the rules by which a block becomes the next head. Pure: no clock, no disk.
//!
//! ```text
//! SealedBlock ──certify──> CertifiedBlock ──check──> CheckedBlock ──(stored)──commit──> the new head
//!              network, limits,            place, parent, time, body,
//!              authorities, certificate    every transaction, roots
//! ```
//!
//! Each step needs the type of the one before, so none can be left out, and one signature is verified before
//! anything is read from disk. The sealer's own blocks come from [`Chain::propose`], which applies the transactions
//! by the same rules.

use std::collections::HashSet;
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::block::{Block, HEADER_VERSION, Header, NEWEST_VERSION, SealedBlock};
use crate::certificate::Certificate;
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::hash::{Hash, canonical};
use crate::import_error::ImportError;
use crate::key::SecretKey;
use crate::refusal::Refusal;
use crate::state::{Changes, State};
use crate::store::StoreError;
use crate::transaction::Transaction;

/// The newest imported block. At the genesis: height 0, the chain id as hash, the genesis time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Head {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its time, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// The confirmed height that its header carries.
    pub confirmed_height: u64,
    /// Its nonce.
    pub nonce: u64,
}

impl Head {
    /// The head before the first block.
    #[must_use]
    pub fn genesis(genesis: &Genesis) -> Head {
        Head {
            height: 0,
            hash: genesis.chain_id(),
            timestamp_ms: genesis.time_ms,
            confirmed_height: 0,
            nonce: 0,
        }
    }

    fn of(header: &Header, hash: Hash) -> Head {
        Head {
            height: header.height,
            hash,
            timestamp_ms: header.timestamp_ms,
            confirmed_height: header.confirmed_height,
            nonce: header.nonce,
        }
    }
}

/// The head, the state after it, and the rules for what comes next.
#[derive(Debug, Clone)]
pub struct Chain {
    genesis: Arc<Genesis>,
    chain_id: Hash,
    authorities_hash: Hash,
    head: Head,
    state: State,
}

/// A block that a quorum of this network's authorities sealed. Nothing is known yet of its place or its body.
#[derive(Debug, Clone)]
pub struct CertifiedBlock {
    sealed: SealedBlock,
    hash: Hash,
}

impl CertifiedBlock {
    /// The block's height.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.sealed.height()
    }

    /// The block's hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// That it was sealed beside `ours`, the block of its height that is here.
    #[must_use]
    pub fn against(&self, ours: Hash) -> Evidence {
        Evidence {
            height: self.height(),
            ours,
            theirs: self.hash,
            header: self.sealed.block.header.clone(),
            certificate: self.sealed.certificate.clone(),
        }
    }
}

/// A block that may become the next head, with the state after it.
#[derive(Debug, Clone)]
pub struct CheckedBlock {
    pub(crate) sealed: SealedBlock,
    pub(crate) tx_hashes: Vec<Hash>,
    pub(crate) head: Head,
    pub(crate) state: State,
    pub(crate) changes: Changes,
}

impl CheckedBlock {
    /// The head that it becomes.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The block.
    #[must_use]
    pub fn sealed(&self) -> &SealedBlock {
        &self.sealed
    }

    /// The hashes of its transactions, in order.
    #[must_use]
    pub fn transaction_hashes(&self) -> &[Hash] {
        &self.tx_hashes
    }
}

/// A block of our own, not imported yet, and what the state refused on the way.
#[derive(Debug)]
pub struct Proposal {
    /// The block. It must be stored before anything of it leaves the process.
    pub block: CheckedBlock,
    /// Transactions that were left out, each with the reason.
    pub refused: Vec<(Hash, Refusal)>,
}

impl Chain {
    /// The chain before its first block. `genesis` is valid.
    #[must_use]
    pub fn new(genesis: Genesis) -> Chain {
        let (head, state) = (Head::genesis(&genesis), State::genesis(&genesis));
        Chain::at(genesis, head, state)
    }

    /// The chain at a head that the store holds.
    pub(crate) fn at(genesis: Genesis, head: Head, state: State) -> Chain {
        Chain {
            chain_id: genesis.chain_id(),
            authorities_hash: genesis.authorities_hash(),
            genesis: Arc::new(genesis),
            head,
            state,
        }
    }

    /// The genesis.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The network's id.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        self.chain_id
    }

    /// The newest imported block.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The state after it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Checks what needs nothing but the genesis: network, limits, authority set, certificate.
    pub fn certify(&self, sealed: SealedBlock) -> Result<CertifiedBlock, ImportError> {
        let header = &sealed.block.header;
        if !(HEADER_VERSION..=NEWEST_VERSION).contains(&header.version) {
            return Err(ImportError::UnknownVersion(header.version));
        }
        if header.chain_id != self.chain_id {
            return Err(ImportError::OtherNetwork(header.chain_id));
        }
        let params = &self.genesis.params;
        let (found, limit) = (sealed.block.transactions.len(), params.max_block_txs as usize);
        if found > limit {
            return Err(ImportError::TooMany { found, limit });
        }
        if header.authorities_hash != self.authorities_hash
            || header.next_authorities_hash != self.authorities_hash
        {
            return Err(ImportError::AuthoritySet);
        }
        if !self.genesis.is_authority(&header.proposer) {
            return Err(ImportError::Proposer(header.proposer));
        }
        let hash = header.hash();
        sealed
            .certificate
            .verify(&self.genesis.authorities, self.chain_id, header.height, hash)?;
        let (found, limit) = (sealed.encode().len(), params.max_block_bytes as usize);
        if found > limit {
            return Err(ImportError::TooLarge { found, limit });
        }
        Ok(CertifiedBlock { sealed, hash })
    }

    /// Checks that a certified block is the next one, and everything in it. `is_sealed` tells whether a transaction
    /// is on the chain already.
    pub fn check(
        &self,
        certified: CertifiedBlock,
        mut is_sealed: impl FnMut(&Hash) -> Result<bool, StoreError>,
    ) -> Result<CheckedBlock, ImportError> {
        let CertifiedBlock { sealed, hash } = certified;
        let header = &sealed.block.header;
        self.check_place(header)?;

        let transactions = &sealed.block.transactions;
        if header.tx_count as usize != transactions.len() || header.tx_root != Block::tx_root(transactions) {
            return Err(ImportError::Body);
        }
        let mut seen = HashSet::with_capacity(transactions.len());
        let mut tx_hashes = Vec::with_capacity(transactions.len());
        let mut state = self.state.clone();
        for (index, transaction) in (0u32..).zip(transactions) {
            if transaction.encode().len() > self.genesis.params.max_tx_bytes as usize {
                return Err(ImportError::TransactionSize(index));
            }
            let tx_hash = transaction.hash();
            if !seen.insert(tx_hash) || is_sealed(&tx_hash)? {
                return Err(ImportError::Duplicate(index));
            }
            transaction
                .verify(self.chain_id)
                .map_err(|source| ImportError::Transaction { index, source })?;
            state
                .apply_hashed(transaction, tx_hash, header.height)
                .map_err(|source| ImportError::Refused { index, source })?;
            tx_hashes.push(tx_hash);
        }

        let (roots, changes) = state.seal_changes();
        if header.members_root != roots.members_root || header.member_count != roots.member_count {
            return Err(ImportError::MembersRoot);
        }
        if header.sessions_root != roots.sessions_root {
            return Err(ImportError::SessionsRoot);
        }
        let head = Head::of(header, hash);
        Ok(CheckedBlock {
            sealed,
            tx_hashes,
            head,
            state,
            changes,
        })
    }

    /// The header's place on this chain. A skewed clock is no reason: only the parent's time counts.
    fn check_place(&self, header: &Header) -> Result<(), ImportError> {
        let head = &self.head;
        if header.height <= head.height {
            return Err(ImportError::Stale {
                height: header.height,
                head: head.height,
            });
        }
        if header.height != head.height + 1 {
            return Err(ImportError::Orphan {
                height: header.height,
                head: head.height,
            });
        }
        if header.previous_hash != head.hash {
            return Err(ImportError::Parent {
                found: header.previous_hash,
                head: head.hash,
            });
        }
        if header.timestamp_ms <= head.timestamp_ms {
            return Err(ImportError::Timestamp {
                found: header.timestamp_ms,
                parent: head.timestamp_ms,
            });
        }
        if header.nonce <= head.nonce {
            return Err(ImportError::Nonce {
                found: header.nonce,
                parent: head.nonce,
            });
        }
        if header.confirmed_height < head.confirmed_height || header.confirmed_height >= header.height {
            return Err(ImportError::ConfirmedHeight(header.confirmed_height));
        }
        Ok(())
    }

    /// Makes a checked block the head. The store holds it already.
    pub fn commit(&mut self, block: CheckedBlock) {
        debug_assert_eq!(
            block.sealed.block.header.previous_hash, self.head.hash,
            "checked against another head"
        );
        self.head = block.head;
        self.state = block.state;
    }

    /// Builds and signs the next block over `transactions`, in their order, as far as the state takes them.
    ///
    /// The transactions are verified and fit into a block; the key is the single authority's. `confirmed_height` is
    /// brought between the head's and the head itself.
    #[must_use]
    pub fn propose(
        &self,
        key: &SecretKey,
        now_ms: u64,
        confirmed_height: u64,
        transactions: impl IntoIterator<Item = (Hash, Transaction)>,
    ) -> Proposal {
        let height = self.head.height + 1;
        let mut state = self.state.clone();
        let (mut taken, mut tx_hashes, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (hash, transaction) in transactions {
            match state.apply_hashed(&transaction, hash, height) {
                Ok(()) => {
                    taken.push(transaction);
                    tx_hashes.push(hash);
                }
                Err(refusal) => refused.push((hash, refusal)),
            }
        }
        let (roots, changes) = state.seal_changes();
        let header = Header {
            version: NEWEST_VERSION,
            chain_id: self.chain_id,
            height,
            timestamp_ms: now_ms.max(self.head.timestamp_ms.saturating_add(1)),
            previous_hash: self.head.hash,
            tx_root: Block::tx_root(&taken),
            tx_count: u32::try_from(taken.len()).expect("a batch is bounded by the genesis"),
            nonce: self.head.nonce + 1,
            proposer: key.public(),
            authorities_hash: self.authorities_hash,
            next_authorities_hash: self.authorities_hash,
            members_root: roots.members_root,
            member_count: roots.member_count,
            sessions_root: roots.sessions_root,
            confirmed_height: confirmed_height.clamp(self.head.confirmed_height, self.head.height),
            #[cfg(feature = "next")]
            addition: Some(height),
        };
        let hash = header.hash();
        let certificate = Certificate::of_one(key, self.chain_id, height, hash);
        let head = Head::of(&header, hash);
        let sealed = SealedBlock {
            block: Block {
                header,
                transactions: taken,
            },
            certificate,
        };
        Proposal {
            block: CheckedBlock {
                sealed,
                tx_hashes,
                head,
                state,
                changes,
            },
            refused,
        }
    }

    /// How many bytes of transactions fit into a block of a single authority.
    #[must_use]
    pub fn body_budget(&self) -> usize {
        let empty = Header {
            version: 0,
            chain_id: Hash::ZERO,
            height: 0,
            timestamp_ms: 0,
            previous_hash: Hash::ZERO,
            tx_root: Hash::ZERO,
            tx_count: 0,
            nonce: 0,
            proposer: crate::key::PublicKey([0; 32]),
            authorities_hash: Hash::ZERO,
            next_authorities_hash: Hash::ZERO,
            members_root: Hash::ZERO,
            member_count: 0,
            sessions_root: Hash::ZERO,
            confirmed_height: 0,
            #[cfg(feature = "next")]
            addition: Some(0),
        };
        // Two list lengths, the round, and one signer with its signature.
        let around = canonical(&empty).len() + 4 + 4 + 4 + 32 + 64;
        (self.genesis.params.max_block_bytes as usize).saturating_sub(around)
    }
}

//! Why a block is not imported, whose fault that is, and what gossip should do with it.

use thiserror::Error;

use crate::certificate::CertificateError;
use crate::hash::Hash;
use crate::key::PublicKey;
use crate::newer::Newer;
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::transaction::{DecodeError, TransactionError};

/// What to do with a gossiped message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GossipVerdict {
    /// Pass it on.
    Accept,
    /// Do not pass it on; nobody is at fault.
    Ignore,
    /// Do not pass it on; whoever sent it should have known better.
    Reject,
}

/// What a message costs the peer that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Penalty {
    /// Nothing.
    None,
    /// Tolerable a few times.
    Low,
    /// No honest node of this version sends it.
    High,
}

/// Why a block is not imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The bytes are no block. The sender's fault, unless a newer version wrote them.
    #[error("the block cannot be decoded")]
    Decode(#[from] DecodeError),
    /// The header has a version that this node cannot read. Nobody's fault: this node needs an upgrade.
    #[error("the block has header version {0} and needs a newer blosm")]
    UnknownVersion(u16),
    /// The block is for another network. The sender's fault.
    #[error("the block is for network {0}, not for this one")]
    OtherNetwork(Hash),
    /// The block is larger than the genesis allows. The sender's fault.
    #[error("the block has {found} bytes, this network allows {limit}")]
    TooLarge {
        /// Its canonical bytes.
        found: usize,
        /// The genesis parameter.
        limit: usize,
    },
    /// The block has more transactions than the genesis allows. The sender's fault.
    #[error("the block has {found} transactions, this network allows {limit}")]
    TooMany {
        /// How many there are.
        found: usize,
        /// The genesis parameter.
        limit: usize,
    },
    /// The header names another authority set. The sender's fault.
    #[error("the header names another authority set")]
    AuthoritySet,
    /// The proposer is no authority. The sender's fault.
    #[error("the proposer {0} is no authority")]
    Proposer(PublicKey),
    /// The certificate does not seal the block. The sender's fault.
    #[error("the block is not sealed")]
    Certificate(#[from] CertificateError),
    /// The block is sealed and further ahead than the next. Nobody's fault: ask for the blocks between.
    #[error("block {height} comes before its parent: the head here is {head}")]
    Orphan {
        /// The block's height.
        height: u64,
        /// The height of the head here.
        head: u64,
    },
    /// The block is sealed and its height is at or below the head's.
    #[error("block {height} is not above the head {head}")]
    Stale {
        /// The block's height.
        height: u64,
        /// The height of the head here.
        head: u64,
    },
    /// Two blocks of one height are sealed. The authority's fault: an operator has to act.
    #[error("the authority sealed two blocks of height {height}: {ours} is imported here, {theirs} came in")]
    Equivocation {
        /// The height.
        height: u64,
        /// The block that is imported here.
        ours: Hash,
        /// The other.
        theirs: Hash,
    },
    /// The parent is another block. The authority's fault.
    #[error("the block's parent is {found}, the head here is {head}")]
    Parent {
        /// What the header names.
        found: Hash,
        /// The head's hash.
        head: Hash,
    },
    /// The time is not after the parent's. The authority's fault.
    #[error("the block's time {found} is not after its parent's {parent}")]
    Timestamp {
        /// The header's, in milliseconds since the Unix epoch.
        found: u64,
        /// The parent's.
        parent: u64,
    },
    /// The nonce does not rise. The authority's fault.
    #[error("the block's nonce {found} is not above its parent's {parent}")]
    Nonce {
        /// The header's.
        found: u64,
        /// The parent's.
        parent: u64,
    },
    /// The confirmed height falls or is not below the block's own. The authority's fault.
    #[error("the block's confirmed height {0} falls or is not below its own height")]
    ConfirmedHeight(u64),
    /// The transactions are not those of the header. The sender's fault: the header alone is sealed.
    #[error("the transactions are not those that the header commits to")]
    Body,
    /// A transaction is larger than the genesis allows. The authority's fault.
    #[error("transaction {0} of the block is too large")]
    TransactionSize(u32),
    /// A transaction is wrong by itself. The authority's fault.
    #[error("transaction {index} of the block is invalid")]
    Transaction {
        /// Its place in the block.
        index: u32,
        /// Why.
        source: TransactionError,
    },
    /// A transaction is sealed already, in this block or before. The authority's fault.
    #[error("transaction {0} of the block is sealed already")]
    Duplicate(u32),
    /// The state refuses a transaction. The authority's fault.
    #[error("transaction {index} of the block is refused by the state")]
    Refused {
        /// Its place in the block.
        index: u32,
        /// Why.
        source: Refusal,
    },
    /// The members after the block are not those of the header. The authority's fault.
    #[error("the members after the block are not those of the header")]
    MembersRoot,
    /// The sessions after the block are not those of the header. The authority's fault.
    #[error("the sessions after the block are not those of the header")]
    SessionsRoot,
    /// The store failed. Our fault.
    #[error("the block could not be stored")]
    Store(#[from] StoreError),
    /// An earlier write failed, so what is on disk is unknown. Our fault.
    #[error("an earlier write to the ledger failed; restart this node")]
    Stopped,
}

impl ImportError {
    /// What gossip should do with the block.
    #[must_use]
    pub fn verdict(&self) -> GossipVerdict {
        match self {
            ImportError::Decode(error) if error.newer().is_some() => GossipVerdict::Ignore,
            ImportError::UnknownVersion(_)
            | ImportError::Orphan { .. }
            | ImportError::Stale { .. }
            | ImportError::Store(_)
            | ImportError::Stopped => GossipVerdict::Ignore,
            // Both blocks are sealed: the others must see the evidence.
            ImportError::Equivocation { .. } => GossipVerdict::Accept,
            ImportError::Decode(_)
            | ImportError::OtherNetwork(_)
            | ImportError::TooLarge { .. }
            | ImportError::TooMany { .. }
            | ImportError::AuthoritySet
            | ImportError::Proposer(_)
            | ImportError::Certificate(_)
            | ImportError::Parent { .. }
            | ImportError::Timestamp { .. }
            | ImportError::Nonce { .. }
            | ImportError::ConfirmedHeight(_)
            | ImportError::Body
            | ImportError::TransactionSize(_)
            | ImportError::Transaction { .. }
            | ImportError::Duplicate(_)
            | ImportError::Refused { .. }
            | ImportError::MembersRoot
            | ImportError::SessionsRoot => GossipVerdict::Reject,
        }
    }

    /// What the block costs the peer that sent it.
    #[must_use]
    pub fn penalty(&self) -> Penalty {
        match self {
            ImportError::Decode(error) if error.newer().is_some() => Penalty::None,
            ImportError::UnknownVersion(_)
            | ImportError::Orphan { .. }
            | ImportError::Stale { .. }
            | ImportError::Equivocation { .. }
            | ImportError::Store(_)
            | ImportError::Stopped => Penalty::None,
            // Sealed and yet wrong: the authority made it, the sender should have checked it.
            ImportError::Parent { .. }
            | ImportError::Timestamp { .. }
            | ImportError::Nonce { .. }
            | ImportError::ConfirmedHeight(_)
            | ImportError::TransactionSize(_)
            | ImportError::Transaction { .. }
            | ImportError::Duplicate(_)
            | ImportError::Refused { .. }
            | ImportError::MembersRoot
            | ImportError::SessionsRoot => Penalty::Low,
            ImportError::Decode(_)
            | ImportError::OtherNetwork(_)
            | ImportError::TooLarge { .. }
            | ImportError::TooMany { .. }
            | ImportError::AuthoritySet
            | ImportError::Proposer(_)
            | ImportError::Certificate(_)
            | ImportError::Body => Penalty::High,
        }
    }

    /// Whether a quorum of the authorities sealed the block's header all the same: what is wrong with it was found behind
    /// that check.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        match self {
            ImportError::Orphan { .. }
            | ImportError::Stale { .. }
            | ImportError::Equivocation { .. }
            | ImportError::Parent { .. }
            | ImportError::Timestamp { .. }
            | ImportError::Nonce { .. }
            | ImportError::ConfirmedHeight(_)
            | ImportError::Body
            | ImportError::TransactionSize(_)
            | ImportError::Transaction { .. }
            | ImportError::Duplicate(_)
            | ImportError::Refused { .. }
            | ImportError::MembersRoot
            | ImportError::SessionsRoot => true,
            ImportError::Decode(_)
            | ImportError::UnknownVersion(_)
            | ImportError::OtherNetwork(_)
            | ImportError::TooLarge { .. }
            | ImportError::TooMany { .. }
            | ImportError::AuthoritySet
            | ImportError::Proposer(_)
            | ImportError::Certificate(_)
            | ImportError::Store(_)
            | ImportError::Stopped => false,
        }
    }

    /// What a newer version of this program would read in the block, if that is what is wrong.
    #[must_use]
    pub fn newer(&self) -> Option<Newer> {
        match self {
            ImportError::Decode(error) => error.newer(),
            ImportError::UnknownVersion(version) => Some(Newer::Header(*version)),
            _ => None,
        }
    }

    /// All that [`ImportError::reason`] may give beside those of [`DecodeError`].
    pub const REASONS: [&str; 7] = [
        "newer",
        "other_network",
        "too_large",
        "certificate",
        "equivocation",
        "block",
        "store",
    ];

    /// A short name for metrics; none for a block that is only early, late or known.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            ImportError::Orphan { .. } | ImportError::Stale { .. } => None,
            ImportError::Decode(error) => Some(error.reason()),
            ImportError::UnknownVersion(_) => Some("newer"),
            ImportError::OtherNetwork(_) => Some("other_network"),
            ImportError::TooLarge { .. } | ImportError::TooMany { .. } | ImportError::TransactionSize(_) => {
                Some("too_large")
            }
            ImportError::AuthoritySet | ImportError::Proposer(_) | ImportError::Certificate(_) => {
                Some("certificate")
            }
            ImportError::Equivocation { .. } => Some("equivocation"),
            ImportError::Body
            | ImportError::Parent { .. }
            | ImportError::Timestamp { .. }
            | ImportError::Nonce { .. }
            | ImportError::ConfirmedHeight(_)
            | ImportError::Transaction { .. }
            | ImportError::Duplicate(_)
            | ImportError::Refused { .. }
            | ImportError::MembersRoot
            | ImportError::SessionsRoot => Some("block"),
            ImportError::Store(_) | ImportError::Stopped => Some("store"),
        }
    }
}

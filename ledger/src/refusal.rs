//! Why the ledger does not take a transaction.

use thiserror::Error;

use crate::hash::Hash;
use crate::key::PublicKey;
use crate::transaction::TransactionError;

/// Why a transaction is refused. It is answered to the sender with this reason and never sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is wrong by itself.
    #[error(transparent)]
    Invalid(#[from] TransactionError),
    /// It is larger than this network allows.
    #[error("it has {found} bytes, this network allows {limit}")]
    TooLarge {
        /// Its canonical bytes.
        found: usize,
        /// The genesis parameter.
        limit: usize,
    },
    /// Its last height has passed.
    #[error("it could be sealed up to height {0}, which has passed; sign it again")]
    Expired(u64),
    /// Its last height is too far above the chain's head.
    #[error("its last height {0} is more than 1000 above the chain's head")]
    ExpiresTooLate(u64),
    /// Only an authority admits, and evicts others than the sender.
    #[error("only an authority of this network may admit or evict, {0} is none")]
    NotAuthority(PublicKey),
    /// The admission id was used before.
    #[error("admission id {0} was used before; every admission needs a fresh one")]
    AdmissionUsed(Hash),
    /// The node is no member now.
    #[error("{0} is no member of this network; admit it first")]
    NotMember(PublicKey),
    /// The node has never been a member.
    #[error("{0} was never admitted to this network")]
    NeverAdmitted(PublicKey),
    /// An authority cannot be evicted.
    #[error("{0} is an authority of this network and cannot be evicted")]
    EvictsAuthority(PublicKey),
    /// The session is not on the chain.
    #[error("the session is not on the chain yet")]
    UnknownSession,
    /// The session is on the chain already.
    #[error("the session was opened before")]
    SessionExists,
    /// The session is closed for ever.
    #[error("the session is closed")]
    SessionClosed,
    /// The source that the metadata name is not the sender.
    #[error("the metadata name another source than the sender")]
    SourceMismatch,
    /// The session runs another service.
    #[error("the session runs another service")]
    ServiceMismatch,
    /// The sender does not own the session at this epoch.
    #[error("the session's owner at this epoch is {owner}")]
    NotOwner {
        /// Who owns it.
        owner: PublicKey,
    },
    /// The session has a newer epoch.
    #[error("the session is at epoch {now}, {named} has passed")]
    EpochPassed {
        /// The epoch that the transaction names.
        named: u64,
        /// The session's epoch.
        now: u64,
    },
    /// The session has not reached that epoch: a transaction before this one is missing.
    #[error("the session is at epoch {now}, {named} is not reached yet")]
    EpochAhead {
        /// The epoch that the transaction names.
        named: u64,
        /// The session's epoch.
        now: u64,
    },
    /// The owner claims its own session.
    #[error("the owner cannot claim its own session")]
    OwnSession,
    /// As many claims stand as may.
    #[error("16 claims of this epoch stand already")]
    ClaimsFull,
    /// The destination is the owner.
    #[error("the destination owns the session already")]
    DestinationIsOwner,
    /// The destination is no member now.
    #[error("the destination {0} is no member of this network")]
    DestinationNotMember(PublicKey),
    /// This node does not seal.
    #[error("this node does not seal blocks; send it to the authority")]
    NotSealer,
    /// The pool is full.
    #[error("{0} transactions wait already; try again later")]
    PoolFull(usize),
    /// The authority's key sealed two blocks of one height.
    #[error("{}", crate::ledger::HALTED)]
    Halted,
    /// The sealer stopped after a failed write.
    #[error("the sealer has stopped after a failed write and must be restarted")]
    Stopped,
}

impl Refusal {
    /// Whether the same transaction can never be sealed, however long its sender waits.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Refusal::Invalid(_)
            | Refusal::TooLarge { .. }
            | Refusal::Expired(_)
            | Refusal::NotAuthority(_)
            | Refusal::AdmissionUsed(_)
            | Refusal::EvictsAuthority(_)
            | Refusal::SessionExists
            | Refusal::SessionClosed
            | Refusal::SourceMismatch
            | Refusal::ServiceMismatch
            | Refusal::NotOwner { .. }
            | Refusal::EpochPassed { .. }
            | Refusal::OwnSession
            | Refusal::DestinationIsOwner => true,
            // These depend on what the chain may still learn, or on this node.
            Refusal::ExpiresTooLate(_)
            | Refusal::NotMember(_)
            | Refusal::NeverAdmitted(_)
            | Refusal::UnknownSession
            | Refusal::EpochAhead { .. }
            | Refusal::ClaimsFull
            | Refusal::DestinationNotMember(_)
            | Refusal::NotSealer
            | Refusal::PoolFull(_)
            | Refusal::Halted
            | Refusal::Stopped => false,
        }
    }

    /// All that [`Refusal::reason`] may give.
    pub const REASONS: [&str; 19] = [
        "other_network",
        "signature",
        "field",
        "too_large",
        "expiry",
        "not_authority",
        "admission_used",
        "not_member",
        "unknown_session",
        "session_exists",
        "session_closed",
        "mismatch",
        "owner",
        "epoch",
        "claims_full",
        "destination",
        "not_sealer",
        "pool_full",
        "stopped",
    ];

    /// A short name for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Invalid(TransactionError::OtherNetwork(_)) => "other_network",
            Refusal::Invalid(TransactionError::Signature) => "signature",
            Refusal::Invalid(TransactionError::OtherSession) => "mismatch",
            Refusal::Invalid(_) => "field",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Expired(_) | Refusal::ExpiresTooLate(_) => "expiry",
            Refusal::NotAuthority(_) | Refusal::EvictsAuthority(_) => "not_authority",
            Refusal::AdmissionUsed(_) => "admission_used",
            Refusal::NotMember(_) | Refusal::NeverAdmitted(_) => "not_member",
            Refusal::UnknownSession => "unknown_session",
            Refusal::SessionExists => "session_exists",
            Refusal::SessionClosed => "session_closed",
            Refusal::SourceMismatch | Refusal::ServiceMismatch => "mismatch",
            Refusal::NotOwner { .. } | Refusal::OwnSession => "owner",
            Refusal::EpochPassed { .. } | Refusal::EpochAhead { .. } => "epoch",
            Refusal::ClaimsFull => "claims_full",
            Refusal::DestinationIsOwner | Refusal::DestinationNotMember(_) => "destination",
            Refusal::NotSealer => "not_sealer",
            Refusal::PoolFull(_) => "pool_full",
            Refusal::Halted => "halted",
            Refusal::Stopped => "stopped",
        }
    }
}

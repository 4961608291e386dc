//! What a node writes down about a session, before it acts on it.

use blosm_ledger::{Hash, PublicKey, SessionId, Transaction};
use borsh::{BorshDeserialize, BorshSerialize};

use super::record::Record;

/// The name of one attempt to move a session, chosen at random by the destination.
pub type Attempt = [u8; 16];

/// A transaction that must reach the chain, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pending {
    /// Its hash.
    pub hash: Hash,
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
}

impl Pending {
    /// The transaction, if these are the bytes of one of the network `chain_id` that its sender has signed, and its hash
    /// is the one that is said.
    #[must_use]
    pub fn verified(&self, chain_id: Hash) -> Option<Transaction> {
        let transaction = Transaction::decode(&self.bytes).ok()?;
        transaction.verify(chain_id).ok()?;
        (transaction.hash() == self.hash).then_some(transaction)
    }
}

impl From<&Transaction> for Pending {
    fn from(transaction: &Transaction) -> Self {
        Self {
            hash: transaction.hash(),
            bytes: transaction.encode(),
        }
    }
}

/// One fact in the journal. The order of entries of a session is the order in which they became true here.
///
/// Transactions are kept as their canonical bytes: what is repeated to a peer or submitted to the proposer
/// after a restart must be the very same bytes, since their hash names them on the chain.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Entry {
    /// This node minted the session's token and owns it at epoch 0 (rule 1).
    Opened {
        /// The session.
        session: SessionId,
        /// Name of the declared service.
        service: String,
        /// The `Open` transaction.
        open: Pending,
    } = 0,
    /// A container of this name is about to be created for the session.
    Creating {
        /// The session.
        session: SessionId,
        /// The epoch at which it will run.
        epoch: u64,
        /// Its name in the engine.
        container: String,
        /// The image reference it is created from.
        image: String,
    } = 1,
    /// The container's real entrypoint is about to run for the first time.
    ///
    /// From here on the session has state: an absent container is a lost state, not a reason for a fresh one.
    Starting {
        /// The session.
        session: SessionId,
        /// Its name in the engine.
        container: String,
    } = 2,
    /// As a destination: a container that holds the source's final state is ready but has not run (rule 5).
    Applied {
        /// The session.
        session: SessionId,
        /// Name of the declared service.
        service: String,
        /// Who gives the session.
        source: PublicKey,
        /// The epoch that the hand-over would end.
        epoch: u64,
        /// The attempt under which it was staged.
        attempt: Attempt,
        /// What a hand-over must name for this container to be the right one.
        root: Hash,
        /// Its name in the engine.
        container: String,
        /// The image reference it was created from.
        image: String,
    } = 3,
    /// As a destination: the signed `HandOver` of the applied root. This node owns the session (rule 4).
    Acquired {
        /// The session.
        session: SessionId,
        /// The new epoch.
        epoch: u64,
        /// The `HandOver` transaction.
        handover: Pending,
        /// `Open` and `HandOver`s before it that were not sealed yet when it was given, oldest first.
        pending: Vec<Pending>,
    } = 4,
    /// As a source: this node signed the `HandOver` and no longer owns the session (rule 3).
    Signed {
        /// The session.
        session: SessionId,
        /// The new epoch.
        epoch: u64,
        /// The new owner.
        destination: PublicKey,
        /// The attempt that it ends; all zero for a session handed back.
        attempt: Attempt,
        /// What the destination must have applied.
        root: Hash,
        /// The `HandOver` transaction.
        handover: Pending,
    } = 5,
    /// As a source: the new owner has journaled the `HandOver`; it need not be repeated any more.
    Acknowledged {
        /// The session.
        session: SessionId,
        /// The new epoch.
        epoch: u64,
    } = 6,
    /// As a source: the new owner serves; the kept container may go after `keep_source` (rule 6).
    Served {
        /// The session.
        session: SessionId,
        /// The new epoch.
        epoch: u64,
    } = 7,
    /// A container of the session was removed from the engine.
    Removed {
        /// The session.
        session: SessionId,
        /// Its name in the engine.
        container: String,
    } = 8,
    /// The chain holds this transaction: it need not be submitted any more.
    Sealed {
        /// The session.
        session: SessionId,
        /// Hash of the transaction.
        transaction: Hash,
    } = 9,
    /// This node's sealed `Abort` made it the owner again, in the place of a `HandOver` that can't be sealed (rule 3).
    Reclaimed {
        /// The session.
        session: SessionId,
        /// The new epoch.
        epoch: u64,
        /// Hash of the `Abort`.
        abort_hash: Hash,
    } = 10,
    /// The owner closed the session. It is never opened again.
    Closed {
        /// The session.
        session: SessionId,
        /// The `Release` transaction, when this node signed it.
        release: Option<Pending>,
    } = 11,
    /// All that the journal said of a session when it was last condensed.
    Snapshot(Box<Record>) = 12,
    /// A container that came from elsewhere is healthy; requests are routed to it from now on.
    Routed {
        /// The session.
        session: SessionId,
    } = 13,
}

impl Entry {
    /// The session that the entry speaks of.
    pub fn session(&self) -> SessionId {
        match self {
            Self::Opened { session, .. }
            | Self::Creating { session, .. }
            | Self::Starting { session, .. }
            | Self::Applied { session, .. }
            | Self::Acquired { session, .. }
            | Self::Signed { session, .. }
            | Self::Acknowledged { session, .. }
            | Self::Served { session, .. }
            | Self::Removed { session, .. }
            | Self::Sealed { session, .. }
            | Self::Reclaimed { session, .. }
            | Self::Closed { session, .. }
            | Self::Routed { session } => *session,
            Self::Snapshot(record) => record.session,
        }
    }
}

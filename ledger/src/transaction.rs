//! Signed transactions: canonical bytes, hash and signature.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::genesis::MAX_TX_BYTES;
use crate::hash::{Hash, canonical, signing_bytes};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::newer::Newer;
use crate::payload::{FieldError, Payload, UnknownKind};
use crate::token::SessionId;

/// How many heights above its sender's head a transaction may stay sealable.
pub const MAX_EXPIRY_HEIGHTS: u64 = 1_000;

/// One signed statement of one node.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Transaction {
    /// The network.
    pub chain_id: Hash,
    /// The node that signed.
    pub sender: PublicKey,
    /// The last height at which it may be sealed. Absent exactly on the kinds that never expire.
    pub max_height: Option<u64>,
    /// What it says.
    pub payload: Payload,
    /// The sender's signature over all of the above.
    pub signature: Signature,
}

/// What the signature covers, in canonical order.
#[derive(BorshSerialize)]
struct Unsigned<'a> {
    chain_id: &'a Hash,
    sender: &'a PublicKey,
    max_height: Option<u64>,
    payload: &'a Payload,
}

/// Bytes that are no transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes than the limit; nothing was decoded. The sender's fault.
    #[error("{found} bytes are more than the limit of {limit}")]
    TooLarge {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More items than the limit. The sender's fault.
    #[error("{found} items are more than the limit of {limit}")]
    TooMany {
        /// How many the bytes announce.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A kind of a later version. Nobody's fault: this node needs an upgrade.
    #[error(transparent)]
    UnknownKind(#[from] UnknownKind),
    /// A header version of a later version. Nobody's fault: this node needs an upgrade.
    #[error("header version {0} needs a newer blosm")]
    UnknownVersion(u16),
    /// Not the canonical bytes of anything. The sender's fault.
    #[error("not canonical bytes")]
    Malformed,
}

impl DecodeError {
    /// What a newer version of this program would read here, if the bytes may be right and this node too old.
    #[must_use]
    pub fn newer(&self) -> Option<Newer> {
        match self {
            DecodeError::UnknownKind(UnknownKind(tag)) => Some(Newer::Kind(*tag)),
            DecodeError::UnknownVersion(version) => Some(Newer::Header(*version)),
            DecodeError::TooLarge { .. } | DecodeError::TooMany { .. } | DecodeError::Malformed => None,
        }
    }

    /// All that [`DecodeError::reason`] may give.
    pub const REASONS: [&str; 3] = ["newer", "too_large", "malformed"];

    /// A short name for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            DecodeError::UnknownKind(_) | DecodeError::UnknownVersion(_) => "newer",
            DecodeError::TooLarge { .. } | DecodeError::TooMany { .. } => "too_large",
            DecodeError::Malformed => "malformed",
        }
    }
}

impl From<borsh::io::Error> for DecodeError {
    fn from(error: borsh::io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<UnknownKind>())
        {
            Some(kind) => DecodeError::UnknownKind(*kind),
            None => DecodeError::Malformed,
        }
    }
}

/// A transaction that is wrong by itself, whatever the state. The sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// It is for another network.
    #[error("it is for network {0}, not for this one")]
    OtherNetwork(Hash),
    /// The signature is not the sender's.
    #[error("its signature does not verify")]
    Signature,
    /// A field breaks its rule.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// It opens a session that is not the sender's by its id.
    #[error(
        "the session that it opens is not its sender's: a session's id is made of its opener and its token"
    )]
    OtherSession,
    /// A kind that expires has no last height.
    #[error("it must name the last height at which it may be sealed")]
    NoMaxHeight,
    /// A kind that never expires has a last height.
    #[error("its kind never expires, so it must not name a last height")]
    MaxHeight,
}

impl Transaction {
    /// Signs `payload` for the network `chain_id`. `head` is the height of the signer's head: kinds that expire may
    /// be sealed up to [`MAX_EXPIRY_HEIGHTS`] above it.
    #[must_use]
    pub fn sign(key: &SecretKey, chain_id: Hash, head: u64, payload: Payload) -> Transaction {
        let max_height = payload.expires().then(|| head.saturating_add(MAX_EXPIRY_HEIGHTS));
        let sender = key.public();
        let unsigned = Unsigned {
            chain_id: &chain_id,
            sender: &sender,
            max_height,
            payload: &payload,
        };
        let signature = key.sign(&signing_bytes("transaction", &unsigned));
        Transaction {
            chain_id,
            sender,
            max_height,
            payload,
            signature,
        }
    }

    /// Decodes canonical bytes: the length limit first, then exactly one transaction and no byte more.
    /// Says nothing about signature or fields: see [`Transaction::verify`].
    pub fn decode(bytes: &[u8]) -> Result<Transaction, DecodeError> {
        if bytes.len() > MAX_TX_BYTES {
            return Err(DecodeError::TooLarge {
                found: bytes.len(),
                limit: MAX_TX_BYTES,
            });
        }
        Ok(borsh::from_slice(bytes)?)
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        canonical(self)
    }

    /// The transaction's hash, which covers its signature too.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of("transaction-hash", self)
    }

    /// Checks all that does not depend on the state: network, fields and signature, cheapest first.
    pub fn verify(&self, chain_id: Hash) -> Result<(), TransactionError> {
        if self.chain_id != chain_id {
            return Err(TransactionError::OtherNetwork(self.chain_id));
        }
        match (self.payload.expires(), self.max_height) {
            (true, None) => return Err(TransactionError::NoMaxHeight),
            (false, Some(_)) => return Err(TransactionError::MaxHeight),
            (true, Some(_)) | (false, None) => {}
        }
        self.payload.check()?;
        // Whatever the state is: else whoever sees an opening on its way could be the first with it.
        if let Payload::Open(open) = &self.payload
            && open.session != SessionId::of(self.sender, open.token_hash)
        {
            return Err(TransactionError::OtherSession);
        }
        let unsigned = Unsigned {
            chain_id: &self.chain_id,
            sender: &self.sender,
            max_height: self.max_height,
            payload: &self.payload,
        };
        if self
            .sender
            .verify(&signing_bytes("transaction", &unsigned), &self.signature)
        {
            Ok(())
        } else {
            Err(TransactionError::Signature)
        }
    }

    /// The nodes to which this transaction matters at once: sender, destination, invited nodes; without repetition, in
    /// key order.
    #[must_use]
    pub fn parties(&self) -> Vec<PublicKey> {
        let mut parties = vec![self.sender];
        match &self.payload {
            Payload::Admit(p) => parties.push(p.key),
            Payload::Evict(p) => parties.push(p.key),
            Payload::Announce(p) => parties.extend(&p.invited),
            Payload::HandOver(p) => parties.push(p.destination),
            Payload::Open(_) | Payload::Claim(_) | Payload::Abort(_) | Payload::Release(_) => {}
        }
        parties.sort_unstable();
        parties.dedup();
        parties
    }
}

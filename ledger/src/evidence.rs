//! Proof that an authority sealed twice.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::Serialize;

use crate::block::Header;
use crate::certificate::Certificate;
use crate::hash::Hash;

/// So many are kept; with the first of them everything is said.
pub const MAX_EVIDENCE: usize = 16;

/// A second sealed block of a height: whoever holds the authority's key signed both. A copy of its data directory runs
/// somewhere, a backup of it was restored, or the key is stolen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, BorshSerialize, BorshDeserialize)]
pub struct Evidence {
    /// The height of both.
    pub height: u64,
    /// Hash of the block that was imported here, whose header and seal are in the chain.
    pub ours: Hash,
    /// Hash of the other.
    pub theirs: Hash,
    /// The other's header.
    pub header: Header,
    /// The other's seal.
    pub certificate: Certificate,
}

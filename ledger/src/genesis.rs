//! The genesis: what all nodes of one network agree on before the first block.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::Hash;
use crate::key::PublicKey;

/// No network may allow larger transactions: the bound before any decoding.
pub const MAX_TX_BYTES: usize = 2048;
/// No network may allow larger sealed blocks: the bound before any decoding, and the frame limit of the block topic.
pub const MAX_BLOCK_BYTES: usize = 512 * 1024;
/// No network may allow more transactions in one block.
pub const MAX_BLOCK_TXS: usize = 4096;
/// The largest authority set; it bounds a certificate.
pub const MAX_AUTHORITIES: usize = 64;
/// The longest name of a network, in bytes.
pub const MAX_NETWORK_NAME: usize = 64;

/// What defines a network. Its canonical hash is the chain id; addresses and comments are outside it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The network's name, for people.
    pub name: String,
    /// The keys that may seal blocks, in an order that is part of the genesis.
    pub authorities: Vec<PublicKey>,
    /// The key whose private half can replace a dead authority. It signs nothing in normal operation.
    pub recovery: PublicKey,
    /// When the network was made, in milliseconds since the Unix epoch. The first block's time is later.
    pub time_ms: u64,
    /// The rules that all nodes must share.
    #[serde(default)]
    pub params: Params,
}

/// Rules that all nodes of a network share.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Whether a hand-over waits for 90 % of the members.
    pub confirmation: Confirmation,
    /// The longest time for which the sealer gathers transactions under load, in milliseconds.
    pub seal_max_delay_ms: u32,
    /// The largest transaction, in canonical bytes with its signature.
    pub max_tx_bytes: u32,
    /// The largest sealed block, in canonical bytes with its certificate.
    pub max_block_bytes: u32,
    /// The most transactions in one block.
    pub max_block_txs: u32,
    /// After this many milliseconds without a block the sealer seals an empty one.
    pub empty_block_interval_ms: u32,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            confirmation: Confirmation::Advisory,
            seal_max_delay_ms: 20,
            max_tx_bytes: MAX_TX_BYTES as u32,
            max_block_bytes: MAX_BLOCK_BYTES as u32,
            max_block_txs: MAX_BLOCK_TXS as u32,
            empty_block_interval_ms: 600_000,
        }
    }
}

/// What 90 % confirmation means for a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Confirmation {
    /// It is reported; safety comes from the seal.
    Advisory = 0,
    /// The paper's rule: no hand-over before it.
    Required = 1,
}

/// A genesis that no node may run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// The name is empty, too long or has control characters.
    #[error("genesis `name` must have 1 to {MAX_NETWORK_NAME} bytes and no control characters")]
    Name,
    /// There is no authority, or there are too many.
    #[error(
        "genesis `authorities` must list 1 or 4 to {MAX_AUTHORITIES} keys, found {0}: 2 or 3 only add ways to stand still"
    )]
    Authorities(usize),
    /// A key is listed twice.
    #[error("genesis `authorities` lists {0} twice")]
    Repeated(PublicKey),
    /// A parameter is outside what every node can handle.
    #[error("genesis `params.{name}` must be between {min} and {max}, found {found}")]
    Param {
        /// The key to change.
        name: &'static str,
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
        /// What stands there.
        found: u64,
    },
}

impl Genesis {
    /// The network's id: the hash of the canonical genesis.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        Hash::of("genesis", self)
    }

    /// Checks what the types cannot say. Every other function of the crate presumes a valid genesis.
    pub fn validate(&self) -> Result<(), GenesisError> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NETWORK_NAME || name.chars().any(char::is_control) {
            return Err(GenesisError::Name);
        }
        let count = self.authorities.len();
        if !(count == 1 || (4..=MAX_AUTHORITIES).contains(&count)) {
            return Err(GenesisError::Authorities(count));
        }
        let mut sorted = self.authorities.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(GenesisError::Repeated(pair[0]));
        }
        let p = &self.params;
        for (name, found, min, max) in [
            ("seal_max_delay_ms", p.seal_max_delay_ms, 0, 60_000),
            ("max_tx_bytes", p.max_tx_bytes, 1024, MAX_TX_BYTES as u32),
            (
                "max_block_bytes",
                p.max_block_bytes,
                16 * 1024,
                MAX_BLOCK_BYTES as u32,
            ),
            ("max_block_txs", p.max_block_txs, 1, MAX_BLOCK_TXS as u32),
            (
                "empty_block_interval_ms",
                p.empty_block_interval_ms,
                1_000,
                u32::MAX,
            ),
        ] {
            if !(min..=max).contains(&found) {
                return Err(GenesisError::Param {
                    name,
                    min: min.into(),
                    max: max.into(),
                    found: found.into(),
                });
            }
        }
        Ok(())
    }

    /// The hash of the authority set, as headers carry it.
    #[must_use]
    pub fn authorities_hash(&self) -> Hash {
        authorities_hash(&self.authorities)
    }

    /// Whether `key` may seal.
    #[must_use]
    pub fn is_authority(&self, key: &PublicKey) -> bool {
        self.authorities.contains(key)
    }
}

/// The hash of an authority set, as headers carry it.
#[must_use]
pub fn authorities_hash(authorities: &[PublicKey]) -> Hash {
    Hash::of("authorities", authorities)
}

/// How many signatures a certificate needs: more than two thirds of the set, 1 of 1.
#[must_use]
pub fn quorum(authorities: usize) -> usize {
    authorities * 2 / 3 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis() -> Genesis {
        Genesis {
            name: "test".into(),
            authorities: vec![PublicKey([1; 32])],
            recovery: PublicKey([2; 32]),
            time_ms: 1,
            params: Params::default(),
        }
    }

    #[test]
    fn quorum_is_more_than_two_thirds() {
        for (n, q) in [(1, 1), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)] {
            assert_eq!(quorum(n), q, "{n} authorities");
        }
    }

    #[test]
    fn chain_id_covers_every_field() {
        let base = genesis();
        let mut others = vec![base.clone(); 5];
        others[0].name = "other".into();
        others[1].authorities = vec![PublicKey([3; 32])];
        others[2].recovery = PublicKey([3; 32]);
        others[3].time_ms = 2;
        others[4].params.confirmation = Confirmation::Required;
        for other in others {
            assert_ne!(other.chain_id(), base.chain_id(), "{other:?}");
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        assert_eq!(genesis().validate(), Ok(()));
        let mut none = genesis();
        none.authorities.clear();
        assert_eq!(none.validate(), Err(GenesisError::Authorities(0)));
        let mut two = genesis();
        two.authorities.push(PublicKey([9; 32]));
        assert_eq!(two.validate(), Err(GenesisError::Authorities(2)));
        let mut twice = genesis();
        twice.authorities = vec![PublicKey([1; 32]); 4];
        assert_eq!(twice.validate(), Err(GenesisError::Repeated(PublicKey([1; 32]))));
        let mut large = genesis();
        large.params.max_tx_bytes = 4096;
        assert!(matches!(
            large.validate(),
            Err(GenesisError::Param {
                name: "max_tx_bytes",
                ..
            })
        ));
        let mut unnamed = genesis();
        unnamed.name = "a\nb".into();
        assert_eq!(unnamed.validate(), Err(GenesisError::Name));
    }
}

//! Blocks: the header that is hashed, the transactions that it commits to, and the certificate that makes it final.

use borsh::BorshSerialize;
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::genesis::{Genesis, MAX_BLOCK_BYTES, MAX_BLOCK_TXS, MAX_TX_BYTES, quorum};
use crate::hash::{Hash, canonical, read};
use crate::key::PublicKey;
use crate::merkle;
use crate::transaction::{DecodeError, Transaction};

/// The oldest header version that this crate reads.
pub const HEADER_VERSION: u16 = 1;
/// The newest that it reads, and the one that it writes.
pub const NEWEST_VERSION: u16 = if cfg!(feature = "next") { 2 } else { 1 };
/// A version that is further ahead than this is no later version but junk, whose sender is at fault.
const MAX_LEAP: u16 = 255;

/// What a block's hash covers. The seal is outside it: see [`Certificate`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, Serialize, Deserialize)]
#[cfg_attr(not(feature = "next"), derive(borsh::BorshDeserialize))]
pub struct Header {
    /// [`HEADER_VERSION`] to [`NEWEST_VERSION`]. It comes first, so that any version can be told from the first two bytes.
    pub version: u16,
    /// The network.
    pub chain_id: Hash,
    /// The block's number. The first block has 1; 0 stands for the genesis, which has no block.
    pub height: u64,
    /// The sealer's clock in milliseconds since the Unix epoch, but always later than the parent's.
    pub timestamp_ms: u64,
    /// The parent's hash; of the first block the chain id.
    pub previous_hash: Hash,
    /// The Merkle root over the canonical bytes of the transactions.
    pub tx_root: Hash,
    /// How many transactions there are.
    pub tx_count: u32,
    /// The authority's sealing counter, higher than the parent's.
    pub nonce: u64,
    /// Who built the block.
    pub proposer: PublicKey,
    /// The authority set that seals this block.
    pub authorities_hash: Hash,
    /// The authority set that seals the next block.
    pub next_authorities_hash: Hash,
    /// The Merkle root over the members after this block.
    pub members_root: Hash,
    /// How many members there are after this block.
    pub member_count: u32,
    /// The root over the sessions after this block.
    pub sessions_root: Hash,
    /// The highest height that 90 % of the members are known to hold. Never falls, and lies below this height.
    pub confirmed_height: u64,
    /// What version 2 adds.
    #[cfg(feature = "next")]
    #[borsh(serialize_with = "crate::next::write_addition")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addition: Option<u64>,
}

impl Header {
    /// The block's hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of("block", self)
    }
}

/// A header and its transactions.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, Serialize, Deserialize)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The transactions, in the order in which they act.
    pub transactions: Vec<Transaction>,
}

impl Block {
    /// The block's hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.header.hash()
    }

    /// The Merkle root over the transactions.
    #[must_use]
    pub fn tx_root(transactions: &[Transaction]) -> Hash {
        merkle::root(transactions.iter().map(Transaction::encode))
    }
}

/// A block with its certificate: final, once the certificate is verified.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, Serialize, Deserialize)]
pub struct SealedBlock {
    /// The block.
    pub block: Block,
    /// The seal.
    pub certificate: Certificate,
}

impl SealedBlock {
    /// Its height.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.block.header.height
    }

    /// The block's hash, which does not cover the certificate.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.block.hash()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        canonical(self)
    }

    /// Decodes canonical bytes. Every length is checked against the protocol's limits before what it announces is
    /// decoded: the whole, the number of transactions, each transaction, the number of signatures.
    pub fn decode(bytes: &[u8]) -> Result<SealedBlock, DecodeError> {
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(DecodeError::TooLarge {
                found: bytes.len(),
                limit: MAX_BLOCK_BYTES,
            });
        }
        let rest = &mut { bytes };
        let header = read_header(rest)?;
        let transactions = read_transactions(rest)?;
        let certificate = Certificate::read(rest)?;
        if !rest.is_empty() {
            return Err(DecodeError::Malformed);
        }
        Ok(SealedBlock {
            block: Block { header, transactions },
            certificate,
        })
    }
}

/// The header of a block whose body only a later version reads, if the authorities sealed it. Where the unknown ends
/// nobody here can tell, so the certificate is read from the end. Says nothing of the body.
pub(crate) fn read_sealed_header(bytes: &[u8], genesis: &Genesis) -> Option<Header> {
    if bytes.len() > MAX_BLOCK_BYTES {
        return None;
    }
    let rest = &mut { bytes };
    let header = read_header(rest).ok()?;
    let (chain_id, authorities) = (genesis.chain_id(), &genesis.authorities);
    if header.chain_id != chain_id {
        return None;
    }
    let (all, hash) = (authorities.len(), header.hash());
    (quorum(all)..=all)
        .filter_map(|signatures| {
            let start = rest.len().checked_sub(Certificate::bytes(signatures))?;
            let tail = &mut &rest[start..];
            let certificate = Certificate::read(tail).ok()?;
            tail.is_empty().then_some(certificate)
        })
        .any(|certificate| {
            let verified = certificate.verify(authorities, chain_id, header.height, hash);
            verified.is_ok()
        })
        .then_some(header)
}

/// Decodes a header, telling a later version apart from wrong bytes.
pub(crate) fn read_header(rest: &mut &[u8]) -> Result<Header, DecodeError> {
    let version = read::<u16>(&mut { *rest })?;
    if (HEADER_VERSION..=NEWEST_VERSION).contains(&version) {
        Ok(read(rest)?)
    } else if version > NEWEST_VERSION && version - NEWEST_VERSION <= MAX_LEAP {
        Err(DecodeError::UnknownVersion(version))
    } else {
        Err(DecodeError::Malformed)
    }
}

/// Decodes a list of transactions, each within its own limit.
pub(crate) fn read_transactions(rest: &mut &[u8]) -> Result<Vec<Transaction>, DecodeError> {
    let count = read::<u32>(rest)? as usize;
    if count > MAX_BLOCK_TXS {
        return Err(DecodeError::TooMany {
            found: count,
            limit: MAX_BLOCK_TXS,
        });
    }
    // Each takes more than 100 bytes, so a false count cannot reserve more than the bytes that are really there.
    let mut transactions = Vec::with_capacity(count.min(rest.len() / 100 + 1));
    for _ in 0..count {
        let before = rest.len();
        // The reader ends at the limit: nothing of a transaction past it is decoded.
        let within = &mut &rest[..before.min(MAX_TX_BYTES)];
        let transaction = read(within)?;
        let used = before.min(MAX_TX_BYTES) - within.len();
        *rest = &rest[used..];
        transactions.push(transaction);
    }
    Ok(transactions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::vote_bytes;
    use crate::genesis::Params;
    use crate::key::SecretKey;

    #[test]
    fn limits_come_before_decoding() {
        let huge = vec![0u8; MAX_BLOCK_BYTES + 1];
        assert!(matches!(
            SealedBlock::decode(&huge),
            Err(DecodeError::TooLarge { .. })
        ));
        let mut count = &(MAX_BLOCK_TXS as u32 + 1).to_le_bytes()[..];
        assert!(matches!(
            read_transactions(&mut count),
            Err(DecodeError::TooMany { .. })
        ));
        let mut lie = &4096u32.to_le_bytes()[..];
        assert_eq!(read_transactions(&mut lie), Err(DecodeError::Malformed));
    }

    #[test]
    fn a_seal_is_found_behind_a_body_that_nobody_here_reads() {
        for (count, signers) in [(1, 0..1), (4, 0..3), (4, 0..4), (4, 1..4)] {
            let mut keys: Vec<_> = (1..=count).map(|i| SecretKey::from_seed(&[i; 32])).collect();
            keys.sort_by_key(SecretKey::public);
            let genesis = Genesis {
                name: "test".to_owned(),
                authorities: keys.iter().map(SecretKey::public).collect(),
                recovery: SecretKey::from_seed(&[200; 32]).public(),
                time_ms: 1,
                params: Params::default(),
            };
            let chain_id = genesis.chain_id();
            let header = Header {
                version: HEADER_VERSION,
                chain_id,
                height: 7,
                timestamp_ms: 2,
                previous_hash: chain_id,
                tx_root: Hash::ZERO,
                tx_count: 1,
                nonce: 1,
                proposer: keys[0].public(),
                authorities_hash: genesis.authorities_hash(),
                next_authorities_hash: genesis.authorities_hash(),
                members_root: Hash::ZERO,
                member_count: 0,
                sessions_root: Hash::ZERO,
                confirmed_height: 0,
                #[cfg(feature = "next")]
                addition: None,
            };
            let vote = vote_bytes(chain_id, 7, 0, header.hash());
            let certificate = Certificate {
                round: 0,
                signatures: keys[signers]
                    .iter()
                    .map(|key| (key.public(), key.sign(&vote)))
                    .collect(),
            };
            let bytes = [canonical(&header), vec![0xff; 500], canonical(&certificate)].concat();
            let read = |bytes: &[u8]| read_sealed_header(bytes, &genesis);
            assert_eq!(read(&bytes), Some(header.clone()));
            // Neither another header nor less than the whole seal, and no bytes of any length panic.
            let mut other = bytes.clone();
            other[34] ^= 1;
            assert_eq!(read(&other), None);
            assert_eq!(read(&bytes[..bytes.len() - 1]), None);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), None);
            }
            let few = Certificate {
                round: 0,
                signatures: certificate.signatures[1..].to_vec(),
            };
            let few = [canonical(&header), canonical(&few)].concat();
            let enough = certificate.signatures.len() > quorum(count.into());
            assert_eq!(read(&few).is_some(), enough, "one signature less");
        }
    }

    #[test]
    fn a_later_version_is_told_apart() {
        let mut bytes = vec![0u8; 1000];
        bytes[0] = 2;
        assert_eq!(SealedBlock::decode(&bytes), Err(DecodeError::UnknownVersion(2)));
        // Neither an earlier version nor junk is one.
        for version in [0u16, HEADER_VERSION + MAX_LEAP + 1, u16::MAX] {
            bytes[..2].copy_from_slice(&version.to_le_bytes());
            assert_eq!(SealedBlock::decode(&bytes), Err(DecodeError::Malformed));
        }
        assert_eq!(SealedBlock::decode(&[1]), Err(DecodeError::Malformed));
        assert_eq!(SealedBlock::decode(&[]), Err(DecodeError::Malformed));
    }
}

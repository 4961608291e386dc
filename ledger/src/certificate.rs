//! The certificate: signatures of authorities over one block, outside the header.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::genesis::{MAX_AUTHORITIES, quorum};
use crate::hash::{Hash, read, signing_bytes};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::transaction::DecodeError;

/// The type of the only vote there is. Others would come with several authorities.
const PRECOMMIT: u8 = 2;

/// A block's seal: who signed it, and in which round. One authority or seven have the same format.
///
/// The round stands here and never in the header, since it may differ between copies of one block.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Certificate {
    /// The round in which the block was decided; 0 with a single authority.
    pub round: u32,
    /// The signatures over the vote, in strictly rising order of keys.
    pub signatures: Vec<(PublicKey, Signature)>,
}

/// What an authority signs to seal a block.
#[derive(BorshSerialize)]
struct Vote {
    chain_id: Hash,
    height: u64,
    round: u32,
    vote_type: u8,
    block_hash: Hash,
}

/// A certificate that seals nothing. Whoever made it is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Too few signatures.
    #[error("the certificate has {found} signatures, {needed} are needed")]
    Quorum {
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
    /// The signers are not in strictly rising order, so one might count twice.
    #[error("the certificate's signers are not in rising order")]
    Order,
    /// A signer is no authority.
    #[error("{0} signed the certificate and is no authority")]
    NotAuthority(PublicKey),
    /// A signature does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(PublicKey),
}

/// The canonical bytes that an authority signs to seal a block.
#[must_use]
pub fn vote_bytes(chain_id: Hash, height: u64, round: u32, block_hash: Hash) -> Vec<u8> {
    signing_bytes(
        "vote",
        &Vote {
            chain_id,
            height,
            round,
            vote_type: PRECOMMIT,
            block_hash,
        },
    )
}

impl Certificate {
    /// The certificate of a single authority.
    #[must_use]
    pub fn of_one(key: &SecretKey, chain_id: Hash, height: u64, block_hash: Hash) -> Certificate {
        let signature = key.sign(&vote_bytes(chain_id, height, 0, block_hash));
        Certificate {
            round: 0,
            signatures: vec![(key.public(), signature)],
        }
    }

    /// Whether a quorum of `authorities` sealed this block. Every signature that is there must verify.
    pub fn verify(
        &self,
        authorities: &[PublicKey],
        chain_id: Hash,
        height: u64,
        block_hash: Hash,
    ) -> Result<(), CertificateError> {
        let needed = quorum(authorities.len());
        if self.signatures.len() < needed {
            return Err(CertificateError::Quorum {
                found: self.signatures.len(),
                needed,
            });
        }
        if !self.signatures.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(CertificateError::Order);
        }
        if let Some((key, _)) = self.signatures.iter().find(|(key, _)| !authorities.contains(key)) {
            return Err(CertificateError::NotAuthority(*key));
        }
        let vote = vote_bytes(chain_id, height, self.round, block_hash);
        match self
            .signatures
            .iter()
            .find(|(key, signature)| !key.verify(&vote, signature))
        {
            Some((key, _)) => Err(CertificateError::Signature(*key)),
            None => Ok(()),
        }
    }

    /// How many bytes a certificate with so many signatures has: round and count, and for each signer key and signature.
    pub(crate) fn bytes(signatures: usize) -> usize {
        4 + 4 + signatures * (32 + 64)
    }

    /// Decodes a certificate from the front of `rest`, the number of signatures checked first.
    pub(crate) fn read(rest: &mut &[u8]) -> Result<Certificate, DecodeError> {
        let round = read(rest)?;
        let count = read::<u32>(&mut { *rest })? as usize;
        if count > MAX_AUTHORITIES {
            return Err(DecodeError::TooMany {
                found: count,
                limit: MAX_AUTHORITIES,
            });
        }
        Ok(Certificate {
            round,
            signatures: read(rest)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::canonical;

    const CHAIN: Hash = Hash([1; 32]);
    const BLOCK: Hash = Hash([2; 32]);

    fn keys(count: u8) -> Vec<SecretKey> {
        let mut keys: Vec<_> = (1..=count).map(|i| SecretKey::from_seed(&[i; 32])).collect();
        keys.sort_by_key(SecretKey::public);
        keys
    }

    fn publics(keys: &[SecretKey]) -> Vec<PublicKey> {
        keys.iter().map(SecretKey::public).collect()
    }

    fn sealed_by(keys: &[SecretKey], round: u32) -> Certificate {
        let vote = vote_bytes(CHAIN, 5, round, BLOCK);
        Certificate {
            round,
            signatures: keys.iter().map(|key| (key.public(), key.sign(&vote))).collect(),
        }
    }

    #[test]
    fn one_of_one_and_three_of_four_have_the_same_format() {
        let one = keys(1);
        let certificate = Certificate::of_one(&one[0], CHAIN, 5, BLOCK);
        assert_eq!(certificate, sealed_by(&one, 0));
        assert_eq!(canonical(&certificate).len(), Certificate::bytes(1));
        assert_eq!(certificate.verify(&publics(&one), CHAIN, 5, BLOCK), Ok(()));
        let four = keys(4);
        assert_eq!(
            sealed_by(&four[1..], 3).verify(&publics(&four), CHAIN, 5, BLOCK),
            Ok(())
        );
        assert_eq!(
            sealed_by(&four[2..], 3).verify(&publics(&four), CHAIN, 5, BLOCK),
            Err(CertificateError::Quorum { found: 2, needed: 3 })
        );
    }

    #[test]
    fn forgeries_are_refused() {
        let four = keys(4);
        let authorities = publics(&four);
        let good = sealed_by(&four[..3], 0);
        let check = |certificate: &Certificate| certificate.verify(&authorities, CHAIN, 5, BLOCK);
        assert_eq!(check(&good), Ok(()));

        let empty = Certificate {
            round: 0,
            signatures: vec![],
        };
        assert_eq!(
            check(&empty),
            Err(CertificateError::Quorum { found: 0, needed: 3 })
        );
        let mut twice = good.clone();
        twice.signatures[1] = twice.signatures[0];
        assert_eq!(check(&twice), Err(CertificateError::Order));
        let mut reversed = good.clone();
        reversed.signatures.reverse();
        assert_eq!(check(&reversed), Err(CertificateError::Order));
        let strangers: Vec<_> = (10..14).map(|i| SecretKey::from_seed(&[i; 32])).collect();
        let mut stranger = sealed_by(&strangers, 0);
        stranger.signatures.sort_by_key(|(key, _)| *key);
        assert!(matches!(check(&stranger), Err(CertificateError::NotAuthority(_))));
        let mut round = good.clone();
        round.round = 1;
        assert!(matches!(check(&round), Err(CertificateError::Signature(_))));
        for (chain, height, block) in [(BLOCK, 5, BLOCK), (CHAIN, 6, BLOCK), (CHAIN, 5, CHAIN)] {
            assert!(matches!(
                good.verify(&authorities, chain, height, block),
                Err(CertificateError::Signature(_))
            ));
        }
        // A wrong signature beyond the quorum is refused too: a certificate has one meaning.
        let mut surplus = sealed_by(&four, 0);
        surplus.signatures[3].1 = Signature([0; 64]);
        assert!(matches!(check(&surplus), Err(CertificateError::Signature(_))));
    }
}

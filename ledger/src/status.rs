//! The proposer's signed word on its head and on how many members hold the newest blocks.
//!
//! It is gossiped, so that members learn of confirmations without asking, and of a head that gossip has lost. It is a
//! report, not a certificate: no block is imported, and nothing is believed of blocks that the reader does not hold.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::genesis::Genesis;
use crate::hash::{Hash, canonical, signing_bytes};
use crate::key::{PublicKey, SecretKey, Signature};

/// The most blocks for which a status counts members.
pub const MAX_COUNTS: usize = 8;
/// The longest status in canonical bytes.
pub const MAX_STATUS_BYTES: usize = 512;

/// How many members hold one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Count {
    /// The block's height.
    pub height: u64,
    /// Members that are known to hold it.
    pub acked: u32,
    /// Members at that block.
    pub members: u32,
}

/// What a status says.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct StatusBody {
    /// The network.
    pub chain_id: Hash,
    /// The proposer.
    pub proposer: PublicKey,
    /// The header version of its newest block.
    pub version: u16,
    /// The height of its newest block.
    pub height: u64,
    /// That block's hash.
    pub hash: Hash,
    /// The highest height that 90 % of the members hold.
    pub confirmed_height: u64,
    /// The newest blocks, the highest first, at most [`MAX_COUNTS`].
    pub newest: Vec<Count>,
    /// The proposer's clock, in milliseconds since the Unix epoch. For people: it may be wrong, or old.
    pub time_ms: u64,
}

/// A signed status. Nothing of it is checked yet: see [`Status::verify`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Status {
    /// What it says.
    #[serde(flatten)]
    pub body: StatusBody,
    /// The proposer's signature over that.
    pub signature: Signature,
}

/// A status that an authority of the network has really signed, and that does not contradict itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedStatus(StatusBody);

/// A status that says nothing. Whoever passed it on should have known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StatusError {
    /// Too long, or not the canonical bytes of a status.
    #[error("not the canonical bytes of a status")]
    Malformed,
    /// It is for another network.
    #[error("it is for network {0}, not for this one")]
    OtherNetwork(Hash),
    /// Its signer is no authority.
    #[error("{0} is no authority of this network")]
    NotAuthority(PublicKey),
    /// Its heights or counts contradict one another.
    #[error("it contradicts itself")]
    Contradiction,
    /// The signature is not the proposer's.
    #[error("its signature does not verify")]
    Signature,
}

/// What a status says of the chain that its reader holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusMatch {
    /// The block that it names is on this chain.
    Held,
    /// The block that it names is above the head here: blocks are missing.
    Ahead,
    /// The block of that height is another here.
    OtherBlock,
}

impl Status {
    /// Signs a status. `key` is the one of `body.proposer`.
    #[must_use]
    pub fn sign(key: &SecretKey, body: StatusBody) -> Status {
        let signature = key.sign(&signing_bytes("status", &body));
        Status { body, signature }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        canonical(self)
    }

    /// Decodes canonical bytes, the length limit first, and checks all that does not depend on the reader's chain.
    pub fn verify(bytes: &[u8], genesis: &Genesis) -> Result<VerifiedStatus, StatusError> {
        if bytes.len() > MAX_STATUS_BYTES {
            return Err(StatusError::Malformed);
        }
        let status: Status = borsh::from_slice(bytes).map_err(|_| StatusError::Malformed)?;
        let body = status.body;
        let chain_id = genesis.chain_id();
        if body.chain_id != chain_id {
            return Err(StatusError::OtherNetwork(body.chain_id));
        }
        if !genesis.is_authority(&body.proposer) {
            return Err(StatusError::NotAuthority(body.proposer));
        }
        let falling = body.newest.is_sorted_by(|a, b| a.height > b.height);
        let sound = |count: &Count| count.height <= body.height && count.acked <= count.members;
        if body.newest.len() > MAX_COUNTS
            || body.confirmed_height > body.height
            || !falling
            || !body.newest.iter().all(sound)
        {
            return Err(StatusError::Contradiction);
        }
        if !body
            .proposer
            .verify(&signing_bytes("status", &body), &status.signature)
        {
            return Err(StatusError::Signature);
        }
        Ok(VerifiedStatus(body))
    }
}

impl VerifiedStatus {
    /// What it says.
    #[must_use]
    pub fn body(&self) -> &StatusBody {
        &self.0
    }

    /// Whether it says more than `other`. The clock only decides between two that are equal in all that counts.
    #[must_use]
    pub fn is_newer_than(&self, other: &VerifiedStatus) -> bool {
        let order = |status: &StatusBody| (status.height, status.confirmed_height, status.time_ms);
        order(&self.0) > order(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genesis::Params;

    fn key(i: u8) -> SecretKey {
        SecretKey::from_seed(&[i; 32])
    }

    fn genesis() -> Genesis {
        Genesis {
            name: "test".into(),
            authorities: vec![key(0).public()],
            recovery: key(9).public(),
            time_ms: 1,
            params: Params::default(),
        }
    }

    fn count(height: u64, acked: u32, members: u32) -> Count {
        Count {
            height,
            acked,
            members,
        }
    }

    fn body() -> StatusBody {
        StatusBody {
            chain_id: genesis().chain_id(),
            proposer: key(0).public(),
            version: 1,
            height: 12,
            hash: Hash([5; 32]),
            confirmed_height: 10,
            newest: vec![count(12, 1, 10), count(11, 8, 10), count(10, 9, 9)],
            time_ms: 1_700_000_000_000,
        }
    }

    fn verify(status: &Status) -> Result<VerifiedStatus, StatusError> {
        Status::verify(&status.encode(), &genesis())
    }

    #[test]
    fn only_what_the_authority_signed_is_a_status() {
        let status = Status::sign(&key(0), body());
        assert_eq!(verify(&status).unwrap().body(), &body());
        let mut changed = vec![status.clone(); 3];
        changed[0].body.confirmed_height -= 1;
        changed[1].body.newest[1].acked += 1;
        changed[2].body.time_ms += 1;
        for status in &changed {
            assert_eq!(verify(status), Err(StatusError::Signature));
        }
        let mut of_member = body();
        of_member.proposer = key(1).public();
        assert!(matches!(
            verify(&Status::sign(&key(1), of_member)),
            Err(StatusError::NotAuthority(_))
        ));
        let mut elsewhere = body();
        elsewhere.chain_id = Hash::ZERO;
        assert!(matches!(
            verify(&Status::sign(&key(0), elsewhere)),
            Err(StatusError::OtherNetwork(_))
        ));
        let mut bytes = status.encode();
        bytes.push(0);
        for bytes in [&bytes[..], &[], &[0xff; 100], &[0; MAX_STATUS_BYTES + 1]] {
            assert_eq!(Status::verify(bytes, &genesis()), Err(StatusError::Malformed));
        }
    }

    #[test]
    fn a_status_that_contradicts_itself_is_none() {
        let change = |change: fn(&mut StatusBody)| {
            let mut body = body();
            change(&mut body);
            verify(&Status::sign(&key(0), body))
        };
        let bad: [fn(&mut StatusBody); 5] = [
            |body| body.confirmed_height = 13,
            |body| body.newest[0].height = 13,
            |body| body.newest[1].height = 12,
            |body| body.newest[0].acked = 11,
            |body| body.newest = (0..9).map(|back| count(12 - back, 0, 1)).collect(),
        ];
        for (case, bad) in bad.into_iter().enumerate() {
            assert_eq!(change(bad), Err(StatusError::Contradiction), "case {case}");
        }
    }

    #[test]
    fn the_longest_status_is_within_its_limit() {
        let mut longest = body();
        longest.height = u64::MAX;
        longest.newest = (0..MAX_COUNTS as u64)
            .map(|back| count(u64::MAX - back, 1, 2))
            .collect();
        let status = Status::sign(&key(0), longest);
        assert!(status.encode().len() <= MAX_STATUS_BYTES);
        assert!(verify(&status).is_ok());
    }

    #[test]
    fn what_counts_comes_before_the_clock() {
        let status = |height, confirmed_height, time_ms| {
            let body = StatusBody {
                height,
                confirmed_height,
                newest: vec![],
                time_ms,
                ..body()
            };
            verify(&Status::sign(&key(0), body)).unwrap()
        };
        let known = status(12, 10, 500);
        assert!(status(13, 10, 1).is_newer_than(&known));
        assert!(status(12, 11, 1).is_newer_than(&known));
        assert!(status(12, 10, 501).is_newer_than(&known));
        for old in [status(12, 10, 500), status(12, 9, 900), status(11, 11, 900)] {
            assert!(!old.is_newer_than(&known));
        }
    }
}

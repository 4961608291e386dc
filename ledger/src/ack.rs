//! A member's signed word on what it holds.
//!
//! It goes to the proposer and to nobody else, and the connection that carries it proves its sender already. It is
//! signed nevertheless: the proposer counts it, keeps the newest of each member and shows them, so that the count can
//! be checked by anybody who does not take the proposer's word for it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::{Hash, signing_bytes};
use crate::import_error::Penalty;
use crate::key::{PublicKey, SecretKey, Signature};
use crate::store::StoreError;

/// The longest name of a program's version, in bytes.
pub const MAX_SOFTWARE: usize = 32;

/// What an acknowledgement says: its member holds this block and all before it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct AckBody {
    /// The network.
    pub chain_id: Hash,
    /// The member.
    pub member: PublicKey,
    /// The block's height; 0 before the first.
    pub height: u64,
    /// The block's hash; the network's id before the first.
    pub hash: Hash,
    /// The version of the member's program, for people: 1 to [`MAX_SOFTWARE`] visible ASCII characters.
    pub software: String,
    /// The newest header version that the member reads.
    pub protocol: u16,
    /// A number that the member's process drew at its start.
    pub run: u64,
    /// Rises with every acknowledgement of that process, so that of two the newer is known.
    pub number: u64,
}

/// A signed acknowledgement. Nothing of it is checked yet: see [`Ack::verify`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Ack {
    /// What it says.
    #[serde(flatten)]
    pub body: AckBody,
    /// The member's signature over that.
    pub signature: Signature,
}

/// An acknowledgement that its member has really signed. Whether it fits to the chain is for
/// [`crate::Ledger::record_ack`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedAck(Ack);

/// An acknowledgement that does not count.
#[derive(Debug, Error)]
pub enum AckError {
    /// It is for another network. The sender's fault.
    #[error("it is for network {0}, not for this one")]
    OtherNetwork(Hash),
    /// It is another member's. The sender's fault.
    #[error("it is the acknowledgement of {0}, not of its sender")]
    OtherMember(PublicKey),
    /// The version's name is too long or not printable. The sender's fault.
    #[error("its `software` must have 1 to {MAX_SOFTWARE} visible ASCII characters")]
    Software,
    /// The signature is not the member's. The sender's fault.
    #[error("its signature does not verify")]
    Signature,
    /// The sender is no member. Its fault.
    #[error("{0} is no member")]
    NotMember(PublicKey),
    /// A newer one of the same process came first. Nobody's fault.
    #[error("a newer one has come already")]
    Overtaken,
    /// The height is above the head here. The sender's fault, unless this node has lost its tail.
    #[error("height {0} is above the head here")]
    AboveHead(u64),
    /// The block of that height is another. The sender holds another chain.
    #[error("the block of height {0} is another here")]
    OtherBlock(u64),
    /// The store failed. Our fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ack {
    /// Signs an acknowledgement. `key` is the one of `body.member`.
    #[must_use]
    pub fn sign(key: &SecretKey, body: AckBody) -> Ack {
        let signature = key.sign(&signing_bytes("ack", &body));
        Ack { body, signature }
    }

    /// Checks all that does not depend on the chain, the signature last. `from` is the peer that has sent it.
    pub fn verify(self, chain_id: Hash, from: PublicKey) -> Result<VerifiedAck, AckError> {
        let body = &self.body;
        if body.chain_id != chain_id {
            return Err(AckError::OtherNetwork(body.chain_id));
        }
        if body.member != from {
            return Err(AckError::OtherMember(body.member));
        }
        let visible = body.software.bytes().all(|byte| byte.is_ascii_graphic());
        if body.software.is_empty() || body.software.len() > MAX_SOFTWARE || !visible {
            return Err(AckError::Software);
        }
        if !from.verify(&signing_bytes("ack", body), &self.signature) {
            return Err(AckError::Signature);
        }
        Ok(VerifiedAck(self))
    }
}

impl VerifiedAck {
    /// What it says.
    #[must_use]
    pub fn body(&self) -> &AckBody {
        &self.0.body
    }

    /// The acknowledgement with its signature, for whoever wants to check it again.
    #[must_use]
    pub fn into_ack(self) -> Ack {
        self.0
    }
}

impl AckError {
    /// What it costs the peer that sent it.
    #[must_use]
    pub fn penalty(&self) -> Penalty {
        match self {
            AckError::Overtaken | AckError::Store(_) => Penalty::None,
            AckError::AboveHead(_) => Penalty::Low,
            AckError::OtherNetwork(_)
            | AckError::OtherMember(_)
            | AckError::Software
            | AckError::Signature
            | AckError::NotMember(_)
            | AckError::OtherBlock(_) => Penalty::High,
        }
    }

    /// All that [`AckError::reason`] may give.
    pub const REASONS: [&str; 9] = [
        "ack_other_network",
        "ack_other_member",
        "ack_field",
        "ack_signature",
        "ack_not_member",
        "ack_overtaken",
        "ack_above_head",
        "ack_other_block",
        "store",
    ];

    /// A short name for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            AckError::OtherNetwork(_) => "ack_other_network",
            AckError::OtherMember(_) => "ack_other_member",
            AckError::Software => "ack_field",
            AckError::Signature => "ack_signature",
            AckError::NotMember(_) => "ack_not_member",
            AckError::Overtaken => "ack_overtaken",
            AckError::AboveHead(_) => "ack_above_head",
            AckError::OtherBlock(_) => "ack_other_block",
            AckError::Store(_) => "store",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Hash = Hash([7; 32]);

    fn body(key: &SecretKey) -> AckBody {
        AckBody {
            chain_id: CHAIN,
            member: key.public(),
            height: 3,
            hash: Hash([3; 32]),
            software: "0.1.0".into(),
            protocol: 1,
            run: 9,
            number: 1,
        }
    }

    #[test]
    fn only_the_members_own_words_are_taken() {
        let key = SecretKey::from_seed(&[1; 32]);
        let other = SecretKey::from_seed(&[2; 32]);
        let ack = Ack::sign(&key, body(&key));
        assert!(ack.clone().verify(CHAIN, key.public()).is_ok());
        assert!(matches!(
            ack.clone().verify(CHAIN, other.public()),
            Err(AckError::OtherMember(_))
        ));
        assert!(matches!(
            ack.clone().verify(Hash::ZERO, key.public()),
            Err(AckError::OtherNetwork(_))
        ));
        let forged = Ack::sign(&other, body(&key));
        assert!(matches!(
            forged.verify(CHAIN, key.public()),
            Err(AckError::Signature)
        ));
        // Each field is under the signature.
        let mut changed = vec![ack; 4];
        changed[0].body.height += 1;
        changed[1].body.hash.0[0] ^= 1;
        changed[2].body.number += 1;
        changed[3].body.protocol += 1;
        for ack in changed {
            assert!(matches!(
                ack.verify(CHAIN, key.public()),
                Err(AckError::Signature)
            ));
        }
    }

    #[test]
    fn a_version_is_short_and_printable() {
        let key = SecretKey::from_seed(&[1; 32]);
        for software in ["", "1.0\u{1b}[2J", "é", &"x".repeat(MAX_SOFTWARE + 1)] {
            let mut body = body(&key);
            body.software = software.into();
            assert!(matches!(
                Ack::sign(&key, body).verify(CHAIN, key.public()),
                Err(AckError::Software)
            ));
        }
    }

    #[test]
    fn an_ack_is_no_vote() {
        // Signed bytes of two kinds of objects never begin alike.
        let key = SecretKey::from_seed(&[1; 32]);
        let signed = signing_bytes("ack", &body(&key));
        assert!(signed.starts_with(b"BLOSM/ack/v1\0"));
    }
}

//! The name of a node on the ledger and the name of a peer are one key in two forms.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};

/// Multihash code of an identity hash: the peer id then holds the key itself.
const IDENTITY_CODE: u64 = 0;

/// The peer id of the node with this ed25519 public key.
///
/// Any 32 bytes give an id; bytes that are no point of the curve name a peer that can never prove itself.
pub fn peer_of_key(key: &[u8; 32]) -> PeerId {
    match ed25519::PublicKey::try_from_bytes(key) {
        Ok(public) => PublicKey::from(public).to_peer_id(),
        // Built by hand as the encoder would: field 1 = ed25519, field 2 = the 32 bytes.
        Err(_) => {
            let mut id = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
            id.extend_from_slice(key);
            PeerId::from_bytes(&id).expect("an identity multihash of 36 bytes is a peer id")
        }
    }
}

/// The ed25519 public key inside a peer id; none when the id is of another kind of key.
pub fn key_of_peer(peer: &PeerId) -> Option<[u8; 32]> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_CODE {
        return None;
    }
    let public = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(public.try_into_ed25519().ok()?.to_bytes())
}

pub(crate) fn keypair(seed: &[u8; 32]) -> Keypair {
    Keypair::ed25519_from_bytes(*seed).expect("any 32 bytes are an ed25519 seed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_peer_name_each_other() {
        let pair = keypair(&[7; 32]);
        let peer = pair.public().to_peer_id();
        let key = key_of_peer(&peer).unwrap();
        assert_eq!(peer_of_key(&key), peer);
        assert!(peer.to_base58().starts_with("12D3KooW"));
    }

    #[test]
    fn every_32_bytes_give_a_peer_id() {
        for byte in 0..=255u8 {
            let peer = peer_of_key(&[byte; 32]);
            if let Some(key) = key_of_peer(&peer) {
                assert_eq!(key, [byte; 32]);
            }
        }
    }

    #[test]
    fn foreign_peer_id_has_no_key() {
        assert_eq!(key_of_peer(&PeerId::random()), None);
    }
}

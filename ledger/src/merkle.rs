//! Merkle trees whose roots are those of RFC 6962.
//!
//! `rs_merkle` builds the trees and proofs, with three rules of ours around it, since by itself it does not tell
//! leaves from inner nodes, accepts an index past the end, and ignores surplus hashes in a proof:
//! a leaf is hashed with the prefix 0x00 and an inner node with 0x01; [`verify`] takes the number of leaves from a
//! header and checks index and proof length against it; the empty tree's root is SHA-256 of nothing.

use borsh::{BorshDeserialize, BorshSerialize};
use rs_merkle::{Hasher, MerkleProof, MerkleTree};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hash::Hash;

/// The most hashes in a path: no tree of this crate has more than 2^32 leaves.
const MAX_PATH: usize = 32;

/// `rs_merkle`'s hasher: combines two children into an inner node.
#[derive(Clone)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    /// `rs_merkle` calls this for inner nodes only (through `concat_and_hash`); leaves are hashed by [`leaf`].
    fn hash(data: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update([1])
            .chain_update(data)
            .finalize()
            .into()
    }
}

/// The hash of a leaf.
#[must_use]
pub fn leaf(data: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([0])
            .chain_update(data)
            .finalize()
            .into(),
    )
}

/// The hash of an inner node.
#[must_use]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([1])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The root of a tree without leaves: SHA-256 of nothing, as in RFC 6962.
#[must_use]
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// The root over `leaves`, given as data.
pub fn root<D: AsRef<[u8]>>(leaves: impl IntoIterator<Item = D>) -> Hash {
    root_of_hashes(leaves.into_iter().map(|data| leaf(data.as_ref())))
}

/// The root over leaves that are hashed already.
pub(crate) fn root_of_hashes(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    tree_of_hashes(leaves).root().map_or_else(empty_root, Hash)
}

fn tree<D: AsRef<[u8]>>(leaves: impl IntoIterator<Item = D>) -> MerkleTree<Rfc6962> {
    tree_of_hashes(leaves.into_iter().map(|data| leaf(data.as_ref())))
}

fn tree_of_hashes(leaves: impl IntoIterator<Item = Hash>) -> MerkleTree<Rfc6962> {
    let leaves: Vec<[u8; 32]> = leaves.into_iter().map(|leaf| leaf.0).collect();
    MerkleTree::from_leaves(&leaves)
}

/// The path from one leaf to the root.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Proof {
    /// The leaf's place, counted from 0.
    pub index: u32,
    /// The siblings on the way up, lowest first.
    pub path: Vec<Hash>,
}

/// The proof for leaf `index` of `leaves`, or `None` past the end.
#[must_use]
pub fn prove<D: AsRef<[u8]>>(leaves: &[D], index: u32) -> Option<Proof> {
    if index as usize >= leaves.len() {
        return None;
    }
    let proof = tree(leaves).proof(&[index as usize]);
    Some(Proof {
        index,
        path: proof.proof_hashes().iter().copied().map(Hash).collect(),
    })
}

/// Whether `data` is leaf `proof.index` of the tree with this root and exactly `count` leaves.
///
/// `count` must come from a certified header, never from whoever gives the proof.
#[must_use]
pub fn verify(root: &Hash, count: u32, proof: &Proof, data: &[u8]) -> bool {
    if proof.index >= count
        || proof.path.len() > MAX_PATH
        || proof.path.len() != path_length(proof.index, count)
    {
        return false;
    }
    let path = proof.path.iter().map(|hash| hash.0).collect();
    MerkleProof::<Rfc6962>::new(path).verify(root.0, &[proof.index as usize], &[leaf(data).0], count as usize)
}

/// How many siblings a leaf has on its way up: one per level, but none where its node is the odd last one.
fn path_length(index: u32, count: u32) -> usize {
    let (mut index, mut last, mut length) = (index, count - 1, 0);
    while last > 0 {
        if index % 2 == 1 || index != last {
            length += 1;
        }
        index /= 2;
        last /= 2;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u32) -> Vec<Vec<u8>> {
        (0..count).map(|i| i.to_be_bytes().to_vec()).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_proves_itself_and_nothing_else() {
        for count in 1..=33 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for index in 0..count {
                let proof = prove(&leaves, index).unwrap();
                for (other, data) in leaves.iter().enumerate() {
                    assert_eq!(
                        verify(&root, count, &proof, data),
                        other == index as usize,
                        "{index} of {count}"
                    );
                }
            }
            assert_eq!(prove(&leaves, count), None);
        }
    }

    #[test]
    fn one_leaf_is_its_own_root() {
        assert_eq!(root([b"x"]), leaf(b"x"));
        assert_ne!(
            leaf(&[node(&leaf(b"a"), &leaf(b"b")).0].concat()),
            node(&leaf(b"a"), &leaf(b"b"))
        );
    }

    #[test]
    fn an_index_past_the_end_is_refused() {
        let leaves = leaves(3);
        let root = root(&leaves);
        let mut proof = prove(&leaves, 2).unwrap();
        for index in [3, 4, 5, 6, u32::MAX] {
            proof.index = index;
            assert!(!verify(&root, 3, &proof, &leaves[2]), "index {index} of 3");
        }
    }

    #[test]
    fn a_leaf_made_of_two_nodes_is_refused() {
        // hash(a) || hash(b) as a 64-byte "transaction" one level up: the forgery that leaf and node prefixes end.
        let leaves = leaves(4);
        let root = root(&leaves);
        let forged = [leaf(&leaves[0]).0, leaf(&leaves[1]).0].concat();
        let above = node(&leaf(&leaves[2]), &leaf(&leaves[3]));
        for count in [1, 2, 3, 4] {
            let proof = Proof {
                index: 0,
                path: vec![above],
            };
            assert!(!verify(&root, count, &proof, &forged), "count {count}");
        }
        assert_ne!(
            super::root([forged.as_slice(), &[above.0, above.0].concat()]),
            root
        );
    }

    #[test]
    fn surplus_missing_or_empty_paths_are_refused() {
        let leaves = leaves(5);
        let root = root(&leaves);
        let proof = prove(&leaves, 1).unwrap();
        let mut longer = proof.clone();
        longer.path.push(Hash::ZERO);
        assert!(!verify(&root, 5, &longer, &leaves[1]));
        let mut shorter = proof.clone();
        shorter.path.pop();
        assert!(!verify(&root, 5, &shorter, &leaves[1]));
        assert!(!verify(
            &root,
            5,
            &Proof {
                index: 1,
                path: vec![]
            },
            &leaves[1]
        ));
        assert!(!verify(
            &root,
            0,
            &Proof {
                index: 0,
                path: vec![]
            },
            &leaves[0]
        ));
        let endless = Proof {
            index: 0,
            path: vec![Hash::ZERO; 100],
        };
        assert!(!verify(&root, u32::MAX, &endless, &leaves[0]));
    }

    #[test]
    fn a_wrong_count_is_refused() {
        let leaves = leaves(5);
        let root = root(&leaves);
        let proof = prove(&leaves, 4).unwrap();
        assert!(verify(&root, 5, &proof, &leaves[4]));
        for count in [0, 1, 2, 3, 4, 6, 7, 8, 16] {
            assert!(!verify(&root, count, &proof, &leaves[4]), "count {count}");
        }
    }
}

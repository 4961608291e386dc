//! The sessions root: proves who owns a session now, and costs 12 hashes for a session that changed.
//!
//! Sessions fall into 4,096 buckets by the first 12 bits of their id. A bucket is a leaf: its entries in id order,
//! each the id and the hash of the record. The inner nodes are kept, so that only the paths above touched buckets are
//! hashed again.

use std::collections::BTreeSet;

use imbl::{OrdMap, Vector};

use crate::hash::Hash;
use crate::merkle;
use crate::session::SessionRecord;
use crate::token::SessionId;

/// The number of buckets.
pub const BUCKETS: usize = 4096;

/// The kept tree. Cheap to clone.
///
/// Nodes lie as in a heap: the root at 1, the children of `i` at `2i` and `2i + 1`, bucket `b` at `BUCKETS + b`.
#[derive(Debug, Clone)]
pub(crate) struct SessionsTree {
    nodes: Vector<Hash>,
}

impl SessionsTree {
    /// The tree of no session.
    pub(crate) fn empty() -> SessionsTree {
        let mut nodes = vec![Hash::ZERO; 2 * BUCKETS];
        nodes[BUCKETS..].fill(merkle::leaf(&[]));
        for i in (1..BUCKETS).rev() {
            nodes[i] = merkle::node(&nodes[2 * i], &nodes[2 * i + 1]);
        }
        SessionsTree { nodes: nodes.into() }
    }

    pub(crate) fn root(&self) -> Hash {
        self.nodes[1]
    }

    /// Hashes the buckets of `touched` sessions and the paths above them again.
    pub(crate) fn update(
        &mut self,
        sessions: &OrdMap<SessionId, SessionRecord>,
        touched: impl IntoIterator<Item = SessionId>,
    ) {
        let mut level: BTreeSet<usize> = touched.into_iter().map(|id| usize::from(id.bucket())).collect();
        for &bucket in &level {
            self.nodes
                .set(BUCKETS + bucket, bucket_leaf(sessions, bucket as u16));
        }
        level = level.into_iter().map(|bucket| (BUCKETS + bucket) / 2).collect();
        while !level.is_empty() && !level.contains(&0) {
            for &i in &level {
                self.nodes
                    .set(i, merkle::node(&self.nodes[2 * i], &self.nodes[2 * i + 1]));
            }
            level = level.into_iter().map(|i| i / 2).collect();
        }
    }
}

/// A bucket's leaf over its entries in id order.
fn bucket_leaf(sessions: &OrdMap<SessionId, SessionRecord>, bucket: u16) -> Hash {
    let (mut first, mut last) = ([0u8; 32], [0xffu8; 32]);
    first[..2].copy_from_slice(&(bucket << 4).to_be_bytes());
    last[..2].copy_from_slice(&((bucket << 4) | 0xf).to_be_bytes());
    let mut entries = Vec::new();
    for (id, record) in sessions.range(SessionId(first)..=SessionId(last)) {
        entries.extend_from_slice(&id.0);
        entries.extend_from_slice(&Hash::of("session-record", record).0);
    }
    merkle::leaf(&entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;
    use crate::session::SessionStatus;

    fn record(epoch: u64) -> SessionRecord {
        SessionRecord {
            service: "counter".into(),
            opener: PublicKey([1; 32]),
            owner: PublicKey([1; 32]),
            epoch,
            status: SessionStatus::Open,
            metadata: None,
            invited: vec![],
            claims: vec![],
            since: Hash::ZERO,
            opened_height: 1,
        }
    }

    #[test]
    fn the_empty_root_is_that_of_4096_empty_leaves() {
        assert_eq!(
            SessionsTree::empty().root(),
            merkle::root(std::iter::repeat_n([], BUCKETS))
        );
    }

    #[test]
    fn updating_step_by_step_equals_building_at_once() {
        let ids: Vec<SessionId> = (0..200u16)
            .map(|i| SessionId(Hash::digest("test", &i.to_be_bytes()).0))
            .collect();
        let mut sessions = OrdMap::new();
        let mut stepwise = SessionsTree::empty();
        for (epoch, id) in ids.iter().enumerate() {
            sessions.insert(*id, record(epoch as u64));
            stepwise.update(&sessions, [*id]);
        }
        let mut at_once = SessionsTree::empty();
        at_once.update(&sessions, ids.iter().copied());
        assert_eq!(stepwise.root(), at_once.root());
        let direct = merkle::root((0..BUCKETS as u16).map(|bucket| {
            let mut data = Vec::new();
            for (id, record) in sessions.iter().filter(|(id, _)| id.bucket() == bucket) {
                data.extend_from_slice(&id.0);
                data.extend_from_slice(&Hash::of("session-record", record).0);
            }
            data
        }));
        assert_eq!(stepwise.root(), direct);

        sessions.insert(ids[0], record(9));
        at_once.update(&sessions, [ids[0]]);
        assert_ne!(stepwise.root(), at_once.root());
        at_once.update(&sessions, []);
    }

    #[test]
    fn buckets_take_the_first_twelve_bits() {
        let mut id = [0u8; 32];
        id[..2].copy_from_slice(&[0xab, 0xcd]);
        assert_eq!(SessionId(id).bucket(), 0xabc);
    }
}

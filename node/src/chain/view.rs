//! What everyone else reads of the chain.

use std::fmt;
use std::sync::Arc;

use blosm_ledger::{Count, Evidence, Hash, Ledger, Newer, State};

/// The chain after one block. Cheap to keep: it shares its memory with its neighbours.
#[derive(Debug, Clone)]
pub struct ChainView {
    /// The height of the newest block here; 0 before the first.
    pub height: u64,
    /// Its hash; the network's id before the first block.
    pub hash: Hash,
    /// Its time in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// The highest height that this node knows 90 % of the members to hold. Never falls.
    pub confirmed_height: u64,
    /// How many members hold the newest blocks, the highest first, as the proposer said last.
    pub newest: Arc<[Count]>,
    /// Why no blocks are imported, when a newer version of this program is needed for that.
    pub needs: Option<Needs>,
    /// Proofs that the authority sealed two blocks of one height, oldest first.
    pub evidence: Arc<[Evidence]>,
    /// Whether this authority seals nothing because of them.
    pub halted: bool,
    /// Members and sessions after that block.
    pub state: State,
    /// Rises with every change of this view.
    pub generation: u64,
}

/// A block that only a newer version of this program can read. The node serves on with what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The block's height.
    pub height: u64,
    /// What it has.
    pub newer: Newer,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Needs { height, newer } = self;
        write!(
            f,
            "block {height} has {newer}; install a newer blosm on this node"
        )
    }
}

/// What others have said of the chain, as far as the own chain bears it out.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) confirmed_height: u64,
    pub(super) newest: Arc<[Count]>,
    pub(super) needs: Option<Needs>,
}

impl ChainView {
    pub(super) fn of(ledger: &Ledger, heard: &Heard, generation: u64) -> ChainView {
        let head = ledger.head();
        ChainView {
            height: head.height,
            hash: head.hash,
            timestamp_ms: head.timestamp_ms,
            confirmed_height: heard.confirmed_height.max(ledger.confirmed_height()),
            newest: heard.newest.clone(),
            needs: heard.needs,
            evidence: ledger.evidence().into(),
            halted: ledger.is_halted(),
            state: ledger.state().clone(),
            generation,
        }
    }
}

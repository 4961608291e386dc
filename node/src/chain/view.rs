//! What everyone else reads of the chain.

use blosm_ledger::{Hash, Ledger, State};

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
    /// Members and sessions after that block.
    pub state: State,
    /// Rises with every change of this view.
    pub generation: u64,
}

impl ChainView {
    pub(super) fn of(ledger: &Ledger, confirmed_height: u64, generation: u64) -> ChainView {
        let head = ledger.head();
        ChainView {
            height: head.height,
            hash: head.hash,
            timestamp_ms: head.timestamp_ms,
            confirmed_height: confirmed_height.max(ledger.confirmed_height()),
            state: ledger.state().clone(),
            generation,
        }
    }
}

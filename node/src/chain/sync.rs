//! Catching up: asking peers for their heads and pulling the blocks that are missing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use blosm_ledger::GossipVerdict;
use blosm_net::{PeerId, key_of_peer, peer_of_key};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::ImportAnswer;
use super::handle::Shared;
use super::wire::{LedgerRequest, LedgerResponse, MAX_RANGE_BLOCKS, WireHead};

/// How long a peer may take to name its head.
pub(super) const HEAD_WAIT: Duration = Duration::from_secs(2);
/// How long a peer may take to send a range; the protocol's own limit.
pub(super) const RANGE_WAIT: Duration = Duration::from_secs(10);

/// How long a peer that did not have the blocks of which it spoke is not asked again.
const DISTRUST: Duration = Duration::from_secs(2);

/// Pulls blocks, one peer at a time.
#[derive(Debug, Default)]
pub(super) struct Syncer {
    /// Two peers that are ahead mostly have the same blocks: whoever waits here finds them imported.
    one_at_a_time: Mutex<()>,
    /// Who has lately given less than he spoke of, and when.
    broken: std::sync::Mutex<BTreeMap<PeerId, Instant>>,
}

impl Syncer {
    /// Brings this chain to at least `target`: from `peer` first, then from any other that is ahead. Returns whether it
    /// got there.
    pub(super) async fn reach(&self, shared: &Shared, peer: PeerId, target: u64) -> bool {
        let _turn = self.one_at_a_time.lock().await;
        if shared.snapshot().height >= target {
            return true;
        }
        // Blocks of a far future are cheap to send: each of them must not cost a round of questions.
        if self.is_broken(&peer) {
            return false;
        }
        if self.pull(shared, peer, target).await {
            return true;
        }
        self.distrust(peer);
        let others: Vec<_> = shared
            .net
            .connected()
            .into_iter()
            .filter(|other| !self.is_broken(other))
            .collect();
        let mut heads = heads(shared, &others, HEAD_WAIT).await;
        heads.sort_unstable_by_key(|(_, head)| std::cmp::Reverse(head.height));
        for (other, head) in heads {
            if head.height <= shared.snapshot().height {
                continue;
            }
            if self.pull(shared, other, target.min(head.height)).await {
                if shared.snapshot().height >= target {
                    return true;
                }
            } else {
                self.distrust(other);
            }
        }
        shared.snapshot().height >= target
    }

    fn is_broken(&self, peer: &PeerId) -> bool {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get(peer).is_some_and(|since| since.elapsed() < DISTRUST)
    }

    fn distrust(&self, peer: PeerId) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.retain(|_, since| since.elapsed() < DISTRUST);
        broken.insert(peer, Instant::now());
    }

    /// Asks the members for their heads until all of them have answered or the time is over, and follows the best.
    pub(super) async fn to_best(&self, shared: &Shared, limit: Duration) {
        let end = Instant::now() + limit;
        let mut peers = shared.net.watch_peers();
        let mut answered: BTreeSet<PeerId> = BTreeSet::new();
        let mut best: Option<(PeerId, WireHead)> = None;
        loop {
            let connected: Vec<PeerId> = peers.borrow_and_update().keys().copied().collect();
            let new: Vec<PeerId> = connected
                .into_iter()
                .filter(|peer| !answered.contains(peer))
                .collect();
            for (peer, head) in heads(shared, &new, HEAD_WAIT.min(end - Instant::now())).await {
                answered.insert(peer);
                if best.is_none_or(|(_, found)| head.height > found.height) {
                    best = Some((peer, head));
                }
            }
            // Blocks are final and the proposer seals them: nobody holds more than it, and members that are off are not
            // waited for.
            if answered.contains(&shared.proposer_peer()) {
                break;
            }
            let wanted = others(shared);
            if !wanted.is_empty() && wanted.is_subset(&answered) {
                break;
            }
            // Without a block nobody's name is known: the authority has nobody to ask, the others anybody who answers.
            if wanted.is_empty() && (shared.is_proposer() || !answered.is_empty()) {
                break;
            }
            // A peer that has just connected or did not answer is asked again.
            let again = tokio::time::timeout(Duration::from_millis(500), peers.changed());
            if tokio::time::timeout_at(end, again).await.is_err() {
                break;
            }
        }
        if let Some((peer, head)) = best
            && head.height > shared.snapshot().height
            && tokio::time::timeout_at(end, self.reach(shared, peer, head.height))
                .await
                .is_err()
        {
            tracing::info!(
                target = head.height,
                height = shared.snapshot().height,
                "still catching up"
            );
        }
    }

    /// Pulls from one peer until `target` is here or the peer gives nothing that helps.
    async fn pull(&self, shared: &Shared, peer: PeerId, target: u64) -> bool {
        loop {
            let height = shared.snapshot().height;
            if height >= target {
                return true;
            }
            // What only a newer version can read is tried again, but not pulled in bulk for nothing.
            let max = match shared.snapshot().needs {
                Some(_) => 1,
                None => MAX_RANGE_BLOCKS,
            };
            let request = LedgerRequest::Range {
                from: height + 1,
                max,
            };
            let Some(LedgerResponse::Blocks(blocks)) = shared.ask(peer, &request, RANGE_WAIT).await else {
                tracing::debug!(%peer, target, "no blocks from this peer");
                return false;
            };
            if blocks.is_empty() {
                return false;
            }
            for block in blocks {
                match shared.ledger.import(block).await {
                    Some(imported) if imported.held => {}
                    Some(imported) => {
                        if imported.verdict == GossipVerdict::Reject {
                            tracing::warn!(%peer, height = height + 1, "peer sent a block that is not valid here");
                            blame_for(shared, peer, &imported);
                        }
                        return false;
                    }
                    None => return false,
                }
            }
            if shared.snapshot().height <= height {
                return false;
            }
        }
    }
}

/// A peer that was asked for blocks has sent one that is not valid here. One that was sealed all the same is held against
/// nobody who was asked: where the authority has sealed twice, each half is on a chain of its own.
pub(super) fn blame_for(shared: &Shared, peer: PeerId, imported: &ImportAnswer) {
    if imported.verdict == GossipVerdict::Reject && imported.sealed.is_none() {
        shared.blame(peer, "it was asked for blocks and sent one that nobody sealed");
    }
}

/// The members other than this node, as peers.
pub(super) fn others(shared: &Shared) -> BTreeSet<PeerId> {
    let view = shared.snapshot();
    let keys = view.state.members().iter().map(|(key, _)| key);
    keys.filter(|key| **key != shared.me)
        .map(|key| peer_of_key(&key.0))
        .collect()
}

/// The heads of those peers that answer in time.
pub(super) async fn heads(shared: &Shared, peers: &[PeerId], limit: Duration) -> Vec<(PeerId, WireHead)> {
    let ask = |peer: PeerId| async move {
        match shared.ask(peer, &LedgerRequest::Head, limit).await {
            Some(LedgerResponse::Head(head)) => Some((peer, head)),
            _ => None,
        }
    };
    let asked: FuturesUnordered<_> = peers.iter().copied().map(ask).collect();
    asked.filter_map(|answer| async move { answer }).collect().await
}

/// Whether a peer may submit, push and acknowledge: a member, or an authority of the genesis.
pub(super) fn is_trusted(shared: &Shared, peer: &PeerId) -> bool {
    let view = shared.snapshot();
    key_of_peer(peer).is_some_and(|key| {
        let key = blosm_ledger::PublicKey(key);
        key == shared.proposer || view.state.members().contains(&key)
    })
}

//! The authority's start: it seals nothing before it knows that no member holds more than itself.

use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Hash, MAX_BLOCK_BYTES, Refusal};
use blosm_net::{PeerId, Topic};

use super::client::Call;
use super::handle::{BlockId, Shared};
use super::sync::{HEAD_WAIT, heads, others};
use super::wire::WireHead;

/// The pause between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(500);
/// The operator is told this often why nothing is sealed, in rounds.
const WARN_EVERY: u32 = 20;

/// Opens the seal as soon as it is safe, and publishes the head again: it may have been sealed right before the end.
pub(super) async fn run(shared: Arc<Shared>, alone: bool) {
    if shared.snapshot().halted {
        tracing::error!("{}", Refusal::Halted);
        return;
    }
    let mut round = 0;
    loop {
        let members = others(&shared);
        if alone || members.is_empty() {
            break;
        }
        let connected: Vec<PeerId> = members
            .iter()
            .copied()
            .filter(|peer| shared.net.is_connected(peer))
            .collect();
        let heads = heads(&shared, &connected, HEAD_WAIT).await;
        match judge(shared.snapshot().height, members.len(), &heads) {
            Judgement::Behind { peer, height } => {
                if shared.syncer.reach(&shared, peer, height).await {
                    tracing::info!(height, "caught up with the members before sealing");
                    continue;
                }
            }
            Judgement::Enough => match conflict(&shared, &heads).await {
                None => break,
                Some(peer) if round % WARN_EVERY == 0 => {
                    tracing::error!(%peer, "a member holds another chain than this authority; nothing is sealed");
                }
                Some(_) => {}
            },
            Judgement::Few { missing } if round % WARN_EVERY == 1 => {
                tracing::warn!(
                    missing,
                    "the authority seals when half of the other members have told their head; start it with --alone if they are gone for good"
                );
            }
            Judgement::Few { .. } => {}
        }
        round += 1;
        let mut peers = shared.net.watch_peers();
        // Either is a reason to ask again.
        let _ = tokio::time::timeout(PAUSE, peers.changed()).await;
    }
    shared.ledger.tell(Call::Open).await;
    let height = shared.snapshot().height;
    tracing::info!(height, "this authority seals");
    if let Some(head) = shared.ledger.block(BlockId::Height(height)).await {
        let bytes = head.encode();
        debug_assert!(bytes.len() <= MAX_BLOCK_BYTES, "it was imported within the limit");
        if let Err(error) = shared.net.publish(Topic::Block, bytes) {
            tracing::debug!(%error, "head not published again");
        }
    }
}

/// What the heads of the members mean.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// This member holds more.
    Behind { peer: PeerId, height: u64 },
    /// At least half of the others have answered, and none of them holds more.
    Enough,
    /// So many answers are missing to the half.
    Few { missing: usize },
}

fn judge(height: u64, others: usize, heads: &[(PeerId, WireHead)]) -> Judgement {
    if let Some((peer, head)) = heads.iter().max_by_key(|(_, head)| head.height)
        && head.height > height
    {
        return Judgement::Behind {
            peer: *peer,
            height: head.height,
        };
    }
    match others.div_ceil(2).saturating_sub(heads.len()) {
        0 => Judgement::Enough,
        missing => Judgement::Few { missing },
    }
}

/// A member whose head is not on this chain.
async fn conflict(shared: &Shared, heads: &[(PeerId, WireHead)]) -> Option<PeerId> {
    for (peer, head) in heads {
        // A node without a block has the network's id as its hash, which its protocols carry already.
        if head.height > 0 && hash_at(shared, head.height).await != Some(head.hash) {
            return Some(*peer);
        }
    }
    None
}

async fn hash_at(shared: &Shared, height: u64) -> Option<Hash> {
    Some(shared.ledger.block(BlockId::Height(height)).await?.hash())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_others_must_answer_and_none_may_hold_more() {
        let heads = |heights: &[u64]| -> Vec<(PeerId, WireHead)> {
            let head = |height: &u64| WireHead {
                height: *height,
                hash: Hash::ZERO,
                confirmed_height: 0,
            };
            heights
                .iter()
                .map(|height| (PeerId::random(), head(height)))
                .collect()
        };
        assert_eq!(judge(5, 4, &heads(&[])), Judgement::Few { missing: 2 });
        assert_eq!(judge(5, 4, &heads(&[5])), Judgement::Few { missing: 1 });
        assert_eq!(judge(5, 4, &heads(&[5, 0])), Judgement::Enough);
        assert_eq!(judge(5, 3, &heads(&[5])), Judgement::Few { missing: 1 });
        assert_eq!(judge(5, 1, &heads(&[4])), Judgement::Enough);
        let ahead = heads(&[5, 7, 6]);
        assert_eq!(
            judge(5, 40, &ahead),
            Judgement::Behind {
                peer: ahead[1].0,
                height: 7
            }
        );
    }
}

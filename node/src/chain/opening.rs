//! The authority's start: it seals nothing before it knows that no member holds more than itself.
//!
//! A head is a claim. It counts if it is a block of the chain here, or when its block is shown with a seal: then the
//! blocks up to it have to be here first. Whoever claims another head and shows nothing counts like one that is silent,
//! so that no single member decides whether the network goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Hash, MAX_BLOCK_BYTES, PublicKey, Refusal};
use blosm_net::{PeerId, Topic, key_of_peer};
use futures::future::join_all;
use tokio::time::Instant;

use super::client::Call;
use super::handle::{BlockId, Shared};
use super::sync::{HEAD_WAIT, RANGE_WAIT, blame_for, heads, others};
use super::wire::{LedgerRequest, LedgerResponse, WireHead};

/// The pause between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(500);
/// From the start to the first word to the operator about why nothing is sealed: most starts take less.
const WARN_AFTER: Duration = Duration::from_secs(1);
/// The operator is told again this often.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How often a block is asked for that a member claims: its link may be slow.
const TRIES: u32 = 3;
/// For so long a claim without proof is not looked at again.
const VOID: Duration = Duration::from_secs(30);

/// Why an authority has not begun to seal since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unopened {
    /// So many of the other members have yet to tell a head of its chain.
    Few {
        /// How many.
        missing: usize,
    },
    /// A member has shown a sealed block that is not here.
    Behind {
        /// The member's label.
        member: String,
        /// The block's height.
        height: u64,
    },
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this authority does not seal yet: ")?;
        match self {
            Unopened::Few { missing } => write!(
                f,
                "{missing} more of the other members have to tell their head; start it with --alone if they are gone for good"
            ),
            Unopened::Behind { member, height } => write!(
                f,
                "{member} holds the sealed block {height}, and not all blocks up to it could be had yet"
            ),
        }
    }
}

/// Opens the seal as soon as it is safe, and publishes the head again: it may have been sealed right before the end.
pub(super) async fn run(shared: Arc<Shared>, alone: bool) {
    let mut void = Void::default();
    let mut warn_at = Instant::now() + WARN_AFTER;
    loop {
        let members = others(&shared);
        let words = if alone || members.is_empty() {
            Vec::new()
        } else {
            let connected = members.iter().filter(|peer| shared.net.is_connected(peer));
            listen(&shared, connected.copied().collect(), &mut void).await
        };
        // Also what a member has just shown may be evidence.
        if shared.snapshot().halted {
            shared.set_unopened(None);
            tracing::error!("{}", Refusal::Halted);
            return;
        }
        let why = match judge(members.len(), &words) {
            _ if alone => break,
            Judgement::Enough => break,
            Judgement::Behind { peer, height } => {
                if shared.syncer.reach(&shared, peer, height).await {
                    tracing::info!(height, "caught up with the members before sealing");
                    continue;
                }
                let member = name(&shared, &peer);
                Unopened::Behind { member, height }
            }
            Judgement::Few { missing } => Unopened::Few { missing },
        };
        if Instant::now() >= warn_at {
            warn_at = Instant::now() + WARN_EVERY;
            tracing::warn!("{why}");
            complain(&shared, &words);
        }
        shared.set_unopened(Some(why));
        let mut peers = shared.net.watch_peers();
        // Either is a reason to ask again.
        let _ = tokio::time::timeout(PAUSE, peers.changed()).await;
    }
    shared.ledger.tell(Call::Open).await;
    shared.set_unopened(None);
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

/// What a member's head is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It is a block of the chain here.
    Same,
    /// It is above the head here, and the authority has sealed it.
    Sealed { height: u64 },
    /// Nothing shows that the authority has sealed it, or it is no news.
    Void,
}

/// Claims that were looked at and are worth nothing, and when that was.
#[derive(Debug, Default)]
struct Void(BTreeMap<(PeerId, u64, Hash), Instant>);

impl Void {
    fn knows(&mut self, peer: PeerId, head: &WireHead) -> bool {
        self.0.retain(|_, since| since.elapsed() < VOID);
        self.0.contains_key(&(peer, head.height, head.hash))
    }

    fn note(&mut self, peer: PeerId, head: &WireHead) {
        self.0.insert((peer, head.height, head.hash), Instant::now());
    }
}

/// Asks these members for their heads, and those whose head is another for its block.
async fn listen(shared: &Shared, connected: Vec<PeerId>, void: &mut Void) -> Vec<(PeerId, Word)> {
    let (mut words, mut claims) = (Vec::new(), Vec::new());
    for (peer, head) in heads(shared, &connected, HEAD_WAIT).await {
        if is_ours(shared, &head).await {
            words.push((peer, Word::Same));
        } else if void.knows(peer, &head) {
            words.push((peer, Word::Void));
        } else {
            claims.push((peer, head));
        }
    }
    let proofs = claims
        .into_iter()
        .map(|(peer, head)| async move { (peer, head, prove(shared, peer, &head).await) });
    for (peer, head, word) in join_all(proofs).await {
        // Whoever has gone meanwhile has said nothing, and is asked again when it is back.
        let Some(word) = word else { continue };
        if word == Word::Void {
            tracing::debug!(%peer, height = head.height, "a head that nothing shows to be sealed");
            void.note(peer, &head);
        }
        words.push((peer, word));
    }
    words
}

/// Whether a head is a block of the chain here.
async fn is_ours(shared: &Shared, head: &WireHead) -> bool {
    // A node without a block has the network's id as its hash, which its protocols carry already.
    head.height == 0
        || shared
            .ledger
            .block(BlockId::Height(head.height))
            .await
            .is_some_and(|block| block.hash() == head.hash)
}

/// Has a member show the block that it claims as its head; none when it has gone meanwhile. A sealed block that
/// contradicts the one here is evidence, which the import keeps.
async fn prove(shared: &Shared, peer: PeerId, head: &WireHead) -> Option<Word> {
    let ours = shared.snapshot().height;
    let request = LedgerRequest::Range {
        from: head.height,
        max: 1,
    };
    for _ in 0..TRIES {
        match shared.ask(peer, &request, RANGE_WAIT).await {
            Some(LedgerResponse::Blocks(blocks)) => {
                let block = blocks.into_iter().next();
                let imported = match block {
                    Some(block) => shared.ledger.import(block).await,
                    None => None,
                };
                if let Some(imported) = &imported {
                    blame_for(shared, peer, imported);
                }
                // An old block shows nothing of a new one, and a later version's nothing that can be read.
                let shown = imported.and_then(|imported| imported.sealed) == Some(head.height);
                return Some(if shown && head.height > ours {
                    Word::Sealed { height: head.height }
                } else {
                    Word::Void
                });
            }
            _ if !shared.net.is_connected(&peer) => return None,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    Some(Word::Void)
}

/// What the heads of the members mean.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// This member holds more.
    Behind { peer: PeerId, height: u64 },
    /// At least half of the others have told a head of the chain here, and none of them has shown more.
    Enough,
    /// So many answers are missing to the half.
    Few { missing: usize },
}

fn judge(others: usize, words: &[(PeerId, Word)]) -> Judgement {
    let sealed = words.iter().filter_map(|(peer, word)| match word {
        Word::Sealed { height } => Some((*height, *peer)),
        Word::Same | Word::Void => None,
    });
    if let Some((height, peer)) = sealed.max() {
        return Judgement::Behind { peer, height };
    }
    let same = words.iter().filter(|(_, word)| *word == Word::Same).count();
    match others.div_ceil(2).saturating_sub(same) {
        0 => Judgement::Enough,
        missing => Judgement::Few { missing },
    }
}

/// Names those whose claim counts for nothing.
fn complain(shared: &Shared, words: &[(PeerId, Word)]) {
    for (peer, _) in words.iter().filter(|(_, word)| *word == Word::Void) {
        let member = name(shared, peer);
        tracing::warn!(%peer, member, "this member tells of a head and does not show that it is sealed; it is not counted");
    }
}

/// What people call a member.
fn name(shared: &Shared, peer: &PeerId) -> String {
    let view = shared.snapshot();
    key_of_peer(peer)
        .and_then(|key| view.state.members().get(&PublicKey(key)))
        .map_or_else(|| peer.to_string(), |member| member.label.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_others_must_be_on_this_chain_and_none_may_show_more() {
        use Word::{Same, Void};
        let sealed = |height| Word::Sealed { height };
        let few = |missing| Judgement::Few { missing };
        let table: [(&str, usize, &[Word], Judgement); 9] = [
            ("nobody has answered", 4, &[], few(2)),
            ("one of two", 4, &[Same], few(1)),
            ("two of two", 4, &[Same, Same], Judgement::Enough),
            ("half of three is two", 3, &[Same], few(1)),
            ("one is all", 1, &[Same], Judgement::Enough),
            (
                "a claim without proof is no answer",
                4,
                &[Same, Void, Void],
                few(1),
            ),
            (
                "and keeps nobody from sealing",
                4,
                &[Void, Same, Same],
                Judgement::Enough,
            ),
            ("alone with a liar", 1, &[Void], few(1)),
            ("there are no others", 0, &[], Judgement::Enough),
        ];
        let named = |words: &[Word]| -> Vec<(PeerId, Word)> {
            words.iter().map(|word| (PeerId::random(), *word)).collect()
        };
        for (desc, others, words, expected) in table {
            assert_eq!(judge(others, &named(words)), expected, "{desc}");
        }
        let ahead = named(&[Same, sealed(6), sealed(7), Void, Same]);
        assert_eq!(
            judge(4, &ahead),
            Judgement::Behind {
                peer: ahead[2].0,
                height: 7
            },
            "who has shown more is waited for, whoever else has answered"
        );
    }

    #[test]
    fn the_operator_reads_what_is_missing() {
        let few = Unopened::Few { missing: 2 }.to_string();
        assert!(few.contains("2 more") && few.contains("--alone"), "{few}");
        let behind = Unopened::Behind {
            member: "host2".to_owned(),
            height: 7,
        };
        assert!(behind.to_string().contains("host2 holds the sealed block 7"));
    }
}

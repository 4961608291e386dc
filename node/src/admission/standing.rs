//! What a node does when its authority takes it for a stranger. It may have been evicted while it was off: then nobody
//! sends it the block, and by its own chain it is a member for ever.

use std::sync::atomic::{AtomicBool, Ordering};

use blosm_ledger::PublicKey;
use blosm_net::{NetHandle, PeerId, Protocol, peer_of_key};

use super::wire::{Denial, JoinRequest, JoinResponse};
use crate::chain::ChainHandle;

/// Asks the authority what this node is to it.
#[derive(Debug)]
pub(crate) struct Standing {
    me: PublicKey,
    chain: ChainHandle,
    net: NetHandle,
    /// Whether the operator was told.
    told: AtomicBool,
}

impl Standing {
    pub(crate) fn new(me: PublicKey, chain: ChainHandle, net: NetHandle) -> Self {
        Self {
            me,
            chain,
            net,
            told: AtomicBool::new(false),
        }
    }

    /// Whether to ask this peer, which has just connected: the authority, unless the eviction is on the own chain.
    pub(crate) fn concerns(&self, peer: &PeerId) -> bool {
        let authority = self.chain.proposer();
        let view = self.chain.snapshot();
        authority != self.me
            && *peer == peer_of_key(&authority.0)
            && view.state.members().evicted(&self.me).is_none()
    }

    /// Asks the authority, if it offers this node nothing that members speak. One that says that this node was evicted lets
    /// it in for a moment: the chain up to there is fetched like any other, and what it says counts, not the answer.
    pub(crate) async fn ask(&self) {
        let authority = self.chain.proposer();
        if !self.chain.is_shut_out_by(authority).await {
            return;
        }
        let height = self.chain.snapshot().height;
        let request = JoinRequest::Standing { height }.encode();
        let peer = peer_of_key(&authority.0);
        let answer = match self.net.request(peer, Protocol::Join, request).await {
            Ok(answer) => JoinResponse::decode(&answer),
            Err(error) => {
                tracing::debug!(%error, "the authority does not say what this node is to it");
                return;
            }
        };
        match answer {
            Some(JoinResponse::Denied(Denial::Evicted { height, reason })) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        height,
                        reason,
                        "the authority says that this node was evicted; fetching the chain up to there"
                    );
                }
                self.net.reconnect(peer);
            }
            Some(JoinResponse::Denied(denial)) => {
                tracing::debug!(%denial, "the authority takes this node for a stranger");
            }
            _ => {}
        }
    }
}

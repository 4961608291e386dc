//! The handle that the rest of the node holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blosm_ledger::{Confirmations, Hash, PublicKey, SealedBlock, Transaction};
use blosm_net::{GossipId, NetHandle, PeerId, Protocol, Reply, Topic, Verdict, peer_of_key};
use tokio::sync::{mpsc, watch};

use super::submit::{SubmitError, submit};
use super::sync::Syncer;
use super::task::Input;
use super::thread::{Call, LedgerClient};
use super::view::ChainView;
use super::wire::{LedgerRequest, LedgerResponse};

/// How long the proposer may take to say how far a block is confirmed.
const CONFIRMATIONS_WAIT: Duration = Duration::from_secs(2);

/// Talks to the ledger task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChainHandle {
    pub(super) shared: Arc<Shared>,
}

/// What the handles and the task's workers share.
#[derive(Debug)]
pub(super) struct Shared {
    /// This node.
    pub(super) me: PublicKey,
    /// The authority that seals.
    pub(super) proposer: PublicKey,
    pub(super) net: NetHandle,
    pub(super) ledger: LedgerClient,
    pub(super) view: watch::Receiver<Arc<ChainView>>,
    pub(super) inbox: mpsc::Sender<Input>,
    pub(super) syncer: Syncer,
}

impl Shared {
    pub(super) fn snapshot(&self) -> Arc<ChainView> {
        self.view.borrow().clone()
    }

    pub(super) fn is_proposer(&self) -> bool {
        self.me == self.proposer
    }

    pub(super) fn proposer_peer(&self) -> PeerId {
        peer_of_key(&self.proposer.0)
    }

    /// Asks a peer; none when it does not answer in time or answers with something else than a message.
    pub(super) async fn ask(
        &self,
        peer: PeerId,
        request: &LedgerRequest,
        limit: Duration,
    ) -> Option<LedgerResponse> {
        let answer = self.net.request(peer, Protocol::Ledger, request.encode());
        let bytes = tokio::time::timeout(limit, answer).await.ok()?.ok()?;
        LedgerResponse::decode(&bytes)
    }
}

/// Names a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockId {
    /// By its height; the first block has 1.
    Height(u64),
    /// By its hash.
    Hash(Hash),
}

/// What a node said when it was pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// From the question to the answer.
    pub rtt: Duration,
    /// Its head.
    pub height: u64,
    /// The highest height that it knows to be confirmed.
    pub confirmed_height: u64,
}

/// A sealed transaction, its place, and how far it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxStatus {
    /// The block's height.
    pub height: u64,
    /// The place in the block.
    pub index: u32,
    /// The transaction.
    pub transaction: Transaction,
    /// How many members hold the block as far as the proposer knows; 0 when it cannot be asked.
    pub confirmations: u32,
    /// How many members there were at that block.
    pub members: u32,
}

impl TxStatus {
    /// Whether 90 % of the members hold it (Algorithm 1).
    pub fn is_confirmed(&self) -> bool {
        Confirmations {
            acked: self.confirmations,
            members: self.members,
        }
        .confirmed()
    }
}

impl ChainHandle {
    /// The chain as it stands here.
    #[must_use]
    pub fn snapshot(&self) -> Arc<ChainView> {
        self.shared.snapshot()
    }

    /// Follows the chain. The receiver sees the newest view; it may skip some.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<ChainView>> {
        self.shared.view.clone()
    }

    /// The authority that seals the next block.
    #[must_use]
    pub fn proposer(&self) -> PublicKey {
        self.shared.proposer
    }

    /// Whether this node seals.
    #[must_use]
    pub fn is_proposer(&self) -> bool {
        self.shared.is_proposer()
    }

    /// Has a transaction sealed and returns its height: straight to the proposer, and by gossip when that fails. What the
    /// chain cannot take yet (a hand-over whose predecessor is not sealed) is tried again for some seconds.
    ///
    /// Safe to repeat: a transaction that is sealed already is answered with its height. The block may reach this node a
    /// little later than the answer.
    ///
    /// # Errors
    /// After [`SubmitError::Timeout`] it may still be sealed.
    pub async fn submit(&self, transaction: Transaction) -> Result<u64, SubmitError> {
        submit(&self.shared, transaction).await
    }

    /// Gossips a transaction and has it sealed: every member hears of an announcement, as in the paper.
    ///
    /// # Errors
    /// As [`ChainHandle::submit`].
    pub async fn announce(&self, transaction: Transaction) -> Result<u64, SubmitError> {
        // Nobody listening or a busy network is no failure: the direct way is the one that counts.
        if let Err(error) = self.shared.net.publish(Topic::Tx, transaction.encode()) {
            tracing::debug!(%error, "announcement not gossiped");
        }
        submit(&self.shared, transaction).await
    }

    /// A block that this node holds.
    pub async fn block(&self, id: BlockId) -> Option<SealedBlock> {
        self.shared.ledger.block(id).await
    }

    /// A sealed transaction that this node holds, with its confirmations.
    pub async fn transaction(&self, hash: Hash) -> Option<TxStatus> {
        let found = self.shared.ledger.transaction(hash).await?;
        let members = match self.block(BlockId::Height(found.height)).await {
            Some(block) => block.block.header.member_count,
            None => 0,
        };
        let (confirmations, members) = self.confirmations(found.height).await.unwrap_or((0, members));
        Some(TxStatus {
            height: found.height,
            index: found.index,
            transaction: found.transaction,
            confirmations,
            members,
        })
    }

    /// How many members hold the block of a height, and how many there were at it, as the proposer knows. None when it
    /// is not connected, does not answer within two seconds, or has no such block.
    pub async fn confirmations(&self, height: u64) -> Option<(u32, u32)> {
        if self.is_proposer() {
            return self.shared.ledger.confirmations(height).await;
        }
        let proposer = self.shared.proposer_peer();
        if !self.shared.net.is_connected(&proposer) {
            return None;
        }
        let request = LedgerRequest::Confirmations { height };
        match self.shared.ask(proposer, &request, CONFIRMATIONS_WAIT).await? {
            LedgerResponse::Confirmations(answer) => answer,
            _ => None,
        }
    }

    /// Asks a node for its head, for the time that it takes; none when it does not answer within two seconds.
    pub async fn ping(&self, node: PublicKey) -> Option<Pong> {
        let asked = Instant::now();
        let answer = self
            .shared
            .ask(peer_of_key(&node.0), &LedgerRequest::Head, CONFIRMATIONS_WAIT);
        let LedgerResponse::Head(head) = answer.await? else {
            return None;
        };
        Some(Pong {
            rtt: asked.elapsed(),
            height: head.height,
            confirmed_height: head.confirmed_height,
        })
    }

    /// Asks the members for their heads, for at most `limit`, and brings this chain to the highest that answers. Ends
    /// early when all of them have answered.
    pub async fn sync_to_best(&self, limit: Duration) {
        self.shared.syncer.to_best(&self.shared, limit).await;
    }

    /// A gossiped message of either topic; gives its verdict.
    pub fn on_gossip(&self, topic: Topic, source: PeerId, data: Vec<u8>, id: GossipId) {
        if let Err(error) = self.shared.inbox.try_send(Input::Gossip {
            topic,
            source,
            data,
            id,
        }) {
            let (mpsc::error::TrySendError::Full(input) | mpsc::error::TrySendError::Closed(input)) = error;
            tracing::debug!("the ledger task is busy; gossip ignored");
            if let Input::Gossip { id, .. } = input {
                self.shared.net.verdict(id, Verdict::Ignore);
            }
        }
    }

    /// A request of the ledger protocol; answers it.
    pub fn on_request(&self, peer: PeerId, data: Vec<u8>, reply: Reply) {
        if self
            .shared
            .inbox
            .try_send(Input::Request { peer, data, reply })
            .is_err()
        {
            tracing::debug!(%peer, "the ledger task is busy; request refused");
        }
    }

    /// A peer has connected: its head is asked for, and the proposer gets this node's acknowledgement.
    pub fn on_connected(&self, peer: PeerId) {
        if self.shared.inbox.try_send(Input::Connected { peer }).is_err() {
            tracing::debug!(%peer, "the ledger task is busy; peer not greeted");
        }
    }

    /// Waits until the ledger has stopped: after [`ChainHandle::shutdown`], or because the disk failed. The node must then
    /// end too.
    pub async fn stopped(&self) {
        self.shared.ledger.stopped().await;
    }

    /// Stops the ledger task and closes the database.
    pub async fn shutdown(&self) {
        self.shared.ledger.tell(Call::Stop).await;
        self.stopped().await;
    }
}

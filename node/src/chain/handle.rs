//! The handle that the rest of the node holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blosm_ledger::{
    Ack, Confirmations, Genesis, Hash, PublicKey, SealedBlock, SealedTransaction, StoreFigures, Transaction,
    threshold,
};
use blosm_net::{GossipId, Misdeed, NetHandle, PeerId, Reply, RequestError, Topic, Verdict, peer_of_key};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::ack::Signer;
use super::client::{Call, LedgerClient};
use super::clock::{Clock, ClockView, Skew};
use super::contact::{Contact, Isolated};
use super::meter::LedgerMeter;
use super::opening::Unopened;
use super::probe::{self, ProbeError, ProbeReport, Probes};
use super::submit::{SubmitError, submit};
use super::sync::Syncer;
use super::task::Input;
use super::toll::Toll;
use super::view::ChainView;
use super::wait::{self, MAX_WAIT};
use super::wire::{LedgerRequest, LedgerResponse};

/// How long the proposer may take to say how far a block is confirmed.
const CONFIRMATIONS_WAIT: Duration = Duration::from_secs(2);
/// While the proposer cannot be asked, a waiting caller looks at what is known here this often.
const LOOK: Duration = Duration::from_millis(500);

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
    pub(super) genesis: Arc<Genesis>,
    /// The network's id.
    pub(super) genesis_id: Hash,
    pub(super) signer: Signer,
    pub(super) toll: Mutex<Toll>,
    pub(super) clock: Clock,
    pub(super) skew: Skew,
    pub(super) meter: LedgerMeter,
    pub(super) probes: Probes,
    /// When another member was reachable last.
    pub(super) contact: Contact,
    /// Why this authority has not begun to seal.
    pub(super) unopened: Mutex<Option<Unopened>>,
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

    /// What this node holds, signed.
    pub(super) fn own_ack(&self) -> Ack {
        self.signer.sign(|| self.snapshot())
    }

    /// Since when no other member can be reached, if that is so for a while. An evicted node has nobody to reach.
    pub(super) fn isolated(&self) -> Option<Isolated> {
        let view = self.snapshot();
        let members = view.state.members();
        let has_others = members.iter().any(|(key, _)| *key != self.me);
        if !has_others || members.evicted(&self.me).is_some() {
            return None;
        }
        self.contact.isolated(Instant::now())
    }

    /// Why this authority has not begun to seal, from now on.
    pub(super) fn set_unopened(&self, why: Option<Unopened>) {
        *self.unopened.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The accounts of those who acknowledge. For single steps only.
    pub(super) fn toll(&self) -> MutexGuard<'_, Toll> {
        self.toll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clock_view(&self) -> ClockView {
        let head_ms = self.snapshot().timestamp_ms;
        self.skew.view(self.clock.now_ms(), head_ms, self.is_proposer())
    }

    /// Asks a peer; none when it does not answer in time or answers with something else than a message.
    pub(super) async fn ask(
        &self,
        peer: PeerId,
        request: &LedgerRequest,
        limit: Duration,
    ) -> Option<LedgerResponse> {
        let answer = request.ask(&self.net, peer);
        let response = tokio::time::timeout(limit, answer).await.ok()?.ok()?;
        if response.is_none() {
            self.blame(peer, "an answer that cannot be read");
        }
        response
    }

    /// A peer said what no honest node says: a request and its answer cost what a rejected message costs.
    pub(super) fn blame(&self, peer: PeerId, what: &str) {
        tracing::debug!(%peer, what, "held against the peer");
        self.net.blame(peer, Misdeed::Message);
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
    /// How many of the members at that block hold it: as the proposer says, or when it cannot be asked, as it said last.
    pub confirmations: Confirmations,
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

    /// A sealed transaction that this node holds. Nobody is asked.
    pub async fn sealed(&self, hash: Hash) -> Option<SealedTransaction> {
        self.shared.ledger.transaction(hash).await
    }

    /// A sealed transaction that this node holds, with its confirmations.
    pub async fn transaction(&self, hash: Hash) -> Option<TxStatus> {
        let found = self.shared.ledger.transaction(hash).await?;
        let confirmations = self.confirmations(found.height).await?;
        Some(TxStatus::of(found, confirmations))
    }

    /// Waits until this node holds a transaction and more than `beyond` members hold its block, or 90 % do, or `limit` is
    /// over. A limit of more than some seconds may be cut short: whoever waits longer calls again. None when this node
    /// does not hold it by then.
    pub async fn wait_transaction(&self, hash: Hash, beyond: u32, limit: Duration) -> Option<TxStatus> {
        let end = Instant::now() + limit.min(MAX_WAIT);
        let mut view = self.subscribe();
        let found = loop {
            view.mark_unchanged();
            if let Some(found) = self.shared.ledger.transaction(hash).await {
                break found;
            }
            match tokio::time::timeout_at(end, view.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        };
        let left = end.saturating_duration_since(Instant::now());
        let confirmations = self.wait_confirmed(found.height, beyond, left).await?;
        Some(TxStatus::of(found, confirmations))
    }

    /// How many members hold the block of a height, and how many there were at it: as the proposer says, or when it cannot
    /// be asked within two seconds, as it said last. None above this node's head.
    pub async fn confirmations(&self, height: u64) -> Option<Confirmations> {
        let known = self.known(height).await?;
        if self.is_proposer() {
            return Some(known);
        }
        let request = LedgerRequest::Confirmations { height };
        let said = self.ask_proposer(&request, CONFIRMATIONS_WAIT).await;
        Some(said.map_or(known, |acked| at_least(known, acked)))
    }

    /// Waits until more than `beyond` members hold the block of a height, or 90 % do, or `limit` is over; gives how many
    /// do. A limit of more than some seconds may be cut short, and a proposer that does not answer too: whoever waits
    /// longer calls again. None above this node's head.
    pub async fn wait_confirmed(&self, height: u64, beyond: u32, limit: Duration) -> Option<Confirmations> {
        let shared = &self.shared;
        if self.is_proposer() {
            return wait::here(shared, height, beyond, limit).await;
        }
        let known = self.known(height).await?;
        if known.confirmed() || known.acked > beyond {
            return Some(known);
        }
        let limit = limit.min(MAX_WAIT);
        let request = LedgerRequest::WaitConfirmed {
            height,
            beyond,
            timeout_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        };
        if let Some(acked) = self.ask_proposer(&request, limit + CONFIRMATIONS_WAIT).await {
            return Some(at_least(known, acked));
        }
        // Its status may still come, over others.
        let mut view = shared.view.clone();
        view.mark_unchanged();
        let _ = tokio::time::timeout(limit.min(LOOK), view.changed()).await;
        self.known(height).await
    }

    /// How many members hold a block as the proposer answers.
    async fn ask_proposer(&self, request: &LedgerRequest, limit: Duration) -> Option<u32> {
        let proposer = self.shared.proposer_peer();
        if !self.shared.net.is_connected(&proposer) {
            return None;
        }
        match self.shared.ask(proposer, request, limit).await? {
            LedgerResponse::Confirmations(Some((acked, _))) => Some(acked),
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

    /// What is known here of a block that this node holds: of how many members there were it knows itself, and who holds
    /// it what the headers and the proposer's status say.
    pub(crate) async fn known(&self, height: u64) -> Option<Confirmations> {
        let mut known = self.shared.ledger.confirmations(height).await?;
        let view = self.shared.snapshot();
        if height <= view.confirmed_height {
            known = at_least(known, threshold(known.members));
        }
        if let Some(count) = view.newest.iter().find(|count| count.height == height) {
            known = at_least(known, count.acked);
        }
        Some(known)
    }

    /// The newest acknowledgement of every member, as it was signed. On the authority; elsewhere there are none.
    pub async fn acks(&self) -> Vec<Ack> {
        self.shared.ledger.acks().await
    }

    /// What the store holds and does. It stands in line with what the ledger has to do; none when the ledger has stopped.
    pub async fn store(&self) -> Option<StoreFigures> {
        self.shared.ledger.store().await
    }

    /// Since when this node has reached no other member; none while it reaches one, or for a moment only.
    #[must_use]
    pub fn isolated(&self) -> Option<Isolated> {
        self.shared.isolated()
    }

    /// Whether a node that is connected offers nothing that members speak: it takes this one for a stranger.
    pub(crate) async fn is_shut_out_by(&self, node: PublicKey) -> bool {
        let (net, peer) = (&self.shared.net, peer_of_key(&node.0));
        let asked = LedgerRequest::Head.ask(net, peer).await;
        matches!(asked, Err(RequestError::Unsupported))
    }

    /// Lets a former member in for half a minute, so that it can fetch the chain up to its eviction; at most every five
    /// minutes, and only on the authority. Returns whether it may come.
    pub(crate) async fn let_in(&self, former: PublicKey) -> bool {
        let (reply, answer) = oneshot::channel();
        let input = Input::Former { key: former, reply };
        self.shared.inbox.try_send(input).is_ok() && answer.await.unwrap_or(false)
    }

    /// Why this authority has not begun to seal since its start; none when it has, and on other nodes.
    #[must_use]
    pub fn unopened(&self) -> Option<Unopened> {
        let unopened = self.shared.unopened.lock();
        unopened.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of this node's clock.
    #[must_use]
    pub fn clock(&self) -> ClockView {
        self.shared.clock_view()
    }

    /// Asks the members for their heads, for at most `limit`, and brings this chain to the highest that answers. Ends
    /// early when all of them have answered.
    pub async fn sync_to_best(&self, limit: Duration) {
        self.shared.syncer.to_best(&self.shared, limit).await;
    }

    /// Floods a message of so many bytes and waits until the members have told when they had it, for a few seconds at
    /// most. One probe at a time.
    ///
    /// # Errors
    /// Another one is out, the length is none for a probe, or nothing could be sent.
    pub async fn probe(&self, bytes: usize) -> Result<ProbeReport, ProbeError> {
        probe::send(&self.shared, bytes).await
    }

    /// A gossiped message of any topic; gives its verdict.
    pub fn on_gossip(&self, topic: Topic, source: PeerId, data: Vec<u8>, id: GossipId) {
        if topic == Topic::Probe {
            // At once: it is about the time at which it has come.
            return self.shared.net.verdict(id, probe::on_gossip(&self.shared, &data));
        }
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

impl TxStatus {
    fn of(found: SealedTransaction, confirmations: Confirmations) -> TxStatus {
        TxStatus {
            height: found.height,
            index: found.index,
            transaction: found.transaction,
            confirmations,
        }
    }
}

/// No more than there were members, whatever others say.
fn at_least(known: Confirmations, acked: u32) -> Confirmations {
    Confirmations {
        acked: known.acked.max(acked.min(known.members)),
        members: known.members,
    }
}

//! The ledger task: routes what peers send, keeps the members connected, and lets workers do what takes time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{GossipVerdict, Ledger, PublicKey, SealedBlock, State};
use blosm_net::{
    GossipId, Multiaddr, NetHandle, PeerId, Protocol, Reply, Topic, Verdict, key_of_peer, peer_of_key,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::handle::{ChainHandle, Shared};
use super::sync::{HEAD_WAIT, Syncer, is_trusted};
use super::thread::{self, Call, ImportAnswer, SubmitAnswer, now_ms};
use super::view::ChainView;
use super::wire::{LedgerRequest, LedgerResponse, WireHead};
use super::{ack, opening};

/// What peers sent and nobody has looked at. When full, gossip is ignored and requests are refused.
const INBOX: usize = 1024;
/// Workers at a time. One more request is refused; gossip is then still imported, but nothing waits for it.
const MAX_WORKERS: usize = 512;
/// Pushes of sealed blocks under way. One more is left to gossip.
const MAX_PUSHES: usize = 256;
/// How long a party of a block may take to import it.
const PUSH_WAIT: Duration = Duration::from_secs(10);
/// How often the time since the last block is looked at.
const EMPTY_CHECK: Duration = Duration::from_secs(1);

/// How the ledger task starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChainOptions {
    /// The authority seals at once, without hearing from half of the other members first. For an operator who knows that
    /// they are gone for good; otherwise it may seal a second block of a height.
    pub alone: bool,
}

/// Starts ledger tasks.
#[derive(Debug)]
pub struct ChainTask;

/// What the router hands over.
#[derive(Debug)]
pub(super) enum Input {
    Gossip {
        topic: Topic,
        source: PeerId,
        data: Vec<u8>,
        id: GossipId,
    },
    Request {
        peer: PeerId,
        data: Vec<u8>,
        reply: Reply,
    },
    Connected {
        peer: PeerId,
    },
}

impl ChainTask {
    /// Starts the ledger's thread and the tasks around it on the current tokio runtime. `me` is this node's key. They run
    /// until [`ChainHandle::shutdown`].
    ///
    /// # Errors
    /// The system gives no thread.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(
        ledger: Ledger,
        net: NetHandle,
        me: PublicKey,
        options: ChainOptions,
    ) -> std::io::Result<ChainHandle> {
        let proposer = *ledger
            .genesis()
            .authorities
            .first()
            .expect("a ledger opens only with a valid genesis, which names an authority");
        let empty_after = u64::from(ledger.genesis().params.empty_block_interval_ms);
        let is_authority = ledger.is_authority();
        let (inbox, inputs) = mpsc::channel(INBOX);
        let (acks_in, acks) = mpsc::channel(MAX_PUSHES);
        let (client, view) = thread::spawn(ledger, outlet(me, net.clone(), acks_in))?;
        let shared = Arc::new(Shared {
            me,
            proposer,
            net,
            ledger: client,
            view,
            inbox,
            syncer: Syncer::default(),
        });
        let ack_now = Arc::new(Notify::new());
        let mut workers = JoinSet::new();
        if is_authority {
            workers.spawn(opening::run(shared.clone(), options.alone));
        } else {
            workers.spawn(ack::run(shared.clone(), ack_now.clone()));
        }
        let runner = Runner {
            shared: shared.clone(),
            workers,
            ack_now,
            known: BTreeMap::new(),
            acks,
            empty_after,
            is_authority,
        };
        tokio::spawn(runner.run(inputs));
        Ok(ChainHandle { shared })
    }
}

struct Runner {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    ack_now: Arc<Notify>,
    /// The addresses that the network was last told, by member.
    known: BTreeMap<PublicKey, Vec<String>>,
    /// Parties of a pushed block that hold it.
    acks: mpsc::Receiver<(PeerId, WireHead)>,
    empty_after: u64,
    is_authority: bool,
}

impl Runner {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut view = self.shared.view.clone();
        view.mark_changed();
        let mut empty_check = tokio::time::interval(EMPTY_CHECK);
        empty_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(input) = inputs.recv() => self.on_input(input).await,
                changed = view.changed() => match changed {
                    Ok(()) => { let seen = view.borrow_and_update().clone(); self.on_view(&seen) }
                    // The ledger thread has ended, and with it this task's work.
                    Err(_) => break,
                },
                Some((peer, head)) = self.acks.recv() => self.on_ack(&peer, head.height, head.hash).await,
                Some(done) = self.workers.join_next() => if let Err(error) = done { tracing::error!(%error, "a worker of the ledger task failed") },
                _ = empty_check.tick(), if self.is_authority => self.on_empty_check().await,
            }
        }
        self.workers.shutdown().await;
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::Gossip {
                topic: Topic::Block,
                source,
                data,
                id,
            } => {
                let imported = self.shared.ledger.begin_import(data).await;
                let shared = self.shared.clone();
                self.work(async move {
                    let Ok(imported) = imported.await else { return };
                    shared.net.verdict(id, verdict(imported.verdict));
                    fetch_missing(&shared, source, imported).await;
                });
            }
            Input::Gossip {
                topic: Topic::Tx,
                data,
                id,
                ..
            } => {
                let judged = self.shared.ledger.begin_gossip(data).await;
                let net = self.shared.net.clone();
                self.work(async move {
                    if let Ok(judged) = judged.await {
                        net.verdict(id, verdict(judged));
                    }
                });
            }
            Input::Request { peer, data, reply } => self.on_request(peer, &data, reply).await,
            Input::Connected { peer } => {
                if peer == self.shared.proposer_peer() {
                    self.ack_now.notify_one();
                }
                let shared = self.shared.clone();
                self.work(async move { greet(&shared, peer).await });
            }
        }
    }

    async fn on_request(&mut self, peer: PeerId, data: &[u8], reply: Reply) {
        let Some(request) = LedgerRequest::decode(data) else {
            tracing::debug!(%peer, "not a request of the ledger protocol");
            return;
        };
        let shared = self.shared.clone();
        let trusted = is_trusted(&shared, &peer);
        match request {
            LedgerRequest::Head => reply.send(head(&shared).encode()),
            LedgerRequest::Range { from, max } => self.work(async move {
                let answer = match shared.ledger.range(from, max).await {
                    Some(blocks) => LedgerResponse::Blocks(blocks),
                    None => LedgerResponse::Unavailable,
                };
                reply.send(answer.encode());
            }),
            LedgerRequest::Confirmations { height } => self.work(async move {
                let answer = LedgerResponse::Confirmations(shared.ledger.confirmations(height).await);
                reply.send(answer.encode());
            }),
            LedgerRequest::Submit(_) | LedgerRequest::Ack { .. } | LedgerRequest::Block(_) if !trusted => {
                tracing::debug!(%peer, "only members submit, acknowledge and push");
                reply.send(LedgerResponse::Unavailable.encode());
            }
            LedgerRequest::Submit(bytes) => self.work(async move {
                let answer = match shared.ledger.submit(bytes).await {
                    Some(SubmitAnswer::Sealed { height }) => LedgerResponse::Sealed { height },
                    Some(SubmitAnswer::Refused { reason, is_final }) => {
                        LedgerResponse::refused(reason, is_final)
                    }
                    Some(SubmitAnswer::NotSealing) | None => LedgerResponse::NotSealing,
                };
                reply.send(answer.encode());
            }),
            LedgerRequest::Ack { height, hash } => {
                self.on_ack(&peer, height, hash).await;
                reply.send(head(&shared).encode());
            }
            LedgerRequest::Block(bytes) => {
                let imported = shared.ledger.begin_import(bytes).await;
                self.work(async move {
                    let Ok(imported) = imported.await else { return };
                    fetch_missing(&shared, peer, imported).await;
                    reply.send(head(&shared).encode());
                });
            }
        }
    }

    async fn on_ack(&mut self, peer: &PeerId, height: u64, hash: blosm_ledger::Hash) {
        if let (true, Some(from)) = (self.is_authority, key_of_peer(peer)) {
            self.shared
                .ledger
                .tell(Call::Ack {
                    from: PublicKey(from),
                    height,
                    hash,
                })
                .await;
        }
    }

    /// Keeps the network in step with the members: each is kept connected, an evicted one is not let in.
    fn on_view(&mut self, view: &ChainView) {
        let members = view.state.members();
        for (key, member) in members.iter().filter(|(key, _)| **key != self.shared.me) {
            if self.known.get(key) == Some(&member.addresses) {
                continue;
            }
            let parse = |address: &String| match address.parse::<Multiaddr>() {
                Ok(address) => Some(address),
                Err(error) => {
                    tracing::warn!(member = %key, %error, "an address of this member on the chain cannot be used");
                    None
                }
            };
            let addresses = member.addresses.iter().filter_map(parse).collect();
            self.shared.net.set_addresses(peer_of_key(&key.0), addresses);
            self.known.insert(*key, member.addresses.clone());
        }
        let gone: Vec<PublicKey> = self
            .known
            .keys()
            .filter(|key| !members.contains(key))
            .copied()
            .collect();
        for key in gone {
            self.known.remove(&key);
            self.shared.net.forget(peer_of_key(&key.0));
        }
    }

    async fn on_empty_check(&mut self) {
        let view = self.shared.snapshot();
        // An empty network has nobody to show a sign of life to.
        if view.height > 0 && now_ms().saturating_sub(view.timestamp_ms) >= self.empty_after {
            self.shared.ledger.tell(Call::SealEmpty).await;
        }
    }

    /// Starts a worker. When there are too many the work is dropped: a request's reply with it, which refuses it.
    fn work(&mut self, worker: impl Future<Output = ()> + Send + 'static) {
        if self.workers.len() < MAX_WORKERS {
            self.workers.spawn(worker);
        } else {
            tracing::debug!("too many workers; work refused");
        }
    }
}

/// What happens to a block sealed here: on disk already, it goes to the topic and straight to those whom it concerns.
fn outlet(me: PublicKey, net: NetHandle, acks: mpsc::Sender<(PeerId, WireHead)>) -> thread::Outlet {
    let runtime = Handle::current();
    let pushes = Arc::new(Semaphore::new(MAX_PUSHES));
    Box::new(move |block: &SealedBlock, state: &State| {
        let bytes = block.encode();
        if let Err(error) = net.publish(Topic::Block, bytes.clone()) {
            tracing::debug!(height = block.height(), %error, "block not published");
        }
        let request = LedgerRequest::Block(bytes).encode();
        for peer in parties(block, state)
            .into_iter()
            .filter(|key| *key != me)
            .map(|key| peer_of_key(&key.0))
        {
            if !net.is_connected(&peer) {
                continue;
            }
            let Ok(permit) = pushes.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "too many pushes under way; left to gossip");
                continue;
            };
            let (net, request, acks) = (net.clone(), request.clone(), acks.clone());
            runtime.spawn(async move {
                let answer = net.request(peer, Protocol::Ledger, request);
                if let Ok(Ok(bytes)) = tokio::time::timeout(PUSH_WAIT, answer).await
                    && let Some(LedgerResponse::Head(head)) = LedgerResponse::decode(&bytes)
                {
                    // Full means that acknowledgements come faster than they are counted; the next one says it all.
                    let _ = acks.try_send((peer, head));
                }
                drop(permit);
            });
        }
    })
}

/// The nodes that a block concerns: those that its transactions name, and the owners and openers of their sessions.
fn parties(block: &SealedBlock, state: &State) -> BTreeSet<PublicKey> {
    let mut parties = BTreeSet::new();
    for transaction in &block.block.transactions {
        parties.extend(transaction.parties());
        if let Some(session) = transaction.payload.session().and_then(|id| state.session(&id)) {
            parties.extend([session.owner, session.opener]);
        }
    }
    parties
}

/// Asks a peer that has connected for its head, and follows it if it is ahead.
async fn greet(shared: &Shared, peer: PeerId) {
    if let Some(LedgerResponse::Head(theirs)) = shared.ask(peer, &LedgerRequest::Head, HEAD_WAIT).await
        && theirs.height > shared.snapshot().height
    {
        shared.syncer.reach(shared, peer, theirs.height).await;
    }
}

async fn fetch_missing(shared: &Shared, peer: PeerId, imported: ImportAnswer) {
    if let Some(height) = imported.ahead {
        shared.syncer.reach(shared, peer, height).await;
    }
}

fn head(shared: &Shared) -> LedgerResponse {
    let view = shared.snapshot();
    LedgerResponse::Head(WireHead {
        height: view.height,
        hash: view.hash,
        confirmed_height: view.confirmed_height,
    })
}

fn verdict(verdict: GossipVerdict) -> Verdict {
    match verdict {
        GossipVerdict::Accept => Verdict::Accept,
        GossipVerdict::Ignore => Verdict::Ignore,
        GossipVerdict::Reject => Verdict::Reject,
    }
}

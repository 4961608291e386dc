//! The ledger on a thread of its own, and the client that calls it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blosm_ledger::{
    GossipVerdict, Hash, ImportError, Imported, Ledger, LedgerError, PublicKey, Refusal, SealedBlock,
    SealedTransaction, State, StoreError, Submitted, Transaction,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::BlockId;
use super::view::ChainView;
use super::wire::{MAX_RANGE_BLOCKS, MAX_RANGE_BYTES};

/// Calls that wait for the ledger. When full, callers wait: peers' requests are bounded before they get here.
pub(super) const CALLS: usize = 256;
/// Callers that wait for their transaction's block. One more is told to come back.
const MAX_WAITERS: usize = 16 * 1024;

/// What became of a submitted transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubmitAnswer {
    /// It is in the block of this height.
    Sealed { height: u64 },
    /// The state or its own content forbids it.
    Refused { reason: String, is_final: bool },
    /// This node does not seal, or not yet.
    NotSealing,
}

/// What became of a block from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImportAnswer {
    /// What gossip should do with it.
    pub(super) verdict: GossipVerdict,
    /// Whether it is sealed and too far ahead: the blocks between have to be fetched.
    pub(super) ahead: Option<u64>,
    /// Whether this node now holds it.
    pub(super) held: bool,
}

/// A call to the ledger thread.
#[derive(Debug)]
pub(super) enum Call {
    Submit {
        bytes: Vec<u8>,
        reply: oneshot::Sender<SubmitAnswer>,
    },
    Gossip {
        bytes: Vec<u8>,
        reply: oneshot::Sender<GossipVerdict>,
    },
    Import {
        bytes: Vec<u8>,
        reply: oneshot::Sender<ImportAnswer>,
    },
    Range {
        from: u64,
        max: u16,
        reply: oneshot::Sender<Vec<Vec<u8>>>,
    },
    Block {
        id: BlockId,
        reply: oneshot::Sender<Option<SealedBlock>>,
    },
    Transaction {
        hash: Hash,
        reply: oneshot::Sender<Option<SealedTransaction>>,
    },
    Ack {
        from: PublicKey,
        height: u64,
        hash: Hash,
    },
    Confirmations {
        height: u64,
        reply: oneshot::Sender<Option<(u32, u32)>>,
    },
    /// The proposer says that this height is confirmed.
    Learn { confirmed_height: u64 },
    /// From now on this node seals.
    Open,
    /// Seal a block even if nothing waits.
    SealEmpty,
    /// Close the database and end.
    Stop,
}

/// Calls the ledger thread. A call that brings no answer has met a ledger that has stopped.
#[derive(Debug, Clone)]
pub(super) struct LedgerClient {
    calls: mpsc::Sender<Call>,
    stopped: watch::Receiver<()>,
}

impl LedgerClient {
    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(reply)).await.ok()?;
        answer.await.ok()
    }

    pub(super) async fn submit(&self, bytes: Vec<u8>) -> Option<SubmitAnswer> {
        self.call(|reply| Call::Submit { bytes, reply }).await
    }

    /// Judges a gossiped transaction, and takes it where this node seals. Returns once the call is queued, so that calls
    /// made one after the other are served in that order; the answer comes later.
    pub(super) async fn begin_gossip(&self, bytes: Vec<u8>) -> oneshot::Receiver<GossipVerdict> {
        let (reply, answer) = oneshot::channel();
        // A stopped ledger drops the reply, which the receiver sees.
        let _ = self.calls.send(Call::Gossip { bytes, reply }).await;
        answer
    }

    /// Imports a block, in the order of calls; see [`LedgerClient::begin_gossip`].
    pub(super) async fn begin_import(&self, bytes: Vec<u8>) -> oneshot::Receiver<ImportAnswer> {
        let (reply, answer) = oneshot::channel();
        let _ = self.calls.send(Call::Import { bytes, reply }).await;
        answer
    }

    pub(super) async fn import(&self, bytes: Vec<u8>) -> Option<ImportAnswer> {
        self.begin_import(bytes).await.await.ok()
    }

    pub(super) async fn range(&self, from: u64, max: u16) -> Option<Vec<Vec<u8>>> {
        self.call(|reply| Call::Range { from, max, reply }).await
    }

    pub(super) async fn block(&self, id: BlockId) -> Option<SealedBlock> {
        self.call(|reply| Call::Block { id, reply }).await.flatten()
    }

    pub(super) async fn transaction(&self, hash: Hash) -> Option<SealedTransaction> {
        self.call(|reply| Call::Transaction { hash, reply })
            .await
            .flatten()
    }

    pub(super) async fn confirmations(&self, height: u64) -> Option<(u32, u32)> {
        self.call(|reply| Call::Confirmations { height, reply })
            .await
            .flatten()
    }

    /// Makes a call that has no answer.
    pub(super) async fn tell(&self, call: Call) {
        // A stopped ledger has no use for it.
        let _ = self.calls.send(call).await;
    }

    pub(super) async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // The thread never sends; the error that ends the wait is its end.
        while stopped.changed().await.is_ok() {}
    }
}

/// Takes every block that this node seals, right after it is on disk, with the state after it. Must not wait.
pub(super) type Outlet = Box<dyn Fn(&SealedBlock, &State) + Send>;

/// Starts the thread. `outlet` hears of each block sealed here.
pub(super) fn spawn(
    ledger: Ledger,
    outlet: Outlet,
) -> std::io::Result<(LedgerClient, watch::Receiver<Arc<ChainView>>)> {
    let (calls_in, calls) = mpsc::channel(CALLS);
    let (ended, stopped) = watch::channel(());
    let (view_in, view) = watch::channel(Arc::new(ChainView::of(&ledger, 0, 0)));
    let thread = LedgerThread {
        max_delay: Duration::from_millis(ledger.genesis().params.seal_max_delay_ms.into()),
        ledger,
        view: view_in,
        learnt: 0,
        sealing: false,
        waiters: HashMap::new(),
        waiting: 0,
        outlet,
    };
    std::thread::Builder::new()
        .name("ledger".to_owned())
        .spawn(move || {
            thread.run(calls);
            drop(ended);
        })?;
    Ok((
        LedgerClient {
            calls: calls_in,
            stopped,
        },
        view,
    ))
}

struct LedgerThread {
    ledger: Ledger,
    view: watch::Sender<Arc<ChainView>>,
    /// The confirmed height that the proposer told.
    learnt: u64,
    /// Whether this node may seal; see [`Call::Open`].
    sealing: bool,
    /// Who waits for which transaction's block.
    waiters: HashMap<Hash, Vec<oneshot::Sender<SubmitAnswer>>>,
    waiting: usize,
    max_delay: Duration,
    outlet: Outlet,
}

/// Why the thread ends.
enum End {
    /// The node stops.
    Asked,
    /// The ledger cannot go on.
    Broken,
}

impl LedgerThread {
    fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        while let Some(call) = calls.blocking_recv() {
            match self.serve(call, &mut calls) {
                Ok(()) => {}
                Err(End::Asked) => break,
                Err(End::Broken) => {
                    tracing::error!("the ledger stops; restart this node");
                    break;
                }
            }
        }
        calls.close();
    }

    /// Serves a call and, where this one seals, the calls that wait behind it: at once when nothing does, for at most
    /// `max_delay` under load. Then seals until nothing waits.
    fn serve(&mut self, call: Call, calls: &mut mpsc::Receiver<Call>) -> Result<(), End> {
        self.handle(call)?;
        if !self.sealing || self.ledger.pending() == 0 {
            return Ok(());
        }
        let end = Instant::now() + self.max_delay;
        while Instant::now() < end {
            match calls.try_recv() {
                Ok(call) => self.handle(call)?,
                Err(_) => break,
            }
        }
        while self.ledger.pending() > 0 {
            self.seal(false)?;
        }
        Ok(())
    }

    fn handle(&mut self, call: Call) -> Result<(), End> {
        match call {
            Call::Submit { bytes, reply } => self.on_submit(&bytes, reply),
            Call::Gossip { bytes, reply } => answer(reply, self.on_gossip(&bytes)),
            Call::Import { bytes, reply } => {
                let imported = self.on_import(&bytes)?;
                answer(reply, imported);
            }
            Call::Range { from, max, reply } => {
                let max = usize::from(max.min(MAX_RANGE_BLOCKS));
                let blocks = read(self.ledger.range(from, max, MAX_RANGE_BYTES)).unwrap_or_default();
                answer(reply, blocks.iter().map(SealedBlock::encode).collect());
            }
            Call::Block { id, reply } => {
                let block = match id {
                    BlockId::Height(height) => self.ledger.block(height),
                    BlockId::Hash(hash) => self.ledger.block_by_hash(&hash),
                };
                answer(reply, read(block).flatten());
            }
            Call::Transaction { hash, reply } => {
                answer(reply, read(self.ledger.transaction(&hash)).flatten())
            }
            Call::Ack { from, height, hash } => match self.ledger.record_ack(from, height, hash) {
                Ok(()) => self.publish_view(),
                Err(error) => tracing::debug!(%from, height, %error, "acknowledgement not counted"),
            },
            Call::Confirmations { height, reply } => {
                let found = read(self.ledger.confirmations(height)).flatten();
                answer(reply, found.map(|found| (found.acked, found.members)));
            }
            Call::Learn { confirmed_height } => {
                let confirmed_height = confirmed_height.min(self.ledger.head().height);
                if confirmed_height > self.learnt {
                    self.learnt = confirmed_height;
                    self.publish_view();
                }
            }
            Call::Open => self.sealing = self.ledger.is_authority(),
            Call::SealEmpty if self.sealing => self.seal(true)?,
            Call::SealEmpty => {}
            Call::Stop => return Err(End::Asked),
        }
        Ok(())
    }

    fn on_submit(&mut self, bytes: &[u8], reply: oneshot::Sender<SubmitAnswer>) {
        if !self.sealing {
            return answer(reply, SubmitAnswer::NotSealing);
        }
        let transaction = match Transaction::decode(bytes) {
            Ok(transaction) => transaction,
            Err(error) => {
                let reason = error.to_string();
                return answer(
                    reply,
                    SubmitAnswer::Refused {
                        reason,
                        is_final: true,
                    },
                );
            }
        };
        let hash = transaction.hash();
        match self.ledger.submit(transaction) {
            Ok(Submitted::AlreadySealed { height }) => answer(reply, SubmitAnswer::Sealed { height }),
            Ok(Submitted::Pending) if self.waiting >= MAX_WAITERS => answer(reply, SubmitAnswer::NotSealing),
            Ok(Submitted::Pending) => {
                self.waiters.entry(hash).or_default().push(reply);
                self.waiting += 1;
            }
            Err(refusal) => answer(reply, refused(refusal)),
        }
    }

    /// A transaction that is wrong by itself is somebody's fault. One that the state does not take may only be early, and
    /// then others are to see it; this node's state may also lag.
    fn on_gossip(&mut self, bytes: &[u8]) -> GossipVerdict {
        let Ok(transaction) = Transaction::decode(bytes) else {
            return GossipVerdict::Reject;
        };
        let judged = if self.sealing {
            self.ledger.submit(transaction).map(drop)
        } else {
            self.ledger.judge(&transaction)
        };
        match judged {
            Ok(()) => GossipVerdict::Accept,
            Err(Refusal::Invalid(_) | Refusal::TooLarge { .. }) => GossipVerdict::Reject,
            Err(Refusal::UnknownSession | Refusal::EpochAhead { .. }) => GossipVerdict::Accept,
            Err(_) => GossipVerdict::Ignore,
        }
    }

    fn on_import(&mut self, bytes: &[u8]) -> Result<ImportAnswer, End> {
        let outcome = SealedBlock::decode(bytes)
            .map_err(ImportError::from)
            .and_then(|block| self.ledger.import(block));
        let error = match outcome {
            Ok(Imported::Extended(head)) => {
                tracing::debug!(height = head.height, block = %head.hash, "block imported");
                self.publish_view();
                self.answer_dropped();
                return Ok(ImportAnswer {
                    verdict: GossipVerdict::Accept,
                    ahead: None,
                    held: true,
                });
            }
            Ok(Imported::Known) => {
                return Ok(ImportAnswer {
                    verdict: GossipVerdict::Accept,
                    ahead: None,
                    held: true,
                });
            }
            Err(error) => error,
        };
        match &error {
            ImportError::Store(_) => {
                tracing::error!(%error, "a block could not be stored");
                return Err(End::Broken);
            }
            ImportError::Stopped => return Err(End::Broken),
            error if error.needs_upgrade() => tracing::error!(%error, "blocks are not imported any more"),
            error => tracing::debug!(%error, "block not imported"),
        }
        let ahead = match error {
            ImportError::Orphan { height, .. } => Some(height),
            _ => None,
        };
        Ok(ImportAnswer {
            verdict: error.verdict(),
            ahead,
            held: false,
        })
    }

    fn seal(&mut self, force_empty: bool) -> Result<(), End> {
        let confirmed_height = self.ledger.confirmed_height();
        let block = match self.ledger.seal(now_ms(), confirmed_height, force_empty) {
            Ok(block) => block,
            Err(error @ (LedgerError::Store(_) | LedgerError::Stopped)) => {
                tracing::error!(%error, "no block can be sealed");
                return Err(End::Broken);
            }
            Err(error) => {
                tracing::error!(%error, "no block can be sealed");
                self.sealing = false;
                return Ok(());
            }
        };
        if let Some(block) = &block {
            tracing::debug!(height = block.height(), block = %block.hash(), "block sealed");
            (self.outlet)(block, self.ledger.state());
            self.publish_view();
            for transaction in &block.block.transactions {
                self.settle(
                    &transaction.hash(),
                    &SubmitAnswer::Sealed {
                        height: block.height(),
                    },
                );
            }
        }
        self.answer_dropped();
        Ok(())
    }

    /// Tells the senders of transactions that can no longer be sealed.
    fn answer_dropped(&mut self) {
        for (hash, refusal) in self.ledger.take_dropped() {
            self.settle(&hash, &refused(refusal));
        }
    }

    fn settle(&mut self, hash: &Hash, outcome: &SubmitAnswer) {
        for waiter in self.waiters.remove(hash).unwrap_or_default() {
            self.waiting -= 1;
            answer(waiter, outcome.clone());
        }
    }

    fn publish_view(&mut self) {
        let generation = self.view.borrow().generation + 1;
        self.view
            .send_replace(Arc::new(ChainView::of(&self.ledger, self.learnt, generation)));
    }
}

fn refused(refusal: Refusal) -> SubmitAnswer {
    match refusal {
        // The sender of these is to look for the sealer again, not to give up.
        Refusal::NotSealer | Refusal::Stopped => SubmitAnswer::NotSealing,
        refusal => SubmitAnswer::Refused {
            reason: refusal.to_string(),
            is_final: refusal.is_final(),
        },
    }
}

/// Reading fails only with the disk. Whoever asked gets nothing; the next write will stop the ledger.
fn read<T>(found: Result<T, StoreError>) -> Option<T> {
    found
        .inspect_err(|error| tracing::error!(%error, "the ledger cannot be read"))
        .ok()
}

fn answer<T>(reply: oneshot::Sender<T>, answer: T) {
    // An error means that nobody waits any more.
    let _ = reply.send(answer);
}

/// The wall clock, in milliseconds since the Unix epoch. Nothing that safety rests on depends on it.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

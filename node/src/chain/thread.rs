//! The ledger on a thread of its own.

mod confirm;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blosm_ledger::{
    GossipVerdict, Hash, ImportError, Imported, Ledger, LedgerError, Newer, Refusal, SealedBlock, State,
    StoreError, Submitted, Transaction, VerifiedStatus,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::client::{CALLS, Call, ImportAnswer, LedgerClient, SubmitAnswer};
use super::clock::Clock;
use super::handle::BlockId;
use super::meter::LedgerMeter;
use super::view::{ChainView, Heard, Needs};
use super::wire::{MAX_RANGE_BLOCKS, MAX_RANGE_BYTES};

/// Callers that wait for their transaction's block. One more is told to come back.
const MAX_WAITERS: usize = 16 * 1024;
/// Whatever comes, the log says at most this often that a newer version is needed.
const TELL_NEEDS: Duration = Duration::from_secs(60);
/// Blocks sealed here whose way to 90 % of the members is timed. Of more than that the oldest are not.
const MAX_TIMED: usize = 1024;

/// Takes every block that this node seals, right after it is on disk, with the state after it. Must not wait.
pub(super) type Outlet = Box<dyn Fn(&SealedBlock, &State) + Send>;

/// Starts the thread. `outlet` hears of each block sealed here.
pub(super) fn spawn(
    ledger: Ledger,
    clock: Clock,
    meter: LedgerMeter,
    outlet: Outlet,
) -> std::io::Result<(LedgerClient, watch::Receiver<Arc<ChainView>>)> {
    let (calls_in, calls) = mpsc::channel(CALLS);
    let (ended, stopped) = watch::channel(());
    let (counted_in, counted) = watch::channel(0);
    let heard = Heard::default();
    let (view_in, view) = watch::channel(Arc::new(ChainView::of(&ledger, &heard, 0)));
    let thread = LedgerThread {
        max_delay: Duration::from_millis(ledger.genesis().params.seal_max_delay_ms.into()),
        ledger,
        view: view_in,
        counted: counted_in,
        heard,
        newest_status: None,
        told_needs: None,
        clock,
        meter,
        sealing: false,
        waiters: HashMap::new(),
        waiting: 0,
        unconfirmed: VecDeque::new(),
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
            counted,
        },
        view,
    ))
}

struct LedgerThread {
    ledger: Ledger,
    view: watch::Sender<Arc<ChainView>>,
    /// Changes with each acknowledgement that counts. Apart from the view, which is read by all of the node.
    counted: watch::Sender<u64>,
    /// What others have said of the chain.
    heard: Heard,
    /// The newest status of the proposer.
    newest_status: Option<VerifiedStatus>,
    /// When the log has said last that a newer version is needed.
    told_needs: Option<Instant>,
    clock: Clock,
    meter: LedgerMeter,
    /// Whether this node may seal; see [`Call::Open`].
    sealing: bool,
    /// Who waits for which transaction's block.
    waiters: HashMap<Hash, Vec<oneshot::Sender<SubmitAnswer>>>,
    waiting: usize,
    /// Blocks sealed here that 90 % of the members are not known to hold, and when each was on the disk.
    unconfirmed: VecDeque<(u64, Instant)>,
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
        while self.sealing && self.ledger.pending() > 0 {
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
            Call::Ack { ack, reply } => answer(reply, self.on_ack(*ack)),
            Call::Acks { reply } => answer(reply, self.ledger.signed_acks()),
            Call::Confirmations { height, reply } => {
                answer(reply, read(self.ledger.confirmations(height)).flatten());
            }
            Call::Status { reply } => answer(reply, self.own_status()),
            Call::Store { reply } => answer(reply, read(self.ledger.store_figures())),
            Call::Heard { status, reply } => answer(reply, self.on_status(*status)),
            Call::Learn { confirmed_height } => self.learn(confirmed_height),
            Call::Open => self.sealing = self.ledger.is_authority() && !self.ledger.is_halted(),
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
                self.meter.rejected(error.reason());
                return answer(
                    reply,
                    SubmitAnswer::Refused {
                        reason: error.to_string(),
                        // A sealer that is upgraded may take what this one cannot read.
                        is_final: error.newer().is_none(),
                        is_fault: error.newer().is_none(),
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
            Err(refusal) => answer(reply, self.refused(refusal)),
        }
    }

    /// A transaction that is wrong by itself is somebody's fault. One that the state does not take may only be early, and
    /// then others are to see it; this node's state may also lag. One that is sealed is news to nobody: its block goes
    /// round by itself.
    fn on_gossip(&mut self, bytes: &[u8]) -> GossipVerdict {
        let transaction = match Transaction::decode(bytes) {
            Ok(transaction) => transaction,
            Err(error) => {
                self.meter.rejected(error.reason());
                tracing::debug!(%error, "transaction not passed on");
                return match error.newer() {
                    Some(_) => GossipVerdict::Ignore,
                    None => GossipVerdict::Reject,
                };
            }
        };
        let judged = if self.sealing {
            self.ledger.submit(transaction)
        } else {
            self.ledger.judge(&transaction)
        };
        let refusal = match judged {
            Ok(Submitted::Pending) => return GossipVerdict::Accept,
            Ok(Submitted::AlreadySealed { .. }) => return GossipVerdict::Ignore,
            Err(Refusal::UnknownSession | Refusal::EpochAhead { .. }) => return GossipVerdict::Accept,
            Err(refusal) => refusal,
        };
        self.meter.rejected(refusal.reason());
        if is_fault(&refusal) {
            GossipVerdict::Reject
        } else {
            GossipVerdict::Ignore
        }
    }

    /// Somebody shows a block that only a later version can read. Anybody can write such bytes, so they count only with the
    /// authority's seal, and above the head. Where a later header has its seal is not known here: of such a one only the
    /// authority's signed status tells.
    fn on_newer(&mut self, bytes: &[u8], newer: Newer) {
        let sealed = match newer {
            Newer::Header(_) => None,
            Newer::Kind(_) => self.ledger.sealed_header(bytes),
        };
        match sealed.map(|header| header.height) {
            Some(height) if height > self.ledger.head().height => self.needs(height, newer),
            _ => tracing::debug!(%newer, "a block of a later version, and nothing shows who made it"),
        }
    }

    /// Only a later version can read a block of the authority. Nothing is shut for good: whatever comes is tried, and the
    /// first block that brings the chain to that height ends this.
    fn needs(&mut self, height: u64, newer: Newer) {
        // Several peers and the status say it again and again, each of another block.
        if self.heard.needs.is_some_and(|known| known.newer == newer) {
            return;
        }
        let needs = Needs { height, newer };
        if self.told_needs.is_none_or(|at| at.elapsed() >= TELL_NEEDS) {
            tracing::error!("no blocks are imported any more: {needs}");
            self.told_needs = Some(Instant::now());
        }
        self.heard.needs = Some(needs);
        self.publish_view();
    }

    fn on_import(&mut self, bytes: &[u8]) -> Result<ImportAnswer, End> {
        let begin = Instant::now();
        let (mut kinds, mut height) = (Vec::new(), None);
        let outcome = SealedBlock::decode(bytes)
            .map_err(ImportError::from)
            .and_then(|block| {
                height = Some(block.height());
                kinds.extend(block.block.transactions.iter().map(|tx| tx.payload.kind()));
                self.ledger.import(block)
            });
        let error = match outcome {
            Ok(Imported::Extended(head)) => {
                tracing::debug!(height = head.height, block = %head.hash, "block imported");
                self.meter.imported(begin.elapsed());
                self.meter.transactions(kinds);
                self.heard.needs.take_if(|needs| needs.height <= head.height);
                self.publish_view();
                self.answer_dropped();
                return Ok(ImportAnswer {
                    verdict: GossipVerdict::Accept,
                    ahead: None,
                    held: true,
                    sealed: height,
                });
            }
            Ok(Imported::Known) => {
                return Ok(ImportAnswer {
                    verdict: GossipVerdict::Accept,
                    ahead: None,
                    held: true,
                    sealed: height,
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
            ImportError::Equivocation { .. } => {
                self.sealing &= !self.ledger.is_halted();
                self.publish_view();
            }
            error => tracing::debug!(%error, "block not imported"),
        }
        if let Some(newer) = error.newer() {
            self.on_newer(bytes, newer);
        }
        if let Some(reason) = error.reason() {
            self.meter.rejected(reason);
        }
        let ahead = match error {
            ImportError::Orphan { height, .. } => Some(height),
            _ => None,
        };
        Ok(ImportAnswer {
            verdict: error.verdict(),
            ahead,
            held: false,
            sealed: height.filter(|_| error.is_sealed()),
        })
    }

    fn seal(&mut self, force_empty: bool) -> Result<(), End> {
        let confirmed_height = self.ledger.confirmed_height();
        let begin = Instant::now();
        let block = match self
            .ledger
            .seal(self.clock.now_ms(), confirmed_height, force_empty)
        {
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
            self.meter.sealed(begin.elapsed());
            self.time_confirmation(block.height());
            let transactions = &block.block.transactions;
            self.meter
                .transactions(transactions.iter().map(|tx| tx.payload.kind()));
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
            let refused = self.refused(refusal);
            self.settle(&hash, &refused);
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
            .send_replace(Arc::new(ChainView::of(&self.ledger, &self.heard, generation)));
    }

    fn refused(&self, refusal: Refusal) -> SubmitAnswer {
        self.meter.rejected(refusal.reason());
        match refusal {
            // The sender of these is to look for the sealer again, not to give up.
            Refusal::NotSealer | Refusal::Halted | Refusal::Stopped => SubmitAnswer::NotSealing,
            refusal => SubmitAnswer::Refused {
                reason: refusal.to_string(),
                is_final: refusal.is_final(),
                is_fault: is_fault(&refusal),
            },
        }
    }
}

/// Whether a transaction is wrong whatever the state is, so that whoever passed it on should have known.
fn is_fault(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Invalid(_) | Refusal::TooLarge { .. })
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

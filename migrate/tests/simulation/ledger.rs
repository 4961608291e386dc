//! The chain on every node, with the real `Chain`: sealed by the authority, imported by the others, asked for when it
//! lags; `node/src/chain/`. A block is on the disk before anybody hears of it; the database itself is not here.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{
    Chain, Hash, ImportError, Payload, PublicKey, Refusal, SealedBlock, SessionId, State, Transaction,
};
use blosm_migrate::session::{Entry, Pending, overtaken};
use tokio::sync::oneshot;

use crate::links::QUICK;
use crate::node::{Daemon, append};
use crate::wire::{Answer, Ask};
use crate::world::Sim;

/// How often a node looks whether others hold more.
const LOOK: Duration = Duration::from_secs(3);
/// What is not sealed is submitted again after this; `node/src/sessions/submit.rs`.
const AGAIN: Duration = Duration::from_secs(1);
const RANGE: usize = 64;

/// The chain of one node, as it stands on its disk.
pub(crate) struct Ledger {
    chain: Chain,
    blocks: Vec<Rc<SealedBlock>>,
    places: BTreeMap<Hash, (usize, usize)>,
    state: Rc<State>,
}

impl Ledger {
    pub(crate) fn new(chain: Chain, block: SealedBlock) -> Self {
        let mut ledger = Self {
            state: Rc::new(chain.state().clone()),
            chain,
            blocks: Vec::new(),
            places: BTreeMap::new(),
        };
        ledger.index(block);
        ledger
    }

    pub(crate) fn height(&self) -> u64 {
        self.chain.head().height
    }

    pub(crate) fn head(&self) -> Hash {
        self.chain.head().hash
    }

    /// Members and sessions after the head.
    pub(crate) fn state(&self) -> Rc<State> {
        self.state.clone()
    }

    pub(crate) fn blocks(&self) -> &[Rc<SealedBlock>] {
        &self.blocks
    }

    fn index(&mut self, block: SealedBlock) {
        let height = self.blocks.len();
        for (index, transaction) in block.block.transactions.iter().enumerate() {
            self.places.insert(transaction.hash(), (height, index));
        }
        self.blocks.push(Rc::new(block));
        self.state = Rc::new(self.chain.state().clone());
    }

    /// A sealed transaction.
    pub(crate) fn sealed(&self, hash: &Hash) -> Option<&Transaction> {
        let (height, index) = self.places.get(hash)?;
        self.blocks[*height].block.transactions.get(*index)
    }

    fn range(&self, from: u64) -> Vec<Rc<SealedBlock>> {
        let skip = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
        self.blocks.iter().skip(skip).take(RANGE).cloned().collect()
    }

    /// Whether it is the new head, or was here before.
    fn import(&mut self, block: &SealedBlock) -> Result<bool, ImportError> {
        let certified = self.chain.certify(block.clone())?;
        if certified.height() <= self.height() {
            return Ok(false);
        }
        let places = &self.places;
        let checked = self
            .chain
            .check(certified, |hash| Ok(places.contains_key(hash)))?;
        let block = checked.sealed().clone();
        self.chain.commit(checked);
        self.index(block);
        Ok(true)
    }
}

/// What the authority's process holds in memory.
#[derive(Default)]
pub(crate) struct Pool {
    waiting: Vec<(Hash, Transaction)>,
    /// The state after all that wait.
    view: Option<State>,
    waiters: BTreeMap<Hash, Vec<oneshot::Sender<Result<(), Refusal>>>>,
    /// Whether it seals yet: not before half of the others have told their heads.
    open: bool,
}

impl Sim {
    pub(crate) fn state(&self, node: usize) -> Rc<State> {
        self.nodes[node].ledger.borrow().state()
    }

    /// Whether a node knows that it was evicted.
    pub(crate) fn is_evicted(&self, node: usize) -> bool {
        self.state(node).members().evicted(&self.nodes[node].me).is_some()
    }

    fn moved(&self, daemon: &Daemon) {
        daemon.moved.change(|count| *count += 1);
    }
}

/// A block that came, by gossip or by a question.
fn import(sim: &Sim, daemon: &Daemon, block: &SealedBlock) -> Result<(), ImportError> {
    let imported = sim.nodes[daemon.node].ledger.borrow_mut().import(block);
    if let Ok(true) = imported {
        sim.trace(daemon.node, || format!("imports block {}", block.height()));
        sim.moved(daemon);
        crate::checks::owners(sim);
    }
    imported.map(drop)
}

/// A block that a peer has pushed, or that the topic brings. The rest is fetched if it is ahead.
pub(crate) async fn on_block(sim: &Rc<Sim>, daemon: &Rc<Daemon>, from: usize, block: &SealedBlock) {
    if let Err(ImportError::Orphan { height, .. }) = import(sim, daemon, block) {
        fetch(sim, daemon, from, height).await;
    }
}

async fn fetch(sim: &Rc<Sim>, daemon: &Rc<Daemon>, from: usize, target: u64) {
    loop {
        let height = sim.nodes[daemon.node].ledger.borrow().height();
        if height >= target {
            return;
        }
        let range = Ask::Range { from: height + 1 };
        let Ok(Answer::Blocks(blocks)) = sim.ask(daemon, from, range, QUICK).await else {
            return;
        };
        if blocks.is_empty() || blocks.iter().any(|block| import(sim, daemon, block).is_err()) {
            return;
        }
    }
}

/// Asks members for their heads and follows the highest. Gives how many have answered.
pub(crate) async fn sync(sim: &Rc<Sim>, daemon: &Rc<Daemon>) -> usize {
    let others = (0..sim.nodes.len()).filter(|other| *other != daemon.node);
    let heads = others.map(|other| async move {
        let head = sim.ask(daemon, other, Ask::Head, Duration::from_secs(2)).await;
        match head {
            Ok(Answer::Head { height }) => Some((height, other)),
            _ => None,
        }
    });
    let heads: Vec<(u64, usize)> = futures::future::join_all(heads)
        .await
        .into_iter()
        .flatten()
        .collect();
    if let Some((height, other)) = heads.iter().max() {
        fetch(sim, daemon, *other, *height).await;
    }
    heads.len()
}

/// Looks now and then whether a block was missed.
pub(crate) async fn follow(sim: Rc<Sim>, daemon: Rc<Daemon>) {
    loop {
        let pause = sim.between(500_000, 2 * LOOK.as_micros() as u64);
        sim.sleep(pause).await;
        let other = sim.pick(sim.nodes.len());
        let other = if sim.chance(500) { 0 } else { other };
        if other != daemon.node
            && let Ok(Answer::Head { height }) = sim.ask(&daemon, other, Ask::Head, QUICK).await
        {
            fetch(&sim, &daemon, other, height).await;
        }
    }
}

/// The authority: it seals what waits, once it may.
pub(crate) async fn seal(sim: Rc<Sim>, daemon: Rc<Daemon>) {
    let others = sim.nodes.len() - 1;
    while sync(&sim, &daemon).await < others.div_ceil(2) {
        sim.sleep(Duration::from_millis(500)).await;
    }
    daemon.pool.borrow_mut().open = true;
    if let Some(head) = sim.nodes[daemon.node].ledger.borrow().blocks().last().cloned() {
        // It may have been sealed right before the end.
        publish(&sim, &daemon, &head);
    }
    loop {
        daemon.sealing.notified().await;
        sim.sleep(sim.between(0, 20_000)).await;
        while !daemon.pool.borrow().waiting.is_empty() {
            seal_one(&sim, &daemon).await;
        }
    }
}

async fn seal_one(sim: &Rc<Sim>, daemon: &Rc<Daemon>) {
    let node = &sim.nodes[daemon.node];
    let batch: Vec<(Hash, Transaction)> = daemon.pool.borrow().waiting.clone();
    let proposal = {
        let ledger = node.ledger.borrow();
        let now_ms = 1_700_000_000_100 + u64::try_from(sim.exec.now().as_millis()).unwrap_or(u64::MAX);
        ledger.chain.propose(&node.key, now_ms, 0, batch.iter().cloned())
    };
    // On its way to the disk: whoever dies here has sealed nothing, and nobody has heard of it.
    sim.sleep(sim.between(200, 20_000)).await;
    let sealed = proposal.block.transaction_hashes().to_vec();
    let block = if sealed.is_empty() {
        None
    } else {
        let mut ledger = node.ledger.borrow_mut();
        let block = proposal.block.sealed().clone();
        ledger.chain.commit(proposal.block);
        ledger.index(block);
        ledger.blocks().last().cloned()
    };
    let mut told = Vec::new();
    {
        let mut pool = daemon.pool.borrow_mut();
        for (hash, refusal) in proposal.refused {
            told.extend(pool.waiters.remove(&hash).map(|waiters| (waiters, Err(refusal))));
        }
        for hash in &sealed {
            told.extend(pool.waiters.remove(hash).map(|waiters| (waiters, Ok(()))));
        }
        let gone: Vec<Hash> = batch.iter().map(|(hash, _)| *hash).collect();
        pool.waiting.retain(|(hash, _)| !gone.contains(hash));
        rebase(sim, daemon.node, &mut pool);
    }
    if let Some(block) = block {
        for transaction in &block.block.transactions {
            sim.checks.borrow_mut().signed(transaction);
        }
        sim.trace(daemon.node, || {
            let kinds = block.block.transactions.iter().map(|tx| tx.payload.kind());
            format!(
                "seals block {}: {}",
                block.height(),
                kinds.collect::<Vec<_>>().join(" ")
            )
        });
        publish(sim, daemon, &block);
        sim.moved(daemon);
        crate::checks::owners(sim);
    }
    for (waiters, outcome) in told {
        for waiter in waiters {
            let _ = waiter.send(outcome);
        }
    }
}

/// What waits is valid after what waits before it; what is not any more goes.
fn rebase(sim: &Sim, node: usize, pool: &mut Pool) {
    let ledger = sim.nodes[node].ledger.borrow();
    let mut view = ledger.chain.state().clone();
    let waiting = std::mem::take(&mut pool.waiting);
    for (hash, transaction) in waiting {
        match view.apply(&transaction, ledger.height() + 1) {
            Ok(()) => pool.waiting.push((hash, transaction)),
            Err(refusal) => {
                for waiter in pool.waiters.remove(&hash).unwrap_or_default() {
                    let _ = waiter.send(Err(refusal));
                }
            }
        }
    }
    pool.view = Some(view);
}

fn publish(sim: &Rc<Sim>, daemon: &Daemon, block: &Rc<SealedBlock>) {
    for other in 0..sim.nodes.len() {
        if other != daemon.node {
            sim.tell(daemon.node, other, Ask::Block(block.clone()));
        }
    }
}

/// The authority's answer to a transaction, once it is sealed or refused.
pub(crate) async fn on_submit(sim: &Rc<Sim>, daemon: &Rc<Daemon>, bytes: &[u8]) -> Answer {
    if daemon.node != 0 || !daemon.pool.borrow().open {
        return Answer::NotSealing;
    }
    let refused = |is_final| Answer::NotTaken { is_final };
    let Ok(transaction) = Transaction::decode(bytes) else {
        return refused(true);
    };
    let hash = transaction.hash();
    if sim.nodes[0].ledger.borrow().sealed(&hash).is_some() {
        return Answer::Sealed;
    }
    let outcome = {
        let mut pool = daemon.pool.borrow_mut();
        if !pool.waiting.iter().any(|(known, _)| *known == hash) {
            if transaction.verify(sim.genesis_id).is_err() {
                return refused(true);
            }
            if pool.view.is_none() {
                rebase(sim, 0, &mut pool);
            }
            let height = sim.nodes[0].ledger.borrow().height() + 1;
            let taken = pool
                .view
                .as_mut()
                .expect("it was just made")
                .apply(&transaction, height);
            if let Err(refusal) = taken {
                return refused(refusal.is_final());
            }
            pool.waiting.push((hash, transaction));
        }
        let (sender, outcome) = oneshot::channel();
        pool.waiters.entry(hash).or_default().push(sender);
        outcome
    };
    daemon.sealing.notify_one();
    match outcome.await {
        Ok(Ok(())) => Answer::Sealed,
        Ok(Err(refusal)) => refused(refusal.is_final()),
        Err(_) => Answer::NotSealing,
    }
}

/// Has a transaction sealed; `node/src/chain/submit.rs`. Whether it is, or why not: `Some(is_final)` is a refusal.
pub(crate) async fn submit(
    sim: &Rc<Sim>,
    daemon: &Rc<Daemon>,
    transaction: &Transaction,
) -> Result<(), Option<bool>> {
    let (hash, bytes) = (transaction.hash(), transaction.encode());
    let end = sim.exec.now() + Duration::from_secs(15);
    let not_yet = sim.exec.now() + Duration::from_secs(3);
    let mut gossiped = false;
    loop {
        let answer = if daemon.node == 0 {
            Ok(on_submit(sim, daemon, &bytes).await)
        } else {
            sim.ask(daemon, 0, Ask::Submit(bytes.clone()), 2 * QUICK).await
        };
        let mut refusal = None;
        match answer {
            Ok(Answer::Sealed) => return Ok(()),
            Ok(Answer::NotTaken { is_final: true }) => return Err(Some(true)),
            Ok(Answer::NotTaken { is_final: false }) if sim.exec.now() >= not_yet => return Err(Some(false)),
            Ok(Answer::NotTaken { is_final: false }) => refusal = Some(false),
            Ok(_) => {}
            Err(_) if gossiped => {}
            Err(_) => {
                gossiped = true;
                gossip(sim, daemon, &bytes);
            }
        }
        if sim.nodes[daemon.node].ledger.borrow().sealed(&hash).is_some() {
            return Ok(());
        }
        if sim.exec.now() >= end {
            return Err(refusal);
        }
        sim.sleep(Duration::from_millis(250)).await;
    }
}

/// What the authority does not answer for is gossiped. The authority gets it by the next try; of the others only the liar
/// makes anything of it.
fn gossip(sim: &Rc<Sim>, daemon: &Daemon, bytes: &[u8]) {
    for other in 0..sim.nodes.len() {
        if sim.nodes[other].liar && other != daemon.node {
            sim.tell(daemon.node, other, Ask::Transaction(bytes.to_vec()));
        }
    }
}

/// Rule 4: what the journal holds unsealed reaches the chain in the end; `node/src/sessions/submit.rs`.
pub(crate) async fn submit_pending(sim: Rc<Sim>, daemon: Rc<Daemon>) {
    loop {
        let waiting: Vec<SessionId> = {
            let records = daemon.records.borrow();
            let unsealed = records.values().filter(|record| !record.pending.is_empty());
            unsealed.map(|record| record.session).collect()
        };
        for session in waiting {
            if !daemon.submitting.borrow_mut().insert(session) {
                continue;
            }
            let (sim, daemon) = (sim.clone(), daemon.clone());
            let life = daemon.life;
            sim.clone().exec.spawn(life, async move {
                let pending = daemon.record(&session).pending.clone();
                // In order: the chain takes a hand-over only after what made its signer the owner.
                for transaction in &pending {
                    if !submit_one(&sim, &daemon, session, transaction).await {
                        break;
                    }
                }
                daemon.submitting.borrow_mut().remove(&session);
            });
        }
        sim.within(AGAIN, daemon.submit.notified()).await;
    }
}

async fn submit_one(sim: &Rc<Sim>, daemon: &Rc<Daemon>, session: SessionId, pending: &Pending) -> bool {
    let Ok(transaction) = Transaction::decode(&pending.bytes) else {
        return false;
    };
    sim.goes_out([pending]);
    match submit(sim, daemon, &transaction).await {
        Ok(()) => {}
        Err(Some(_)) => {
            let state = sim.state(daemon.node);
            if !overtaken(&transaction.payload, state.session(&session)) {
                return false;
            }
            sim.trace(daemon.node, || {
                format!("the chain holds a newer fact than {}", transaction.payload.kind())
            });
        }
        Err(None) => return false,
    }
    append(
        sim,
        daemon,
        Entry::Sealed {
            session,
            transaction: pending.hash,
        },
    )
    .await;
    true
}

/// Signs and submits what need not be sealed: announcements and claims.
pub(crate) fn announce(sim: &Rc<Sim>, daemon: &Rc<Daemon>, transaction: Transaction) {
    let (sim, daemon) = (sim.clone(), daemon.clone());
    let life = daemon.life;
    sim.clone().exec.spawn(life, async move {
        let _ = submit(&sim, &daemon, &transaction).await;
    });
}

/// Whom the chain says to own a session, and since which epoch.
pub(crate) fn owner(state: &State, session: &SessionId) -> Option<(PublicKey, u64)> {
    let sealed = state.session(session)?;
    Some((sealed.owner, sealed.epoch))
}

/// The hand-overs that are public on the chain.
pub(crate) fn handovers(ledger: &Ledger) -> Vec<Transaction> {
    let blocks = ledger.blocks().iter();
    let transactions = blocks.flat_map(|block| block.block.transactions.iter());
    transactions
        .filter(|transaction| matches!(transaction.payload, Payload::HandOver(_)))
        .cloned()
        .collect()
}

pub(crate) fn on_range(sim: &Sim, node: usize, from: u64) -> Answer {
    Answer::Blocks(sim.nodes[node].ledger.borrow().range(from))
}

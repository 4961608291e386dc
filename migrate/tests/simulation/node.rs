//! A node: its daemon from the start to whatever ends it, and what it answers to others; `node/src/run.rs`,
//! `sessions/handle/start.rs`, `sessions/registry.rs`, `sessions/journal.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::SessionId;
use blosm_migrate::session::journal_bytes;
use blosm_migrate::session::{Attempt, Entry, Found, Record, Standing, fate};
use tokio::sync::{Mutex, Notify, mpsc};

use crate::engine::Run;
use crate::exec::Life;
use crate::gateway::{self, Gate, Route};
use crate::ledger::{self, Pool};
use crate::links::Asked;
use crate::plan::Broken;
use crate::task::{Command, Task};
use crate::watched::Watched;
use crate::wire::{Answer, Ask, Refusal, Relayed};
use crate::world::Sim;

/// How long a start waits for a better head than its own.
const SYNC_LIMIT: Duration = Duration::from_secs(5);
/// Commands that may wait for one session.
const QUEUE: usize = 64;

/// One process of a node.
pub(crate) struct Daemon {
    pub(crate) life: Life,
    pub(crate) node: usize,
    /// What the journal adds up to: of entries that are on the disk.
    pub(crate) records: RefCell<BTreeMap<SessionId, Rc<Record>>>,
    slots: RefCell<BTreeMap<SessionId, Rc<Slot>>>,
    /// Questions whose answers are waited for.
    pub(crate) asked: RefCell<BTreeMap<u64, Asked>>,
    journal: Mutex<()>,
    ready: Watched<bool>,
    /// Changes with every block.
    pub(crate) moved: Watched<u64>,
    pub(crate) submit: Notify,
    pub(crate) submitting: RefCell<BTreeSet<SessionId>>,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) sealing: Notify,
    /// What may be pulled, by whom.
    pub(crate) grants: RefCell<BTreeMap<Attempt, Grant>>,
    /// When this node last asked for a session, and how often in vain.
    pub(crate) visits: RefCell<BTreeMap<SessionId, (Duration, u32)>>,
}

/// What one attempt of another node may pull from this one.
pub(crate) struct Grant {
    pub(crate) session: SessionId,
    pub(crate) peer: usize,
    /// Whether it moves while it runs, and in which run that was agreed.
    pub(crate) live: bool,
    pub(crate) run: Option<Run>,
    /// The final state, once the container has stopped.
    pub(crate) layer: Option<Rc<Vec<u64>>>,
}

/// One session on a node.
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    pub(crate) gate: Gate,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Exits of its containers; never full, since each of them is of a run.
    pub(crate) exits: mpsc::Sender<Command>,
    pub(crate) failed_attempts: Cell<u32>,
}

impl Daemon {
    pub(crate) fn record(&self, session: &SessionId) -> Rc<Record> {
        let known = self.records.borrow().get(session).cloned();
        known.unwrap_or_else(|| Rc::new(Record::new(*session)))
    }

    pub(crate) fn slot(&self, session: &SessionId) -> Option<Rc<Slot>> {
        self.slots.borrow().get(session).cloned()
    }

    pub(crate) fn slots(&self) -> Vec<Rc<Slot>> {
        self.slots.borrow().values().cloned().collect()
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }
}

/// The session's slot; its task is started if there is none.
pub(crate) fn ensure(sim: &Rc<Sim>, daemon: &Rc<Daemon>, id: SessionId) -> Rc<Slot> {
    if let Some(slot) = daemon.slot(&id) {
        return slot;
    }
    let record = daemon.record(&id);
    let route = if record.may_run() {
        Route::Held
    } else {
        Route::Elsewhere
    };
    let (commands, queue) = mpsc::channel(QUEUE);
    let (exits, ended) = mpsc::channel(1024);
    let slot = Rc::new(Slot {
        id,
        gate: Gate::new(route),
        commands,
        exits,
        failed_attempts: Cell::new(0),
    });
    daemon.slots.borrow_mut().insert(id, slot.clone());
    let task = Task::new(sim.clone(), daemon.clone(), slot.clone());
    sim.exec.spawn(daemon.life, task.run(queue, ended));
    slot
}

/// Writes an entry into the journal; it is on the disk when this returns.
pub(crate) async fn append(sim: &Rc<Sim>, daemon: &Rc<Daemon>, entry: Entry) {
    let session = entry.session();
    {
        // One write at a time, as the journal's thread has it.
        let _turn = daemon.journal.lock().await;
        let disk = &sim.nodes[daemon.node].disk;
        disk.borrow_mut().write(&journal_bytes::encode([&entry]));
        if sim.plan.broken != Broken::NoFsync {
            sim.sleep(sim.between(100, 6_000)).await;
            disk.borrow_mut().sync();
        }
    }
    sim.trace(daemon.node, || format!("journal: {}", brief(&entry)));
    let before = daemon.record(&session);
    let mut record = (*before).clone();
    record.apply(entry.clone());
    daemon.records.borrow_mut().insert(session, Rc::new(record));
    match entry {
        Entry::Acquired { .. } => sim.checks.borrow_mut().acquired(session),
        Entry::Reclaimed { epoch, .. } => crate::checks::reclaimed(sim, daemon.node, &before, epoch),
        _ => {}
    }
    crate::checks::owners(sim);
}

fn brief(entry: &Entry) -> String {
    let text = format!("{entry:?}");
    let end = text.find([' ', '{', '(']).unwrap_or(text.len());
    let epoch = match entry {
        Entry::Acquired { epoch, .. }
        | Entry::Signed { epoch, .. }
        | Entry::Reclaimed { epoch, .. }
        | Entry::Applied { epoch, .. } => format!(" epoch {epoch}"),
        _ => String::new(),
    };
    format!("{}{epoch} of {}", &text[..end], entry.session().short(6))
}

/// Starts the daemon of a machine that is on.
pub(crate) fn boot(sim: &Rc<Sim>, node: usize) {
    let machine = &sim.nodes[node];
    if machine.lost.get() || machine.daemon.borrow().is_some() {
        return;
    }
    let bytes = machine.disk.borrow().read();
    let replay = match journal_bytes::replay(&bytes) {
        Ok(replay) => replay,
        Err(broken) => {
            let why = format!("{}: {broken}", sim.name(node));
            sim.checks.borrow_mut().violated(why);
            return;
        }
    };
    machine.disk.borrow_mut().truncate(replay.good);
    for record in replay.records.values() {
        if record.standing == Standing::Closed {
            // It may have died between writing that and saying so.
            sim.checks.borrow_mut().found_closed(record);
        }
    }
    if sim.plan.broken != Broken::NoFsyncAtStart {
        // What an earlier process has written and not synced is acted on from here on.
        machine.disk.borrow_mut().sync();
    }
    let records = replay.records.into_iter();
    let daemon = Rc::new(Daemon {
        life: Life(sim.exec.number()),
        node,
        records: RefCell::new(records.map(|(id, record)| (id, Rc::new(record))).collect()),
        slots: RefCell::default(),
        asked: RefCell::default(),
        journal: Mutex::new(()),
        ready: Watched::new(false),
        moved: Watched::new(0),
        submit: Notify::new(),
        submitting: RefCell::default(),
        pool: RefCell::default(),
        sealing: Notify::new(),
        grants: RefCell::default(),
        visits: RefCell::default(),
    });
    *machine.daemon.borrow_mut() = Some(daemon.clone());
    sim.trace(node, || "starts".to_owned());
    crate::checks::owners(sim);
    let life = daemon.life;
    if machine.liar {
        // It follows the chain and says what it likes; see `liar.rs`.
        daemon.ready.set(true);
        sim.exec.spawn(life, ledger::follow(sim.clone(), daemon));
        return;
    }
    sim.exec.spawn(life, start(sim.clone(), daemon));
}

/// Rule 7.
async fn start(sim: Rc<Sim>, daemon: Rc<Daemon>) {
    let (node, life) = (daemon.node, daemon.life);
    if node == 0 {
        sim.exec.spawn(life, ledger::seal(sim.clone(), daemon.clone()));
    }
    sim.exec.spawn(life, ledger::follow(sim.clone(), daemon.clone()));
    sim.within(SYNC_LIMIT, ledger::sync(&sim, &daemon)).await;
    let containers = loop {
        match sim.list(node).await {
            Ok(containers) => break containers,
            // The daemon ends, and its supervisor starts it again.
            Err(_) => sim.sleep(Duration::from_secs(1)).await,
        }
    };
    let (me, state) = (sim.nodes[node].me, sim.state(node));
    for (name, container) in containers {
        let record = daemon.records.borrow().get(&container.session).cloned();
        let found = Found {
            name: &name,
            running: container.runs(),
            passed: container.passed(),
            stateless: false,
        };
        let sealed = state.session(&container.session).filter(|_| record.is_some());
        let fate = fate(found, record.as_deref(), sealed, me);
        if fate.stop {
            // What can't be stopped stays a stranger: its session's task, or the next start, stops it.
            let _ = sim.stop(node, &name).await;
        }
        if fate.remove {
            let _ = sim.remove(node, &name, true).await;
        }
    }
    let unsettled: Vec<SessionId> = {
        let records = daemon.records.borrow();
        let unsettled = records.values().filter(|record| !record.is_settled());
        unsettled.map(|record| record.session).collect()
    };
    for session in unsettled {
        ensure(&sim, &daemon, session);
    }
    if sim.plan.broken == Broken::AdoptsByChain {
        adopt_by_chain(&sim, &daemon);
    }
    sim.exec
        .spawn(life, ledger::submit_pending(sim.clone(), daemon.clone()));
    daemon.ready.set(true);
}

/// A broken rule: what the chain says is taken, whatever was signed since.
fn adopt_by_chain(sim: &Rc<Sim>, daemon: &Rc<Daemon>) {
    let (node, state) = (daemon.node, sim.state(daemon.node));
    let records: Vec<Rc<Record>> = daemon.records.borrow().values().cloned().collect();
    for record in records {
        let owner = ledger::owner(&state, &record.session).map(|(owner, _)| owner);
        if owner == Some(sim.nodes[node].me)
            && !record.may_run()
            && let Some(container) = record.container.clone()
        {
            let sim = sim.clone();
            sim.clone().exec.spawn(daemon.life, async move {
                sim.nodes[node].engine.open(&sim, node, &container.name);
                let _ = sim.start(node, &container.name).await;
            });
        }
    }
}

/// What the process answers. Questions about sessions wait until it has taken them up.
pub(crate) async fn answer(sim: &Rc<Sim>, daemon: &Rc<Daemon>, from: usize, ask: Ask) -> Option<Answer> {
    let node = daemon.node;
    match &ask {
        Ask::Head => {
            let height = sim.nodes[node].ledger.borrow().height();
            return Some(Answer::Head { height });
        }
        Ask::Range { from } => return Some(ledger::on_range(sim, node, *from)),
        Ask::Submit(bytes) => return Some(ledger::on_submit(sim, daemon, bytes).await),
        Ask::Block(block) => {
            ledger::on_block(sim, daemon, from, block).await;
            return None;
        }
        _ => {}
    }
    if sim.nodes[node].liar {
        return crate::liar::answer(sim, daemon, from, &ask);
    }
    let mut ready = daemon.ready.watch();
    ready.wait_for(|ready| *ready).await;
    if !sim.state(node).members().contains(&sim.nodes[from].me) {
        return Some(Answer::Refused(Refusal::NotMember));
    }
    match ask {
        Ask::Relay(mut request) => {
            request.via = Some(from);
            request.hops += 1;
            let answer = match gateway::serve(sim, daemon, request).await {
                Ok(relayed) => relayed,
                Err(denied) => Relayed::Denied(denied),
            };
            Some(Answer::Relayed(answer))
        }
        Ask::Pull { attempt } => {
            let grants = daemon.grants.borrow();
            let granted = grants.get(&attempt).filter(|grant| grant.peer == from);
            Some(match granted.and_then(|grant| grant.layer.clone()) {
                Some(layer) => Answer::State { layer },
                None => Answer::Refused(Refusal::NotAuthorised),
            })
        }
        ask => Some(gateway::on_session(sim, daemon, from, ask).await),
    }
}

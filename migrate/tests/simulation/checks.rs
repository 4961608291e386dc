//! What must hold, looked at from outside: the engines' own containers, what cars were told, what was signed. Nothing
//! here is known to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blosm_ledger::{Hash, Payload, PublicKey, ReleaseReason, SessionId, Token, Transaction};
use blosm_migrate::session::{Adoption, Pending, Record, adopt};

use crate::engine::{Phase, Run};
use crate::gateway::Route;
use crate::runs::Figures;
use crate::wire::Served;
use crate::world::Sim;

#[derive(Default)]
pub(crate) struct Checks {
    sessions: BTreeMap<SessionId, Seen>,
    /// When each car was last answered.
    cars: BTreeMap<usize, Duration>,
    violation: Option<String>,
    pub(crate) figures: Figures,
}

/// What has been seen of one session.
#[derive(Default)]
struct Seen {
    /// Runs of its containers that go on, and where.
    running: BTreeMap<Run, String>,
    /// All runs that ever were.
    runs: BTreeSet<Run>,
    /// Requests that were answered, and the counter that the client was told, in the order of the answers.
    answered: Vec<(u64, u64)>,
    last_answer: Duration,
    token: Option<Token>,
    closed: Option<ReleaseReason>,
    /// Its client has gone.
    left: bool,
    /// Its newest state was on a machine that is off for good.
    lost: bool,
    /// The hand-overs that were signed, by the epoch that they end.
    signed: BTreeMap<u64, BTreeSet<(PublicKey, Hash)>>,
    parted: Option<Parted>,
}

/// The destination was lost with its machine, and the source has the session back. If the destination had given it on,
/// whoever has it now gives it up when it hears of that, and what it did is nobody's business.
struct Parted {
    /// The epoch at which the source has it back.
    epoch: u64,
    /// Runs that do not count any more.
    astray: BTreeSet<Run>,
}

impl Seen {
    /// Whether somebody has a right to be answered.
    fn wanted(&self) -> bool {
        !self.answered.is_empty() && self.closed.is_none()
    }

    /// What a state must hold: all that was answered, each where the client was told that it stands.
    fn missing(&self, layer: &[u64]) -> Option<(u64, u64)> {
        self.answered
            .iter()
            .find(|answered| !stands(layer, answered))
            .copied()
    }

    fn is_astray(&self, run: Run) -> bool {
        let parted = self.parted.as_ref();
        parted.is_some_and(|parted| parted.astray.contains(&run))
    }
}

/// Whether a state holds a request where its client was told that it stands.
fn stands(layer: &[u64], (number, counter): &(u64, u64)) -> bool {
    let at = usize::try_from(*counter)
        .ok()
        .and_then(|counter| counter.checked_sub(1));
    at.and_then(|at| layer.get(at)) == Some(number)
}

impl Checks {
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// The first violation is the one that tells something.
    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn seen(&mut self, session: SessionId) -> &mut Seen {
        self.sessions.entry(session).or_default()
    }

    pub(crate) fn exited(&mut self, session: SessionId, run: Run) {
        self.seen(session).running.remove(&run);
    }

    /// A car was told that its session is over.
    pub(crate) fn gone(&mut self, session: SessionId) {
        if self.seen(session).closed.is_none() {
            self.violated("a car was told that its session is over, and nobody has closed it".into());
        }
    }

    /// Its car has left it without a word.
    pub(crate) fn left(&mut self, session: SessionId) {
        self.seen(session).left = true;
    }

    pub(crate) fn closed(&mut self, session: SessionId, reason: ReleaseReason) {
        let seen = self.seen(session);
        let had_state = seen.wanted();
        seen.closed = Some(reason);
        if reason == ReleaseReason::StateLost && had_state {
            self.violated("a state that was answered from is given up as lost".into());
        }
        self.figures.closed += 1;
    }

    /// A start finds in its journal that it has closed a session.
    pub(crate) fn found_closed(&mut self, record: &Record) {
        if self.seen(record.session).closed.is_some() {
            return;
        }
        let mut releases = record.pending.iter().filter_map(|pending| {
            match Transaction::decode(&pending.bytes).ok()?.payload {
                Payload::Release(release) => Some(release.reason),
                _ => None,
            }
        });
        if let Some(reason) = releases.next_back() {
            self.closed(record.session, reason);
        }
    }

    pub(crate) fn is_closed(&self, session: &SessionId, reason: ReleaseReason) -> bool {
        let seen = self.sessions.get(session);
        seen.is_some_and(|seen| seen.closed == Some(reason))
    }

    /// Its newest state was on a machine that is off for good.
    pub(crate) fn lost(&mut self, session: SessionId) {
        let seen = self.seen(session);
        if !std::mem::replace(&mut seen.lost, true) {
            self.figures.lost += 1;
        }
    }

    /// A node has it, whole, by a signed hand-over.
    pub(crate) fn acquired(&mut self, session: SessionId) {
        self.seen(session).lost = false;
    }

    /// A node has signed it away, or lets the signature out, or the chain holds it.
    pub(crate) fn signed(&mut self, transaction: &Transaction) {
        let Payload::HandOver(handover) = &transaction.payload else {
            return;
        };
        let (epoch, hash) = (handover.epoch, transaction.hash());
        let seen = self.seen(handover.session);
        let parted = seen.parted.is_some();
        let known = seen.signed.entry(epoch).or_default();
        known.insert((transaction.sender, hash));
        // Whoever has it from a lost machine may have signed before it heard that the source has it back.
        let mut others = known
            .iter()
            .filter(|(sender, _)| !parted || *sender == transaction.sender);
        if others.any(|(_, other)| *other != hash) {
            self.violated(format!("epoch {epoch} was handed over twice"));
        }
    }

    pub(crate) fn token_of(&self, session: &SessionId) -> Option<Token> {
        self.sessions.get(session)?.token.clone()
    }

    /// Whether what a node says of a session, whose chain has it at that epoch, is of a hand-over that the chain has passed
    /// over, and it can't know.
    fn is_behind(&self, session: &SessionId, sealed: Option<u64>) -> bool {
        let seen = self.sessions.get(session);
        let parted = seen.and_then(|seen| seen.parted.as_ref());
        parted.is_some_and(|parted| sealed < Some(parted.epoch))
    }
}

impl Sim {
    /// These transactions leave a node.
    pub(crate) fn goes_out<'a>(&self, all: impl IntoIterator<Item = &'a Pending>) {
        for pending in all {
            if let Ok(transaction) = Transaction::decode(&pending.bytes) {
                self.checks.borrow_mut().signed(&transaction);
            }
        }
    }
}

/// The own program of a session's container begins to run, on this state.
pub(crate) fn started(sim: &Sim, node: usize, session: SessionId, name: &str, run: Run, layer: &[u64]) {
    let sealed = sim.state(node).session(&session).map(|sealed| sealed.epoch);
    let what = format!("{name} on {}", sim.name(node));
    let mut checks = sim.checks.borrow_mut();
    checks.figures.starts += 1;
    let is_behind = checks.is_behind(&session, sealed);
    let seen = checks.seen(session);
    seen.runs.insert(run);
    let mut wrong = None;
    if let Some(parted) = seen.parted.as_mut().filter(|_| is_behind) {
        parted.astray.insert(run);
    } else if let Some((_, other)) = seen.running.iter().find(|(run, _)| !seen.is_astray(**run)) {
        wrong = Some(format!("two containers of one session run: {other} and {what}"));
    } else if let Some(reason) = seen.closed {
        wrong = Some(format!("{what} starts, and its session is closed ({reason:?})"));
    } else if let Some((number, counter)) = seen.missing(layer) {
        wrong = Some(format!(
            "{what} starts without request {number}, which was answered as number {counter}; it holds {}",
            layer.len()
        ));
    }
    seen.running.insert(run, what);
    if let Some(wrong) = wrong {
        checks.violated(wrong);
    }
}

/// A car was told that its request was the `counter`-th.
pub(crate) fn answered(sim: &Sim, car: usize, token: &Token, number: u64, served: Served) {
    let (now, counter) = (sim.exec.now(), served.counter);
    let mut checks = sim.checks.borrow_mut();
    checks.figures.answered += 1;
    checks.cars.insert(car, now);
    let seen = checks.seen(token.session());
    seen.last_answer = now;
    seen.token.get_or_insert_with(|| token.clone());
    if seen.is_astray(served.run) {
        return;
    }
    let before = seen.answered.last().map_or(0, |(_, counter)| *counter);
    seen.answered.push((number, counter));
    if counter <= before {
        checks.violated(format!("a car was told {counter} after {before}"));
    }
}

/// A node has a session back that it had given away. What was answered since the hand-over is lost with the destination's
/// machine, and with nothing less.
pub(crate) fn reclaimed(sim: &Sim, node: usize, before: &Record, epoch: u64) {
    let destination = before.gave.as_ref().and_then(|gave| sim.index(&gave.destination));
    if !destination.is_some_and(|destination| sim.nodes[destination].lost.get()) {
        return;
    }
    let container = before.container.as_ref();
    let layer = container.and_then(|container| sim.nodes[node].engine.layer(&container.name));
    let layer = layer.unwrap_or_default();
    let mut checks = sim.checks.borrow_mut();
    let seen = checks.seen(before.session);
    seen.lost = false;
    seen.answered.retain(|answered| stands(&layer, answered));
    seen.parted = Some(Parted {
        epoch,
        astray: seen.runs.clone(),
    });
}

/// Whether a session waits for ever for a machine that is off for good (rule 8).
pub(crate) fn is_lost(sim: &Sim, session: &SessionId) -> bool {
    let was_there = sim
        .checks
        .borrow()
        .sessions
        .get(session)
        .is_some_and(|seen| seen.lost);
    let owner = crate::ledger::owner(&sim.state(0), session);
    let owner = owner.and_then(|(owner, _)| sim.index(&owner));
    was_there && owner.is_none_or(|owner| sim.nodes[owner].lost.get())
}

/// One owner at most: by journal and chain of the nodes that are up.
pub(crate) fn owners(sim: &Sim) {
    let mut owners: BTreeMap<SessionId, (usize, u64)> = BTreeMap::new();
    for (index, node) in sim.nodes.iter().enumerate() {
        let Some(daemon) = sim.daemon(index) else { continue };
        let state = sim.state(index);
        if state.members().evicted(&node.me).is_some() {
            continue;
        }
        for (session, record) in daemon.records.borrow().iter() {
            let sealed = state.session(session);
            let Adoption::Mine { epoch } = adopt(record, sealed, node.me) else {
                continue;
            };
            let sealed = sealed.map(|sealed| sealed.epoch);
            if sim.checks.borrow().is_behind(session, sealed) {
                continue;
            }
            if let Some((other, at)) = owners.insert(*session, (index, epoch)) {
                sim.checks.borrow_mut().violated(format!(
                    "two nodes own one session: {} at epoch {at} and {} at {epoch}",
                    sim.name(other),
                    sim.name(index)
                ));
            }
        }
    }
}

/// What is not well yet, some time after everything works again.
pub(crate) fn unwell(sim: &Sim, healed: Duration) -> Option<String> {
    let honest = (0..sim.plan.nodes).filter(|node| !sim.nodes[*node].lost.get());
    let nodes: Vec<usize> = honest.collect();
    let head = sim.nodes[0].ledger.borrow().head();
    for node in &nodes {
        if !sim.daemon(*node).is_some_and(|daemon| daemon.is_ready()) {
            return Some(format!("{} does not serve", sim.name(*node)));
        }
        if sim.nodes[*node].ledger.borrow().head() != head {
            return Some(format!("{} has another head", sim.name(*node)));
        }
        if sim.is_evicted(*node) {
            return Some(format!("{} is no member yet", sim.name(*node)));
        }
    }
    let checks = sim.checks.borrow();
    for car in 0..sim.plan.cars {
        if checks.cars.get(&car).is_none_or(|answer| *answer <= healed) {
            return Some(format!("car{car} has had no answer"));
        }
    }
    for (session, seen) in &checks.sessions {
        let short = session.short(6);
        if seen.closed.is_some() && !seen.running.is_empty() {
            return Some(format!("the closed session {short} still runs"));
        }
        if !seen.wanted() || is_lost(sim, session) {
            continue;
        }
        let at: Vec<usize> = nodes
            .iter()
            .copied()
            .filter(|node| runs(sim, *node, session))
            .collect();
        let &[node] = at.as_slice() else {
            return Some(format!("session {short} is served by {} nodes", at.len()));
        };
        if !seen.left && seen.last_answer <= healed {
            return Some(format!("the car of session {short} has had no answer"));
        }
        let owner = crate::ledger::owner(&sim.state(0), session);
        let record = sim.daemon(node).map(|daemon| daemon.record(session));
        let epoch = record.and_then(|record| record.owned_epoch());
        if owner != epoch.map(|epoch| (sim.nodes[node].me, epoch)) {
            return Some(format!(
                "the chain does not say yet that {} has session {short}",
                sim.name(node)
            ));
        }
    }
    None
}

/// Whether a session's container runs on a node and is routed to.
fn runs(sim: &Sim, node: usize, session: &SessionId) -> bool {
    let containers = sim.nodes[node].engine.containers.borrow();
    let routed = sim.daemon(node).and_then(|daemon| daemon.slot(session));
    let routed = routed.map(|slot| slot.gate.route());
    containers.values().any(|container| {
        container.session == *session
            && matches!(container.phase, Phase::Running(run) if routed == Some(Route::Local(run)))
    })
}

/// What must hold when all is quiet.
pub(crate) fn at_the_end(sim: &Sim) {
    let mut wrong = None;
    for node in &sim.nodes {
        for (name, container) in node.engine.containers.borrow().iter() {
            let checks = sim.checks.borrow();
            if let Phase::Running(_) = container.phase
                && let Some(seen) = checks.sessions.get(&container.session)
                && let Some((number, counter)) = seen.missing(container.layer())
            {
                wrong.get_or_insert(format!(
                    "{name} does not hold request {number}, which was answered as number {counter}"
                ));
            }
        }
    }
    if let Some(wrong) = wrong {
        sim.checks.borrow_mut().violated(wrong);
    }
}

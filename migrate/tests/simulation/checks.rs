//! What must hold, looked at from outside: the engines' own containers, what cars were told, what was signed. Nothing
//! here is known to a node.

use std::collections::BTreeMap;
use std::time::Duration;

use blosm_ledger::{HandOver, PublicKey, ReleaseReason, SessionId, Token};
use blosm_migrate::session::{Adoption, adopt};

use crate::engine::{Phase, Run};
use crate::gateway::Route;
use crate::runs::Figures;
use crate::world::Sim;

#[derive(Default)]
pub(crate) struct Checks {
    sessions: BTreeMap<SessionId, Seen>,
    violation: Option<String>,
    pub(crate) figures: Figures,
}

/// What has been seen of one session.
#[derive(Default)]
struct Seen {
    /// Runs of its containers that go on, and where.
    running: BTreeMap<Run, String>,
    /// Requests that were answered, and the counter that the client was told, in the order of the answers.
    answered: Vec<(u64, u64)>,
    last_answer: Duration,
    token: Option<Token>,
    closed: Option<ReleaseReason>,
    /// Its client has gone.
    left: bool,
    /// It was on a machine that is off for good.
    lost: bool,
    /// To whom it was handed over, by the epoch that ended.
    signed: BTreeMap<u64, PublicKey>,
}

impl Seen {
    /// Whether somebody has a right to be answered.
    fn wanted(&self) -> bool {
        !self.answered.is_empty() && self.closed.is_none() && !self.lost
    }

    /// What a state must hold: all that was answered, each where the client was told that it stands.
    fn missing(&self, layer: &[u64]) -> Option<(u64, u64)> {
        if self.lost {
            return None;
        }
        let stands = |(number, counter): &&(u64, u64)| {
            let at = usize::try_from(*counter)
                .ok()
                .and_then(|counter| counter.checked_sub(1));
            at.and_then(|at| layer.get(at)) != Some(number)
        };
        self.answered.iter().find(stands).copied()
    }
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

    /// The own program of a session's container begins to run, on this state.
    pub(crate) fn started(&mut self, node: &str, session: SessionId, name: &str, run: Run, layer: &[u64]) {
        let seen = self.seen(session);
        let what = format!("{name} on {node}");
        let mut wrong = None;
        if let Some(other) = seen.running.values().next() {
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
        self.figures.starts += 1;
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
    }

    pub(crate) fn exited(&mut self, session: SessionId, run: Run) {
        self.seen(session).running.remove(&run);
    }

    /// A car was told that its request was the `counter`-th.
    pub(crate) fn answered(&mut self, token: &Token, number: u64, counter: u64, now: Duration) {
        let seen = self.seen(token.session());
        seen.last_answer = now;
        seen.token.get_or_insert_with(|| token.clone());
        let before = seen.answered.last().map_or(0, |(_, counter)| *counter);
        seen.answered.push((number, counter));
        let wrong = counter <= before && !seen.lost;
        self.figures.answered += 1;
        if wrong {
            self.violated(format!("a car was told {counter} after {before}"));
        }
    }

    /// A car was told that its session is over.
    pub(crate) fn gone(&mut self, session: SessionId) {
        let seen = self.seen(session);
        if seen.closed.is_none() && !seen.lost {
            self.violated("a car was told that its session is over, and nobody has closed it".into());
        }
    }

    /// Its car has closed it.
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

    pub(crate) fn is_closed(&self, session: &SessionId, reason: ReleaseReason) -> bool {
        let seen = self.sessions.get(session);
        seen.is_some_and(|seen| seen.closed == Some(reason))
    }

    /// Its state was on a machine that is off for good.
    pub(crate) fn lost(&mut self, session: SessionId) {
        self.seen(session).lost = true;
        self.figures.lost += 1;
    }

    /// A node has signed it away.
    pub(crate) fn signed(&mut self, handover: &HandOver) {
        self.figures.handovers += 1;
        let seen = self.seen(handover.session);
        let known = seen.signed.insert(handover.epoch, handover.destination);
        if known.is_some_and(|known| known != handover.destination) {
            let epoch = handover.epoch;
            self.violated(format!("epoch {epoch} was handed over to two nodes"));
        }
    }

    pub(crate) fn token_of(&self, session: &SessionId) -> Option<Token> {
        self.sessions.get(session)?.token.clone()
    }
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
            let Adoption::Mine { epoch } = adopt(record, state.session(session), node.me) else {
                continue;
            };
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
    }
    let checks = sim.checks.borrow();
    for (session, seen) in &checks.sessions {
        let short = session.short(6);
        if seen.closed.is_some() && !seen.running.is_empty() {
            return Some(format!("the closed session {short} still runs"));
        }
        if !seen.wanted() {
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

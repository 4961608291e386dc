//! A client's request, from whichever side it came, to the container that answers it; `node/src/gateway/serve.rs`,
//! `gateway/gate.rs`, `sessions/handle.rs`, `handle/follow.rs`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{Open, Payload, PublicKey, SessionId, Token};
use blosm_migrate::session::{Entry, KnownOwner, No, Pending, Turn, newest_owner, turn};
use tokio::sync::{Notify, oneshot};

use crate::engine::{Failed, Run};
use crate::links::RELAY;
use crate::node::{self, Daemon, Slot};
use crate::task::Command;
use crate::watched::Watched;
use crate::wire::{Answer, Ask, Denied, NoAnswer, Refusal, Relayed, Request, Served};
use crate::world::Sim;

pub(crate) const SERVICE: &str = "counter";
const MAX_HOPS: u8 = 3;
/// How often a request may find that its session has moved meanwhile.
const MAX_TURNS: u32 = 6;
const CONNECT_AGAIN: Duration = Duration::from_millis(20);
/// How long an owner that can't be reached is tried.
const OWNER_WAIT: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const HOLD_TIME: Duration = Duration::from_secs(15);
/// Between two attempts to take the same session; each that failed doubles it.
const VISIT_AGAIN: Duration = Duration::from_secs(1);
const MAX_BACKOFF: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Held,
    Local(Run),
    Elsewhere,
    Gone,
}

/// Where a session's requests go at this instant, and how many are on their way.
pub(crate) struct Gate {
    route: Watched<Route>,
    in_flight: Cell<usize>,
    idle: Notify,
    /// Rises when the drain of a cut is over.
    drains: Watched<u64>,
}

struct InFlight(Rc<Slot>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        gate.in_flight.set(gate.in_flight.get() - 1);
        if gate.in_flight.get() == 0 {
            gate.idle.notify_waiters();
        }
    }
}

impl Gate {
    pub(crate) fn new(route: Route) -> Self {
        Self {
            route: Watched::new(route),
            in_flight: Cell::new(0),
            idle: Notify::new(),
            drains: Watched::new(0),
        }
    }

    pub(crate) fn route(&self) -> Route {
        *self.route.borrow()
    }

    pub(crate) fn set(&self, route: Route) {
        self.route.set(route);
    }

    /// Holds requests if they go to this run.
    pub(crate) fn close(&self, run: Run) {
        if self.route() == Route::Local(run) {
            self.set(Route::Held);
        }
    }

    /// Waits for the requests in flight; those left after `limit` are told to give up.
    pub(crate) async fn drain(&self, sim: &Sim, limit: Duration) {
        let drained = sim.within(limit, async {
            loop {
                let idle = self.idle.notified();
                if self.in_flight.get() == 0 {
                    return;
                }
                idle.await;
            }
        });
        if drained.await.is_none() {
            self.drains.change(|count| *count += 1);
        }
    }
}

/// A request that came to this node.
pub(crate) async fn serve(sim: &Rc<Sim>, daemon: &Rc<Daemon>, request: Request) -> Result<Relayed, Denied> {
    let (session, me) = (request.token.session(), sim.nodes[daemon.node].me);
    if sim.is_evicted(daemon.node) {
        return Err(Denied::Evicted);
    }
    let (begin, mut turns) = (sim.exec.now(), 0);
    let waited = || sim.exec.now() - begin;
    while turns < MAX_TURNS {
        if let Some(slot) = daemon.slot(&session)
            && let Some((counter, run)) = through(sim, daemon, &slot, request.number, begin).await?
        {
            return Ok(Relayed::Answer(Served {
                counter,
                run,
                node: me,
            }));
        }
        let (opener, state) = (request.token.opener(), sim.state(daemon.node));
        let known = state.members().ever_admitted(&opener);
        let owner = match turn(owner(sim, daemon, &session), opener, known, me) {
            Turn::To(owner) => owner,
            Turn::Gone => return Err(Denied::Gone),
            Turn::Unknown => return Err(Denied::OwnerUnreachable),
            Turn::Wait if waited() < OWNER_WAIT => {
                sim.sleep(LOOK_AGAIN).await;
                continue;
            }
            Turn::Wait => return Err(Denied::Held),
        };
        let Some(to) = sim.index(&owner) else {
            return Err(Denied::OwnerUnreachable);
        };
        if request.via == Some(to) {
            // The asker owns it and has not heard of it yet: it gets the signature that says so.
            if let Some((handover, pending)) = handover_to(sim, daemon, &session, owner) {
                sim.goes_out([&handover].into_iter().chain(&pending));
                return Ok(Relayed::Moved { handover, pending });
            }
            sim.sleep(LOOK_AGAIN).await;
            turns += 1;
            continue;
        }
        match relay(sim, daemon, to, &request).await {
            Ok(Relayed::Answer(served)) => {
                if request.via.is_none() {
                    follow(sim, daemon, &request.token, served.node);
                }
                return Ok(Relayed::Answer(served));
            }
            Ok(Relayed::Moved { handover, pending }) => {
                turns += 1;
                sim.step(daemon.node, Some(to), "taken from an answer");
                take(sim, daemon, session, handover, pending).await;
                if self::owner(sim, daemon, &session) != KnownOwner::Me {
                    sim.sleep(LOOK_AGAIN).await;
                }
            }
            Ok(Relayed::Denied(denied)) => return Err(denied),
            Err(Denied::OwnerUnreachable) if request.via.is_none() && waited() < OWNER_WAIT => {
                sim.sleep(LOOK_AGAIN).await;
            }
            Err(denied) => return Err(denied),
        }
    }
    Err(Denied::TooManyHops)
}

/// Rule 1: by the newest fact.
fn owner(sim: &Sim, daemon: &Daemon, session: &SessionId) -> KnownOwner {
    let state = sim.state(daemon.node);
    let record = daemon.records.borrow().get(session).cloned();
    newest_owner(
        record.as_deref(),
        state.session(session),
        sim.nodes[daemon.node].me,
    )
}

fn handover_to(
    sim: &Sim,
    daemon: &Daemon,
    session: &SessionId,
    to: PublicKey,
) -> Option<(Pending, Vec<Pending>)> {
    let record = daemon.record(session);
    if let Some(gave) = record.gave.as_ref().filter(|gave| gave.destination == to) {
        return Some((gave.handover.clone(), record.pending_before(gave)));
    }
    let since = sim.state(daemon.node).session(session)?.since;
    let ledger = sim.nodes[daemon.node].ledger.borrow();
    Some((Pending::from(ledger.sealed(&since)?), Vec::new()))
}

async fn relay(sim: &Rc<Sim>, daemon: &Daemon, to: usize, request: &Request) -> Result<Relayed, Denied> {
    if request.hops >= MAX_HOPS {
        return Err(Denied::TooManyHops);
    }
    match sim.ask(daemon, to, Ask::Relay(request.clone()), RELAY).await {
        Ok(Answer::Relayed(Relayed::Denied(denied))) => Err(denied),
        Ok(Answer::Relayed(relayed)) => Ok(relayed),
        Ok(_) => Err(Denied::Interrupted),
        Err(NoAnswer {
            may_have_arrived: true,
        }) => Err(Denied::Interrupted),
        Err(_) => Err(Denied::OwnerUnreachable),
    }
}

async fn take(
    sim: &Rc<Sim>,
    daemon: &Rc<Daemon>,
    session: SessionId,
    handover: Pending,
    pending: Vec<Pending>,
) {
    let slot = node::ensure(sim, daemon, session);
    let (reply, taken) = oneshot::channel();
    let acquire = Command::Acquire {
        handover,
        pending,
        reply: Some(reply),
    };
    if slot.commands.send(acquire).await.is_ok() {
        let _ = taken.await;
    }
}

/// Through the gate to the container behind it. `None`: the session lives elsewhere.
async fn through(
    sim: &Rc<Sim>,
    daemon: &Daemon,
    slot: &Rc<Slot>,
    number: u64,
    begin: Duration,
) -> Result<Option<(u64, Run)>, Denied> {
    loop {
        let mut routes = slot.gate.route.watch();
        let passed = sim.within(HOLD_TIME, routes.wait_for(|route| *route != Route::Held));
        let route = match passed.await {
            Some(route) => route,
            None => return Err(Denied::Held),
        };
        let run = match route {
            Route::Held => continue,
            Route::Elsewhere => return Ok(None),
            Route::Gone => return Err(Denied::Gone),
            Route::Local(run) => run,
        };
        slot.gate.in_flight.set(slot.gate.in_flight.get() + 1);
        let flight = InFlight(slot.clone());
        let mut drains = slot.gate.drains.watch();
        let answer = tokio::select! {
            biased;
            answer = sim.request(daemon.node, slot.id, run, number) => answer,
            () = drains.changed() => Err(Failed::Interrupted),
        };
        drop(flight);
        match answer {
            Ok(counter) => return Ok(Some((counter, run))),
            Err(Failed::Interrupted) => return Err(Denied::Interrupted),
            Err(Failed::NotSent) if sim.exec.now() - begin < HOLD_TIME => sim.sleep(CONNECT_AGAIN).await,
            Err(Failed::NotSent) => return Err(Denied::Held),
        }
    }
}

/// Rule 10, as far as it goes without positions: a client is here, so its session may come here.
fn follow(sim: &Rc<Sim>, daemon: &Rc<Daemon>, token: &Token, owner: PublicKey) {
    let (session, now) = (token.session(), sim.exec.now());
    let Some(from) = sim.index(&owner).filter(|from| *from != daemon.node) else {
        return;
    };
    let slot = node::ensure(sim, daemon, session);
    let (last, again) = {
        let visits = daemon.visits.borrow();
        let last = visits.get(&session).map(|(last, _)| *last);
        let failed = slot.failed_attempts.get().min(MAX_BACKOFF);
        (last, VISIT_AGAIN * (1 << failed))
    };
    if last.is_some_and(|last| now - last < again) || sim.chance(300) {
        return;
    }
    daemon.visits.borrow_mut().insert(session, (now, 0));
    let visit = Command::Visit {
        attempt: sim.bytes(),
        token: Some(token.clone()),
        from,
    };
    // A full queue means that the session is busy; the next request asks again.
    let _ = slot.commands.try_send(visit);
}

/// Rule 1: mints a token, writes the session down and starts its container.
pub(crate) async fn open(sim: &Rc<Sim>, daemon: &Rc<Daemon>) -> Result<Token, Denied> {
    let node = &sim.nodes[daemon.node];
    if sim.is_evicted(daemon.node) {
        return Err(Denied::Evicted);
    }
    let token = Token::mint(&node.key, sim.genesis_id, SERVICE, sim.bytes());
    let session = token.session();
    let open = sim.sign(daemon.node, Payload::Open(Open::of(&token, SERVICE)));
    let entry = Entry::Opened {
        session,
        service: SERVICE.to_owned(),
        open: Pending::from(&open),
    };
    node::append(sim, daemon, entry).await;
    node::ensure(sim, daemon, session);
    daemon.submit.notify_one();
    Ok(token)
}

/// A peer's question about a session.
pub(crate) async fn on_session(sim: &Rc<Sim>, daemon: &Rc<Daemon>, from: usize, ask: Ask) -> Answer {
    let (session, starts) = match &ask {
        Ask::Want { session, token } => {
            if token.as_ref().is_some_and(|token| token.session() != *session) {
                return Answer::Refused(Refusal::NotAuthorised);
            }
            (*session, false)
        }
        Ask::Claim { claim, .. } => {
            let transaction = blosm_ledger::Transaction::decode(claim).ok();
            match transaction.and_then(|transaction| transaction.payload.session()) {
                Some(session) => (session, false),
                None => return Answer::Refused(Refusal::Malformed),
            }
        }
        Ask::Invite { session, .. } | Ask::HandOver { session, .. } => (*session, true),
        Ask::Cut { session, .. }
        | Ask::Ready { session, .. }
        | Ask::Serving { session, .. }
        | Ask::Alive { session, .. }
        | Ask::Cancel { session, .. }
        | Ask::Close { session } => (*session, false),
        _ => return Answer::Refused(Refusal::Malformed),
    };
    let known = daemon.slot(&session).or_else(|| {
        let wanted = starts || daemon.records.borrow().contains_key(&session);
        wanted.then(|| node::ensure(sim, daemon, session))
    });
    let Some(slot) = known else {
        return Answer::Refused(Refusal::No(No::NotOwner));
    };
    let (reply, answer) = oneshot::channel();
    let peer = Command::Peer { from, ask, reply };
    if slot.commands.send(peer).await.is_err() {
        return Answer::Refused(Refusal::NotReady);
    }
    answer.await.unwrap_or(Answer::Refused(Refusal::NotReady))
}

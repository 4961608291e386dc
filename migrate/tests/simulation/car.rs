//! A car: it sends one request after the other to the node where it is, drives on, and remembers what it was told.

use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{ReleaseReason, Token};
use tokio::sync::oneshot;

use crate::gateway;
use crate::links::QUICK;
use crate::node::Daemon;
use crate::wire::{Answer, Ask, Denied, Relayed, Request, Served};
use crate::world::Sim;

/// How long a car waits for an answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// After so many requests without an answer a car may think of a new session.
const IN_VAIN: u32 = 4;

/// What came of a request.
enum Came {
    Answer(Served),
    Denied(Denied),
    /// The node died, or took too long: whether it took effect is not known.
    Nothing,
}

pub(crate) async fn drive(sim: Rc<Sim>, car: usize) {
    let mut token: Option<Token> = None;
    let mut at = sim.pick(sim.plan.nodes);
    let mut drives_on = sim.exec.now() + sim.between(2_000_000, 15_000_000);
    let mut in_vain = 0;
    loop {
        sim.sleep(sim.between(5_000, 700_000)).await;
        if sim.exec.now() >= drives_on {
            at = sim.pick(sim.plan.nodes);
            drives_on = sim.exec.now() + sim.between(2_000_000, 20_000_000);
        }
        let Some(daemon) = sim.daemon(at).filter(|daemon| daemon.is_ready()) else {
            // Nobody answers here: the next node may.
            sim.sleep(Duration::from_millis(300)).await;
            at = sim.pick(sim.plan.nodes);
            continue;
        };
        if let Some(known) = &token
            && sim.trouble.get()
            && sim.chance(3)
            && close(&sim, &daemon, known).await
        {
            token = None;
            continue;
        }
        if let Some(known) = &token
            && gives_up(&sim, known, in_vain)
        {
            sim.checks.borrow_mut().left(known.session());
            (token, in_vain) = (None, 0);
            continue;
        }
        let number = sim.exec.number();
        let (sent, came) = send(&sim, &daemon, token.clone(), number).await;
        match (came, &sent) {
            (Came::Answer(served), Some(known)) => {
                sim.trace(usize::MAX, || {
                    let node = sim.index(&served.node).map(|node| sim.name(node));
                    format!("car{car} at node{at}: {} by {node:?}", served.counter)
                });
                crate::checks::answered(&sim, car, known, number, served);
                (token, in_vain) = (sent, 0);
            }
            (Came::Denied(Denied::Gone), Some(known)) if token.is_some() => {
                sim.checks.borrow_mut().gone(known.session());
                token = None;
            }
            (Came::Denied(denied), _) => {
                sim.trace(usize::MAX, || format!("car{car} at node{at}: {denied:?}"));
                in_vain += 1;
                if denied == Denied::Evicted {
                    at = sim.pick(sim.plan.nodes);
                }
            }
            (Came::Nothing, _) => {
                sim.trace(usize::MAX, || format!("car{car} at node{at}: no answer"));
                in_vain += 1;
            }
            (Came::Answer(_), None) => {}
        }
    }
}

/// Sends a request into the node; without a token it opens a session.
async fn send(
    sim: &Rc<Sim>,
    daemon: &Rc<Daemon>,
    token: Option<Token>,
    number: u64,
) -> (Option<Token>, Came) {
    let (reply, answer) = oneshot::channel();
    let (serving, life) = ((sim.clone(), daemon.clone()), daemon.life);
    let known = token.clone();
    sim.exec.spawn(life, async move {
        let (sim, daemon) = serving;
        let token = match token {
            Some(token) => token,
            None => match gateway::open(&sim, &daemon).await {
                Ok(token) => token,
                Err(denied) => {
                    let _ = reply.send(Err(denied));
                    return;
                }
            },
        };
        let request = Request {
            token: token.clone(),
            number,
            hops: 0,
            via: None,
        };
        let served = gateway::serve(&sim, &daemon, request).await;
        let _ = reply.send(Ok((token, served)));
    });
    match sim.within(PATIENCE, answer).await {
        Some(Ok(Ok((token, Ok(Relayed::Answer(served)))))) => (Some(token), Came::Answer(served)),
        Some(Ok(Ok((token, Err(denied))))) => (Some(token), Came::Denied(denied)),
        Some(Ok(Ok((token, Ok(_))))) => (Some(token), Came::Nothing),
        Some(Ok(Err(denied))) => (known, Came::Denied(denied)),
        Some(Err(_)) | None => (known, Came::Nothing),
    }
}

/// Whether a car that waits in vain leaves its session: some do, and all whose session is on a machine that is lost. When
/// everything works again it is served, or the wait goes on.
fn gives_up(sim: &Sim, token: &Token, in_vain: u32) -> bool {
    if sim.trouble.get() {
        in_vain >= IN_VAIN && sim.chance(100)
    } else {
        in_vain > 0 && crate::checks::is_lost(sim, &token.session())
    }
}

/// The client ends its session, wherever it is.
async fn close(sim: &Rc<Sim>, daemon: &Rc<Daemon>, token: &Token) -> bool {
    let session = token.session();
    let state = sim.state(daemon.node);
    let owner = crate::ledger::owner(&state, &session).map(|(owner, _)| owner);
    let owner = owner.and_then(|owner| sim.index(&owner)).unwrap_or(daemon.node);
    let answer = if owner == daemon.node {
        gateway::on_session(sim, daemon, owner, Ask::Close { session }).await
    } else {
        match sim.ask(daemon, owner, Ask::Close { session }, QUICK).await {
            Ok(answer) => answer,
            // It may have been closed.
            Err(_) => return sim.checks.borrow().is_closed(&session, ReleaseReason::Client),
        }
    };
    matches!(answer, Answer::Agreed)
}

//! The liar with the openings of others that it has heard of before the chain holds them: it says to the authority that
//! it has opened these sessions itself, and to others that it gives them away.

use std::rc::Rc;

use blosm_ledger::{HandOver, Hash, Payload, SessionId, Transaction};
use blosm_migrate::session::Pending;

use crate::ledger;
use crate::node::Daemon;
use crate::task::root;
use crate::wire::{Answer, Ask};
use crate::world::Sim;

/// What it gives away holds nothing.
const NO_STATE: &[u64] = &[];

/// It hears a transaction that the authority does not answer for.
pub(crate) fn overhears(sim: &Rc<Sim>, daemon: &Rc<Daemon>, bytes: &[u8]) {
    let Ok(Transaction {
        payload: Payload::Open(open),
        ..
    }) = Transaction::decode(bytes)
    else {
        return;
    };
    let session = open.session;
    let stolen = sim.sign(daemon.node, Payload::Open(open));
    sim.step(daemon.node, None, "overheard");
    sim.overheard.borrow_mut().insert(session, stolen.clone());
    // It only has to be the first with it.
    ledger::announce(sim, daemon, stolen);
    gives_away(sim, daemon.node, session);
}

/// Has somebody take the session that it says to have opened.
pub(crate) fn gives_away(sim: &Rc<Sim>, me: usize, session: SessionId) {
    let to = sim.pick(sim.plan.nodes);
    sim.trace(me, || format!("gives {} to node{to}", session.short(6)));
    let attempt = sim.bytes();
    sim.tell(me, to, Ask::Invite { session, attempt });
}

/// What an owner would answer; nobody asks it that, but for what it gives away.
pub(crate) fn answer(sim: &Sim, from: usize, ask: &Ask) -> Option<Answer> {
    let me = sim.plan.nodes;
    let stolen = |session: &SessionId| sim.overheard.borrow().get(session).map(Pending::from);
    let root = |session: &SessionId| -> Hash { root(session, 0, NO_STATE) };
    Some(match ask {
        Ask::Want { session, .. } => Answer::Announced {
            pending: vec![stolen(session)?],
            announce: sim.announcement(me, *session, 0, from).encode(),
        },
        Ask::Claim { .. } => Answer::Accepted { live: false },
        Ask::Cut { session, .. } => Answer::Stopped { root: root(session) },
        Ask::Pull { .. } => Answer::State {
            layer: Rc::new(NO_STATE.to_vec()),
        },
        Ask::Ready { session, .. } => {
            let handover = HandOver {
                session: *session,
                epoch: 0,
                claim: None,
                destination: sim.nodes[from].me,
                manifest_root: root(session),
            };
            Answer::HandedOver {
                pending: vec![stolen(session)?],
                handover: Pending::from(&sim.sign(me, Payload::HandOver(handover))),
            }
        }
        _ => return None,
    })
}

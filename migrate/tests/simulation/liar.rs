//! A member that lies. It owns no session and is given none; it says what it likes to everybody, with all that a member
//! can read on the chain, and sometimes with a token that a car has shown it. What it hears of others' openings is in
//! `thief.rs`.
//!
//! What it does not do here: answer READY with the right root after a proper claim, which makes it the session's owner
//! (rule 4), and whoever owns a session can lose it.

use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{
    Abort, Certificate, HandOver, Hash, Open, Payload, Release, ReleaseReason, SessionId, Transaction,
};
use blosm_migrate::session::{Attempt, Pending};

use crate::gateway::SERVICE;
use crate::links::{QUICK, SLOW};
use crate::node::Daemon;
use crate::wire::{Answer, Ask, Refusal, Relayed};
use crate::world::Sim;
use crate::{ledger, thief};

pub(crate) async fn run(sim: Rc<Sim>) {
    if !sim.plan.liar {
        return;
    }
    let me = sim.plan.nodes;
    let shown = sim.chance(500);
    while sim.trouble.get() {
        sim.sleep(sim.between(20_000, 1_500_000)).await;
        let Some(daemon) = sim.daemon(me) else { continue };
        let sessions: Vec<SessionId> = sim.state(me).sessions().map(|(id, _)| *id).collect();
        if sessions.is_empty() {
            continue;
        }
        let liar = Liar {
            sim: &sim,
            daemon: &daemon,
            me,
            session: sessions[sim.pick(sessions.len())],
            to: sim.pick(sim.plan.nodes),
        };
        match sim.pick(8) {
            0 => liar.plays_again(),
            1 => liar.forges_a_hand_over(),
            2 => liar.meddles_with_attempts(),
            3 => liar.says_that_it_serves(),
            4 => liar.submits(),
            5 => liar.claims_what_nobody_showed_it(),
            6 => liar.forges_a_block(),
            _ if shown => liar.wastes_a_cut().await,
            _ => liar.gives_away_what_it_overheard(),
        }
    }
}

/// What it answers to questions: nothing that helps.
pub(crate) fn answer(sim: &Rc<Sim>, daemon: &Rc<Daemon>, from: usize, ask: &Ask) -> Option<Answer> {
    if let Ask::Transaction(bytes) = ask {
        thief::overhears(sim, daemon, bytes);
        return None;
    }
    if let Some(answer) = thief::answer(sim, from, ask) {
        return Some(answer);
    }
    let known = ledger::handovers(&sim.nodes[sim.plan.nodes].ledger.borrow());
    match ask {
        Ask::Relay(_) if !known.is_empty() => {
            let handover = Pending::from(&known[sim.pick(known.len())]);
            Some(Answer::Relayed(Relayed::Moved {
                handover,
                pending: Vec::new(),
            }))
        }
        Ask::Invite { .. } | Ask::Alive { .. } => Some(Answer::Agreed),
        Ask::HandOver { .. } => Some(Answer::Taken { serving: true }),
        _ if sim.chance(500) => None,
        _ => Some(Answer::Refused(Refusal::NotReady)),
    }
}

struct Liar<'a> {
    sim: &'a Rc<Sim>,
    daemon: &'a Rc<Daemon>,
    me: usize,
    session: SessionId,
    to: usize,
}

impl Liar<'_> {
    fn tell(&self, what: &str, ask: Ask) {
        self.sim.trace(self.me, || format!("{what} to node{}", self.to));
        self.sim.tell(self.me, self.to, ask);
    }

    fn known(&self) -> Vec<Transaction> {
        ledger::handovers(&self.sim.nodes[self.me].ledger.borrow())
    }

    fn epoch(&self) -> u64 {
        let state = self.sim.state(self.me);
        let epoch = state.session(&self.session).map_or(0, |sealed| sealed.epoch);
        (epoch + self.sim.pick(3) as u64).saturating_sub(1)
    }

    fn root(&self) -> Hash {
        let roots: Vec<Hash> = self
            .known()
            .iter()
            .filter_map(|transaction| match &transaction.payload {
                Payload::HandOver(body) => Some(body.manifest_root),
                _ => None,
            })
            .collect();
        match roots.len() {
            0 => Hash(self.sim.bytes()),
            count => roots[self.sim.pick(count)],
        }
    }

    /// A hand-over that was true once, and one with another destination under the old signature.
    fn plays_again(&self) {
        let known = self.known();
        if known.is_empty() {
            return;
        }
        let mut transaction = known[self.sim.pick(known.len())].clone();
        let Payload::HandOver(body) = &mut transaction.payload else {
            return;
        };
        let session = body.session;
        if self.sim.chance(300) {
            body.destination = self.sim.nodes[self.to].me;
        }
        let handover = Pending::from(&transaction);
        let pending = match self.sim.pick(3) {
            0 => Vec::new(),
            1 => vec![handover.clone()],
            _ => known.iter().map(Pending::from).collect(),
        };
        let ask = Ask::HandOver {
            session,
            handover,
            pending,
        };
        self.tell("plays an old hand-over", ask);
    }

    fn forges_a_hand_over(&self) {
        let body = HandOver {
            session: self.session,
            epoch: self.epoch(),
            claim: None,
            destination: self.sim.nodes[self.to].me,
            manifest_root: self.root(),
        };
        let mut transaction = self.sim.sign(self.me, Payload::HandOver(body));
        if self.sim.chance(300) {
            // In another member's name.
            transaction.sender = self.sim.nodes[self.sim.pick(self.sim.plan.nodes)].me;
        }
        let ask = Ask::HandOver {
            session: self.session,
            handover: Pending::from(&transaction),
            pending: Vec::new(),
        };
        self.tell("forges a hand-over", ask);
    }

    /// Attempts are named on the chain.
    fn meddles_with_attempts(&self) {
        let attempts: Vec<(SessionId, Attempt)> = {
            let ledger = self.sim.nodes[self.me].ledger.borrow();
            let blocks = ledger.blocks().iter().rev().take(20);
            blocks
                .flat_map(|block| block.block.transactions.clone())
                .filter_map(|transaction| match transaction.payload {
                    Payload::Claim(claim) => Some((claim.session, claim.attempt)),
                    _ => None,
                })
                .collect()
        };
        if attempts.is_empty() {
            return;
        }
        let (session, attempt) = attempts[self.sim.pick(attempts.len())];
        let ask = match self.sim.pick(5) {
            0 => Ask::Cut { session, attempt },
            1 => Ask::Cancel { session, attempt },
            2 => Ask::Alive { session, attempt },
            3 => Ask::Pull { attempt },
            _ => Ask::Ready {
                session,
                attempt,
                root: self.root(),
            },
        };
        self.tell("meddles", ask);
    }

    fn says_that_it_serves(&self) {
        let ask = Ask::Serving {
            session: self.session,
            epoch: self.epoch(),
        };
        self.tell("says that it serves", ask);
    }

    fn submits(&self) {
        let (session, epoch) = (self.session, self.epoch());
        let payload = match self.sim.pick(4) {
            0 => Payload::HandOver(HandOver {
                session,
                epoch,
                claim: None,
                destination: self.sim.nodes[self.me].me,
                manifest_root: self.root(),
            }),
            1 => Payload::Abort(Abort {
                session,
                epoch,
                claim: None,
            }),
            2 => Payload::Release(Release {
                session,
                epoch,
                reason: ReleaseReason::Operator,
            }),
            _ => Payload::Open(self.opening()),
        };
        let transaction = self.sim.sign(self.me, payload);
        self.sim.trace(self.me, || {
            format!("submits a false {}", transaction.payload.kind())
        });
        self.sim.tell(self.me, 0, Ask::Submit(transaction.encode()));
    }

    /// Of a session of its own, which nobody has.
    fn opening(&self) -> Open {
        let token_hash = Hash(self.sim.bytes());
        Open {
            session: SessionId::of(self.sim.nodes[self.me].me, token_hash),
            service: SERVICE.into(),
            token_hash,
        }
    }

    fn gives_away_what_it_overheard(&self) {
        let overheard: Vec<SessionId> = self.sim.overheard.borrow().keys().copied().collect();
        if !overheard.is_empty() {
            thief::gives_away(self.sim, self.me, overheard[self.sim.pick(overheard.len())]);
        }
    }

    fn claim(&self, session: SessionId, epoch: u64, attempt: Attempt) -> Ask {
        let claim = self.sim.claim(self.me, session, epoch, attempt);
        Ask::Claim {
            claim: claim.encode(),
            live: self.sim.chance(500),
        }
    }

    fn claims_what_nobody_showed_it(&self) {
        let claim = self.claim(self.session, self.epoch(), self.sim.bytes());
        self.tell("claims", claim);
    }

    /// A block of its own seal.
    fn forges_a_block(&self) {
        let (last, head) = {
            let ledger = self.sim.nodes[self.me].ledger.borrow();
            let Some(last) = ledger.blocks().last().cloned() else {
                return;
            };
            (last, ledger.head())
        };
        let mut block = (*last).clone();
        let header = &mut block.block.header;
        header.height += 1;
        header.previous_hash = head;
        header.timestamp_ms += 1;
        header.nonce += 1;
        let key = &self.sim.nodes[self.me].key;
        block.certificate = Certificate::of_one(key, self.sim.genesis_id, block.height(), block.hash());
        self.tell("forges a block", Ask::Block(Rc::new(block)));
    }

    /// With a token that a car has shown it: it lets the owner stop the container, and does nothing with it.
    async fn wastes_a_cut(&self) {
        let Some(token) = self.sim.checks.borrow().token_of(&self.session) else {
            return;
        };
        let session = token.session();
        let Some((owner, epoch)) = ledger::owner(&self.sim.state(self.me), &session) else {
            return;
        };
        let Some(owner) = self.sim.index(&owner).filter(|owner| *owner != self.me) else {
            return;
        };
        let attempt: Attempt = self.sim.bytes();
        let want = Ask::Want {
            session,
            token: Some(token),
        };
        let steps = [
            (want, QUICK),
            (self.claim(session, epoch, attempt), QUICK),
            (Ask::Cut { session, attempt }, SLOW),
        ];
        self.sim.trace(self.me, || {
            format!("goes for {} at node{owner}", session.short(6))
        });
        for (ask, limit) in steps {
            let answer = self.sim.ask(self.daemon, owner, ask, limit).await;
            if !matches!(
                answer,
                Ok(Answer::Announced { .. } | Answer::Accepted { .. } | Answer::Stopped { .. })
            ) {
                return;
            }
        }
        self.sim.step(self.me, Some(owner), "stopped for a liar");
        let last = match self.sim.pick(4) {
            0 => return,
            1 => Ask::Cancel { session, attempt },
            2 => Ask::Ready {
                session,
                attempt,
                root: self.root(),
            },
            _ => Ask::Alive { session, attempt },
        };
        let again = matches!(last, Ask::Alive { .. });
        loop {
            let _ = self.sim.ask(self.daemon, owner, last.clone(), QUICK).await;
            self.sim.sleep(Duration::from_secs(2)).await;
            if !again || !self.sim.trouble.get() {
                return;
            }
        }
    }
}

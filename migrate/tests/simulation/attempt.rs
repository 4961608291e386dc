//! A destination's attempt to take a session; `node/src/sessions/incoming.rs`.

use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{Hash, Payload, SessionId, Token, Transaction};
use blosm_migrate::session::{Attempt, Entry, Pending, facts, proven_owner};
use rand::RngExt;
use tokio::sync::oneshot;

use crate::gateway::SERVICE;
use crate::ledger;
use crate::links::{QUICK, SLOW};
use crate::node::{Daemon, Slot};
use crate::plan::Broken;
use crate::task::{Command, is_passing, root};
use crate::wire::{Answer, Ask, Refusal};
use crate::world::Sim;

const ALIVE: Duration = Duration::from_secs(1);
const CUT_TRIES: u32 = 3;
const PULL: Duration = Duration::from_secs(10);

/// What to take, and from whom.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) session: SessionId,
    pub(crate) attempt: Attempt,
    pub(crate) token: Option<Token>,
    pub(crate) source: usize,
}

/// Why an attempt ended without a hand-over.
#[derive(Debug)]
enum Ended {
    Refused(Refusal),
    NoAnswer,
    OtherAnswer,
    NotProven,
    Engine,
    OtherState,
    Overtaken,
    NotTaken,
}

struct Incoming<'a> {
    sim: &'a Rc<Sim>,
    daemon: &'a Rc<Daemon>,
    slot: &'a Rc<Slot>,
    visit: &'a Visit,
    announced: bool,
    /// The container that was made for it.
    container: Option<String>,
    /// The container is in the journal: only the source's word removes it now.
    applied: bool,
}

pub(crate) async fn run(sim: &Rc<Sim>, daemon: &Rc<Daemon>, slot: &Rc<Slot>, visit: Visit) {
    let mut incoming = Incoming {
        sim,
        daemon,
        slot,
        visit: &visit,
        announced: false,
        container: None,
        applied: false,
    };
    let outcome = incoming.drive().await;
    incoming.finish(outcome).await;
}

impl Incoming<'_> {
    async fn drive(&mut self) -> Result<(), Ended> {
        let (sim, node) = (self.sim, self.daemon.node);
        let epoch = self.want().await?;
        let live = sim.rng(|rng| rng.random_ratio(sim.plan.live, 100));
        let live = self.claim(epoch, live).await?;
        let (daemon, visit) = (self.daemon, self.visit);
        let moved = tokio::select! {
            biased;
            moved = self.transfer(epoch, live) => moved,
            () = keep_alive(sim, daemon, visit) => unreachable!("it goes on until it is dropped"),
        };
        if moved.is_ok() {
            sim.trace(node, || "has taken it".to_owned());
        }
        moved
    }

    /// Rule 2: announcement and proof.
    async fn want(&mut self) -> Result<u64, Ended> {
        let (session, token) = (self.visit.session, self.visit.token.clone());
        let opener = token.as_ref().map(Token::opener);
        let want = Ask::Want { session, token };
        let Answer::Announced { announce, pending } = self.ask(want, 2 * QUICK).await? else {
            return Err(Ended::OtherAnswer);
        };
        let source = self.sim.nodes[self.visit.source].me;
        let transaction = Transaction::decode(&announce)
            .ok()
            .filter(|transaction| transaction.verify(self.sim.genesis_id).is_ok())
            .ok_or(Ended::OtherAnswer)?;
        let epoch = match &transaction.payload {
            Payload::Announce(announce) if transaction.sender == source && announce.session == session => {
                announce.epoch
            }
            _ => return Err(Ended::OtherAnswer),
        };
        let facts = facts(session, &pending, self.sim.genesis_id).ok_or(Ended::OtherAnswer)?;
        let state = self.sim.state(self.daemon.node);
        if proven_owner(state.session(&session), opener, &facts) != Some((source, epoch)) {
            return Err(Ended::NotProven);
        }
        self.announced = true;
        Ok(epoch)
    }

    async fn claim(&mut self, epoch: u64, live: bool) -> Result<bool, Ended> {
        let (visit, node) = (&self.visit, self.daemon.node);
        let transaction = self.sim.claim(node, visit.session, epoch, visit.attempt);
        let claim = transaction.encode();
        ledger::announce(self.sim, self.daemon, transaction);
        match self.ask(Ask::Claim { claim, live }, QUICK).await? {
            Answer::Accepted { live } => Ok(live),
            _ => Err(Ended::OtherAnswer),
        }
    }

    async fn transfer(&mut self, epoch: u64, live: bool) -> Result<(), Ended> {
        let (sim, node) = (self.sim, self.daemon.node);
        // The base, and what else it lacks of the image.
        sim.sleep(sim.between(5_000, 2_000_000)).await;
        let session = self.visit.session;
        let attempt = hex::encode(&self.visit.attempt[..3]);
        let name = format!("{}-{}-{attempt}", session.short(6), epoch + 1);
        self.container = Some(name.clone());
        let mut prepared = None;
        if live {
            let created = sim.create(node, session, &name, true).await;
            created.map_err(|_| Ended::Engine)?;
            sim.start(node, &name).await.map_err(|_| Ended::Engine)?;
            prepared = Some(name.clone());
            // The rounds.
            sim.sleep(sim.between(10_000, 3_000_000)).await;
        }
        let said = self.cut().await?;
        let layer = self.pull().await?;
        if !live {
            sim.sleep(sim.between(20_000, 500_000)).await;
            let created = sim.create(node, session, &name, false).await;
            created.map_err(|_| Ended::Engine)?;
        }
        if root(&session, epoch, &layer) != said {
            return Err(Ended::OtherState);
        }
        sim.nodes[node].engine.write(&name, &layer);
        sim.sleep(sim.between(500, 30_000)).await;
        if sim.plan.broken != Broken::NoLayerSync {
            sim.nodes[node].engine.sync(&name);
        }
        let entry = Entry::Applied {
            session,
            service: SERVICE.into(),
            source: sim.nodes[self.visit.source].me,
            epoch,
            attempt: self.visit.attempt,
            root: said,
            container: name.clone(),
            image: "base".into(),
        };
        let (done, written) = oneshot::channel();
        let applied = Command::Applied {
            entry,
            prepared,
            done,
        };
        let sent = self.slot.commands.send(applied).await;
        sent.map_err(|_| Ended::Overtaken)?;
        if !written.await.unwrap_or(false) {
            return Err(Ended::Overtaken);
        }
        self.applied = true;
        self.ready(said).await
    }

    /// Asks for the cut. A lost answer is asked for again: the source has stopped once and says the same.
    async fn cut(&self) -> Result<Hash, Ended> {
        let mut lost = 0;
        loop {
            let cut = Ask::Cut {
                session: self.visit.session,
                attempt: self.visit.attempt,
            };
            match self.ask(cut, SLOW).await {
                Ok(Answer::Stopped { root }) => return Ok(root),
                Ok(_) => return Err(Ended::OtherAnswer),
                Err(Ended::NoAnswer) if lost < CUT_TRIES => {
                    lost += 1;
                    self.sim.sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Chunk after chunk; what was cut off goes on.
    async fn pull(&self) -> Result<Rc<Vec<u64>>, Ended> {
        let mut lost = 0;
        loop {
            let pull = Ask::Pull {
                attempt: self.visit.attempt,
            };
            match self.ask(pull, PULL).await {
                Ok(Answer::State { layer }) => {
                    self.sim.sleep(self.sim.between(1_000, 300_000)).await;
                    return Ok(layer);
                }
                Ok(_) => return Err(Ended::OtherAnswer),
                Err(Ended::NoAnswer) if lost < CUT_TRIES => lost += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// READY. The answer is the signed hand-over; without one the session's task goes on asking.
    async fn ready(&self, root: Hash) -> Result<(), Ended> {
        self.sim.step(self.daemon.node, Some(self.visit.source), "ready");
        let ready = Ask::Ready {
            session: self.visit.session,
            attempt: self.visit.attempt,
            root,
        };
        let Answer::HandedOver { handover, pending } = self.ask(ready, QUICK).await? else {
            return Err(Ended::OtherAnswer);
        };
        self.acquire(handover, pending).await
    }

    async fn acquire(&self, handover: Pending, pending: Vec<Pending>) -> Result<(), Ended> {
        let (reply, taken) = oneshot::channel();
        let acquire = Command::Acquire {
            handover,
            pending,
            reply: Some(reply),
        };
        let sent = self.slot.commands.send(acquire).await;
        sent.map_err(|_| Ended::Overtaken)?;
        match taken.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Ended::NotTaken),
            Err(_) => Err(Ended::Overtaken),
        }
    }

    async fn ask(&self, ask: Ask, limit: Duration) -> Result<Answer, Ended> {
        match self.sim.ask(self.daemon, self.visit.source, ask, limit).await {
            Ok(Answer::Refused(refusal)) => Err(Ended::Refused(refusal)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Ended::NoAnswer),
        }
    }

    async fn finish(self, outcome: Result<(), Ended>) {
        let failed = &self.slot.failed_attempts;
        match outcome {
            Ok(()) => failed.set(0),
            Err(error) => {
                self.sim
                    .trace(self.daemon.node, || format!("its attempt ends: {error:?}"));
                if !matches!(&error, Ended::Refused(refusal) if is_passing(refusal)) {
                    failed.set(failed.get() + 1);
                }
                if !self.applied {
                    self.clean_up(&error).await;
                }
            }
        }
        let ended = Command::AttemptEnded {
            attempt: self.visit.attempt,
        };
        let _ = self.slot.commands.send(ended).await;
    }

    async fn clean_up(&self, error: &Ended) {
        // A source that has refused knows; any other is told, so that it does not wait for us.
        if !matches!(error, Ended::Refused(_)) && self.announced {
            let cancel = Ask::Cancel {
                session: self.visit.session,
                attempt: self.visit.attempt,
            };
            let _ = self.ask(cancel, QUICK).await;
        }
        if let Some(name) = &self.container {
            let _ = self.sim.remove(self.daemon.node, name, true).await;
        }
    }
}

/// Signs of life.
async fn keep_alive(sim: &Rc<Sim>, daemon: &Rc<Daemon>, visit: &Visit) {
    loop {
        let alive = Ask::Alive {
            session: visit.session,
            attempt: visit.attempt,
        };
        let _ = sim.ask(daemon, visit.source, alive, QUICK).await;
        sim.sleep(ALIVE).await;
    }
}

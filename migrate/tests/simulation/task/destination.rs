//! `node/src/sessions/actor/destination.rs`.

use std::cell::Cell;
use std::rc::Rc;

use blosm_ledger::Token;
use blosm_migrate::session::{Attempt, Entry, No, Pending, Refused, Taking};
use tokio::sync::oneshot;

use super::{Command, Task};
use crate::attempt::{self, Visit};
use crate::gateway::Route;
use crate::links::QUICK;
use crate::plan::Broken;
use crate::wire::{Answer, Ask, Refusal};

impl Task {
    /// Starts an attempt to take the session, unless one runs or the session is here.
    pub(super) fn visit(&mut self, attempt: Attempt, token: Option<Token>, from: usize) -> bool {
        let busy = self.incoming.as_ref().is_some_and(|(_, works)| works.get());
        if busy || !self.keeper.may_visit(&self.record()) {
            return false;
        }
        let works = Rc::new(Cell::new(true));
        self.incoming = Some((attempt, works.clone()));
        let visit = Visit {
            session: self.id,
            attempt,
            token,
            source: from,
        };
        let (sim, daemon, slot) = (self.sim.clone(), self.daemon.clone(), self.slot.clone());
        let life = daemon.life;
        self.sim.exec.spawn(life, async move {
            attempt::run(&sim, &daemon, &slot, visit).await;
            works.set(false);
        });
        true
    }

    /// The destination's task has a container ready: it is written down.
    pub(super) async fn applied(
        &mut self,
        entry: Entry,
        prepared: Option<String>,
        done: oneshot::Sender<bool>,
    ) {
        let wanted = self.keeper.wants_applied(&self.record(), &entry);
        if wanted {
            self.append(entry).await;
            self.prepared = prepared;
            // The signature is on its way: requests wait here rather than at the source.
            self.slot.gate.set(Route::Held);
            self.sim.step(self.node, None, "applied");
            self.start_early();
        }
        let _ = done.send(wanted);
    }

    /// A broken rule.
    fn start_early(&self) {
        let record = self.record();
        if self.sim.plan.broken == Broken::StartsWhenApplied
            && let Some(applied) = record.applied.as_ref()
        {
            let (sim, node, name) = (self.sim.clone(), self.node, applied.container.name.clone());
            let life = self.daemon.life;
            self.sim.exec.spawn(life, async move {
                sim.nodes[node].engine.open(&sim, node, &name);
                let _ = sim.start(node, &name).await;
            });
        }
    }

    /// Rule 4: the signed hand-over of the state that was applied here makes this node the owner.
    pub(super) async fn acquire(&mut self, handover: Pending, others: Vec<Pending>) -> Result<bool, No> {
        let entry = match self.keeper.take(&self.record(), handover, others)? {
            Taking::Known { served } => return Ok(served.unwrap_or(self.live.is_some())),
            Taking::Take { entry, .. } => entry,
        };
        self.append(*entry).await;
        self.sim.step(self.node, None, "acquired");
        self.slot.gate.set(Route::Held);
        self.daemon.submit.notify_one();
        // The signer need not wait for our start; the next beat is the latest, this is the earliest.
        let (slot, life) = (self.slot.clone(), self.daemon.life);
        self.sim.exec.spawn(life, async move {
            let _ = slot.commands.send(Command::Start).await;
        });
        Ok(false)
    }

    /// READY is said again, after a lost answer or a restart.
    pub(super) fn ask_for_signature(&mut self) {
        let Some(applied) = self.keeper.unsigned(&self.record()).cloned() else {
            return;
        };
        let works = self.incoming.as_ref().is_some_and(|(_, works)| works.get());
        let Some(source) = self.sim.index(&applied.source).filter(|_| !works) else {
            return;
        };
        if self.notice.replace(true) {
            return;
        }
        let ask = Ask::Ready {
            session: self.id,
            attempt: applied.attempt,
            root: applied.root,
        };
        let (sim, daemon, slot) = (self.sim.clone(), self.daemon.clone(), self.slot.clone());
        let (notice, life) = (self.notice.clone(), self.daemon.life);
        self.sim.exec.spawn(life, async move {
            let answer = sim.ask(&daemon, source, ask, QUICK).await;
            notice.set(false);
            let command = match answer {
                Ok(Answer::HandedOver { handover, pending }) => Command::Acquire {
                    handover,
                    pending,
                    reply: None,
                },
                Ok(Answer::Refused(Refusal::No(
                    No::NotOwner | No::Source(Refused::Void | Refused::OtherRoot),
                ))) => Command::Void {
                    attempt: applied.attempt,
                },
                _ => return,
            };
            let _ = slot.commands.send(command).await;
        });
    }

    /// The source will not sign for what was applied here.
    pub(super) async fn discard_applied(&mut self, attempt: Attempt) {
        let record = self.record();
        let Some(applied) = self.keeper.void(&record, attempt) else {
            return;
        };
        self.sim.trace(self.node, || {
            "the source keeps it; removes what was applied".to_owned()
        });
        self.slot.gate.set(Route::Elsewhere);
        self.remove_container(&applied.container.name).await;
    }

    /// Tells the former owner that its kept container has had its time.
    pub(super) fn tell_serving(&mut self, from: usize) {
        let Some(epoch) = self.record().owned_epoch() else {
            return;
        };
        self.sim.step(self.node, Some(from), "serving");
        let (sim, daemon, session) = (self.sim.clone(), self.daemon.clone(), self.id);
        let life = daemon.life;
        self.sim.exec.spawn(life, async move {
            // Unanswered it is asked for: the former owner repeats the hand-over until it hears that we serve.
            let _ = sim
                .ask(&daemon, from, Ask::Serving { session, epoch }, QUICK)
                .await;
        });
    }
}

//! `node/src/sessions/actor/{announce,source,cut,given}.rs`.

use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{Hash, Payload, SessionId};
use blosm_migrate::session::{Attempt, Effect, Input, No, Ready, Refused, Signing};

use super::{Cut, Task};
use crate::gateway::Route;
use crate::ledger;
use crate::links::QUICK;
use crate::node::Grant;
use crate::wire::{Answer, Ask, Refusal};

/// How long the requests in flight may take at a cut.
const DRAIN: Duration = Duration::from_secs(1);
/// Longest time for holding, draining, stopping and committing.
const CUT_LIMIT: Duration = Duration::from_secs(100);

/// What a hand-over commits to: in production the image and the deltas on it.
pub(crate) fn root(session: &SessionId, epoch: u64, layer: &[u64]) -> Hash {
    let bytes = borsh::to_vec(&(session, epoch, layer)).expect("plain data");
    Hash::digest("simulated-root", &bytes)
}

impl Task {
    pub(super) async fn want(&mut self, from: usize, token_presented: bool) -> Result<Answer, Refusal> {
        // Who brings the token comes for its client, and not because this node has asked it to.
        let invited = !token_presented && self.invited.is_some_and(|(member, ..)| member == from);
        let looked = self.look();
        let now = self.sim.instant();
        let epoch = self.keeper.want(now, &looked.known(), token_presented, invited)?;
        if self.live.is_none() {
            return Err(Refusal::NotReady);
        }
        // Measuring takes the engine its time.
        self.sim.sleep(self.sim.between(2_000, 60_000)).await;
        let announce = self.sim.announcement(self.node, self.id, epoch, from);
        let bytes = announce.encode();
        ledger::announce(&self.sim, &self.daemon, announce);
        self.keeper.welcome(self.sim.nodes[from].me);
        Ok(Answer::Announced {
            announce: bytes,
            pending: looked.record.pending.clone(),
        })
    }

    /// `blosm migrate`.
    pub(super) async fn invite(&mut self, to: usize) {
        if !self.is_mine() || self.tell(Input::Want { invited: true }).is_err() {
            return;
        }
        let attempt: Attempt = self.sim.bytes();
        let invite = Ask::Invite {
            session: self.id,
            attempt,
        };
        if let Ok(Answer::Agreed) = self.sim.ask(&self.daemon, to, invite, QUICK).await {
            self.invited = Some((to, attempt, self.sim.exec.now()));
        }
    }

    pub(super) fn claim(&mut self, from: usize, bytes: &[u8], live: bool) -> Result<Answer, Refusal> {
        if !self.is_mine() {
            return Err(Refusal::No(No::NotOwner));
        }
        let transaction = self.transaction(bytes).ok_or(Refusal::Malformed)?;
        let sender = self.sim.nodes[from].me;
        let claim = match &transaction.payload {
            Payload::Claim(claim) if claim.session == self.id && transaction.sender == sender => claim,
            _ => return Err(Refusal::Malformed),
        };
        let (now, looked, hash) = (self.sim.instant(), self.look(), transaction.hash());
        let claimed = self.keeper.claim(now, &looked.known(), sender, claim, hash)?;
        let Some(attempt) = claimed else {
            return Ok(Answer::Agreed);
        };
        let live = live && self.live.is_some();
        let grant = Grant {
            session: self.id,
            peer: from,
            live,
            run: self.live,
            layer: None,
        };
        self.daemon.grants.borrow_mut().insert(attempt, grant);
        self.sim.step(self.node, Some(from), "claim");
        Ok(Answer::Accepted { live })
    }

    /// Who may pull no longer, may not.
    pub(super) fn keep_grants(&mut self) {
        let source = self.keeper.source();
        let nodes = &self.sim.nodes;
        self.daemon.grants.borrow_mut().retain(|attempt, grant| {
            grant.session != self.id
                || source.is_some_and(|source| source.may_pull(attempt, nodes[grant.peer].me))
        });
    }

    pub(super) async fn cancel(&mut self, from: usize, attempt: Attempt) -> Answer {
        // It may give up before it has claimed.
        self.invited
            .take_if(|(to, invited, _)| *to == from && *invited == attempt);
        let from = self.sim.nodes[from].me;
        match self.tell(Input::Cancel { attempt, from }) {
            Ok(Effect::RollBack { attempt }) => self.roll_back(attempt).await,
            Ok(_) => {
                self.daemon.grants.borrow_mut().remove(&attempt);
            }
            Err(refusal) => return Answer::Refused(refusal),
        }
        Answer::Agreed
    }

    /// Rule 5, first half: hold, drain, stop and see the exit, commit.
    pub(super) async fn begin_cut(&mut self, from: usize, attempt: Attempt) -> Answer {
        let again = self.cut.as_ref().is_some_and(|cut| cut.attempt == attempt);
        if !again && let Err(no) = self.keeper.may_cut(&self.look().known()) {
            return Answer::Refused(no.into());
        }
        let sender = self.sim.nodes[from].me;
        match self.tell(Input::Cut {
            attempt,
            from: sender,
        }) {
            Err(refusal) => return Answer::Refused(refusal),
            Ok(Effect::BeginCut { .. }) => {}
            Ok(_) => {
                return match &self.cut {
                    Some(cut) if cut.attempt == attempt => Answer::Stopped { root: cut.root },
                    _ => Answer::Refused(Refusal::No(Refused::Busy.into())),
                };
            }
        }
        self.sim.step(self.node, Some(from), "cut");
        let sim = self.sim.clone();
        let cut = sim.within(CUT_LIMIT, self.cut(from, attempt)).await.flatten();
        match cut {
            Some(cut) => {
                let root = cut.root;
                self.cut = Some(cut);
                match self.tell(Input::CutDone { attempt, root }) {
                    Ok(_) => {
                        self.sim.step(self.node, Some(from), "stopped");
                        Answer::Stopped { root }
                    }
                    Err(refusal) => {
                        self.roll_back(attempt).await;
                        Answer::Refused(refusal)
                    }
                }
            }
            None => {
                self.sim.trace(self.node, || "the cut failed".to_owned());
                // The machine answers with a roll-back; there is no other way out of `Stopping`.
                let _ = self.tell(Input::CutFailed { attempt });
                self.roll_back(attempt).await;
                Answer::Refused(Refusal::CutFailed)
            }
        }
    }

    async fn cut(&mut self, from: usize, attempt: Attempt) -> Option<Cut> {
        let run = self.live?;
        let record = self.record();
        let name = record.container.as_ref()?.name.clone();
        let epoch = record.owned_epoch()?;
        let live = {
            let grants = self.daemon.grants.borrow();
            let grant = grants.get(&attempt)?;
            if grant.live && grant.run != Some(run) {
                // It has been started anew since: what the rounds brought is of another run.
                return None;
            }
            grant.live
        };
        self.slot.gate.set(Route::Held);
        self.slot.gate.drain(&self.sim, DRAIN).await;
        self.sim.step(self.node, Some(from), "stop");
        if live {
            self.sim.end(self.node, &name).await;
            self.live = None;
            self.sim.sleep(self.sim.between(500, 20_000)).await;
        } else {
            self.sim.stop(self.node, &name).await.ok()?;
            self.live = None;
            self.sim.sleep(self.sim.between(50_000, 900_000)).await;
        }
        let layer = self.sim.nodes[self.node].engine.layer(&name)?;
        let root = root(&self.id, epoch, &layer);
        let mut grants = self.daemon.grants.borrow_mut();
        grants.get_mut(&attempt)?.layer = Some(Rc::new(layer));
        Some(Cut { attempt, root })
    }

    /// Before the signature the source may roll back freely (rule 3): the container starts where it stopped.
    pub(super) async fn roll_back(&mut self, attempt: Attempt) {
        self.sim.step(self.node, None, "rolled back");
        self.cut = None;
        self.daemon.grants.borrow_mut().remove(&attempt);
        self.keeper.start_at_once();
        match self.live {
            // It was never stopped: requests go on to it.
            Some(run) => self.slot.gate.set(Route::Local(run)),
            None if self.is_mine() => self.ensure_running().await,
            // The chain has moved during the cut, and is looked at next.
            None => {}
        }
    }

    /// Rule 3, the point of no return. What is asked twice is answered with the same bytes.
    pub(super) async fn ready(&mut self, from: usize, attempt: Attempt, root: Hash) -> Answer {
        let (now, looked) = (self.sim.instant(), self.look());
        let sender = self.sim.nodes[from].me;
        let ready = self.keeper.ready(now, &looked.known(), sender, attempt, root);
        match ready {
            Ok(Ready::Again) => {}
            Ok(Ready::Sign(signing)) => {
                self.sim.step(self.node, Some(from), "sign");
                self.sign_over(signing).await;
                self.sim.step(self.node, Some(from), "signed");
            }
            Err(no) => return Answer::Refused(no.into()),
        }
        let record = self.record();
        match &record.gave {
            Some(gave) => {
                let pending = record.pending_before(gave);
                self.sim.goes_out([&gave.handover].into_iter().chain(&pending));
                Answer::HandedOver {
                    handover: gave.handover.clone(),
                    pending,
                }
            }
            None => Answer::Refused(Refusal::Busy),
        }
    }

    /// Signs the session away. The journal has it before one byte of it leaves the process.
    pub(super) async fn sign_over(&mut self, signing: Signing) {
        let Some(handover) = self.keeper.hand_over(&self.record(), &signing) else {
            return;
        };
        let transaction = self.sim.sign(self.node, Payload::HandOver(handover.clone()));
        let entry = self
            .keeper
            .signed(&handover, signing.attempt, (&transaction).into());
        self.append(entry).await;
        self.sim.checks.borrow_mut().figures.handovers += 1;
        self.sim.checks.borrow_mut().signed(&transaction);
        self.signed_at = Some(self.sim.exec.now());
        self.cut = None;
        self.live = None;
        self.prepared = None;
        self.invited = None;
        self.slot.gate.set(Route::Elsewhere);
        self.daemon.submit.notify_one();
    }

    /// Rule 4: each end repeats the hand-over until the other has acked.
    pub(super) fn repeat_handover(&mut self) {
        let record = self.record();
        let Some(gave) = self.keeper.to_repeat(&record) else {
            return;
        };
        let Some(to) = self.sim.index(&gave.destination) else {
            return;
        };
        if self.notice.replace(true) {
            return;
        }
        let pending = record.pending_before(gave);
        self.sim.goes_out([&gave.handover].into_iter().chain(&pending));
        let ask = Ask::HandOver {
            session: self.id,
            handover: gave.handover.clone(),
            pending,
        };
        let (sim, daemon, slot) = (self.sim.clone(), self.daemon.clone(), self.slot.clone());
        let (notice, epoch, life) = (self.notice.clone(), gave.epoch, self.daemon.life);
        self.sim.exec.spawn(life, async move {
            let answer = sim.ask(&daemon, to, ask, QUICK).await;
            notice.set(false);
            if let Ok(Answer::Taken { serving }) = answer {
                let answered = super::Command::Answered { epoch, serving };
                let _ = slot.commands.send(answered).await;
            }
        });
    }

    pub(super) async fn on_answered(&mut self, epoch: u64, serving: bool) {
        if let Some(entry) = self.keeper.answered(&self.record(), epoch, serving) {
            self.append(entry).await;
            if serving {
                self.sim.step(self.node, None, "served");
            }
        }
    }

    /// The new owner says that it serves.
    pub(super) async fn noted(&mut self, from: usize, epoch: u64) -> Answer {
        let sender = self.sim.nodes[from].me;
        if !self.keeper.gave_to(&self.record(), sender, epoch) {
            return Answer::Refused(Refusal::NotAuthorised);
        }
        self.on_answered(epoch, true).await;
        Answer::Noted
    }

    /// Rule 6: what has had its time goes.
    pub(super) async fn remove_kept(&mut self) {
        let (now, record, busy) = (self.sim.instant(), self.record(), self.incoming.is_some());
        let keep_source = self.sim.plan.keep_source;
        for stale in self.keeper.removable(now, &record, keep_source, busy) {
            let name = &stale.container.name;
            // Never by force: what runs is not ours to remove here.
            if self.sim.remove(self.node, name, false).await.is_ok() {
                let entry = blosm_migrate::session::Entry::Removed {
                    session: self.id,
                    container: name.clone(),
                };
                self.append(entry).await;
            }
        }
    }
}

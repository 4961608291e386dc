//! `node/src/sessions/actor/owner.rs`.

use blosm_ledger::{Abort, Payload, Release, ReleaseReason};
use blosm_migrate::session::{Entry, Failed, Failure, Known, Launch, Moved, Pending, Signing, Standing};

use super::Task;
use crate::engine::{EngineError, Run};
use crate::gateway::Route;
use crate::ledger;
use crate::plan::Broken;

/// Why no container serves.
enum LaunchError {
    Engine(EngineError),
    Absent,
}

impl From<EngineError> for LaunchError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound => Self::Absent,
            error => Self::Engine(error),
        }
    }
}

impl Task {
    /// The one place where a real entrypoint is started or adopted.
    pub(super) async fn ensure_running(&mut self) {
        let record = self.record();
        let prepared = self
            .prepared
            .take()
            .filter(|name| self.keeper.is_current(&record, name));
        if let Some(name) = prepared {
            let current = record.container.as_ref();
            if let Some(entry) = current.and_then(|current| self.keeper.starting(current)) {
                self.append(entry).await;
            }
            self.sim.step(self.node, None, "starting");
            self.sim.nodes[self.node].engine.open(&self.sim, self.node, &name);
            if let Ok(run) = self.sim.healthy(self.node, &name).await {
                return self.serve(run).await;
            }
        }
        let outcome = match self.container().await {
            Ok(name) => {
                self.sim.step(self.node, None, "starting");
                self.start(&name).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(run) => self.serve(run).await,
            Err(error) => self.start_failed(error).await,
        }
    }

    /// The session's container, created if it never was; written down before the engine hears of it.
    async fn container(&mut self) -> Result<String, LaunchError> {
        let record = self.record();
        let there = match &record.container {
            None => false,
            Some(container) => self.sim.inspect(self.node, &container.name).await?.is_some(),
        };
        match self.keeper.launch(&record, there) {
            Launch::Start { container, before } => {
                if let Some(entry) = before {
                    self.append(entry).await;
                }
                return Ok(container);
            }
            Launch::Absent { .. } => return Err(LaunchError::Absent),
            Launch::Create => {}
        }
        let name = self.name(0, &self.sim.bytes::<16>());
        self.append(Entry::Creating {
            session: self.id,
            epoch: 0,
            container: name.clone(),
            image: "base".into(),
        })
        .await;
        self.sim.create(self.node, self.id, &name, false).await?;
        self.append(Entry::Starting {
            session: self.id,
            container: name.clone(),
        })
        .await;
        Ok(name)
    }

    pub(super) fn name(&self, epoch: u64, attempt: &[u8]) -> String {
        format!("{}-{epoch}-{}", self.id.short(6), hex::encode(&attempt[..3]))
    }

    /// `launch::start`: starts a container, or adopts it if it runs, and waits until it is healthy.
    async fn start(&self, name: &str) -> Result<Run, LaunchError> {
        self.sim.nodes[self.node].engine.open(&self.sim, self.node, name);
        let found = self.sim.inspect(self.node, name).await?;
        let container = found.ok_or(LaunchError::Absent)?;
        if !container.runs() {
            self.sim.start(self.node, name).await?;
        }
        Ok(self.sim.healthy(self.node, name).await?)
    }

    async fn serve(&mut self, run: Run) {
        let mut came = None;
        if let Some((entry, from)) = self.keeper.healthy(&self.record()) {
            self.append(entry).await;
            self.sim.step(self.node, self.sim.index(&from), "routed");
            came = Some(from);
        }
        self.live = Some(run);
        self.slot.gate.set(Route::Local(run));
        self.sim.trace(self.node, || "serves".to_owned());
        // The watch on a process that has ended meanwhile ends at once.
        if !self.sim.runs(self.node, self.id, run) {
            self.on_exit(run);
        }
        if let Some(from) = came.and_then(|from| self.sim.index(&from)) {
            self.tell_serving(from);
        }
    }

    async fn start_failed(&mut self, error: LaunchError) {
        let failure = Failure {
            engine_answered: !matches!(error, LaunchError::Engine(EngineError::Silent)),
            absent: matches!(error, LaunchError::Absent),
        };
        let looked = self.look();
        let now = self.sim.instant();
        match self.keeper.start_failed(now, &looked.known(), failure) {
            Failed::Again => {}
            Failed::HandBack { stop, signing } => self.hand_back(stop, signing).await,
            Failed::Lost => {
                self.sim.trace(self.node, || "its state is lost".to_owned());
                self.close(ReleaseReason::StateLost).await;
            }
        }
    }

    async fn hand_back(&mut self, stop: Option<String>, signing: Signing) {
        if let Some(name) = stop
            && self.sim.stop(self.node, &name).await.is_err()
        {
            return;
        }
        let to = self.sim.index(&signing.destination);
        self.sim.step(self.node, to, "handed back");
        self.sign_over(signing).await;
    }

    /// The container's first process has ended, and nobody here asked for it.
    pub(super) fn on_exit(&mut self, run: Run) {
        if self.live != Some(run) {
            return;
        }
        self.live = None;
        self.slot.gate.set(Route::Held);
        self.keeper.start_at_once();
    }

    /// The chain has moved: it may hold a newer fact than the journal.
    pub(super) async fn on_chain(&mut self) {
        let looked = self.look();
        let known = looked.known();
        match self.keeper.chain_moved(&known) {
            Moved::Nothing => {}
            Moved::Back => {
                self.keeper.begin(self.sim.instant());
                self.slot.gate.set(Route::Held);
            }
            Moved::Lost { why, closed } => self.lose(why, closed).await,
            Moved::Reclaimed(entry) => {
                self.sim.step(self.node, None, "reclaimed");
                self.append(entry).await;
                self.slot.gate.set(Route::Held);
                self.keeper.start_at_once();
                if self.is_mine() {
                    self.ensure_running().await;
                }
            }
            Moved::Abort(abort) => self.abort(abort),
        }
        self.reclaim_from_the_living(&known);
        // Rule 4: a hand-over to this node may also come in a block, and so may a hand-back.
        if let Some(handover) = self.keeper.in_block(&known) {
            let found = {
                let ledger = self.sim.nodes[self.node].ledger.borrow();
                ledger.sealed(&handover).map(Pending::from)
            };
            if let Some(found) = found {
                self.sim.step(self.node, None, "taken from a block");
                let _ = self.acquire(found, Vec::new()).await;
            }
        }
        // Asked anew: it may just have been taken.
        if let Some(attempt) = self.keeper.passed_over(&self.look().known()) {
            self.discard_applied(attempt).await;
        }
    }

    /// A broken rule: whoever was evicted is taken for one that runs nothing.
    fn reclaim_from_the_living(&self, known: &Known<'_>) {
        if self.sim.plan.broken == Broken::ReclaimsFromTheLiving
            && known.record.standing == Standing::Gave
            && let (Some(gave), Some(sealed)) = (&known.record.gave, known.sealed)
            && sealed.epoch + 1 == gave.epoch
            && known.members.evicted(&gave.destination).is_some()
        {
            self.abort(Abort {
                session: self.id,
                epoch: sealed.epoch,
                claim: None,
            });
        }
    }

    fn abort(&self, abort: Abort) {
        if self.aborting.replace(true) {
            return;
        }
        let abort = self.sim.sign(self.node, Payload::Abort(abort));
        let (sim, daemon, aborting) = (self.sim.clone(), self.daemon.clone(), self.aborting.clone());
        let life = daemon.life;
        self.sim.exec.spawn(life, async move {
            let _ = ledger::submit(&sim, &daemon, &abort).await;
            aborting.set(false);
        });
    }

    /// This node ran a session that is another's: stop, keep, route on.
    async fn lose(&mut self, why: &'static str, closed: bool) {
        if !self.keeper.lose(self.live.is_some()) {
            return;
        }
        self.sim.trace(self.node, || format!("loses it: {why}"));
        self.slot.gate.set(Route::Held);
        // If it can't be stopped and the session comes back, it is adopted like any that runs.
        self.live = None;
        self.cut = None;
        if let Some(container) = self.record().container.clone()
            && self.sim.stop(self.node, &container.name).await.is_err()
        {
            self.keeper.not_stopped();
            return;
        }
        self.slot
            .gate
            .set(if closed { Route::Gone } else { Route::Elsewhere });
    }

    /// Closes the session for ever. False when this node may not.
    pub(super) async fn close(&mut self, reason: ReleaseReason) -> bool {
        let Some(epoch) = self.keeper.may_close(&self.look().known()) else {
            return false;
        };
        self.slot.gate.set(Route::Held);
        let release = Payload::Release(Release {
            session: self.id,
            epoch,
            reason,
        });
        let release = self.sim.sign(self.node, release);
        self.append(Entry::Closed {
            session: self.id,
            release: Some(Pending::from(&release)),
        })
        .await;
        self.sim.checks.borrow_mut().closed(self.id, reason);
        self.live = None;
        self.slot.gate.set(Route::Gone);
        self.daemon.submit.notify_one();
        if let Some(container) = self.record().container.clone() {
            self.remove_container(&container.name).await;
        }
        true
    }

    /// Removes a container that nobody needs any more.
    pub(super) async fn remove_container(&mut self, name: &str) {
        if self.sim.remove(self.node, name, true).await.is_err() {
            return;
        }
        self.append(Entry::Removed {
            session: self.id,
            container: name.to_owned(),
        })
        .await;
    }
}

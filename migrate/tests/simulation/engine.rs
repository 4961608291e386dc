//! The container engine of a machine. Containers outlive the daemon; what was asked of the engine is done although the
//! asker has died; a power cut ends all of them and forgets what was not synced.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::SessionId;
use tokio::sync::{Mutex, oneshot};

use crate::plan::Broken;
use crate::task::Command;
use crate::world::{Sim, WORLD};

/// How long a caller waits for the engine.
const LIMIT: Duration = Duration::from_secs(10);

/// One of a container's runs, from the first instruction of its own program to its exit.
pub(crate) type Run = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    /// The first program waits at the gate.
    Gated,
    Running(Run),
    Exited,
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) session: SessionId,
    pub(crate) phase: Phase,
    /// Whether its gate is open, if it has one.
    gate: Option<bool>,
    started: bool,
    /// The numbers of the requests that it has answered, in their order: its state.
    layer: Vec<u64>,
    /// As much of it as survives a power cut.
    durable: Vec<u64>,
}

impl Container {
    pub(crate) fn runs(&self) -> bool {
        matches!(self.phase, Phase::Gated | Phase::Running(_))
    }

    /// Its state.
    pub(crate) fn layer(&self) -> &[u64] {
        &self.layer
    }

    /// Whether its own program may ever have run.
    pub(crate) fn passed(&self) -> bool {
        self.started && self.gate != Some(false)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineError {
    /// It does not answer: nobody knows what it has done.
    Silent,
    NotFound,
    /// The container does not become healthy.
    Unhealthy,
}

/// Why a container did not answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Not a byte has reached it.
    NotSent,
    /// It may have acted on it.
    Interrupted,
}

#[derive(Default)]
pub(crate) struct Engine {
    pub(crate) containers: RefCell<BTreeMap<String, Container>>,
    /// Calls are served one after the other.
    queue: Rc<Mutex<()>>,
    /// Power cuts so far.
    boots: Cell<u32>,
    /// It answers nobody until then.
    pub(crate) silent_until: Cell<Duration>,
    /// No container becomes healthy until then.
    pub(crate) sick_until: Cell<Duration>,
}

impl Engine {
    /// All containers end, and what was not synced is gone. The caller has ended the daemon.
    pub(crate) fn power_cut(&self, sim: &Rc<Sim>, node: usize) {
        self.boots.set(self.boots.get() + 1);
        let names: Vec<String> = self.containers.borrow().keys().cloned().collect();
        for name in names {
            exit(sim, node, &name);
            if let Some(container) = self.containers.borrow_mut().get_mut(&name) {
                container.layer = container.durable.clone();
            }
        }
    }

    pub(crate) fn layer(&self, name: &str) -> Option<Vec<u64>> {
        let containers = self.containers.borrow();
        containers.get(name).map(|container| container.layer.clone())
    }

    /// What was pulled is written into a container that has not run.
    pub(crate) fn write(&self, name: &str, layer: &[u64]) {
        if let Some(container) = self.containers.borrow_mut().get_mut(name) {
            container.layer = layer.to_vec();
        }
    }

    pub(crate) fn sync(&self, name: &str) {
        if let Some(container) = self.containers.borrow_mut().get_mut(name) {
            container.durable = container.layer.clone();
        }
    }

    /// Opens the gate of a container, if it has one; its own program runs if it waited there.
    pub(crate) fn open(&self, sim: &Rc<Sim>, node: usize, name: &str) {
        let waits = {
            let mut containers = self.containers.borrow_mut();
            let Some(container) = containers.get_mut(name) else {
                return;
            };
            if let Some(gate) = &mut container.gate {
                *gate = true;
            }
            container.phase == Phase::Gated
        };
        if waits {
            begin(sim, node, name);
        }
    }
}

fn begin(sim: &Rc<Sim>, node: usize, name: &str) {
    let run = sim.exec.number();
    let (session, layer) = {
        let mut containers = sim.nodes[node].engine.containers.borrow_mut();
        let container = containers.get_mut(name).expect("the caller has found it");
        container.phase = Phase::Running(run);
        (container.session, container.layer.clone())
    };
    sim.trace(node, || {
        format!("container {} RUNS, state of {}", short(name), layer.len())
    });
    crate::checks::started(sim, node, session, name, run, &layer);
}

/// The container's first process ends, by whatever cause.
pub(crate) fn exit(sim: &Rc<Sim>, node: usize, name: &str) {
    let (session, phase) = {
        let mut containers = sim.nodes[node].engine.containers.borrow_mut();
        let Some(container) = containers.get_mut(name).filter(|container| container.runs()) else {
            return;
        };
        let phase = std::mem::replace(&mut container.phase, Phase::Exited);
        (container.session, phase)
    };
    let Phase::Running(run) = phase else { return };
    sim.trace(node, || format!("container {} ends", short(name)));
    sim.checks.borrow_mut().exited(session, run);
    let slot = sim.daemon(node).and_then(|daemon| daemon.slot(&session));
    if let Some(slot) = slot {
        // At once, not when the session's task has time.
        slot.gate.close(run);
        let _ = slot.exits.try_send(Command::Exited { run });
    }
}

pub(crate) fn short(name: &str) -> &str {
    &name[name.len().saturating_sub(8)..]
}

impl Sim {
    /// Has the engine do something. It is done although the asker has died, unless the machine has.
    async fn call<T: 'static>(
        self: &Rc<Self>,
        node: usize,
        time: Duration,
        work: impl FnOnce(&Rc<Sim>) -> Result<T, EngineError> + 'static,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        let sim = self.clone();
        let boots = self.nodes[node].engine.boots.get();
        self.exec.spawn(WORLD, async move {
            let engine = &sim.nodes[node].engine;
            let queue = engine.queue.clone();
            let _turn = queue.lock().await;
            sim.sleep(engine.silent_until.get().saturating_sub(sim.exec.now()))
                .await;
            sim.sleep(time).await;
            if engine.boots.get() != boots {
                return;
            }
            let fails = sim.trouble.get() && sim.chance(sim.plan.engine_errors);
            if fails && sim.chance(500) {
                let _ = reply.send(Err(EngineError::Silent));
                return;
            }
            let done = work(&sim);
            let _ = reply.send(if fails { Err(EngineError::Silent) } else { done });
        });
        match self.within(LIMIT, answer).await {
            Some(Ok(answer)) => answer,
            _ => Err(EngineError::Silent),
        }
    }

    pub(crate) async fn create(
        self: &Rc<Self>,
        node: usize,
        session: SessionId,
        name: &str,
        gated: bool,
    ) -> Result<(), EngineError> {
        let name = name.to_owned();
        let time = self.between(20_000, 200_000);
        self.call(node, time, move |sim| {
            let container = Container {
                session,
                phase: Phase::Created,
                gate: gated.then_some(false),
                started: false,
                layer: Vec::new(),
                durable: Vec::new(),
            };
            let mut containers = sim.nodes[node].engine.containers.borrow_mut();
            containers.entry(name).or_insert(container);
            Ok(())
        })
        .await
    }

    pub(crate) async fn inspect(
        self: &Rc<Self>,
        node: usize,
        name: &str,
    ) -> Result<Option<Container>, EngineError> {
        let name = name.to_owned();
        let time = self.between(500, 8_000);
        self.call(node, time, move |sim| {
            Ok(sim.nodes[node].engine.containers.borrow().get(&name).cloned())
        })
        .await
    }

    pub(crate) async fn list(
        self: &Rc<Self>,
        node: usize,
    ) -> Result<BTreeMap<String, Container>, EngineError> {
        let time = self.between(1_000, 20_000);
        self.call(node, time, move |sim| {
            Ok(sim.nodes[node].engine.containers.borrow().clone())
        })
        .await
    }

    /// Starts a container that does not run: up to its gate, if that is closed.
    pub(crate) async fn start(self: &Rc<Self>, node: usize, name: &str) -> Result<(), EngineError> {
        let name = name.to_owned();
        let time = self.between(50_000, 320_000);
        self.call(node, time, move |sim| {
            let begins = {
                let mut containers = sim.nodes[node].engine.containers.borrow_mut();
                let container = containers.get_mut(&name).ok_or(EngineError::NotFound)?;
                container.started = true;
                match container.phase {
                    Phase::Gated | Phase::Running(_) => false,
                    Phase::Created | Phase::Exited if container.gate == Some(false) => {
                        container.phase = Phase::Gated;
                        false
                    }
                    Phase::Created | Phase::Exited => true,
                }
            };
            if begins {
                begin(sim, node, &name);
            }
            Ok(())
        })
        .await
    }

    /// Stops a container and sees its exit. One that is not there does not run.
    pub(crate) async fn stop(self: &Rc<Self>, node: usize, name: &str) -> Result<(), EngineError> {
        let name = name.to_owned();
        let time = self.exit_time();
        self.call(node, time, move |sim| {
            exit(sim, node, &name);
            Ok(())
        })
        .await
    }

    /// Signals the first process itself and sees its exit; the engine is not asked. What was signalled ends although
    /// the daemon has died.
    pub(crate) async fn end(self: &Rc<Self>, node: usize, name: &str) {
        let phase = self.phase(node, name);
        let unseen = self.plan.broken == Broken::SignsWhileItRuns;
        let time = self.exit_time() + Duration::from_secs(u64::from(unseen));
        let (sim, name) = (self.clone(), name.to_owned());
        let (gone, ended) = oneshot::channel();
        self.exec.spawn(WORLD, async move {
            sim.sleep(time).await;
            // A later run has not had the signal.
            if sim.phase(node, &name) == phase {
                exit(&sim, node, &name);
            }
            let _ = gone.send(());
        });
        if !unseen {
            let _ = ended.await;
        }
    }

    fn phase(&self, node: usize, name: &str) -> Option<Phase> {
        let containers = self.nodes[node].engine.containers.borrow();
        containers.get(name).map(|container| container.phase)
    }

    /// Most programs end at once; one in ten has to be killed after its grace.
    fn exit_time(&self) -> Duration {
        if self.chance(100) {
            Duration::from_secs(2)
        } else {
            self.between(700, 120_000)
        }
    }

    /// Removes a container that does not run, or any with `force`.
    pub(crate) async fn remove(
        self: &Rc<Self>,
        node: usize,
        name: &str,
        force: bool,
    ) -> Result<(), EngineError> {
        let name = name.to_owned();
        let time = self.between(5_000, 60_000);
        self.call(node, time, move |sim| {
            let containers = &sim.nodes[node].engine.containers;
            if containers.borrow().get(&name).is_some_and(Container::runs) {
                if !force {
                    return Err(EngineError::Silent);
                }
                exit(sim, node, &name);
            }
            containers.borrow_mut().remove(&name);
            Ok(())
        })
        .await
    }

    /// Waits for the first healthy answer of a container whose program runs.
    pub(crate) async fn healthy(self: &Rc<Self>, node: usize, name: &str) -> Result<Run, EngineError> {
        self.sleep(self.between(1_000, 150_000)).await;
        let engine = &self.nodes[node].engine;
        let phase = engine.containers.borrow().get(name).map(|found| found.phase);
        match phase {
            Some(Phase::Running(_)) if engine.sick_until.get() > self.exec.now() => {
                self.sleep(Duration::from_secs(1)).await;
                Err(EngineError::Unhealthy)
            }
            Some(Phase::Running(run)) => Ok(run),
            _ => Err(EngineError::Unhealthy),
        }
    }

    /// A request to the container that runs as `run`. It adds `number` to its state, syncs that, and answers with how
    /// many it holds.
    pub(crate) async fn request(
        self: &Rc<Self>,
        node: usize,
        session: SessionId,
        run: Run,
        number: u64,
    ) -> Result<u64, Failed> {
        self.sleep(self.between(200, 2_000)).await;
        if !self.runs(node, session, run) {
            return Err(Failed::NotSent);
        }
        self.sleep(self.between(0, 20_000)).await;
        let Some(name) = self.running(node, session, run) else {
            return Err(Failed::Interrupted);
        };
        let counter = {
            let mut containers = self.nodes[node].engine.containers.borrow_mut();
            let container = containers.get_mut(&name).expect("it was just found");
            if container.layer.contains(&number) {
                let twice = format!("request {number} is applied twice, by {name}");
                self.checks.borrow_mut().violated(twice);
            }
            container.layer.push(number);
            if container.durable.len() + 1 == container.layer.len() {
                container.durable.push(number);
            } else {
                container.durable = container.layer.clone();
            }
            container.layer.len() as u64
        };
        self.sleep(self.between(0, 3_000)).await;
        if self.runs(node, session, run) {
            Ok(counter)
        } else {
            Err(Failed::Interrupted)
        }
    }

    /// Whether a run of a session's container goes on.
    pub(crate) fn runs(&self, node: usize, session: SessionId, run: Run) -> bool {
        self.running(node, session, run).is_some()
    }

    fn running(&self, node: usize, session: SessionId, run: Run) -> Option<String> {
        let containers = self.nodes[node].engine.containers.borrow();
        let mut all = containers.iter();
        let found = all.find(|(_, found)| found.session == session && found.phase == Phase::Running(run));
        found.map(|(name, _)| name.clone())
    }
}

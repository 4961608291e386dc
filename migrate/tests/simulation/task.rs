//! The task of one session on one node, as `node/src/sessions/actor.rs` is one: it carries out what the real `Keeper`
//! decides, one thing at a time, in the order of the lines there.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{SessionId, State, Token, Transaction};
use blosm_migrate::session::{
    Adoption, Attempt, Effect, Entry, Input, Keeper, Known, No, Pending, Record, Refused, Standing, Timing,
};
use tokio::sync::{mpsc, oneshot};

use crate::engine::Run;
use crate::gateway::Route;
use crate::node::{Daemon, Slot, append};
use crate::plan::Broken;
use crate::wire::{Answer, Ask, Refusal};
use crate::world::Sim;

mod destination;
mod owner;
mod source;

pub(crate) use source::root;

/// How often what must be repeated is repeated.
const BEAT: Duration = Duration::from_millis(500);
/// How long a member that was asked to take a session may take to claim it.
const INVITATION: Duration = Duration::from_secs(60);

/// What others ask of a session's task.
pub(crate) enum Command {
    Peer {
        from: usize,
        ask: Ask,
        reply: oneshot::Sender<Answer>,
    },
    /// The operator moves the session.
    Migrate {
        to: usize,
    },
    Visit {
        attempt: Attempt,
        token: Option<Token>,
        from: usize,
    },
    Applied {
        entry: Entry,
        prepared: Option<String>,
        done: oneshot::Sender<bool>,
    },
    Acquire {
        handover: Pending,
        pending: Vec<Pending>,
        reply: Option<oneshot::Sender<Result<bool, No>>>,
    },
    AttemptEnded {
        attempt: Attempt,
    },
    Answered {
        epoch: u64,
        serving: bool,
    },
    Void {
        attempt: Attempt,
    },
    Start,
    /// A run of one of its containers has ended.
    Exited {
        run: Run,
    },
}

/// A cut that is done and waits for the destination.
struct Cut {
    attempt: Attempt,
    root: blosm_ledger::Hash,
}

pub(crate) struct Task {
    sim: Rc<Sim>,
    daemon: Rc<Daemon>,
    slot: Rc<Slot>,
    id: SessionId,
    node: usize,
    keeper: Keeper,
    cut: Option<Cut>,
    /// The run that is routed to.
    live: Option<Run>,
    /// A container that came here and waits at its gate.
    prepared: Option<String>,
    /// The attempt of this node to take the session, and whether it still works.
    incoming: Option<(Attempt, Rc<Cell<bool>>)>,
    /// Whether a repeated notice is on its way.
    notice: Rc<Cell<bool>>,
    invited: Option<(usize, Attempt, Duration)>,
    aborting: Rc<Cell<bool>>,
    /// For a broken rule: when this node signed, and whether it has rolled back since.
    signed_at: Option<Duration>,
}

/// What is known at the moment of a decision.
struct Looked {
    id: SessionId,
    record: Rc<Record>,
    state: Rc<State>,
}

impl Looked {
    fn known(&self) -> Known<'_> {
        Known {
            record: &self.record,
            sealed: self.state.session(&self.id),
            members: self.state.members(),
        }
    }
}

impl Task {
    pub(crate) fn new(sim: Rc<Sim>, daemon: Rc<Daemon>, slot: Rc<Slot>) -> Self {
        let (id, node) = (slot.id, daemon.node);
        let timing = Timing {
            min_stay: sim.plan.min_stay,
            ..Timing::default()
        };
        let (me, record) = (sim.nodes[node].me, daemon.record(&id));
        let keeper = Keeper::new(me, sim.genesis_id, id, timing, sim.instant(), &record);
        Self {
            sim,
            daemon,
            slot,
            id,
            node,
            keeper,
            cut: None,
            live: None,
            prepared: None,
            incoming: None,
            notice: Rc::default(),
            invited: None,
            aborting: Rc::default(),
            signed_at: None,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut exits: mpsc::Receiver<Command>,
    ) {
        let sim = self.sim.clone();
        let record = self.record();
        if record.may_run() || record.applied.is_some() {
            self.slot.gate.set(Route::Held);
        }
        let mut moved = self.daemon.moved.watch();
        self.on_chain().await;
        self.on_beat().await;
        let mut beat = sim.exec.now() + BEAT;
        loop {
            let wait = beat.saturating_sub(sim.exec.now());
            tokio::select! {
                biased;
                Some(exit) = exits.recv() => self.on_command(exit).await,
                Some(command) = commands.recv() => self.on_command(command).await,
                () = moved.changed() => self.on_chain().await,
                () = sim.exec.sleep(wait) => {
                    beat = sim.exec.now() + BEAT;
                    self.on_beat().await;
                }
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Peer { from, ask, reply } => {
                let answer = self.on_peer(from, ask).await;
                // The peer may have gone; it asks again.
                let _ = reply.send(answer);
            }
            Command::Migrate { to } => self.invite(to).await,
            Command::Visit { attempt, token, from } => {
                self.visit(attempt, token, from);
            }
            Command::Applied {
                entry,
                prepared,
                done,
            } => self.applied(entry, prepared, done).await,
            Command::Acquire {
                handover,
                pending,
                reply,
            } => {
                let taken = self.acquire(handover, pending).await;
                if let Some(reply) = reply {
                    let _ = reply.send(taken);
                }
            }
            Command::AttemptEnded { attempt } => {
                self.incoming.take_if(|(current, _)| *current == attempt);
            }
            Command::Answered { epoch, serving } => self.on_answered(epoch, serving).await,
            Command::Void { attempt } => self.discard_applied(attempt).await,
            Command::Start => {
                if self.wants_start() {
                    self.ensure_running().await;
                }
            }
            Command::Exited { run } => self.on_exit(run),
        }
    }

    async fn on_peer(&mut self, from: usize, ask: Ask) -> Answer {
        let answer = match ask {
            Ask::Want { token, .. } => self.want(from, token.is_some()).await,
            Ask::Claim { claim, live } => self.claim(from, &claim, live),
            Ask::Cut { attempt, .. } => return self.begin_cut(from, attempt).await,
            Ask::Ready { attempt, root, .. } => return self.ready(from, attempt, root).await,
            Ask::Alive { attempt, .. } => {
                let from = self.sim.nodes[from].me;
                self.tell(Input::Alive { attempt, from }).map(|_| Answer::Agreed)
            }
            Ask::Cancel { attempt, .. } => return self.cancel(from, attempt).await,
            Ask::HandOver {
                handover, pending, ..
            } => match self.acquire(handover, pending).await {
                Ok(serving) => Ok(Answer::Taken { serving }),
                Err(no) => Err(no.into()),
            },
            Ask::Serving { epoch, .. } => return self.noted(from, epoch).await,
            Ask::Invite { attempt, .. } => {
                if self.visit(attempt, None, from) {
                    Ok(Answer::Agreed)
                } else {
                    Err(Refusal::Busy)
                }
            }
            Ask::Close { .. } => {
                if self.close(blosm_ledger::ReleaseReason::Client).await {
                    Ok(Answer::Agreed)
                } else {
                    Err(Refusal::No(No::NotOwner))
                }
            }
            _ => Err(Refusal::Malformed),
        };
        answer.unwrap_or_else(Answer::Refused)
    }

    /// Time has passed: what is due is done, what must be repeated is repeated.
    async fn on_beat(&mut self) {
        if let Ok(Effect::RollBack { attempt }) = self.tell(Input::Tick) {
            self.roll_back(attempt).await;
        }
        self.roll_back_what_is_signed().await;
        let looked = self.look();
        if self.keeper.is_unsettled(&looked.known()) {
            self.on_chain().await;
        }
        if looked.record.standing == Standing::Closed
            && let Some(container) = self.record().container.clone()
        {
            self.remove_container(&container.name).await;
        }
        self.keep_grants();
        if self.wants_start() {
            self.ensure_running().await;
        }
        self.invited
            .take_if(|(.., since)| self.sim.exec.now() - *since >= INVITATION);
        self.repeat_handover();
        self.ask_for_signature();
        self.remove_kept().await;
    }

    /// A broken rule: silence after the signature is taken for a reason to go back.
    async fn roll_back_what_is_signed(&mut self) {
        let record = self.record();
        if self.sim.plan.broken == Broken::RollsBackWhenSigned
            && let Some(gave) = record.gave.as_ref().filter(|gave| !gave.acknowledged)
            && let Some(container) = &record.container
            && self
                .signed_at
                .is_some_and(|at| self.sim.exec.now() - at > Timing::default().silence)
        {
            self.sim
                .trace(self.node, || format!("rolls back epoch {}", gave.epoch));
            self.signed_at = None;
            let _ = self.sim.start(self.node, &container.name).await;
        }
    }

    fn record(&self) -> Rc<Record> {
        self.daemon.record(&self.id)
    }

    fn look(&self) -> Looked {
        Looked {
            id: self.id,
            record: self.record(),
            state: self.sim.state(self.node),
        }
    }

    async fn append(&mut self, entry: Entry) {
        append(&self.sim, &self.daemon, entry.clone()).await;
        self.keeper.written(self.sim.instant(), &entry);
    }

    fn adoption(&self) -> Adoption {
        self.keeper.adoption(&self.look().known())
    }

    fn is_mine(&self) -> bool {
        matches!(self.adoption(), Adoption::Mine { .. })
    }

    fn wants_start(&self) -> bool {
        let live = self.live.is_some() || self.cut.is_some();
        self.keeper
            .wants_start(self.sim.instant(), &self.look().known(), live)
    }

    fn tell(&mut self, input: Input) -> Result<Effect, Refusal> {
        Ok(self.keeper.tell(self.sim.instant(), input)?)
    }

    /// A transaction that a peer has sent, its signature checked.
    fn transaction(&self, bytes: &[u8]) -> Option<Transaction> {
        let transaction = Transaction::decode(bytes).ok()?;
        transaction.verify(self.sim.genesis_id).ok()?;
        Some(transaction)
    }
}

/// A source that refuses for now loses nothing by being asked again.
pub(crate) fn is_passing(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Busy | Refusal::NotReady | Refusal::No(No::Source(Refused::TooSoon | Refused::Busy))
    )
}

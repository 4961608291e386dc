//! One session on this node: a task that owns all that may change it here.
//!
//! ```text
//!  gateway, API, peers ──Command──> Actor ──> journal, engine, gate, peers
//!  chain view, exit of the container, time ──┘
//! ```
//! Whatever starts, stops, gives or takes the session's container passes through this task, one thing at a time: that is
//! what makes the rules of `docs/protocol.md` hold. All that it decides, its [`Keeper`] decides, which is pure.
//! Long work of a destination (staging) runs in a task of its own, [`super::incoming`], and comes back as commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blosm_ledger::{Hash, Payload, PublicKey, Release, ReleaseReason, SessionId};
use blosm_migrate::docker::Image;
use blosm_migrate::service::Service;
use blosm_migrate::session::{
    Adoption, Attempt, Effect, Entry, Input, Keeper, Known, Moved, No, Pending, Record, Refused, Signing,
    Standing, Timing,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use self::confirm::Announced;
use super::grants::Grants;
use super::journal::JournalClosed;
use super::launch::{self, LaunchError, Running};
use super::measure::Sizing;
use super::registry::Slot;
use super::wire::{MoveReason, Refusal, SessionRequest, SessionResponse, Stopped};
use crate::chain::ChainView;
use crate::config::Method;
use crate::gateway::Route;
use crate::parts::{Parts, pending};

mod announce;
mod confirm;
mod cut;
mod destination;
mod given;
mod owner;
mod source;

/// Commands that may wait for one session. When it is full the sender waits.
pub(super) const QUEUE: usize = 64;
/// How often what must be repeated is repeated.
const BEAT: Duration = Duration::from_millis(500);

/// What others ask of a session's task.
pub(crate) enum Command {
    /// A request of a peer.
    Peer {
        from: PublicKey,
        request: SessionRequest,
        reply: oneshot::Sender<SessionResponse>,
    },
    /// The operator moves the session to `to`.
    Migrate {
        to: PublicKey,
        how: MoveOrder,
        reply: oneshot::Sender<Result<Attempt, Refusal>>,
    },
    /// Take the session over here, if nothing forbids it.
    Visit {
        attempt: Attempt,
        token: Option<String>,
        from: PublicKey,
        how: MoveOrder,
    },
    /// The destination's task has a container ready: write it down.
    Applied {
        entry: Entry,
        /// The container's process and address, if it runs already: at its gate, or because it is stateless.
        prepared: Option<Running>,
        done: oneshot::Sender<bool>,
    },
    /// The signed hand-over has come.
    Acquire {
        handover: Pending,
        pending: Vec<Pending>,
        reply: oneshot::Sender<Result<bool, Refusal>>,
    },
    /// The destination's task has ended; `settled` when nothing of the attempt is left to wait for.
    AttemptEnded { attempt: Attempt },
    /// The answer of the other end to a repeated hand-over.
    Answered { epoch: u64, serving: bool },
    /// The source says that the staged container is not wanted any more.
    Void { attempt: Attempt },
    /// The session has just come to this node: do not wait for the next beat.
    Start,
    /// The client closes the session.
    Close { reply: oneshot::Sender<bool> },
    /// Look at what the session is now.
    View { reply: oneshot::Sender<ActorView> },
}

/// Why and how a session is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MoveOrder {
    /// Why.
    pub(crate) reason: MoveReason,
    /// How; absent: as the destination is configured.
    pub(crate) method: Option<Method>,
    /// Whether it may stop the service for longer than the destination's `max_downtime`.
    pub(crate) force: bool,
}

impl MoveOrder {
    /// As the destination is configured, because the operator empties this node.
    pub(crate) fn drain() -> Self {
        Self {
            reason: MoveReason::Drain,
            ..Self::mobility()
        }
    }

    /// As the destination is configured, because the client has moved.
    pub(crate) fn mobility() -> Self {
        Self {
            reason: MoveReason::Mobility,
            method: None,
            force: false,
        }
    }
}

/// What a session is on this node at an instant.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActorView {
    pub(crate) phase: &'static str,
    pub(crate) container: Option<String>,
    pub(crate) address: Option<String>,
}

/// A cut that is done and waits for the destination.
struct Cut {
    attempt: Attempt,
    /// What the destination has to apply.
    root: Hash,
    stopped: Stopped,
    last_answer: Instant,
}

/// A running container and the future that ends with it.
struct Live {
    running: Running,
    exit: AbortOnDropHandle<()>,
    /// A cut has sent it the stop signal, so that it may end at any time, or hang.
    told_to_stop: bool,
}

pub(super) struct Actor {
    parts: Arc<Parts>,
    grants: Arc<Grants>,
    slot: Arc<Slot>,
    id: SessionId,
    commands: mpsc::Receiver<Command>,
    chain: watch::Receiver<Arc<ChainView>>,
    /// What is decided here.
    keeper: Keeper,
    cut: Option<Cut>,
    live: Option<Live>,
    /// A container that came here and runs at its gate, or serves already because it is stateless.
    prepared: Option<Running>,
    incoming: Option<(Attempt, JoinHandle<()>)>,
    /// A repeated notice that is on its way.
    notice: Option<JoinHandle<()>>,
    /// The member that `blosm migrate` has asked to come, and under which name.
    invited: Option<(PublicKey, Attempt, Instant)>,
    /// What the members hold of the announcements of the present epoch.
    announced: Option<Announced>,
    /// What the container takes on the disk.
    sizing: Sizing,
    /// An `Abort` that is being submitted.
    aborting: Option<JoinHandle<()>>,
}

/// What is known of the session at the moment of a decision.
struct Looked {
    id: SessionId,
    record: Arc<Record>,
    view: Arc<ChainView>,
}

impl Looked {
    fn known(&self) -> Known<'_> {
        Known {
            record: &self.record,
            sealed: self.view.state.session(&self.id),
            members: self.view.state.members(),
        }
    }
}

impl Actor {
    pub(super) fn new(
        parts: Arc<Parts>,
        grants: Arc<Grants>,
        slot: Arc<Slot>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let chain = parts.chain.subscribe();
        let id = slot.id;
        let timing = Timing {
            min_stay: parts.config.migration.min_stay,
            ..Timing::default()
        };
        let record = parts
            .journal
            .record(&id)
            .unwrap_or_else(|| Arc::new(Record::new(id)));
        let keeper = Keeper::new(parts.me, parts.chain_id(), id, timing, Instant::now(), &record);
        Self {
            parts,
            grants,
            slot,
            id,
            commands,
            chain,
            keeper,
            cut: None,
            live: None,
            prepared: None,
            incoming: None,
            notice: None,
            invited: None,
            announced: None,
            sizing: Sizing::default(),
            aborting: None,
        }
    }

    /// Runs until the node stops. The container is left as it is: it outlives the daemon (rule 7).
    pub(super) async fn run(mut self) {
        if let Err(JournalClosed) = self.drive().await {
            // The node is going down with the journal; nothing may be done or answered on what was not written.
            self.slot.gate.set(Route::Held);
        }
        if let Some((_, task)) = self.incoming.take() {
            task.abort();
        }
    }

    async fn drive(&mut self) -> Result<(), JournalClosed> {
        let record = self.record();
        if record.may_run() || record.applied.is_some() {
            self.slot.gate.set(Route::Held);
        }
        self.on_chain().await?;
        self.on_beat().await?;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.parts.stop.clone();
        loop {
            let exit = async {
                match self.live.as_mut() {
                    Some(live) => {
                        // A watch that panicked has ended too.
                        let _ = (&mut live.exit).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command).await?,
                    None => break,
                },
                () = exit => self.on_exit(),
                changed = self.chain.changed() => match changed {
                    Ok(()) => self.on_chain().await?,
                    Err(_) => break,
                },
                _ = beat.tick() => self.on_beat().await?,
            }
        }
        Ok(())
    }

    async fn on_command(&mut self, command: Command) -> Result<(), JournalClosed> {
        match command {
            Command::Peer { from, request, reply } => {
                let response = self.on_peer(from, request).await?;
                // The peer may have gone; it asks again.
                let _ = reply.send(response);
            }
            Command::Migrate { to, how, reply } => {
                let _ = reply.send(self.invite(to, how).await);
            }
            Command::Visit {
                attempt,
                token,
                from,
                how,
            } => {
                // One that can't be started now is asked for again by the client's next request.
                self.visit(attempt, token, from, how);
            }
            Command::Applied {
                entry,
                prepared,
                done,
            } => {
                let wanted = self.keeper.wants_applied(&self.record(), &entry);
                if wanted {
                    self.append(entry).await?;
                    self.prepared = prepared;
                    // The signature is on its way: requests wait here rather than at the source.
                    self.slot.gate.hold();
                }
                let _ = done.send(wanted);
            }
            Command::Acquire {
                handover,
                pending,
                reply,
            } => {
                let taken = self.acquire(handover, pending).await?;
                let _ = reply.send(taken);
            }
            Command::AttemptEnded { attempt } => {
                self.incoming.take_if(|(current, _)| *current == attempt);
            }
            Command::Answered { epoch, serving } => self.on_answered(epoch, serving).await?,
            Command::Start => {
                if self.wants_start() {
                    self.ensure_running().await?;
                }
            }
            Command::Void { attempt } => self.discard_applied(attempt).await?,
            Command::Close { reply } => {
                let closed = self.close(ReleaseReason::Client).await?;
                let _ = reply.send(closed);
            }
            Command::View { reply } => {
                let _ = reply.send(self.view());
            }
        }
        Ok(())
    }

    /// Time has passed: what is due is done, what must be repeated is repeated.
    async fn on_beat(&mut self) -> Result<(), JournalClosed> {
        if let Ok(Effect::RollBack { attempt }) = self.keeper.tell(Instant::now(), Input::Tick) {
            tracing::warn!(session = %self.id, attempt = %hex::encode(attempt), "the destination fell silent, or takes too long; rolling back");
            self.roll_back(attempt).await?;
        }
        let looked = self.look();
        if self.keeper.is_unsettled(&looked.known()) {
            // What could not be done when the chain moved is tried again.
            self.on_chain().await?;
        }
        if looked.record.standing == Standing::Closed
            && let Some(container) = self.record().container.clone()
        {
            self.remove_container(&container.name, &container.image).await?;
        }
        let source = self.keeper.source();
        let ended = self.grants.keep_only(&self.id, |attempt, peer| {
            source.is_some_and(|source| source.may_pull(attempt, peer))
        });
        for attempt in ended {
            self.settle(attempt);
        }
        if self.wants_start() {
            self.ensure_running().await?;
        }
        self.give_up_invitation();
        self.repeat_handover();
        self.ask_for_signature();
        self.remove_kept().await?;
        Ok(())
    }

    fn view(&self) -> ActorView {
        let record = self.record();
        let evicted = self.parts.evicted().is_some();
        let phase = match (&record.standing, &self.cut, &self.live, &self.incoming) {
            (Standing::Owner { .. }, None, None, _) if evicted => "kept",
            (Standing::Owner { .. }, Some(_), ..) => "cut",
            (Standing::Owner { .. }, None, Some(_), _) => "serving",
            (Standing::Owner { .. }, None, None, _) => "starting",
            (Standing::Closed, ..) => "closed",
            (_, _, _, Some(_)) => "staging",
            (Standing::Gave, ..) if record.container.is_some() => "kept",
            (Standing::Gave, ..) => "given",
            (Standing::Visitor, ..) if record.applied.is_some() => "applied",
            (Standing::Visitor, ..) => "relayed",
        };
        ActorView {
            phase,
            container: record.container.as_ref().map(|container| container.name.clone()),
            address: self.live.as_ref().map(|live| live.running.address.to_string()),
        }
    }

    fn record(&self) -> Arc<Record> {
        self.parts
            .journal
            .record(&self.id)
            .unwrap_or_else(|| Arc::new(Record::new(self.id)))
    }

    /// Writes an entry down; what follows from it follows when it is on the disk.
    async fn append(&mut self, entry: Entry) -> Result<(), JournalClosed> {
        self.parts.journal.append(entry.clone()).await?;
        self.keeper.written(Instant::now(), &entry);
        Ok(())
    }

    fn look(&self) -> Looked {
        Looked {
            id: self.id,
            record: self.record(),
            view: self.chain.borrow().clone(),
        }
    }

    /// The declaration of the session's service. A node may have been started without it since.
    fn service(&self) -> Option<Arc<Service>> {
        self.parts.config.services.get(&self.record().service).cloned()
    }

    /// Rule 7, asked again whenever the chain has moved.
    fn adoption(&self) -> Adoption {
        self.keeper.adoption(&self.look().known())
    }

    fn is_mine(&self) -> bool {
        matches!(self.adoption(), Adoption::Mine { .. })
    }

    fn wants_start(&self) -> bool {
        let live = self.live.is_some() || self.cut.is_some();
        self.keeper
            .wants_start(Instant::now(), &self.look().known(), live)
    }
}

impl From<No> for Refusal {
    fn from(no: No) -> Self {
        match no {
            No::NotOwner => Self::NotOwner,
            No::NotAuthorised => Self::NotAuthorised,
            No::Malformed => Self::Malformed,
            No::Unsealed => Self::Unconfirmed,
            No::Source(Refused::TooSoon) => Self::TooSoon,
            No::Source(Refused::Busy | Refused::Crowded) => Self::Busy,
            No::Source(Refused::Void) => Self::Void,
            No::Source(Refused::OtherRoot) => Self::OtherRoot,
        }
    }
}

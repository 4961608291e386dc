//! One session on this node: a task that owns all that may change it here.
//!
//! ```text
//!  gateway, API, peers ──Command──> Actor ──> journal, engine, gate, peers
//!  chain view, exit of the container, time ──┘
//! ```
//! Whatever starts, stops, gives or takes the session's container passes through this task, one thing at a time: that is
//! what makes the rules of `docs/protocol.md` hold. What it decides, it decides by the pure `blosm_migrate::session`.
//! Long work of a destination (staging) runs in a task of its own, [`super::incoming`], and comes back as commands.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blosm_ledger::{Hash, Payload, PublicKey, Release, ReleaseReason, SessionId};
use blosm_migrate::docker::Image;
use blosm_migrate::service::Service;
use blosm_migrate::session::{
    Adoption, Attempt, Effect, Entry, Input, Pending, Record, Source, Standing, Timing, adopt,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use self::confirm::Announced;
use super::grants::Grants;
use super::journal::JournalClosed;
use super::launch::{self, LaunchError, Running};
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
/// A container that never became healthy is given up after this many tries.
const MAX_FIRST_STARTS: u32 = 3;

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
}

pub(super) struct Actor {
    parts: Arc<Parts>,
    grants: Arc<Grants>,
    slot: Arc<Slot>,
    id: SessionId,
    commands: mpsc::Receiver<Command>,
    chain: watch::Receiver<Arc<ChainView>>,
    /// Hand-overs of the present epoch; exists while this node owns the session.
    source: Option<Source>,
    /// When this node came to own the session, on its own clock.
    owned_since: Instant,
    cut: Option<Cut>,
    live: Option<Live>,
    /// A container that came here and runs at its gate, or serves already because it is stateless.
    prepared: Option<Running>,
    /// Members that were told of the session since this node owns it: only they may claim it.
    welcome: BTreeSet<PublicKey>,
    incoming: Option<(Attempt, JoinHandle<()>)>,
    failed_starts: u32,
    next_start: Option<Instant>,
    /// A repeated notice that is on its way.
    notice: Option<JoinHandle<()>>,
    /// When the new owner was first known to serve.
    served_at: Option<Instant>,
    /// The member that `blosm migrate` has asked to come, and under which name.
    invited: Option<(PublicKey, Attempt, Instant)>,
    /// What the members hold of the announcements of the present epoch.
    announced: Option<Announced>,
    /// An `Abort` that is being submitted.
    aborting: Option<JoinHandle<()>>,
    /// Whether the container has served since this process began to look after it.
    has_served: bool,
    /// Whether the journal says that it ran before that.
    ran_before: bool,
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
        Self {
            parts,
            grants,
            slot,
            id,
            commands,
            chain,
            source: None,
            owned_since: Instant::now(),
            cut: None,
            live: None,
            prepared: None,
            welcome: BTreeSet::new(),
            incoming: None,
            failed_starts: 0,
            next_start: None,
            notice: None,
            served_at: None,
            invited: None,
            announced: None,
            aborting: None,
            has_served: false,
            ran_before: false,
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
        self.ran_before = record
            .container
            .as_ref()
            .is_some_and(|container| container.started);
        if record.may_run() {
            self.begin_ownership();
        } else if record.applied.is_some() {
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
                let wanted = !self.record().may_run();
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
                if self.wants_start(Instant::now()) {
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
        let now = Instant::now();
        let ticked = self.source.as_mut().map(|source| source.handle(now, Input::Tick));
        if let Some(Ok(Effect::RollBack { attempt })) = ticked {
            tracing::warn!(session = %self.id, attempt = %hex::encode(attempt), "the destination fell silent, or takes too long; rolling back");
            self.roll_back(attempt).await?;
        }
        let standing = self.record().standing;
        let settled = !matches!(standing, Standing::Gave | Standing::Owner { .. })
            || matches!(self.adoption(), Adoption::Mine { .. });
        if !settled {
            // What could not be done when the chain moved is tried again.
            self.on_chain().await?;
        }
        if standing == Standing::Closed
            && let Some(container) = self.record().container.clone()
        {
            self.remove_container(&container.name, &container.image).await?;
        }
        let source = self.source.as_ref();
        let ended = self.grants.keep_only(&self.id, |attempt, peer| {
            source.is_some_and(|source| source.may_pull(attempt, peer))
        });
        for attempt in ended {
            self.settle(attempt);
        }
        if self.wants_start(now) {
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

    async fn append(&self, entry: Entry) -> Result<(), JournalClosed> {
        self.parts.journal.append(entry).await
    }

    /// The declaration of the session's service. A node may have been started without it since.
    fn service(&self) -> Option<Arc<Service>> {
        self.parts.config.services.get(&self.record().service).cloned()
    }

    /// Rule 7, asked again whenever the chain has moved.
    fn adoption(&self) -> Adoption {
        let view = self.chain.borrow();
        // An evicted node runs nothing of the network's. What it owned is still its own on the chain: it is kept.
        if view.state.members().evicted(&self.parts.me).is_some() && self.record().may_run() {
            return Adoption::NotMine;
        }
        adopt(&self.record(), view.state.session(&self.id), self.parts.me)
    }

    fn timing(&self) -> Timing {
        Timing {
            min_stay: self.parts.config.migration.min_stay,
            ..Timing::default()
        }
    }

    fn begin_ownership(&mut self) {
        self.owned_since = Instant::now();
        self.source = Some(Source::new(self.timing(), self.owned_since));
        self.welcome.clear();
        self.slot.gate.set(Route::Held);
    }
}

//! The cloneable way to the sessions, for the gateway, the API and the router.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blosm_ledger::{Open, Payload, PublicKey, SessionId, Token};
use blosm_migrate::docker::ImageError;
use blosm_migrate::placement::{BookingKey, Mobility, MobilityPolicy, Position, nearest_first};
use blosm_migrate::recreate::{LABEL_NETWORK, LABEL_SESSION};
use blosm_migrate::service::Service;
use blosm_migrate::session::{Entry, KnownOwner, Pending, Record, newest_owner};
use tokio::sync::{Notify, broadcast, oneshot};

use super::actor::{ActorView, Command};
use super::grants::Grants;
use super::journal::JournalClosed;
use super::registry::{Registry, Slot};
use super::report::MigrationReport;
use super::reports::Event;
use super::shared::{self, Shared};
use super::view::{AmountView, EngineView, ResourcesView, SessionView};
use super::wire::{MoveReason, Refusal, SessionRequest, SessionResponse};
use super::{launch, notice, room, submit};
use crate::config::Method;
use crate::gateway::Gate;
use crate::parts::{Parts, pending, position_of};

/// Clients of other nodes' sessions that are followed at once; the longest silent one is forgotten.
const MAX_FOLLOWED: usize = 4096;
/// Between two attempts to take the same session.
const VISIT_AGAIN: Duration = Duration::from_secs(1);
/// Each failed attempt doubles that time, this often: to about a minute.
const MAX_BACKOFF: u32 = 6;

/// Why no session or container was opened here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// REQ_res >= R_rem, or `max_sessions` is reached.
    #[error("no room for a new container of the service")]
    NoRoom,
    /// The service's image can't be used on this node.
    #[error(transparent)]
    Image(ImageError),
    /// The node is going down.
    #[error(transparent)]
    Journal(#[from] JournalClosed),
}

/// Why `blosm migrate` did not start a migration.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// No session with that prefix.
    #[error("this node knows no session {0}; `blosm sessions` lists them")]
    Unknown(String),
    /// Several.
    #[error("several sessions begin with {0}; give more digits")]
    Ambiguous(String),
    /// Another node has to give it.
    #[error("the session belongs to {owner}; run the command there")]
    NotOwner {
        /// Label or key of the owner.
        owner: String,
    },
    /// No member to give it to.
    #[error("there is no other connected member to move the session to; see `blosm members`")]
    NoDestination,
    /// It is there already.
    #[error("the session is on that node already")]
    Already,
    /// This version can't do it.
    #[error("method {0} is not available; use image")]
    Method(String),
    /// The other end, or this one, says no.
    #[error("not now: {0}")]
    Refused(String),
    /// The node is going down.
    #[error("the node is stopping")]
    Stopping,
}

#[derive(Debug)]
struct Followed {
    mobility: Mobility,
    last_visit: Option<Instant>,
    last_seen: Instant,
}

#[derive(Debug)]
struct Inner {
    parts: Arc<Parts>,
    grants: Arc<Grants>,
    registry: Registry,
    shared: Shared,
    submit: Arc<Notify>,
    followed: Mutex<HashMap<SessionId, Followed>>,
    ready: AtomicBool,
}

/// All sessions of this node.
#[derive(Debug, Clone)]
pub struct SessionsHandle(Arc<Inner>);

impl SessionsHandle {
    /// Takes up the sessions that the journal gives to this node, and stops every other container of this network (rule 7).
    ///
    /// # Errors
    /// The engine's list of containers can't be had: nothing was started then.
    pub(crate) async fn start(parts: Arc<Parts>) -> Result<Self, blosm_migrate::docker::EngineError> {
        let submit = Arc::new(Notify::new());
        let grants = Arc::new(Grants::new(parts.config.data_dir.join("spool")));
        // Layers of attempts that ended with an earlier process.
        let _ = std::fs::remove_dir_all(parts.config.data_dir.join("incoming"));
        let registry = Registry::new(parts.clone(), grants.clone(), submit.clone());
        let inner = Inner {
            parts,
            grants,
            registry,
            shared: Shared::default(),
            submit,
            followed: Mutex::default(),
            ready: AtomicBool::new(false),
        };
        let handle = Self(Arc::new(inner));
        handle.stop_strangers().await?;
        for record in handle.0.parts.journal.records() {
            if record.may_run() {
                handle.adopt_booking(&record);
            }
            if !record.is_settled() {
                handle.0.registry.ensure(record.session);
            }
        }
        tokio::spawn(submit::run(handle.0.parts.clone(), handle.0.submit.clone()));
        handle.0.ready.store(true, Ordering::Release);
        Ok(handle)
    }

    /// Rule 7: a labelled container that runs and is not the current one of a session of this node is stopped and kept. One
    /// that never ran and that no record names is what a dead attempt has left.
    async fn stop_strangers(&self) -> Result<(), blosm_migrate::docker::EngineError> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let shared: Vec<String> = parts
            .config
            .services
            .values()
            .map(|service| shared::label(service).to_string())
            .collect();
        for container in parts
            .docker
            .list(&[(LABEL_NETWORK, Some(&parts.network_label()))])
            .await?
        {
            let label = container.labels.get(LABEL_SESSION).cloned().unwrap_or_default();
            if shared.contains(&label) {
                continue;
            }
            let record = label
                .parse::<SessionId>()
                .ok()
                .and_then(|session| parts.journal.record(&session));
            let sealed = record
                .as_ref()
                .and_then(|record| view.state.session(&record.session));
            let mine = record.as_ref().is_some_and(|record| {
                matches!(
                    blosm_migrate::session::adopt(record, sealed, parts.me),
                    blosm_migrate::session::Adoption::Mine { .. }
                ) && record
                    .container
                    .as_ref()
                    .is_some_and(|current| current.name == container.name)
            });
            if container.running && !mine {
                tracing::warn!(
                    container = container.name,
                    "runs, but its session is not this node's; stopping it"
                );
                let signal = blosm_migrate::service::StopSignal::SigTerm;
                let stopped = parts
                    .docker
                    .stop(&container.id, signal, Duration::from_secs(2))
                    .await;
                if let Err(error) = stopped {
                    // It stays a stranger: its session's task, or the next start, stops it.
                    tracing::error!(container = container.name, %error, "can't be stopped; stop it by hand");
                }
            }
            let named = record.as_ref().is_some_and(|record| {
                let names = [
                    record.container.as_ref().map(|current| &current.name),
                    record.applied.as_ref().map(|applied| &applied.container.name),
                ];
                names.contains(&Some(&container.name))
            });
            if !named && container.started_at.is_none() {
                tracing::info!(
                    container = container.name,
                    "left by an attempt that ended; removing it"
                );
                if let Err(error) = parts.docker.remove(&container.id, true).await {
                    tracing::warn!(container = container.name, %error, "can't be removed");
                }
            }
        }
        Ok(())
    }

    fn adopt_booking(&self, record: &Record) {
        let parts = &self.0.parts;
        if let Some(service) = parts.config.services.get(&record.service) {
            let mut bookings = parts
                .bookings
                .lock()
                .expect("nothing panics while it holds the bookings");
            bookings.adopt(BookingKey::Session(record.session.0), super::amount(service));
        }
    }

    /// Whether the gateway serves.
    pub fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && !self.0.parts.stop.is_cancelled()
    }

    /// The session's slot, if this node has to do with it.
    pub(crate) fn slot(&self, session: &SessionId) -> Option<Arc<Slot>> {
        self.0.registry.get(session)
    }

    /// Rule 1: who is known to own a session, by the newest fact.
    pub(crate) fn owner(&self, session: &SessionId) -> KnownOwner {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        newest_owner(
            parts.journal.record(session).as_deref(),
            view.state.session(session),
            parts.me,
        )
    }

    /// The hand-over that made `to` the owner, with what it needs to submit, if this node has it.
    pub(crate) async fn handover_to(
        &self,
        session: &SessionId,
        to: PublicKey,
    ) -> Option<(Pending, Vec<Pending>)> {
        let parts = &self.0.parts;
        if let Some(record) = parts.journal.record(session)
            && let Some(gave) = record.gave.as_ref().filter(|gave| gave.destination == to)
        {
            let others = record
                .pending
                .iter()
                .filter(|pending| pending.hash != gave.handover.hash)
                .cloned()
                .collect();
            return Some((gave.handover.clone(), others));
        }
        let since = parts.chain.snapshot().state.session(session)?.since;
        let found = parts.chain.transaction(since).await?;
        Some((pending(&found.transaction), Vec::new()))
    }

    /// Rule 1: mints a token, writes the session down and starts its container; nothing waits for the ledger.
    pub(crate) async fn open(
        &self,
        service: &Arc<Service>,
        ticket: Option<u64>,
    ) -> Result<(Token, Arc<Slot>), OpenError> {
        let parts = &self.0.parts;
        launch::base(parts, service).await.map_err(OpenError::Image)?;
        let open_here = |record: &Arc<Record>| record.may_run() && record.service == service.name;
        if let Some(max) = service.max_sessions
            && parts
                .journal
                .records()
                .iter()
                .filter(|record| open_here(record))
                .count()
                >= max as usize
        {
            return Err(OpenError::NoRoom);
        }
        let token = Token::mint(
            &parts.config.key,
            parts.chain_id(),
            &service.name,
            super::random(),
        );
        let session = token.session();
        let key = BookingKey::Session(session.0);
        if !room::book(parts, service, key, ticket) {
            return Err(OpenError::NoRoom);
        }
        let open = parts.sign(Payload::Open(Open {
            session,
            service: service.name.clone(),
            opener: parts.me,
        }));
        let entry = Entry::Opened {
            session,
            service: service.name.clone(),
            open: pending(&open),
        };
        // In a task of its own: a client that goes away here must not leave a session that nobody looks after.
        let inner = self.0.clone();
        let opening = tokio::spawn(async move {
            inner.parts.journal.append(entry).await?;
            let slot = inner.registry.ensure(session);
            inner.submit.notify_one();
            Ok::<_, JournalClosed>(slot)
        });
        let slot = opening.await.map_err(|_| JournalClosed)??;
        Ok((token, slot))
    }

    /// The gate of a stateless service's container that all clients share.
    pub(crate) async fn shared(
        &self,
        service: &Arc<Service>,
        ticket: Option<u64>,
    ) -> Result<Arc<Gate>, OpenError> {
        self.0.shared.gate(&self.0.parts, service, ticket).await
    }

    /// The nearest neighbour with room (Algorithm 3).
    pub(crate) async fn neighbour(&self, service: &Service) -> Option<room::Booked> {
        room::find(&self.0.parts, service).await
    }

    /// A peer has handed a session over in the answer to a relayed request.
    pub(crate) async fn take(&self, session: SessionId, handover: Pending, pending: Vec<Pending>) -> bool {
        let (reply, taken) = oneshot::channel();
        let slot = self.0.registry.ensure(session);
        let sent = slot
            .commands
            .send(Command::Acquire {
                handover,
                pending,
                reply,
            })
            .await;
        sent.is_ok() && matches!(taken.await, Ok(Ok(_)))
    }

    /// Rule 10: a client sent a request here for a session that `owner` runs. Takes the session when that is due.
    pub(crate) fn follow(
        &self,
        session: SessionId,
        token: &Token,
        owner: PublicKey,
        position: Option<Position>,
    ) {
        let now = Instant::now();
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let Some(member) = view.state.members().get(&owner) else {
            return;
        };
        let policy = MobilityPolicy {
            margin_m: parts.config.migration.margin,
            min_stay: parts.config.migration.min_stay,
            ..MobilityPolicy::default()
        };
        {
            let mut followed = self.followed();
            if followed.len() >= MAX_FOLLOWED && !followed.contains_key(&session) {
                let oldest = followed
                    .iter()
                    .min_by_key(|(_, client)| client.last_seen)
                    .map(|(id, _)| *id);
                oldest.and_then(|id| followed.remove(&id));
            }
            let client = followed.entry(session).or_insert_with(|| Followed {
                mobility: Mobility::default(),
                last_visit: None,
                last_seen: now,
            });
            client.last_seen = now;
            client.mobility.request_here(now, position);
            // When it last changed hands the owner knows, and says so.
            let due =
                client
                    .mobility
                    .decide(now, &policy, parts.position(), position_of(member.location), None);
            // A cut that fails costs the service a stop: what fails again and again is tried less and less often.
            let failed = self
                .slot(&session)
                .map_or(0, |slot| slot.failed_attempts.load(Ordering::Relaxed));
            let again = VISIT_AGAIN * (1 << failed.min(MAX_BACKOFF));
            let lately = client
                .last_visit
                .is_some_and(|last| now.saturating_duration_since(last) < again);
            if due.is_none() || lately {
                return;
            }
            client.last_visit = Some(now);
        }
        let slot = self.0.registry.ensure(session);
        let visit = Command::Visit {
            attempt: super::random(),
            token: Some(token.encode()),
            from: owner,
            reason: MoveReason::Mobility,
        };
        // A full queue means that the session is busy; the next request asks again.
        let _ = slot.commands.try_send(visit);
    }

    /// The client of this session was heard of at another node.
    pub(crate) fn heard_elsewhere(&self, session: &SessionId) {
        if let Some(client) = self.followed().get_mut(session) {
            client.mobility.request_elsewhere();
        }
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Followed>> {
        self.0
            .followed
            .lock()
            .expect("nothing panics while it holds the followed clients")
    }

    /// Closes a session for its client. False when this node does not own it.
    pub(crate) async fn close(&self, session: &SessionId) -> bool {
        let Some(slot) = self.slot(session) else {
            return false;
        };
        let (reply, closed) = oneshot::channel();
        slot.commands.send(Command::Close { reply }).await.is_ok() && closed.await.unwrap_or(false)
    }

    /// Asks the owner to close a session for its client.
    pub(crate) async fn close_at(&self, owner: PublicKey, token: &Token) -> bool {
        let request = SessionRequest::Close {
            session: token.session(),
            token: token.encode(),
        };
        matches!(
            notice::ask(&self.0.parts, owner, &request).await,
            Ok(SessionResponse::Agreed)
        )
    }

    /// Answers a peer's question about a session.
    pub(crate) async fn on_request(&self, from: PublicKey, bytes: &[u8]) -> SessionResponse {
        let Ok(request) = borsh::from_slice::<SessionRequest>(bytes) else {
            return SessionResponse::Refused(Refusal::Malformed);
        };
        let parts = &self.0.parts;
        if !parts.chain.snapshot().state.members().contains(&from) {
            return SessionResponse::Refused(Refusal::NotMember);
        }
        if let SessionRequest::Room { service, declaration } = &request {
            return room::answer(parts, service, *declaration).await;
        }
        let Some(session) = request.session() else {
            return SessionResponse::Refused(Refusal::Malformed);
        };
        if let SessionRequest::Want {
            token: Some(token), ..
        }
        | SessionRequest::Close { token, .. } = &request
            && !Token::parse(token).is_ok_and(|token| token.session() == session)
        {
            return SessionResponse::Refused(Refusal::NotAuthorised);
        }
        // An invitation, or a hand-over to a node that has restarted, may be the first word of a session here.
        let starts = matches!(
            request,
            SessionRequest::Invite { .. } | SessionRequest::HandOver { .. }
        );
        let known = self.slot(&session).or_else(|| {
            let wanted = starts || parts.journal.record(&session).is_some();
            wanted.then(|| self.0.registry.ensure(session))
        });
        let Some(slot) = known else {
            return SessionResponse::Refused(Refusal::NotOwner);
        };
        let (reply, answer) = oneshot::channel();
        if slot
            .commands
            .send(Command::Peer { from, request, reply })
            .await
            .is_err()
        {
            return SessionResponse::Refused(Refusal::NotReady);
        }
        answer
            .await
            .unwrap_or(SessionResponse::Refused(Refusal::NotReady))
    }

    /// Answers a destination's question for chunks.
    pub(crate) async fn on_transfer(&self, from: PublicKey, bytes: &[u8]) -> Vec<u8> {
        self.0.grants.answer(&self.0.parts.docker, from, bytes).await
    }

    /// All sessions that the journal or the chain know, by id.
    pub async fn list(&self) -> Vec<SessionView> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let mut ids: Vec<SessionId> = parts
            .journal
            .records()
            .iter()
            .map(|record| record.session)
            .collect();
        ids.extend(view.state.sessions().map(|(id, _)| *id));
        ids.sort_unstable();
        ids.dedup();
        let mut list = Vec::with_capacity(ids.len());
        for id in ids {
            let record = parts.journal.record(&id);
            let sealed = view.state.session(&id);
            let (owner, epoch, status) = match self.owner(&id) {
                KnownOwner::Me => {
                    let epoch = record
                        .as_ref()
                        .and_then(|record| record.owned_epoch())
                        .unwrap_or_default();
                    (Some(parts.me), epoch, "open")
                }
                KnownOwner::Other { owner, epoch } => (Some(owner), epoch, "open"),
                KnownOwner::Closed => (None, sealed.map_or(0, |sealed| sealed.epoch), "closed"),
                // A staged container of a session that the chain does not know yet.
                KnownOwner::Unknown => (None, 0, "open"),
            };
            let actor = self.ask_view(&id).await;
            let service = match (&record, sealed) {
                (Some(record), _) if !record.service.is_empty() => record.service.clone(),
                (_, Some(sealed)) => sealed.service.clone(),
                _ => String::new(),
            };
            list.push(SessionView {
                session: id.to_string(),
                service,
                owner: owner.map(|owner| owner.to_string()),
                owner_label: owner.and_then(|owner| Some(view.state.members().get(&owner)?.label.clone())),
                epoch,
                status,
                mine: owner == Some(parts.me),
                container: actor.container.clone(),
                container_name: actor.container,
                address: actor.address,
                phase: actor.phase,
                unsealed: record.map_or(0, |record| record.pending.len()),
            });
        }
        list
    }

    async fn ask_view(&self, session: &SessionId) -> ActorView {
        let elsewhere = ActorView {
            phase: "elsewhere",
            ..ActorView::default()
        };
        let Some(slot) = self.slot(session) else {
            return elsewhere;
        };
        let (reply, view) = oneshot::channel();
        // A session in a cut answers late: say what is known rather than wait.
        if slot.commands.try_send(Command::View { reply }).is_err() {
            return ActorView {
                phase: "busy",
                ..elsewhere
            };
        }
        match tokio::time::timeout(Duration::from_millis(200), view).await {
            Ok(Ok(view)) => view,
            _ => ActorView {
                phase: "busy",
                ..elsewhere
            },
        }
    }

    /// The reports of the migrations that this node took part in, oldest first.
    pub async fn migrations(&self) -> Vec<MigrationReport> {
        self.0.parts.reports.all()
    }

    /// One of them, by a prefix of its id.
    pub async fn migration(&self, id: &str) -> Option<MigrationReport> {
        self.0.parts.reports.get(id)
    }

    /// Steps of migrations as they happen.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.parts.reports.events()
    }

    /// Moves a session of this node to `to`, or to the nearest connected member. Returns the migration's id.
    pub async fn migrate(
        &self,
        prefix: &str,
        to: Option<PublicKey>,
        method: Method,
    ) -> Result<String, MigrateError> {
        if method != Method::Image {
            return Err(MigrateError::Method(format!("{method:?}").to_lowercase()));
        }
        let session = self.find(prefix)?;
        let parts = &self.0.parts;
        let label = |key: PublicKey| {
            let view = parts.chain.snapshot();
            view.state
                .members()
                .get(&key)
                .map_or_else(|| key.short(8), |member| member.label.clone())
        };
        match self.owner(&session) {
            KnownOwner::Me => {}
            KnownOwner::Other { owner, .. } => return Err(MigrateError::NotOwner { owner: label(owner) }),
            KnownOwner::Closed | KnownOwner::Unknown => return Err(MigrateError::Unknown(prefix.to_owned())),
        }
        let to = match to {
            Some(to) if to == parts.me => return Err(MigrateError::Already),
            Some(to) => to,
            None => self.nearest_member().ok_or(MigrateError::NoDestination)?,
        };
        let slot = self.0.registry.ensure(session);
        let (reply, started) = oneshot::channel();
        slot.commands
            .send(Command::Migrate { to, reply })
            .await
            .map_err(|_| MigrateError::Stopping)?;
        match started.await {
            Ok(Ok(attempt)) => Ok(hex::encode(attempt)),
            Ok(Err(refusal)) => Err(MigrateError::Refused(refusal.to_string())),
            Err(_) => Err(MigrateError::Stopping),
        }
    }

    fn find(&self, prefix: &str) -> Result<SessionId, MigrateError> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let prefix = prefix.to_ascii_lowercase();
        if prefix.is_empty() {
            return Err(MigrateError::Unknown(prefix));
        }
        let mut found: Vec<SessionId> = parts
            .journal
            .records()
            .iter()
            .map(|record| record.session)
            .collect();
        found.extend(
            view.state
                .sessions()
                .filter(|(_, sealed)| sealed.is_open())
                .map(|(id, _)| *id),
        );
        found.retain(|id| id.to_string().starts_with(&prefix));
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(MigrateError::Unknown(prefix)),
            _ => Err(MigrateError::Ambiguous(prefix)),
        }
    }

    fn nearest_member(&self) -> Option<PublicKey> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let members: Vec<_> = view
            .state
            .members()
            .iter()
            .filter(|(key, _)| **key != parts.me && parts.net.is_connected(&blosm_net::peer_of_key(&key.0)))
            .map(|(key, member)| (*key, position_of(member.location)))
            .collect();
        nearest_first(&members, parts.position())
            .first()
            .map(|(key, _)| *key)
    }

    /// R_tot, what is reserved of it and what is left.
    pub async fn resources(&self) -> ResourcesView {
        let now = Instant::now();
        let bookings = self
            .0
            .parts
            .bookings
            .lock()
            .expect("nothing panics while it holds the bookings");
        let (total, reserved, free) = (bookings.total(), bookings.reserved(now), bookings.remaining(now));
        let of = |total, reserved, free| AmountView {
            total,
            reserved,
            free,
        };
        ResourcesView {
            memory: of(total.memory, reserved.memory, free.memory),
            cpu: of(total.cpu_milli, reserved.cpu_milli, free.cpu_milli),
            gpu: of(total.gpus.into(), reserved.gpus.into(), free.gpus.into()),
        }
    }

    /// The engine, and whether it answers now.
    pub async fn engine(&self) -> EngineView {
        let docker = &self.0.parts.docker;
        let info = docker.info();
        EngineView {
            answers: docker.alive().await,
            version: info.version.clone(),
            store: format!("{:?}", info.store).to_lowercase(),
            storage_driver: info.storage_driver.clone(),
            architecture: info.architecture.clone(),
        }
    }
}

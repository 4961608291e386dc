//! The cloneable way to the sessions, for the gateway, the API and the router.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blosm_ledger::{Open, Payload, PublicKey, SessionId, Token};
use blosm_migrate::docker::ImageError;
use blosm_migrate::placement::{BookingKey, Mobility, MobilityPolicy, Position, nearest_first};
use blosm_migrate::recreate::{LABEL_NETWORK, LABEL_SERVICE, LABEL_SESSION};
use blosm_migrate::service::Service;
pub(super) use blosm_migrate::session::KnownOwner;
use blosm_migrate::session::{Attempt, Entry, Pending, Record, newest_owner};
use tokio::sync::{Notify, broadcast, oneshot};

use super::actor::{ActorView, Command, MoveOrder};
use super::grants::Grants;
use super::journal::JournalClosed;
use super::methods::{self, MethodView};
use super::registry::{Registry, Slot};
use super::report::MigrationReport;
use super::reports::Event;
use super::shared::{self, Shared};
use super::view::{AmountView, EngineView, ResourcesView, SessionView};
use super::wire::{Refusal, SessionRequest, SessionResponse, VOLUMES_BY_LIVE};
use super::{budget, drain, eviction, judge, launch, leftovers, notice, room, submit};
use crate::config::Method;
use crate::gateway::Gate;
use crate::parts::{Parts, pending, position_of};

mod dry_run;
mod follow;
mod link;
mod operate;
mod start;

use follow::Followed;

/// Why no session or container was opened here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// REQ_res >= R_rem, or `max_sessions` is reached.
    #[error("no room for a new container of the service")]
    NoRoom,
    /// The service's image can't be used on this node.
    #[error(transparent)]
    Image(ImageError),
    /// The operator empties this node.
    #[error("this node is drained")]
    Drained,
    /// It is no member any more.
    #[error("this node was evicted")]
    Evicted,
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
    /// Its state would be lost.
    #[error("the service has state; use --method live or image, or declare it stateless = true")]
    NotStateless,
    /// There is nothing to copy.
    #[error("the service is stateless, so nothing of it is copied; use --method stateless or image")]
    Stateless,
    /// Its volumes would stay behind.
    #[error("{VOLUMES_BY_LIVE}; use --method live")]
    Volumes,
    /// The other end, or this one, says no.
    #[error("not now: {0}")]
    Refused(String),
    /// The node is going down.
    #[error("the node is stopping")]
    Stopping,
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
    /// Whether new clients are welcome: the gateway serves, and the node is not drained.
    pub fn ready(&self) -> bool {
        self.not_ready().is_none()
    }

    /// Why new clients are not welcome, if they are not.
    pub fn not_ready(&self) -> Option<String> {
        let parts = &self.0.parts;
        if let Some(evicted) = parts.evicted() {
            return Some(eviction::explain(&evicted));
        }
        let why = if parts.stop.is_cancelled() {
            "the node is stopping"
        } else if !self.0.ready.load(Ordering::Acquire) {
            "the node is starting"
        } else if parts.drain.is_on() {
            "the node is drained; `blosm undrain` ends that"
        } else {
            return None;
        };
        Some(why.to_owned())
    }

    /// What the services of the node share.
    pub(super) fn parts(&self) -> &Arc<Parts> {
        &self.0.parts
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

    /// Whether that key is, or was, a member.
    pub(crate) fn is_known(&self, key: &PublicKey) -> bool {
        self.0.parts.chain.snapshot().state.members().ever_admitted(key)
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
            return Some((gave.handover.clone(), record.pending_before(gave)));
        }
        let since = parts.chain.snapshot().state.session(session)?.since;
        let found = parts.chain.sealed(since).await?;
        Some((pending(&found.transaction), Vec::new()))
    }

    /// Rule 1: mints a token, writes the session down and starts its container; nothing waits for the ledger.
    pub(crate) async fn open(
        &self,
        service: &Arc<Service>,
        ticket: Option<u64>,
    ) -> Result<(Token, Arc<Slot>), OpenError> {
        let parts = &self.0.parts;
        if parts.evicted().is_some() {
            return Err(OpenError::Evicted);
        }
        if parts.drain.is_on() {
            return Err(OpenError::Drained);
        }
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
        let open = parts.sign(Payload::Open(Open::of(&token, &service.name)));
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
        parts.metrics.session_opened(&service.name);
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
        match &request {
            SessionRequest::Room { service, declaration } => {
                return room::answer(parts, service, *declaration).await;
            }
            SessionRequest::Assess { metadata, layers } => {
                return judge::answer(parts, from, metadata, layers).await;
            }
            SessionRequest::Status => return SessionResponse::Status(Box::new(self.node_status())),
            SessionRequest::Drain => return self.on_drain(from),
            _ => {}
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
        self.0.grants.answer(&self.0.parts, from, bytes).await
    }
}

//! One request, from whichever side it came, to the container that answers it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::Method;
use blosm_ledger::{PublicKey, Token};
use blosm_migrate::service::{Service, Sharing};
use blosm_migrate::session::{KnownOwner, Turn, turn};

use super::forward::{Failed, forward};
use super::gate::{Gate, InFlight, Pass};
use super::relay::{RelayRequest, RelayResponse, Relayed, relay};
use super::request::{Answer, Denied, ServiceRequest, Target, Timing};
use crate::parts::Parts;
use crate::sessions::{OpenError, SessionsHandle, micros};

/// How often a request may find that its session has moved meanwhile.
const MAX_TURNS: u32 = 6;
/// Between two tries to connect to a container whose exit has not been noticed yet.
const CONNECT_AGAIN: Duration = Duration::from_millis(20);
/// How long an owner that can't be reached is tried: a node restarts within that time.
const OWNER_WAIT: Duration = Duration::from_secs(15);
/// Between two looks at who owns a session.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The gateway's logic, apart from HTTP and from the relay protocol.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) parts: Arc<Parts>,
    pub(crate) sessions: SessionsHandle,
}

impl Gateway {
    /// Answers a request that another node relayed.
    pub(crate) async fn on_relay(&self, from: PublicKey, bytes: &[u8]) -> Vec<u8> {
        if !self.parts.chain.snapshot().state.members().contains(&from) {
            return RelayResponse::encode(Err(Denied::BadToken));
        }
        let outcome = match RelayRequest::read(bytes, from, &self.parts) {
            Some(request) => {
                if let Some(session) = request.session() {
                    self.sessions.heard_elsewhere(&session);
                }
                self.serve(request).await
            }
            None => Err(Denied::BadToken),
        };
        RelayResponse::encode(outcome)
    }

    /// Finds who answers, and lets it.
    pub(crate) async fn serve(&self, request: ServiceRequest) -> Result<Relayed, Denied> {
        let via = request.via;
        let metrics = &self.parts.metrics;
        // A relayed request is counted where the client sent it.
        let under_way = via.is_none().then(|| metrics.request(&request.service));
        let outcome = match &request.target {
            _ if self.parts.evicted().is_some() => Err(Denied::Evicted),
            Target::Session(token) => {
                let token = token.clone();
                self.session(request, token).await
            }
            Target::Open { ticket } => {
                let ticket = *ticket;
                self.open(request, ticket).await
            }
            Target::Shared { ticket } => {
                let ticket = *ticket;
                self.shared(request, ticket).await
            }
        };
        if let Some(under_way) = under_way {
            let denied = |denied: Denied| (denied.word(), denied.status().0.as_u16());
            match &outcome {
                Ok(Relayed::Answer(answer)) => {
                    let here = answer.node == self.parts.me;
                    under_way.answered(if here { "local" } else { "relay" }, answer.status.as_u16());
                }
                // Only a node that relays is told this, and that is not one.
                Ok(Relayed::Moved { .. }) => {
                    let (reason, code) = denied(Denied::OwnerUnreachable);
                    under_way.denied(reason, code);
                }
                Err(error) => {
                    let (reason, code) = denied(*error);
                    under_way.denied(reason, code);
                }
            }
        }
        outcome
    }

    /// Rule 1: a node answers and relays by the newest fact that it holds, and never starts afresh for a known token.
    async fn session(&self, request: ServiceRequest, token: Token) -> Result<Relayed, Denied> {
        if !token.verify(self.parts.chain_id(), &request.service) {
            return Err(Denied::BadToken);
        }
        let session = token.session();
        let begin = Instant::now();
        let mut turns = 0;
        while turns < MAX_TURNS {
            if let Some(slot) = self.sessions.slot(&session)
                && let Some(answer) = self.through(&slot.gate, &request, begin).await?
            {
                return Ok(Relayed::Answer(answer));
            }
            let (known, opener) = (self.sessions.owner(&session), token.opener());
            let owner = match turn(known, opener, self.sessions.is_known(&opener), self.parts.me) {
                Turn::To(owner) => owner,
                Turn::Gone => return Err(Denied::Gone),
                Turn::Unknown => return Err(Denied::OwnerUnreachable),
                Turn::Wait if begin.elapsed() < OWNER_WAIT => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Turn::Wait => return Err(Denied::Held),
            };
            if request.via == Some(owner) {
                // The asker owns it and has not heard of it yet: it gets the signature that says so.
                if let Some((handover, pending)) = self.sessions.handover_to(&session, owner).await {
                    return Ok(Relayed::Moved { handover, pending });
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                turns += 1;
                continue;
            }
            match relay(&self.parts, owner, &request).await {
                Ok(Relayed::Answer(answer)) => {
                    if request.via.is_none() {
                        // By whom it was answered, not by whom this node's chain says it is owned.
                        self.sessions
                            .follow(session, &token, answer.node, request.position);
                    }
                    return Ok(Relayed::Answer(answer));
                }
                Ok(Relayed::Moved { handover, pending }) => {
                    turns += 1;
                    self.sessions.take(session, handover, pending).await;
                    if self.sessions.owner(&session) != KnownOwner::Me {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                }
                // Not a byte of it has reached the owner. It may be restarting, or have given the session away: who
                // owns it is asked anew.
                Err(Denied::OwnerUnreachable) if request.via.is_none() && begin.elapsed() < OWNER_WAIT => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(denied) => return Err(denied),
            }
        }
        Err(Denied::TooManyHops)
    }

    /// Algorithm 3: a new container here if there is room, else at the nearest neighbour that has.
    async fn open(&self, mut request: ServiceRequest, ticket: Option<u64>) -> Result<Relayed, Denied> {
        let service = request.declared.clone().ok_or(Denied::UnknownService)?;
        match self.sessions.open(&service, ticket).await {
            Ok((token, _)) => {
                request.target = Target::Session(token.clone());
                match self.session(request, token.clone()).await? {
                    Relayed::Answer(mut answer) => {
                        answer.token = Some(token.encode());
                        Ok(Relayed::Answer(answer))
                    }
                    moved @ Relayed::Moved { .. } => Ok(moved),
                }
            }
            Err(error) => {
                self.elsewhere(request, &service, error, |ticket| Target::Open { ticket })
                    .await
            }
        }
    }

    /// A stateless service that all clients share.
    async fn shared(&self, request: ServiceRequest, ticket: Option<u64>) -> Result<Relayed, Denied> {
        let service = request
            .declared
            .clone()
            .filter(|service| service.sharing == Sharing::Node);
        let service = service.ok_or(Denied::UnknownService)?;
        match self.sessions.shared(&service, ticket).await {
            Ok(gate) => match self.through(&gate, &request, Instant::now()).await? {
                Some(answer) => Ok(Relayed::Answer(answer)),
                None => Err(Denied::Held),
            },
            Err(error) => {
                self.elsewhere(request, &service, error, |ticket| Target::Shared { ticket })
                    .await
            }
        }
    }

    /// Alg. 3, lines 13 and 14. A request is handed on once.
    async fn elsewhere(
        &self,
        mut request: ServiceRequest,
        service: &Service,
        error: OpenError,
        target: impl Fn(Option<u64>) -> Target,
    ) -> Result<Relayed, Denied> {
        let denied = match &error {
            OpenError::NoRoom | OpenError::Drained => Denied::NoRoom,
            OpenError::Evicted => return Err(Denied::Evicted),
            OpenError::Image(_) => Denied::NoImage,
            OpenError::Journal(_) => return Err(Denied::Held),
        };
        tracing::info!(service = service.name, %error, "no new container here");
        if request.via.is_some() {
            return Err(denied);
        }
        let Some(booked) = self.sessions.neighbour(service).await else {
            return Err(denied);
        };
        request.target = target(Some(booked.ticket));
        relay(&self.parts, booked.member, &request).await
    }

    /// Through a gate to the container behind it. `None`: the session lives elsewhere.
    async fn through(
        &self,
        gate: &Arc<Gate>,
        request: &ServiceRequest,
        begin: Instant,
    ) -> Result<Option<Answer>, Denied> {
        let limit = self.parts.config.gateway.hold_time;
        loop {
            let flight = match gate.enter().await {
                Ok(Pass::Local(flight)) => flight,
                Ok(Pass::Elsewhere) => return Ok(None),
                Ok(Pass::Gone) => return Err(Denied::Gone),
                Err(_) => return Err(Denied::Held),
            };
            let queue = micros(begin.elapsed());
            match self.to_container(request, flight, queue).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(Failed::Denied(denied)) => return Err(denied),
                // Nothing reached it: it is about to be found gone, or busy starting.
                Err(Failed::NotSent) if begin.elapsed() < limit => tokio::time::sleep(CONNECT_AGAIN).await,
                Err(Failed::NotSent) => return Err(Denied::Held),
            }
        }
    }

    async fn to_container(
        &self,
        request: &ServiceRequest,
        flight: InFlight,
        queue: u64,
    ) -> Result<Answer, Failed> {
        let limit = request
            .declared
            .as_ref()
            .map_or(Duration::from_secs(30), |service| service.request.timeout);
        let sent = Instant::now();
        let forwarded = tokio::select! {
            forwarded = forward(flight.address(), request, limit) => forwarded?,
            () = flight.interrupted() => return Err(Failed::Denied(Denied::Interrupted)),
        };
        let service = micros(sent.elapsed());
        let head = request.method == Method::HEAD;
        Ok(Answer {
            status: forwarded.status,
            headers: forwarded.headers,
            body: if head { Default::default() } else { forwarded.body },
            node: self.parts.me,
            token: None,
            timing: Timing {
                queue,
                relay: 0,
                service,
            },
        })
    }
}

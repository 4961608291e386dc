//! Relayed requests, on `/blosm/<net8>/relay/1`: whole messages, bounded before they are sent.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use blosm_ledger::{PublicKey, Token};
use blosm_migrate::placement::Position;
use blosm_migrate::session::Pending;
use blosm_net::{Protocol, RequestError, peer_of_key};
use borsh::{BorshDeserialize, BorshSerialize};

use super::request::{Answer, Denied, MAX_HOPS, ServiceRequest, Target, Timing};
use crate::parts::Parts;
use crate::sessions::micros;

/// The largest body that fits into one relayed message beside its headers.
pub(crate) const MAX_RELAYED_BODY: u64 = 15 << 20;
/// Headers of one relayed message.
const MAX_HEADERS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
enum WireTarget {
    Session(String) = 0,
    Open { ticket: Option<u64> } = 1,
    Shared { ticket: Option<u64> } = 2,
}

/// A request on its way to another node.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct RelayRequest {
    hops: u8,
    service: String,
    target: WireTarget,
    method: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    position: Option<(i32, i32)>,
}

/// The other node's answer.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum RelayResponse {
    /// The container's answer.
    Answer {
        status: u16,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
        node: PublicKey,
        token: Option<String>,
        queue_us: u64,
        service_us: u64,
    } = 0,
    /// Not executed: the asker itself owns the session, by this hand-over.
    Moved {
        handover: Pending,
        pending: Vec<Pending>,
    } = 1,
    /// Not answered by a container.
    Denied(WireDenied) = 2,
}

/// [`Denied`] as it crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum WireDenied {
    UnknownService = 0,
    BadToken = 1,
    TooLarge = 2,
    Gone = 3,
    NoRoom = 4,
    NoImage = 5,
    Held = 6,
    Interrupted = 7,
    OwnerUnreachable = 8,
    TooManyHops = 9,
    BadAnswer = 10,
    TimedOut = 11,
    BadPosition = 12,
    Evicted = 13,
}

macro_rules! both_ways {
    ($($name:ident),*) => {
        impl From<Denied> for WireDenied {
            fn from(denied: Denied) -> Self {
                match denied { $(Denied::$name => Self::$name),* }
            }
        }
        impl From<WireDenied> for Denied {
            fn from(denied: WireDenied) -> Self {
                match denied { $(WireDenied::$name => Self::$name),* }
            }
        }
    };
}
both_ways!(
    UnknownService,
    BadToken,
    TooLarge,
    Gone,
    NoRoom,
    NoImage,
    Held,
    Interrupted,
    OwnerUnreachable,
    TooManyHops,
    BadAnswer,
    TimedOut,
    BadPosition,
    Evicted
);

/// What came of a relayed request.
#[derive(Debug)]
pub(crate) enum Relayed {
    /// A container's answer.
    Answer(Answer),
    /// This node owns the session, by this hand-over; the request was not executed.
    Moved {
        handover: Pending,
        pending: Vec<Pending>,
    },
}

/// Sends a request to the node that owns its session, or has room for it.
pub(crate) async fn relay(parts: &Parts, to: PublicKey, request: &ServiceRequest) -> Result<Relayed, Denied> {
    if request.hops >= MAX_HOPS {
        return Err(Denied::TooManyHops);
    }
    if request.body.len() as u64 > MAX_RELAYED_BODY {
        return Err(Denied::TooLarge);
    }
    let bytes = borsh::to_vec(&RelayRequest::from(request)).expect("a message is plain data");
    let begin = Instant::now();
    let answer = match parts
        .net
        .request(peer_of_key(&to.0), Protocol::Relay, bytes)
        .await
    {
        Ok(answer) => answer,
        Err(RequestError::TooLarge { .. }) => return Err(Denied::TooLarge),
        Err(error) => {
            tracing::debug!(to = %to.short(8), %error, "a relayed request has no answer");
            return Err(if error.may_have_arrived() {
                Denied::Interrupted
            } else {
                Denied::OwnerUnreachable
            });
        }
    };
    let took = micros(begin.elapsed());
    match borsh::from_slice(&answer).map_err(|_| Denied::BadAnswer)? {
        RelayResponse::Answer {
            status,
            headers,
            body,
            node,
            token,
            queue_us,
            service_us,
        } => {
            let relay = took.saturating_sub(queue_us).saturating_sub(service_us);
            Ok(Relayed::Answer(Answer {
                status: StatusCode::from_u16(status).map_err(|_| Denied::BadAnswer)?,
                headers: headers_from_wire(headers).ok_or(Denied::BadAnswer)?,
                body: body.into(),
                node,
                token,
                timing: Timing {
                    queue: queue_us,
                    relay,
                    service: service_us,
                },
            }))
        }
        RelayResponse::Moved { handover, pending } => Ok(Relayed::Moved { handover, pending }),
        RelayResponse::Denied(denied) => Err(denied.into()),
    }
}

impl RelayRequest {
    /// Reads a request of the peer `via`. `None`: the peer's fault.
    pub(crate) fn read(bytes: &[u8], via: PublicKey, parts: &Parts) -> Option<ServiceRequest> {
        let wire: Self = borsh::from_slice(bytes).ok()?;
        let target = match wire.target {
            WireTarget::Session(token) => Target::Session(Token::parse(&token).ok()?),
            WireTarget::Open { ticket } => Target::Open { ticket },
            WireTarget::Shared { ticket } => Target::Shared { ticket },
        };
        let path = (wire.path.starts_with('/') && wire.path.is_ascii()).then_some(wire.path)?;
        Some(ServiceRequest {
            declared: parts.config.services.get(&wire.service).map(Arc::clone),
            service: wire.service,
            target,
            method: Method::from_bytes(wire.method.as_bytes()).ok()?,
            path,
            headers: headers_from_wire(wire.headers)?,
            body: wire.body.into(),
            position: wire
                .position
                .and_then(|(lat, lon)| Position::from_e7(lat, lon).ok()),
            hops: wire.hops.checked_add(1)?,
            via: Some(via),
        })
    }
}

impl From<&ServiceRequest> for RelayRequest {
    fn from(request: &ServiceRequest) -> Self {
        Self {
            hops: request.hops,
            service: request.service.clone(),
            target: match &request.target {
                Target::Session(token) => WireTarget::Session(token.encode()),
                Target::Open { ticket } => WireTarget::Open { ticket: *ticket },
                Target::Shared { ticket } => WireTarget::Shared { ticket: *ticket },
            },
            method: request.method.to_string(),
            path: request.path.clone(),
            headers: headers_to_wire(&request.headers),
            body: request.body.to_vec(),
            position: request.position.map(Position::to_e7),
        }
    }
}

impl RelayResponse {
    /// The bytes of an answer.
    pub(crate) fn encode(outcome: Result<Relayed, Denied>) -> Vec<u8> {
        let response = match outcome {
            Ok(Relayed::Answer(answer)) => Self::Answer {
                status: answer.status.as_u16(),
                headers: headers_to_wire(&answer.headers),
                body: answer.body.to_vec(),
                node: answer.node,
                token: answer.token,
                queue_us: answer.timing.queue,
                service_us: answer.timing.service,
            },
            Ok(Relayed::Moved { handover, pending }) => Self::Moved { handover, pending },
            Err(denied) => Self::Denied(denied.into()),
        };
        borsh::to_vec(&response).expect("a message is plain data")
    }
}

fn headers_to_wire(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn headers_from_wire(headers: Vec<(String, Vec<u8>)>) -> Option<HeaderMap> {
    if headers.len() > MAX_HEADERS {
        return None;
    }
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_bytes(&value).ok()?,
        );
    }
    Some(map)
}

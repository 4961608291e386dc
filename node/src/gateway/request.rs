//! A client's request as the node handles it, wherever it came in.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response as HttpResponse;
use blosm_ledger::{PublicKey, SessionId, Token};
use blosm_migrate::placement::Position;
use blosm_migrate::service::Service;
use bytes::Bytes;

/// Carries the session's token, both ways, as does a cookie of that name.
pub(crate) const SESSION_HEADER: HeaderName = HeaderName::from_static("x-blosm-session");
/// The service's name, when neither host nor path tell it.
pub(crate) const SERVICE_HEADER: HeaderName = HeaderName::from_static("x-blosm-service");
/// `LAT,LON` of the client.
pub(crate) const POSITION_HEADER: HeaderName = HeaderName::from_static("x-blosm-position");
/// Label of the node that served.
pub(crate) const NODE_HEADER: HeaderName = HeaderName::from_static("x-blosm-node");
/// URL of a member that is nearer to the client.
pub(crate) const NEAREST_HEADER: HeaderName = HeaderName::from_static("x-blosm-nearest");
/// Parts of the time that a request took.
pub(crate) const TIMING_HEADER: HeaderName = HeaderName::from_static("server-timing");

/// Hops that a relayed request may take (rule 1).
pub(crate) const MAX_HOPS: u8 = 3;

/// What a request is for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A session that exists.
    Session(Token),
    /// A new session; with the neighbour's yes to a question for room, where one was asked.
    Open { ticket: Option<u64> },
    /// A container that all clients of a stateless service share.
    Shared { ticket: Option<u64> },
}

/// One request, whole.
#[derive(Debug, Clone)]
pub(crate) struct ServiceRequest {
    /// The service's name.
    pub(crate) service: String,
    /// Its declaration here, if there is one.
    pub(crate) declared: Option<Arc<Service>>,
    /// What it is for.
    pub(crate) target: Target,
    /// HTTP method.
    pub(crate) method: Method,
    /// Path and query as the container sees them.
    pub(crate) path: String,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    /// Body.
    pub(crate) body: Bytes,
    /// Where the client says it is.
    pub(crate) position: Option<Position>,
    /// Nodes that it has passed.
    pub(crate) hops: u8,
    /// The node that relayed it here.
    pub(crate) via: Option<PublicKey>,
}

impl ServiceRequest {
    /// The session that it names.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match &self.target {
            Target::Session(token) => Some(token.session()),
            Target::Open { .. } | Target::Shared { .. } => None,
        }
    }
}

/// An answer of a container.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    /// Body.
    pub(crate) body: Bytes,
    /// The node that served.
    pub(crate) node: PublicKey,
    /// The token of a session that this request has opened.
    pub(crate) token: Option<String>,
    /// Parts of the time, in microseconds.
    pub(crate) timing: Timing,
}

/// Parts of the time that a request took, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timing {
    /// Waiting at a gate.
    pub(crate) queue: u64,
    /// Between nodes.
    pub(crate) relay: u64,
    /// In the container.
    pub(crate) service: u64,
}

/// Why a request is not answered by a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No such service here.
    #[error("this node declares no such service; see [[service]] in its blosm.toml")]
    UnknownService,
    /// The token is not of this network and service.
    #[error("the session token is not one of this network and service; leave it out to open a session")]
    BadToken,
    /// The position can't be read.
    #[error("X-Blosm-Position must be LAT,LON in degrees")]
    BadPosition,
    /// The body is larger than `max_body`.
    #[error("the request's body is larger than the service's max_body")]
    TooLarge,
    /// The session is closed, or its state is lost.
    #[error("the session is over; leave its token out to open a new one")]
    Gone,
    /// Neither this node nor a neighbour can start a container.
    #[error("no node has room for the service now")]
    NoRoom,
    /// The service's image can't be used.
    #[error("the service's image can't be used on this node, and no neighbour can serve; see the node's log")]
    NoImage,
    /// The wait at the gate was in vain.
    #[error("the session is being moved or restarted and was not served in time")]
    Held,
    /// The container stopped before it had answered; whether it acted on the request is not known.
    #[error("the request was interrupted; whether it took effect is not known")]
    Interrupted,
    /// The owner can't be reached; it did not get the request.
    #[error("the node that owns the session can't be reached")]
    OwnerUnreachable,
    /// The request went round in circles.
    #[error("no node was found that owns the session")]
    TooManyHops,
    /// The container's answer is no HTTP, too large, or too late.
    #[error("the service gave no usable answer")]
    BadAnswer,
    /// The service took longer than `request.timeout`.
    #[error("the service did not answer within its request timeout")]
    TimedOut,
    /// This node is no member of the network any more.
    #[error("this node was evicted from its network and serves nothing; use another node")]
    Evicted,
}

impl Denied {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::UnknownService,
        Self::BadToken,
        Self::BadPosition,
        Self::TooLarge,
        Self::Gone,
        Self::NoRoom,
        Self::NoImage,
        Self::Held,
        Self::Interrupted,
        Self::OwnerUnreachable,
        Self::TooManyHops,
        Self::BadAnswer,
        Self::TimedOut,
        Self::Evicted,
    ];

    /// What it is called in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::UnknownService => "unknown_service",
            Self::BadToken => "bad_token",
            Self::BadPosition => "bad_position",
            Self::TooLarge => "too_large",
            Self::Gone => "gone",
            Self::NoRoom => "no_room",
            Self::NoImage => "no_image",
            Self::Held => "held",
            Self::Interrupted => "interrupted",
            Self::OwnerUnreachable => "owner_unreachable",
            Self::TooManyHops => "too_many_hops",
            Self::BadAnswer => "bad_answer",
            Self::TimedOut => "timed_out",
            Self::Evicted => "evicted",
        }
    }

    /// Each reason as an HTTP status, and whether the client may try again.
    pub(crate) fn status(self) -> (StatusCode, bool) {
        match self {
            Self::UnknownService => (StatusCode::NOT_FOUND, false),
            Self::BadToken | Self::BadPosition => (StatusCode::BAD_REQUEST, false),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, false),
            Self::Gone => (StatusCode::GONE, false),
            Self::NoRoom | Self::NoImage | Self::Held | Self::Interrupted | Self::OwnerUnreachable => {
                (StatusCode::SERVICE_UNAVAILABLE, true)
            }
            Self::TooManyHops => (StatusCode::SERVICE_UNAVAILABLE, true),
            // Here it will not be better in a second.
            Self::Evicted => (StatusCode::SERVICE_UNAVAILABLE, false),
            Self::BadAnswer => (StatusCode::BAD_GATEWAY, false),
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, false),
        }
    }

    /// The response that the client gets.
    pub(crate) fn response(self) -> HttpResponse {
        let (status, again) = self.status();
        let mut response = HttpResponse::new(Body::from(format!("{self}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if again {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Headers that end at each hop (RFC 9110, 7.6.1), and those that are ours.
const NOT_FORWARDED: [HeaderName; 12] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    SESSION_HEADER,
    SERVICE_HEADER,
];

/// The headers that go on to the container, or back to the client.
pub(crate) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if NOT_FORWARDED.contains(name) || named.iter().any(|dropped| dropped == name.as_str()) {
            continue;
        }
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// The client's cookies without the session's token: the container never sees it.
pub(crate) fn without_session_cookie(headers: &mut HeaderMap) {
    let kept: Vec<String> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
        .filter(|pair| !pair.to_ascii_lowercase().starts_with("x-blosm-session="))
        .map(str::to_owned)
        .collect();
    if headers.remove(header::COOKIE).is_some()
        && !kept.is_empty()
        && let Ok(value) = HeaderValue::from_str(&kept.join("; "))
    {
        headers.insert(header::COOKIE, value);
    }
}

/// The session's token as the client sent it: header first, then cookie.
pub(crate) fn session_token(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(SESSION_HEADER) {
        return value.to_str().ok().map(str::trim);
    }
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case(SESSION_HEADER.as_str()))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn token_is_taken_from_header_then_cookie() {
        assert_eq!(
            session_token(&headers(&[("x-blosm-session", "abc")])),
            Some("abc")
        );
        assert_eq!(
            session_token(&headers(&[("cookie", "a=b; X-Blosm-Session=def")])),
            Some("def")
        );
        assert_eq!(session_token(&headers(&[("cookie", "a=b")])), None);
    }

    #[test]
    fn container_sees_neither_token_nor_hop_headers() {
        let mut kept = end_to_end(&headers(&[
            ("connection", "x-private"),
            ("x-private", "1"),
            ("x-blosm-session", "abc"),
            ("cookie", "a=b; x-blosm-session=def; c=d"),
            ("accept", "*/*"),
        ]));
        without_session_cookie(&mut kept);
        assert_eq!(kept, headers(&[("cookie", "a=b; c=d"), ("accept", "*/*")]));
    }
}

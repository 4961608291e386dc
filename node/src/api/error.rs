//! Errors as the API answers them.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::node_ref::NodeRefError;
use crate::admission::InvitesError;
use crate::chain::{ProbeError, SubmitError};
use crate::sessions::{DrainError, EvictError, MigrateError};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// A change, or reading from another machine, without the token.
    #[error("this needs the API's token")]
    NoToken,
    /// Another token than this node's.
    #[error("the token is not this node's")]
    WrongToken,
    /// A `Host` that is neither an address nor `localhost`.
    #[error("the Host header names another machine")]
    ForeignHost,
    /// No such path.
    #[error("there is no such path")]
    UnknownPath,
    /// The path is there, for other methods.
    #[error("the path does not take this method")]
    Method,
    /// A body that is not the JSON expected.
    #[error("{}", .0.body_text())]
    Body(#[from] JsonRejection),
    /// A query that is not the one expected.
    #[error("{}", .0.body_text())]
    Query(#[from] QueryRejection),
    /// A field of the body that cannot be used.
    #[error("{field}: {message}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it has to be.
        message: String,
    },
    /// An id in the path that is none.
    #[error("{0}")]
    Id(&'static str),
    /// Nothing of that id.
    #[error("this node knows no {what} {id}")]
    NotFound {
        /// What was asked for.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// A node named in the request.
    #[error(transparent)]
    Node(#[from] NodeRefError),
    /// Only an authority admits.
    #[error("this node is no authority of its network")]
    NotAuthority,
    /// Another member has that label.
    #[error("the label {label} is taken by {owner}")]
    LabelTaken {
        /// The label.
        label: String,
        /// The member's key.
        owner: String,
    },
    /// The ledger did not take a transaction.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A probe was not sent.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A migration did not begin.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The node was not drained.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// An invite was not made or taken back.
    #[error(transparent)]
    Invites(#[from] InvitesError),
    /// A membership was not ended.
    #[error(transparent)]
    Evict(#[from] EvictError),
    /// The link to a member, or the member at its end.
    #[error("{node}: {why}")]
    Link {
        /// The member's label.
        node: String,
        /// What went wrong.
        why: String,
    },
    /// The system failed this node.
    #[error("the node cannot do it: {0}")]
    Internal(String),
}

impl ApiError {
    /// Every case by name: a new one does not compile until it has a status.
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::ForeignHost | Self::NotAuthority => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Body(rejection) => rejection.status(),
            Self::Query(rejection) => rejection.status(),
            Self::Field { .. } | Self::Id(_) => StatusCode::BAD_REQUEST,
            Self::Node(error) => node_status(error),
            Self::LabelTaken { .. } => StatusCode::CONFLICT,
            Self::Submit(error) => submit_status(error),
            Self::Probe(ProbeError::Busy) => StatusCode::CONFLICT,
            Self::Probe(ProbeError::Length) => StatusCode::BAD_REQUEST,
            Self::Probe(ProbeError::NotSent(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Migrate(error) => migrate_status(error),
            Self::Drain(error) => drain_status(error),
            Self::Invites(error) => invites_status(error),
            Self::Evict(error) => evict_status(error),
            Self::Link { .. } => StatusCode::BAD_GATEWAY,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the caller may change, where that is known.
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoToken | Self::WrongToken => Some(
                "send `Authorization: Bearer` with the content of api.token in the node's data directory",
            ),
            Self::ForeignHost => Some("address the node by IP address or as localhost"),
            Self::UnknownPath => Some("see /v1/status"),
            Self::Node(_) => Some("`blosm members` lists the members"),
            Self::NotAuthority => Some("run the command on the authority's machine, with its --data-dir"),
            Self::LabelTaken { .. } => Some("choose another --label"),
            Self::Submit(error) | Self::Evict(EvictError::Submit(error)) => submit_hint(error),
            Self::Probe(ProbeError::Busy) => Some("ask again in a few seconds"),
            Self::Link { .. } => Some("`blosm peers` shows who is connected"),
            Self::Invites(_)
            | Self::Evict(_)
            | Self::Migrate(_)
            | Self::Probe(_)
            | Self::Drain(_)
            | Self::Method
            | Self::Body(_)
            | Self::Query(_)
            | Self::Field { .. }
            | Self::Id(_)
            | Self::NotFound { .. }
            | Self::Internal(_) => None,
        }
    }
}

fn node_status(error: &NodeRefError) -> StatusCode {
    match error {
        NodeRefError::Unknown(_) => StatusCode::NOT_FOUND,
        NodeRefError::Ambiguous(_) => StatusCode::CONFLICT,
    }
}

fn submit_status(error: &SubmitError) -> StatusCode {
    match error {
        SubmitError::Refused(_) => StatusCode::CONFLICT,
        SubmitError::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        SubmitError::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

fn migrate_status(error: &MigrateError) -> StatusCode {
    match error {
        MigrateError::Unknown(_) => StatusCode::NOT_FOUND,
        MigrateError::Ambiguous(_) | MigrateError::NotOwner { .. } | MigrateError::Already => {
            StatusCode::CONFLICT
        }
        MigrateError::Refused(_) => StatusCode::CONFLICT,
        MigrateError::NotStateless | MigrateError::Stateless | MigrateError::Volumes => {
            StatusCode::BAD_REQUEST
        }
        MigrateError::NoDestination | MigrateError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn drain_status(error: &DrainError) -> StatusCode {
    match error {
        DrainError::Here => StatusCode::BAD_REQUEST,
        DrainError::File { .. } | DrainError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn invites_status(error: &InvitesError) -> StatusCode {
    match error {
        InvitesError::Terms { .. } => StatusCode::BAD_REQUEST,
        InvitesError::Which { count: 0, .. } => StatusCode::NOT_FOUND,
        InvitesError::Which { .. } | InvitesError::Full => StatusCode::CONFLICT,
        InvitesError::File { .. } | InvitesError::Damaged { .. } | InvitesError::Random => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn evict_status(error: &EvictError) -> StatusCode {
    match error {
        EvictError::Owns { .. }
        | EvictError::NotDrained(_)
        | EvictError::Authority(_)
        | EvictError::NotMember => StatusCode::CONFLICT,
        EvictError::Silent { .. } => StatusCode::SERVICE_UNAVAILABLE,
        EvictError::Submit(error) => submit_status(error),
    }
}

fn submit_hint(error: &SubmitError) -> Option<&'static str> {
    match error {
        SubmitError::Refused(_) => None,
        SubmitError::Unreachable => Some("the authority does not answer; see `blosm status` and its log"),
        SubmitError::Timeout => Some("it may still be sealed; look at `blosm members` before trying again"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.to_string(), "hint": self.hint() });
        (self.status(), Json(body)).into_response()
    }
}

pub(super) async fn not_found() -> ApiError {
    ApiError::UnknownPath
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::Method
}

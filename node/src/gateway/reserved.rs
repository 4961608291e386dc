//! Paths under `/.blosm/` are the gateway's own.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use blosm_ledger::Token;
use blosm_migrate::placement::{Position, distance_m};
use blosm_migrate::session::KnownOwner;
use serde::{Deserialize, Serialize};

use super::request::{Denied, session_token};
use super::serve::Gateway;
use crate::parts::position_of;

#[derive(Debug, Deserialize)]
pub(super) struct Near {
    /// `LAT,LON`; absent: this node's own place.
    near: Option<String>,
}

#[derive(Debug, Serialize)]
struct Node {
    label: String,
    gateway: String,
    latitude: f64,
    longitude: f64,
    radius_m: u32,
    distance_m: f64,
}

/// The members by distance: what a car needs to choose its next node.
pub(super) async fn nodes(State(gateway): State<Gateway>, Query(query): Query<Near>) -> Response {
    let near = match query.near.as_deref().map(str::parse::<Position>) {
        None => gateway.parts.position(),
        Some(Ok(position)) => position,
        Some(Err(_)) => return Denied::BadPosition.response(),
    };
    let view = gateway.parts.chain.snapshot();
    let mut nodes: Vec<Node> = view
        .state
        .members()
        .iter()
        .map(|(_, member)| {
            let position = position_of(member.location);
            Node {
                label: member.label.clone(),
                gateway: member.gateway.clone(),
                latitude: position.latitude(),
                longitude: position.longitude(),
                radius_m: member.radius_m,
                distance_m: distance_m(near, position),
            }
        })
        .collect();
    nodes.sort_by(|a, b| a.distance_m.total_cmp(&b.distance_m));
    Json(nodes).into_response()
}

/// The token that the client holds, without knowing for which service it was issued.
fn token(headers: &HeaderMap) -> Result<Token, Denied> {
    session_token(headers)
        .and_then(|token| Token::parse(token).ok())
        .ok_or(Denied::BadToken)
}

/// Who owns the client's session.
pub(super) async fn session(State(gateway): State<Gateway>, headers: HeaderMap) -> Response {
    let token = match token(&headers) {
        Ok(token) => token,
        Err(denied) => return denied.response(),
    };
    let session = token.session();
    let me = gateway.parts.me;
    let owner = match gateway.sessions.owner(&session) {
        KnownOwner::Me => me,
        KnownOwner::Other { owner, .. } => owner,
        KnownOwner::Unknown if token.opener() != me && gateway.sessions.is_known(&token.opener()) => {
            token.opener()
        }
        KnownOwner::Closed | KnownOwner::Unknown => return Denied::Gone.response(),
    };
    let view = gateway.parts.chain.snapshot();
    let member = view.state.members().get(&owner);
    Json(serde_json::json!({
        "session": session.to_string(),
        "owner": owner.to_string(),
        "owner_label": member.map(|member| &member.label),
        "gateway": member.map(|member| &member.gateway),
        "epoch": view.state.session(&session).map(|sealed| sealed.epoch),
    }))
    .into_response()
}

/// The client ends its session; its container is removed.
pub(super) async fn close(State(gateway): State<Gateway>, headers: HeaderMap) -> Response {
    let token = match token(&headers) {
        Ok(token) => token,
        Err(denied) => return denied.response(),
    };
    let closed = match gateway.sessions.owner(&token.session()) {
        KnownOwner::Me => gateway.sessions.close(&token.session()).await,
        KnownOwner::Other { owner, .. } => gateway.sessions.close_at(owner, &token).await,
        KnownOwner::Unknown
            if token.opener() != gateway.parts.me && gateway.sessions.is_known(&token.opener()) =>
        {
            gateway.sessions.close_at(token.opener(), &token).await
        }
        KnownOwner::Closed | KnownOwner::Unknown => return Denied::Gone.response(),
    };
    if closed {
        StatusCode::NO_CONTENT.into_response()
    } else {
        Denied::Held.response()
    }
}

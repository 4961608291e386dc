//! `/v1/evictions` and `/v1/leave`: the end of a membership, by an authority's operator or by the member itself.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use blosm_ledger::MAX_REASON;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState, resolve_node};

/// The body of an eviction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eviction {
    /// Label, key prefix or peer id.
    node: String,
    /// For everybody to read, on the chain.
    why: String,
    /// What becomes of its sessions; absent: it must own none.
    #[serde(default)]
    sessions: Option<Fate>,
}

/// What becomes of the sessions of a node that is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// The node moves them first. As long as some are left the answer is 202 and tells how many: ask again.
    Drain,
    /// The machine is off and will not run them again.
    Lost,
}

/// The body of a request to leave.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leave {
    /// For everybody to read, on the chain.
    why: String,
}

pub(super) async fn evict(
    State(state): State<ApiState>,
    body: Result<Json<Eviction>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(order) = body?;
    if !state.config.is_authority() {
        return Err(ApiError::NotAuthority);
    }
    check_why(&order.why)?;
    let (node, label) = {
        let view = state.chain.snapshot();
        let members = view.state.members();
        let node = resolve_node(members, &order.node)?;
        (node, members.get(&node).map(|member| member.label.clone()))
    };
    if order.sessions == Some(Fate::Drain) {
        let draining = state.sessions.drain_other(node).await?;
        if draining.remaining > 0 {
            let answer = json!({
                "node": node, "label": label, "evicted": false,
                "settled": draining.settled, "remaining": draining.remaining,
            });
            return Ok((StatusCode::ACCEPTED, Json(answer)));
        }
    }
    // A drained node has moved its sessions; a hand-over of its own is sealed after its eviction too.
    let regardless = order.sessions.is_some();
    let lost = order.sessions == Some(Fate::Lost);
    let height = state.sessions.evict(node, order.why, lost, regardless).await?;
    Ok((
        StatusCode::OK,
        Json(json!({ "node": node, "label": label, "evicted": true, "height": height, "lost": lost })),
    ))
}

pub(super) async fn leave(
    State(state): State<ApiState>,
    body: Result<Json<Leave>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(order) = body?;
    check_why(&order.why)?;
    let height = state.sessions.leave(order.why).await?;
    Ok(Json(
        json!({ "node": state.config.public_key(), "height": height }),
    ))
}

fn check_why(why: &str) -> Result<(), ApiError> {
    if (1..=MAX_REASON).contains(&why.len()) && !why.chars().any(char::is_control) {
        return Ok(());
    }
    Err(ApiError::Field {
        field: "why",
        message: format!("must be 1 to {MAX_REASON} bytes without control characters"),
    })
}

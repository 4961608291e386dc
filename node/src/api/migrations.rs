//! `/v1/migrations`: reports, starting one by hand, and what it would be like.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState, resolve_node};
use crate::config::Method;
use crate::sessions::{MigrationReport, MoveOrder, MoveReason};

pub(super) async fn list(State(state): State<ApiState>) -> Json<Vec<MigrationReport>> {
    Json(state.sessions.migrations().await)
}

pub(super) async fn one(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<MigrationReport>, ApiError> {
    match state.sessions.migration(&id).await {
        Some(report) => Ok(Json(report)),
        None => Err(ApiError::NotFound {
            what: "migration",
            id,
        }),
    }
}

/// The body of a request to migrate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    /// The session's id or a prefix of it that means one session.
    session: String,
    /// Label, key prefix or peer id; absent: the nearest member with room.
    #[serde(default)]
    to: Option<String>,
    /// Absent: as the destination's configuration says.
    #[serde(default)]
    method: Option<Method>,
    /// Whether it may stop the service for longer than `max_downtime`.
    #[serde(default)]
    force: bool,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn start(
    State(state): State<ApiState>,
    body: Result<Json<Body>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(order) = body?;
    let to = match &order.to {
        Some(name) => Some(resolve_node(state.chain.snapshot().state.members(), name)?),
        None => None,
    };
    let how = MoveOrder {
        reason: MoveReason::Operator,
        method: order.method,
        force: order.force,
    };
    if order.dry_run {
        let method = order.method.unwrap_or(state.config.migration.method);
        let assessment = state.sessions.dry_run(&order.session, to, method).await?;
        return Ok((StatusCode::OK, Json(json!(assessment))));
    }
    let id = state.sessions.migrate(&order.session, to, how).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))))
}

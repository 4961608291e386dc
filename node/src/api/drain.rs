//! `/v1/drain`: emptying this node, how far that is, and the end of it.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::Deserialize;

use super::{ApiError, ApiState, resolve_node};
use crate::sessions::DrainView;

/// The body of a request to drain.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// Label, key prefix or peer id; absent: to the nearest connected member that takes it.
    #[serde(default)]
    to: Option<String>,
}

pub(super) async fn get(State(state): State<ApiState>) -> Json<DrainView> {
    Json(state.sessions.drain_view())
}

pub(super) async fn begin(
    State(state): State<ApiState>,
    body: Result<Json<Order>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainView>), ApiError> {
    let Json(order) = body?;
    let to = match &order.to {
        Some(name) => Some(resolve_node(state.chain.snapshot().state.members(), name)?),
        None => None,
    };
    Ok((StatusCode::ACCEPTED, Json(state.sessions.drain(to)?)))
}

pub(super) async fn end(State(state): State<ApiState>) -> Result<Json<DrainView>, ApiError> {
    Ok(Json(state.sessions.undrain()?))
}

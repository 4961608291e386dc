//! `/v1/sessions`: the sessions that this node's journal and chain know.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use crate::sessions::SessionView;

pub(super) async fn list(State(state): State<ApiState>) -> Json<Vec<SessionView>> {
    Json(state.sessions.list().await)
}

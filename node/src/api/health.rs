//! `/healthz` and `/readyz`, for supervisors and load balancers.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::ApiState;

/// The process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when new clients are welcome, else 503 with the reason.
pub(super) async fn readyz(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    match state.sessions.not_ready() {
        None => (StatusCode::OK, Json(json!({ "ready": true }))),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "ready": false, "reason": reason })),
        ),
    }
}

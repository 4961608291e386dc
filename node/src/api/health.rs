//! `/healthz` and `/readyz`, for supervisors and load balancers.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use blosm_ledger::Refusal;
use serde_json::{Value, json};

use super::ApiState;
use crate::chain::ChainHandle;

/// The process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when new clients are welcome, else 503 with the reason. Warnings do not make a node unready: it serves.
pub(super) async fn readyz(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let warnings = warnings(&state.chain);
    match state.sessions.not_ready() {
        None => (
            StatusCode::OK,
            Json(json!({ "ready": true, "warnings": warnings })),
        ),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "ready": false, "reason": reason, "warnings": warnings })),
        ),
    }
}

/// What an operator has to mend although the node serves.
pub(super) fn warnings(chain: &ChainHandle) -> Vec<String> {
    let view = chain.snapshot();
    let needs = view.needs.map(|needs| needs.to_string());
    let clock = chain.clock().fault.map(|fault| fault.to_string());
    let evidence = match view.evidence.last() {
        _ if view.halted => Some(Refusal::Halted.to_string()),
        Some(found) => Some(format!(
            "the authority has sealed two blocks of height {}: nodes may hold different chains; see `blosm chain evidence`",
            found.height
        )),
        None => None,
    };
    let unopened = chain.unopened().map(|why| why.to_string());
    let isolated = chain.isolated().map(|alone| alone.to_string());
    let warnings = [needs, clock, evidence, unopened, isolated];
    warnings.into_iter().flatten().collect()
}

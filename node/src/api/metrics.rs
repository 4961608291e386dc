//! The listener of `[metrics]`: `/metrics` and `/healthz`.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{ApiState, health};

pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health::healthz))
        .with_state(state)
}

/// The content type that Prometheus asks for.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State(state): State<ApiState>) -> Response {
    let view = state.chain.snapshot();
    state
        .metrics
        .ledger(view.height, view.confirmed_height, view.state.members().len());
    state.metrics.clock_offset(state.chain.clock().offset_seconds());
    state.metrics.net(
        state.net.connected().len(),
        state.net.reachability().verdict(),
        &state.net.counters(),
    );
    let resources = state.sessions.resources().await;
    state.metrics.resources(resources.memory, resources.cpu);
    match state.metrics.render() {
        Ok(text) => {
            // libp2p counts in a registry of another library.
            let text = text + &state.net.metrics();
            ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

//! The listener of `[metrics]`: `/metrics`, `/healthz`, and for Prometheus itself `/v1/prometheus/targets`.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{ApiState, health, targets};

/// A ledger that is busy for longer is asked for its store's figures at the next reading.
const STORE_WAIT: Duration = Duration::from_millis(500);
/// An engine that says nothing for so long does not answer. Prometheus itself gives up a reading after 10 s.
const ENGINE_WAIT: Duration = Duration::from_secs(2);

pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health::healthz))
        .route("/v1/prometheus/targets", get(targets::list))
        .with_state(state)
}

/// The content type that Prometheus asks for.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State(state): State<ApiState>) -> Response {
    refresh(&state).await;
    match state.metrics.render() {
        Ok(text) => {
            // libp2p counts in a registry of another library.
            let text = text + &state.net.metrics();
            ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Brings up to date what is not counted as it happens.
async fn refresh(state: &ApiState) {
    let (metrics, sessions) = (&state.metrics, &state.sessions);
    metrics.chain(&state.chain.snapshot());
    if let Ok(Some(figures)) = tokio::time::timeout(STORE_WAIT, state.chain.store()).await {
        metrics.store(&figures);
    }
    metrics.clock_offset(state.chain.clock().offset_seconds());
    metrics.net(
        &state.net.peers(),
        state.net.reachability().verdict(),
        &state.net.counters(),
    );
    let resources = sessions.resources().await;
    metrics.offered(resources.memory, resources.cpu, resources.gpu);
    // Otherwise they are those of the last reading.
    if let Some(machine) = sessions.machine().await {
        metrics.machine(&machine);
    }
    let (owned, unsealed) = sessions.tally();
    metrics.sessions(&owned, unsealed);
    let (leaving, coming, held) = sessions.under_way();
    metrics.under_way(leaving, coming, held);
    metrics.readiness(sessions.ready(), sessions.is_drained());
    let engine = tokio::time::timeout(ENGINE_WAIT, sessions.engine()).await;
    metrics.engine_up(engine.is_ok_and(|engine| engine.answers));
}

//! `/v1/net/probe`: how fast a message reaches the members.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState};

/// The length of a probe unless the request says another: about a block with one transaction.
const BYTES: usize = 500;

/// The body of a request for a probe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    /// The length of the message.
    #[serde(default = "bytes")]
    bytes: usize,
}

fn bytes() -> usize {
    BYTES
}

pub(super) async fn send(
    State(state): State<ApiState>,
    body: Result<Json<Body>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(Body { bytes }) = body?;
    let report = state.chain.probe(bytes).await?;
    let reached = |share| report.reached(share).map(|time| time.as_secs_f64() * 1000.0);
    let view = state.chain.snapshot();
    let arrivals = report.arrivals.iter().map(|arrival| {
        json!({
            "node": arrival.node,
            "label": view.state.members().get(&arrival.node).map(|member| &member.label),
            "ms": arrival.after.as_secs_f64() * 1000.0,
            "unix_us": arrival.unix_us,
        })
    });
    Ok(Json(json!({
        "bytes": bytes,
        "members": report.members,
        "reached": report.arrivals.len() + 1,
        "p50_ms": reached(0.5),
        "p90_ms": reached(0.9),
        "all_ms": reached(1.0),
        "sent_unix_us": report.sent_unix_us,
        "arrivals": arrivals.collect::<Vec<_>>(),
    })))
}

//! `/v1/peers/{node}/ping` and `/v1/peers/{node}/bandwidth`: an operator tries the link to another member.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use blosm_ledger::PublicKey;
use blosm_net::peer_of_key;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState, resolve_node};

/// Longest measurement, seconds.
const LONGEST: u64 = 300;

/// The body of a request to measure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    /// How long, seconds.
    seconds: u64,
}

pub(super) async fn ping(
    State(state): State<ApiState>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (key, label) = other(&state, &node)?;
    let Some(pong) = state.chain.ping(key).await else {
        return Err(ApiError::Link {
            node: label,
            why: "it does not answer".to_owned(),
        });
    };
    let height = state.chain.snapshot().height;
    Ok(Json(json!({
        "node": key,
        "label": label,
        "rtt_ms": pong.rtt.as_secs_f64() * 1000.0,
        "height": pong.height,
        "confirmed_height": pong.confirmed_height,
        "ahead": i128::from(pong.height) - i128::from(height),
    })))
}

pub(super) async fn bandwidth(
    State(state): State<ApiState>,
    Path(node): Path<String>,
    body: Result<Json<Span>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(span) = body?;
    if !(1..=LONGEST).contains(&span.seconds) {
        return Err(ApiError::Field {
            field: "seconds",
            message: format!("from 1 to {LONGEST}"),
        });
    }
    let (key, label) = other(&state, &node)?;
    let time = Duration::from_secs(span.seconds);
    let found = state
        .sessions
        .bandwidth(key, time)
        .await
        .map_err(|error| ApiError::Link {
            node: label.clone(),
            why: error.to_string(),
        })?;
    let mut answer = json!(found);
    answer["node"] = json!(key);
    answer["label"] = json!(label);
    answer["rtt_ms"] = json!(rtt_ms(&state, &key));
    Ok(Json(answer))
}

fn rtt_ms(state: &ApiState, key: &PublicKey) -> Option<f64> {
    let peer = peer_of_key(&key.0);
    let peers = state.net.peers();
    let rtt = peers.iter().find(|known| known.peer == peer)?.rtt?;
    Some(rtt.as_secs_f64() * 1000.0)
}

/// A member that is not this node, and its label.
fn other(state: &ApiState, name: &str) -> Result<(PublicKey, String), ApiError> {
    let view = state.chain.snapshot();
    let key = resolve_node(view.state.members(), name)?;
    let label = view
        .state
        .members()
        .get(&key)
        .map_or_else(|| key.to_string(), |member| member.label.clone());
    if key == state.config.public_key() {
        return Err(ApiError::Link {
            node: label,
            why: "that is this node".to_owned(),
        });
    }
    Ok((key, label))
}

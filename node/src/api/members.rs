//! `/v1/members`: who belongs to the network, and the admission of a node by an authority.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use blosm_ledger::{Admit, Hash, Payload, PublicKey, Transaction};
use blosm_net::{Multiaddr, peer_of_key};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::config::{Coordinates, check_advertised, check_label, check_url, radius_m};

pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    let view = state.chain.snapshot();
    let me = state.config.public_key();
    let members = view.state.members().iter().map(|(key, member)| {
        let peer = peer_of_key(&key.0);
        json!({
            "node": key,
            "peer_id": peer.to_string(),
            "label": member.label,
            "location": Coordinates::from(member.location).to_string(),
            "radius_m": member.radius_m,
            "addresses": member.addresses,
            "gateway": member.gateway,
            "metrics": member.metrics,
            "since_height": member.since_height,
            "authority": state.config.network.genesis.is_authority(key),
            "connected": *key == me || state.net.is_connected(&peer),
            "mine": *key == me,
        })
    });
    Json(members.collect())
}

/// The body of an admission; the same words as the flags of `blosm admit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admission {
    key: PublicKey,
    #[serde(default)]
    addresses: Vec<Multiaddr>,
    gateway: String,
    #[serde(default)]
    metrics: Option<String>,
    location: Coordinates,
    radius: f64,
    label: String,
}

pub(super) async fn admit(
    State(state): State<ApiState>,
    body: Result<Json<Admission>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(admission) = body?;
    if !state.config.is_authority() {
        return Err(ApiError::NotAuthority);
    }
    let key = admission.key;
    let payload = admission.into_payload()?;
    let view = state.chain.snapshot();
    let other = view
        .state
        .members()
        .iter()
        .find(|(other, member)| **other != key && member.label == payload.label);
    if let Some((owner, member)) = other {
        return Err(ApiError::LabelTaken {
            label: member.label.clone(),
            owner: owner.to_string(),
        });
    }
    let label = payload.label.clone();
    let config = &state.config;
    let payload = Payload::Admit(payload);
    payload.check().map_err(|error| field(error.field, error.rule))?;
    let transaction = Transaction::sign(&config.key, config.network.chain_id, view.height, payload);
    let hash = transaction.hash();
    let height = state.chain.submit(transaction).await?;
    Ok(Json(
        json!({ "node": key, "label": label, "hash": hash, "height": height }),
    ))
}

impl Admission {
    /// Checks every field by the rules that the node's own configuration has to keep.
    fn into_payload(self) -> Result<Admit, ApiError> {
        check_label(&self.label).map_err(|message| field("label", message))?;
        let radius_m = radius_m(self.radius).map_err(|message| field("radius", message))?;
        let gateway = check_url(&self.gateway).map_err(|message| field("gateway", message))?;
        let metrics = match self.metrics {
            Some(url) => Some(check_url(&url).map_err(|message| field("metrics", message))?),
            None => None,
        };
        for address in &self.addresses {
            check_advertised(address).map_err(|message| field("addresses", message))?;
        }
        Ok(Admit {
            key: self.key,
            admission: fresh_id()?,
            addresses: self.addresses.iter().map(Multiaddr::to_string).collect(),
            gateway,
            metrics,
            location: self.location.into(),
            radius_m,
            label: self.label,
        })
    }
}

/// No admission is ever used twice, so each gets an id that nobody can guess.
fn fresh_id() -> Result<Hash, ApiError> {
    let mut id = [0; 32];
    getrandom::fill(&mut id).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(Hash(id))
}

fn field(field: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::Field {
        field,
        message: message.into(),
    }
}

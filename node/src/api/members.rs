//! `/v1/members`: who belongs to the network, and the admission of a node by an authority.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use blosm_ledger::{Admit, Hash, Payload, PublicKey, Transaction};
use blosm_net::{Multiaddr, peer_of_key};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::admission::label_owner;
use crate::config::{Coordinates, check_advertised, check_label, check_url, radius_m};

/// What a list of the members shall hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listing {
    /// Also what the members say of themselves, and since when they are dark: they are asked.
    verbose: bool,
}

pub(super) async fn list(State(state): State<ApiState>, Query(listing): Query<Listing>) -> Json<Value> {
    let (mut known, acks) = if listing.verbose {
        (state.sessions.census().await, state.chain.acks().await)
    } else {
        (BTreeMap::new(), Vec::new())
    };
    let view = state.chain.snapshot();
    let me = state.config.public_key();
    let members = view.state.members().iter().map(|(key, member)| {
        let peer = peer_of_key(&key.0);
        let mut shown = json!({
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
        });
        if let Some(known) = known.remove(key) {
            shown["known"] = json!(known);
            shown["sessions"] = owned_by(&view.state, key).into();
            let ack = acks.iter().map(|ack| &ack.body).find(|ack| ack.member == *key);
            shown["ack"] = json!(ack.map(|ack| json!({
                "height": ack.height, "software": ack.software, "protocol": ack.protocol,
            })));
        }
        shown
    });
    Json(members.collect())
}

/// How many open sessions a node has on the chain.
fn owned_by(state: &blosm_ledger::State, node: &PublicKey) -> usize {
    let owned = state
        .sessions()
        .filter(|(_, session)| session.owner == *node && session.is_open());
    owned.count()
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
    if let Some(owner) = label_owner(view.state.members(), &key, &payload.label) {
        return Err(ApiError::LabelTaken {
            label: payload.label,
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

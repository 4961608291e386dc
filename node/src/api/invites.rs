//! `/v1/invites`: an authority makes invites, shows them and takes them back.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use blosm_ledger::MAX_ADDRESSES;
use blosm_net::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::admission::{Invite, InviteView, Invites, Terms};
use crate::config::{Config, check_advertised};
use crate::sessions::unix_ms;

/// The body of a request for an invite.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// How many nodes it admits.
    uses: u32,
    /// For how long, in seconds.
    expires_s: u64,
    /// What the operator calls it.
    #[serde(default)]
    label: String,
    /// Where the authority is dialled; absent: as this node is configured.
    #[serde(default)]
    addresses: Vec<Multiaddr>,
}

pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let view = state.chain.snapshot();
    let list = invites(&state)?.list(unix_ms(), view.state.members());
    let list = list.iter().map(|invite| show(invite, &view.state));
    Ok(Json(list.collect()))
}

pub(super) async fn make(
    State(state): State<ApiState>,
    body: Result<Json<Order>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(order) = body?;
    let invites = invites(&state)?;
    let addresses = addresses(&state.config, order.addresses)?;
    let view = state.chain.snapshot();
    let terms = Terms {
        uses: order.uses,
        life: Duration::from_secs(order.expires_s),
        label: order.label,
    };
    let (secret, made) = invites.issue(unix_ms(), terms, view.state.members())?;
    let invite = Invite {
        chain_id: state.config.network.chain_id,
        authority: state.config.public_key(),
        addresses,
        secret,
        expires_unix_ms: made.expires_unix_ms,
    };
    let mut shown = show(&made, &view.state);
    shown["invite"] = invite.to_string().into();
    shown["addresses"] = invite.addresses.iter().map(ToString::to_string).collect();
    Ok(Json(shown))
}

pub(super) async fn revoke(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let view = state.chain.snapshot();
    let revoked = invites(&state)?.revoke(unix_ms(), &id, view.state.members())?;
    Ok(Json(show(&revoked, &view.state)))
}

fn invites(state: &ApiState) -> Result<&Arc<Invites>, ApiError> {
    state.invites.as_ref().ok_or(ApiError::NotAuthority)
}

/// Where new nodes dial this authority.
fn addresses(config: &Config, given: Vec<Multiaddr>) -> Result<Vec<Multiaddr>, ApiError> {
    let own = |address: &Multiaddr| {
        // The invite names the key once.
        let parts = address.iter().filter(|part| !matches!(part, Protocol::P2p(_)));
        parts.collect::<Multiaddr>()
    };
    let dialled = |list: &[Multiaddr]| -> Vec<Multiaddr> {
        let usable = list.iter().filter(|address| check_advertised(address).is_ok());
        usable.map(own).take(MAX_ADDRESSES).collect()
    };
    if let Some(wrong) = given.iter().find_map(|address| check_advertised(address).err()) {
        return Err(ApiError::Field {
            field: "address",
            message: wrong,
        });
    }
    let found = [&given, &config.net.advertise, &config.net.listen]
        .into_iter()
        .map(|list| dialled(list))
        .find(|list| !list.is_empty());
    found.ok_or_else(|| ApiError::Field {
        field: "address",
        message: "this authority names no address of its own; set [net] advertise in its blosm.toml, or give --address"
            .to_owned(),
    })
}

fn show(invite: &InviteView, state: &blosm_ledger::State) -> Value {
    let used_by = invite.used_by.iter().map(|key| {
        let member = state.members().get(key);
        json!({ "node": key, "label": member.map(|member| &member.label) })
    });
    json!({
        "id": invite.id, "label": invite.label, "state": invite.state,
        "uses": invite.uses, "used": invite.used_by.len(), "used_by": used_by.collect::<Vec<_>>(),
        "issued_unix_ms": invite.issued_unix_ms, "expires_unix_ms": invite.expires_unix_ms,
    })
}

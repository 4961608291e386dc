//! `/v1/status` and `/v1/peers`: this node at a glance.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use blosm_ledger::PublicKey;
use blosm_net::{Direction, Multiaddr, Reachability, key_of_peer};
use serde_json::{Value, json};

use super::ApiState;
use super::health::warnings;
use crate::admission::{PROTOCOL, SOFTWARE};

pub(super) async fn get(State(state): State<ApiState>) -> Json<Value> {
    let view = state.chain.snapshot();
    let clock = state.chain.clock();
    let config = &state.config;
    Json(json!({
        "node": config.public_key(),
        "peer_id": config.peer_id().to_string(),
        "label": config.node.label,
        "version": SOFTWARE,
        "protocol": PROTOCOL,
        "network": config.network.genesis.name,
        "chain_id": config.network.chain_id,
        "authority": config.is_authority(),
        "member": view.state.members().contains(&config.public_key()),
        "member_since": view.state.members().get(&config.public_key()).map(|member| member.since_height),
        "evicted": view.state.members().evicted(&config.public_key()),
        "height": view.height,
        "hash": view.hash,
        "confirmed_height": view.confirmed_height,
        "newest": view.newest.iter().map(|count| json!({
            "height": count.height, "confirmations": count.acked, "members": count.members,
        })).collect::<Vec<_>>(),
        "confirmation": config.network.genesis.params.confirmation,
        "clock_offset_seconds": clock.offset_seconds(),
        "members": view.state.members().len(),
        "peers": state.net.connected().len(),
        "reachability": reachability(&state.net.reachability()),
        "services": config.services.keys().collect::<Vec<_>>(),
        "gateway": config.gateway.url,
        "engine": state.sessions.engine().await,
        "methods": state.sessions.methods(),
        "resources": state.sessions.resources().await,
        "sessions": state.sessions.list().await.iter().filter(|session| session.mine).count(),
        "ready": state.sessions.ready(),
        "not_ready": state.sessions.not_ready(),
        "warnings": warnings(&state.chain),
    }))
}

pub(super) async fn peers(State(state): State<ApiState>) -> Json<Value> {
    let view = state.chain.snapshot();
    let peers = state.net.peers().into_iter().map(|peer| {
        let key = key_of_peer(&peer.peer).map(PublicKey);
        let member = key.and_then(|key| view.state.members().get(&key));
        json!({
            "peer_id": peer.peer.to_string(),
            "node": key,
            "label": member.map(|member| &member.label),
            "address": peer.address.to_string(),
            "direction": match peer.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            },
            "found": peer.found.name(),
            "since_unix_ms": unix_ms(peer.since),
            "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            "score": peer.score,
            "agent": peer.agent,
            "protocols": peer.protocols,
            "majors": peer.majors.iter().map(|(protocol, major)| (protocol.name(), major)).collect::<BTreeMap<_, _>>(),
        })
    });
    Json(peers.collect())
}

/// Whether other members can dial this node; `reachable` is null while nobody knows.
fn reachability(known: &Reachability) -> Value {
    let texts = |addresses: &[Multiaddr]| addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>();
    json!({
        "reachable": known.verdict(),
        "inbound": known.inbound,
        "observed": texts(&known.observed),
        "reached": texts(&known.reached),
        "unreached": texts(&known.unreached),
    })
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

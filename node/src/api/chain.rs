//! `/v1/chain/...`: the ledger as this node holds it.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use blosm_ledger::{Ack, Hash, SealedBlock, Transaction, threshold};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::chain::BlockId;

pub(super) async fn head(State(state): State<ApiState>) -> Json<Value> {
    let view = state.chain.snapshot();
    Json(json!({
        "height": view.height,
        "hash": view.hash,
        "timestamp_ms": view.timestamp_ms,
        "confirmed_height": view.confirmed_height,
        "members": view.state.members().len(),
    }))
}

pub(super) async fn block(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let wanted = match (id.parse::<u64>(), id.parse::<Hash>()) {
        (Ok(height), _) => BlockId::Height(height),
        (Err(_), Ok(hash)) => BlockId::Hash(hash),
        (Err(_), Err(_)) => {
            return Err(ApiError::Id(
                "a block is named by its height or its hash of 64 hex digits",
            ));
        }
    };
    match state.chain.block(wanted).await {
        Some(block) => Ok(Json(block_json(&block))),
        None => Err(ApiError::NotFound { what: "block", id }),
    }
}

/// How long the answer may be held back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// For at most so many milliseconds, some seconds at the most: until the transaction is here and more members hold it
    /// than `beyond`, or 90 % do.
    #[serde(default)]
    wait_ms: u64,
    /// How many confirmations the caller knows of.
    #[serde(default)]
    beyond: u32,
}

pub(super) async fn transaction(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let hash: Hash = id
        .parse()
        .map_err(|_| ApiError::Id("a transaction is named by its hash of 64 hex digits"))?;
    let Query(wait) = wait?;
    let found = match wait.wait_ms {
        0 => state.chain.transaction(hash).await,
        ms => {
            let limit = Duration::from_millis(ms);
            state.chain.wait_transaction(hash, wait.beyond, limit).await
        }
    };
    let Some(status) = found else {
        return Err(ApiError::NotFound {
            what: "sealed transaction",
            id,
        });
    };
    Ok(Json(json!({
        "hash": hash,
        "height": status.height,
        "index": status.index,
        "confirmations": status.confirmations.acked,
        "members": status.confirmations.members,
        "needed": threshold(status.confirmations.members),
        "confirmed": status.confirmations.confirmed(),
        "transaction": transaction_json(&status.transaction),
    })))
}

/// Proofs that the authority sealed two blocks of one height, oldest first.
pub(super) async fn evidence(State(state): State<ApiState>) -> Json<Value> {
    let view = state.chain.snapshot();
    Json(json!({ "halted": view.halted, "evidence": &*view.evidence }))
}

/// Who holds what and runs which version, each under its own signature.
pub(super) async fn acks(State(state): State<ApiState>) -> Json<Vec<Ack>> {
    Json(state.chain.acks().await)
}

fn block_json(sealed: &SealedBlock) -> Value {
    let header = &sealed.block.header;
    json!({
        "hash": sealed.hash(),
        "version": header.version,
        "chain_id": header.chain_id,
        "height": header.height,
        "timestamp_ms": header.timestamp_ms,
        "previous_hash": header.previous_hash,
        "tx_root": header.tx_root,
        "tx_count": header.tx_count,
        "nonce": header.nonce,
        "proposer": header.proposer,
        "authorities_hash": header.authorities_hash,
        "next_authorities_hash": header.next_authorities_hash,
        "members_root": header.members_root,
        "member_count": header.member_count,
        "sessions_root": header.sessions_root,
        "confirmed_height": header.confirmed_height,
        "certificate": sealed.certificate,
        "transactions": sealed.block.transactions.iter().map(transaction_json).collect::<Vec<_>>(),
    })
}

fn transaction_json(transaction: &Transaction) -> Value {
    json!({
        "hash": transaction.hash(),
        "sender": transaction.sender,
        "max_height": transaction.max_height,
        "payload": transaction.payload,
        "signature": transaction.signature,
    })
}

//! Having a transaction sealed, whatever the network does meanwhile.

use std::time::Duration;

use blosm_ledger::Transaction;
use blosm_net::Topic;
use tokio::time::Instant;

use super::client::SubmitAnswer;
use super::handle::Shared;
use super::wire::{LedgerRequest, LedgerResponse};

/// How long one submission goes on trying. Callers that must not give up call again.
const SUBMIT_WAIT: Duration = Duration::from_secs(15);
/// How long a refusal that may pass is tried again: its predecessor is on its way, or the sealer is behind.
const NOT_YET_WAIT: Duration = Duration::from_secs(3);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// A transaction was not sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The ledger does not take it.
    #[error("the ledger refuses it: {0}")]
    Refused(String),
    /// The authority could not be reached, or does not seal yet; the transaction went nowhere.
    #[error("the authority of this network cannot be reached, or has not begun to seal")]
    Unreachable,
    /// It left this node, and nothing is known of it. It may still be sealed.
    #[error("the authority did not say in time whether the transaction was sealed")]
    Timeout,
}

/// What one try brought.
enum Try {
    Done(u64),
    Final(String),
    NotYet(String),
    NotSealing,
    Lost { may_have_arrived: bool },
}

pub(super) async fn submit(shared: &Shared, transaction: Transaction) -> Result<u64, SubmitError> {
    let hash = transaction.hash();
    let bytes = transaction.encode();
    let start = Instant::now();
    let end = start + SUBMIT_WAIT;
    let mut left_here = false;
    let mut gossiped = false;
    let mut refusal = None;
    let mut view = shared.view.clone();
    loop {
        let outcome = tokio::time::timeout_at(end, try_once(shared, &bytes)).await;
        match outcome.unwrap_or(Try::Lost {
            may_have_arrived: true,
        }) {
            Try::Done(height) => return Ok(height),
            Try::Final(reason) => return Err(SubmitError::Refused(reason)),
            Try::NotYet(reason) if start.elapsed() >= NOT_YET_WAIT => {
                return Err(SubmitError::Refused(reason));
            }
            Try::NotYet(reason) => refusal = Some(reason),
            Try::NotSealing => {}
            Try::Lost { may_have_arrived } => {
                left_here |= may_have_arrived;
                if !gossiped && !shared.is_proposer() {
                    gossiped = true;
                    left_here |= !shared.net.connected().is_empty();
                    if let Err(error) = shared.net.publish(Topic::Tx, bytes.clone()) {
                        tracing::debug!(transaction = %hash, %error, "transaction not gossiped");
                    }
                }
            }
        }
        // It may come back in a block, whichever way it went.
        if let Some(found) = shared.ledger.transaction(hash).await {
            return Ok(found.height);
        }
        if Instant::now() >= end {
            return Err(match refusal {
                Some(reason) => SubmitError::Refused(reason),
                None if left_here => SubmitError::Timeout,
                None => SubmitError::Unreachable,
            });
        }
        // Time and the chain are the only things that help; an error means that the ledger has stopped.
        let changed = tokio::time::timeout(PAUSE, view.changed());
        if let Ok(Err(_)) = changed.await {
            return Err(SubmitError::Unreachable);
        }
    }
}

async fn try_once(shared: &Shared, bytes: &[u8]) -> Try {
    if shared.is_proposer() {
        return match shared.ledger.submit(bytes.to_vec()).await {
            Some(SubmitAnswer::Sealed { height }) => Try::Done(height),
            Some(SubmitAnswer::Refused {
                reason,
                is_final: true,
                ..
            }) => Try::Final(reason),
            Some(SubmitAnswer::Refused { reason, .. }) => Try::NotYet(reason),
            Some(SubmitAnswer::NotSealing) | None => Try::NotSealing,
        };
    }
    let request = LedgerRequest::Submit(bytes.to_vec());
    match request.ask(&shared.net, shared.proposer_peer()).await {
        Ok(answer) => match answer {
            Some(LedgerResponse::Sealed { height }) => Try::Done(height),
            Some(LedgerResponse::Refused {
                reason,
                is_final: true,
            }) => Try::Final(reason),
            Some(LedgerResponse::Refused {
                reason,
                is_final: false,
            }) => Try::NotYet(reason),
            Some(LedgerResponse::NotSealing | LedgerResponse::Unavailable) => Try::NotSealing,
            _ => Try::Lost {
                may_have_arrived: true,
            },
        },
        Err(error) => {
            tracing::debug!(%error, "transaction not submitted directly");
            Try::Lost {
                may_have_arrived: error.may_have_arrived(),
            }
        }
    }
}

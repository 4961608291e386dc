//! Every `Open`, `HandOver` and `Release` in the journal reaches the chain in the end (rule 4), whoever signed it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Payload, SessionId, Transaction};
use blosm_migrate::session::{Entry, Pending};
use tokio::sync::Notify;

use super::journal::JournalClosed;
use crate::chain::SubmitError;
use crate::parts::Parts;

/// What is not sealed is submitted again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Sessions whose transactions are under way at once.
const AT_ONCE: usize = 16;

/// Submits until the node stops.
pub(super) async fn run(parts: Arc<Parts>, wake: Arc<Notify>) {
    let mut busy: HashSet<SessionId> = HashSet::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        for record in parts.journal.records() {
            if record.pending.is_empty() || tasks.len() >= AT_ONCE || !busy.insert(record.session) {
                continue;
            }
            let (parts, session, pending) = (parts.clone(), record.session, record.pending.clone());
            tasks.spawn(async move {
                // In order: the chain takes a hand-over only after what made its signer the owner.
                for transaction in pending {
                    match submit(&parts, session, &transaction).await {
                        Ok(true) => {}
                        Ok(false) | Err(JournalClosed) => break,
                    }
                }
                session
            });
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(AGAIN) => {}
            Some(done) = tasks.join_next() => {
                if let Ok(session) = done {
                    busy.remove(&session);
                    // What failed waits for the next round; what was added meanwhile goes at once.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        while let Some(done) = tasks.try_join_next() {
            if let Ok(session) = done {
                busy.remove(&session);
            }
        }
    }
}

/// Submits one transaction. Whether the chain holds it, or something in its place, now.
async fn submit(parts: &Parts, session: SessionId, pending: &Pending) -> Result<bool, JournalClosed> {
    let Ok(transaction) = Transaction::decode(&pending.bytes) else {
        tracing::error!(%session, "a transaction in the journal can't be read; it is left out");
        return Ok(false);
    };
    let payload = transaction.payload.clone();
    match parts.chain.submit(transaction).await {
        Ok(height) => {
            tracing::info!(%session, kind = payload.kind(), height, "sealed");
            parts.reports.sealed(&pending.hash, height);
        }
        Err(SubmitError::Refused(reason)) if overtaken(parts, session, &payload) => {
            tracing::warn!(%session, kind = payload.kind(), reason, "the chain holds a newer fact in its place");
        }
        Err(error) => {
            tracing::debug!(%session, kind = payload.kind(), %error, "not sealed yet");
            return Ok(false);
        }
    }
    parts
        .journal
        .append(Entry::Sealed {
            session,
            transaction: pending.hash,
        })
        .await?;
    Ok(true)
}

/// Whether the chain has gone past the point at which this could ever be sealed.
fn overtaken(parts: &Parts, session: SessionId, payload: &Payload) -> bool {
    let view = parts.chain.snapshot();
    blosm_migrate::session::overtaken(payload, view.state.session(&session))
}

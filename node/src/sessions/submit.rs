//! Every `Open`, `HandOver` and `Release` in the journal reaches the chain in the end (rule 4), whoever signed it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blosm_ledger::{Payload, SessionId, Transaction};
use blosm_migrate::session::{Entry, Pending};
use tokio::sync::Notify;
use tokio::task::JoinError;

use super::journal::JournalClosed;
use crate::chain::SubmitError;
use crate::parts::Parts;

/// What is not sealed is submitted again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Where all places are taken, what is due is not looked for more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// Sessions whose transactions are under way at once.
const AT_ONCE: usize = 16;

/// Submits until the node stops.
pub(super) async fn run(parts: Arc<Parts>, wake: Arc<Notify>) {
    let mut turns = Turns::default();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let records = parts.journal.records();
        let pending = records.iter().filter(|record| !record.pending.is_empty());
        let waiting: BTreeMap<_, _> = pending.map(|record| (record.session, record)).collect();
        for session in turns.next(Instant::now(), waiting.keys().copied()) {
            let (parts, pending) = (parts.clone(), waiting[&session].pending.clone());
            tasks.spawn(async move {
                // In order: the chain takes a hand-over only after what made its signer the owner.
                for transaction in pending {
                    match submit(&parts, session, &transaction).await {
                        Ok(true) => {}
                        Ok(false) | Err(JournalClosed) => return (session, false),
                    }
                }
                (session, true)
            });
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(turns.pause(Instant::now())) => {}
            Some(done) = tasks.join_next() => turns.note(done),
        }
        while let Some(done) = tasks.try_join_next() {
            turns.note(done);
        }
    }
}

/// Whose turn it is. What is refused does not come again at once, and not before what has waited longer.
#[derive(Debug, Default)]
struct Turns {
    busy: BTreeSet<SessionId>,
    /// Of those that were not sealed when they had their turn.
    not_before: BTreeMap<SessionId, Instant>,
}

impl Turns {
    /// Of those that wait, those whose turn it is now; they are busy until they are [`ended`](Self::ended).
    fn next(&mut self, now: Instant, waiting: impl Iterator<Item = SessionId>) -> Vec<SessionId> {
        let waiting: BTreeSet<SessionId> = waiting.collect();
        self.not_before.retain(|session, _| waiting.contains(session));
        let due = |session: &SessionId| self.not_before.get(session).copied();
        let mut next: Vec<SessionId> = waiting
            .into_iter()
            .filter(|session| !self.busy.contains(session) && due(session).is_none_or(|at| at <= now))
            .collect();
        // Those that had no turn yet come first.
        next.sort_by_key(due);
        next.truncate(AT_ONCE.saturating_sub(self.busy.len()));
        self.busy.extend(&next);
        next
    }

    /// The session had its turn.
    fn ended(&mut self, now: Instant, session: SessionId, sealed: bool) {
        self.busy.remove(&session);
        if sealed {
            self.not_before.remove(&session);
        } else {
            self.not_before.insert(session, now + AGAIN);
        }
    }

    fn note(&mut self, done: Result<(SessionId, bool), JoinError>) {
        match done {
            Ok((session, sealed)) => self.ended(Instant::now(), session, sealed),
            // It stays busy until the next start.
            Err(error) => tracing::error!(%error, "submitting a session's transactions ended in a panic"),
        }
    }

    /// Until it is somebody's turn by the time alone.
    fn pause(&self, now: Instant) -> Duration {
        let next = self
            .not_before
            .iter()
            .filter(|(session, _)| !self.busy.contains(session))
            .map(|(_, at)| at.saturating_duration_since(now))
            .min();
        next.unwrap_or(AGAIN).clamp(LEAST_PAUSE, AGAIN)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(of: std::ops::Range<u8>) -> Vec<SessionId> {
        of.map(|n| SessionId([n; 32])).collect()
    }

    #[test]
    fn what_is_refused_waits_and_starves_nobody() {
        let mut turns = Turns::default();
        let (now, all) = (Instant::now(), sessions(0..40));
        let next = |turns: &mut Turns, now| turns.next(now, all.iter().copied());
        let first = next(&mut turns, now);
        assert_eq!(first, sessions(0..16));
        assert_eq!(next(&mut turns, now), [], "no place is free");
        for session in first {
            turns.ended(now, session, false);
        }
        // The others first, by whatever names those have that were refused.
        assert_eq!(next(&mut turns, now), sessions(16..32));
        assert_eq!(turns.pause(now), AGAIN);
        for session in sessions(16..32) {
            turns.ended(now + AGAIN / 2, session, false);
        }
        let at = now + AGAIN;
        let expect = [sessions(32..40), sessions(0..8)].concat();
        assert_eq!(next(&mut turns, at), expect);
        assert_eq!(next(&mut turns, at + AGAIN), [], "and no more at once than that");
    }

    #[test]
    fn what_is_added_to_a_session_goes_at_once_unless_it_was_just_refused() {
        let mut turns = Turns::default();
        let (now, one) = (Instant::now(), SessionId([1; 32]));
        let next = |turns: &mut Turns, now| turns.next(now, std::iter::once(one));
        assert_eq!(next(&mut turns, now), [one]);
        assert_eq!(next(&mut turns, now), [], "it is on its way");
        turns.ended(now, one, true);
        assert_eq!(next(&mut turns, now), [one]);
        turns.ended(now, one, false);
        assert_eq!(next(&mut turns, now + AGAIN / 2), []);
        assert_eq!(turns.pause(now + AGAIN / 4), AGAIN - AGAIN / 4);
        assert_eq!(next(&mut turns, now + AGAIN), [one]);
        // Nothing of a session is kept that has nothing to submit any more.
        turns.ended(now, one, false);
        assert_eq!(turns.next(now, std::iter::empty()), []);
        assert_eq!(turns.pause(now), AGAIN);
    }
}

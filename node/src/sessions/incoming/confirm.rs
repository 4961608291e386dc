//! Algorithm 1 at the destination: how many members hold the announcement.

use super::*;

/// While the announcement is not sealed yet.
const LOOK: Duration = Duration::from_millis(50);

/// Counts beside the transfer until 90 % hold the announcement, or `confirm_wait` is over: both are results. Nothing
/// waits for it.
pub(super) async fn count(parts: Arc<Parts>, visit: Visit, announced: Hash) {
    let (begin, limit) = (Instant::now(), parts.config.migration.confirm_wait);
    let id = hex::encode(visit.attempt);
    let mut known = None;
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        if left.is_zero() || parts.stop.is_cancelled() {
            break;
        }
        let beyond = known.unwrap_or_default();
        let Some(status) = parts.chain.wait_transaction(announced, beyond, left).await else {
            tokio::time::sleep(LOOK.min(left)).await;
            continue;
        };
        let found = status.confirmations;
        if known != Some(found.acked) {
            known = Some(found.acked);
            parts.reports.sealed(&announced, status.height);
            parts.reports.update(&id, |report| {
                report.ledger.confirmations = found.acked;
                report.ledger.members = found.members;
                report.ledger.confirmed_ms = millis(begin);
            });
        }
        if found.confirmed() {
            break;
        }
    }
    // The source has the figures as they stood when the attempt ended.
    if let Some(report) = parts.reports.get(&id)
        && report.outcome != MigrationOutcome::Running
    {
        books::send(&parts, &visit, &report).await;
    }
}

impl Incoming {
    /// The network requires 90 %, and they did not come in time.
    pub(super) fn unconfirmed(&self) -> Ended {
        let found = self.parts.reports.get(&self.report.id);
        let ledger = found.map(|report| report.ledger).unwrap_or_default();
        Ended::Unconfirmed {
            acked: ledger.confirmations,
            members: ledger.members,
        }
    }
}

//! The proposer's status: signed, and gossiped when something has changed, and now and then for who missed that.

use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{GossipVerdict, Status, StatusBody};
use blosm_net::{PeerId, Topic};

use super::client::ImportAnswer;
use super::handle::Shared;

/// From a change to the status that tells it: most acknowledgements of a block come within this time, and the block
/// itself is there before.
const GATHER: Duration = Duration::from_millis(250);
/// From a status to the earliest next change that is told: with the above, one status a second at most.
const REST: Duration = Duration::from_millis(750);
/// Without a change it is said again this often: gossip may lose a message, and members come.
const REPEAT: Duration = Duration::from_secs(10);

/// Publishes the status of this authority until the ledger ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let (mut view, mut counted) = (shared.view.clone(), shared.ledger.counted());
    let mut said: Option<StatusBody> = None;
    let mut repeat = false;
    loop {
        tokio::time::sleep(GATHER).await;
        if let Some(status) = shared.ledger.status().await
            && status.body.height > 0
            && (repeat || said.as_ref().is_none_or(|said| says_more(said, &status.body)))
        {
            if let Err(error) = shared.net.publish(Topic::Status, status.encode()) {
                tracing::debug!(%error, "status not published");
            }
            said = Some(status.body);
        }
        tokio::time::sleep(REST).await;
        // Either is a reason to look; what came meanwhile counts.
        let change = async {
            tokio::select! {
                changed = view.changed() => changed.is_ok(),
                changed = counted.changed() => changed.is_ok(),
            }
        };
        repeat = match tokio::time::timeout(REPEAT, change).await {
            Ok(true) => false,
            Ok(false) => return,
            Err(_) => true,
        };
    }
}

/// Whether anything but the clock differs.
fn says_more(said: &StatusBody, now: &StatusBody) -> bool {
    let at = |time_ms| StatusBody {
        time_ms,
        ..now.clone()
    };
    *said != at(said.time_ms)
}

/// A gossiped status, judged: the verdict on the message, and whether blocks are missing here.
pub(super) async fn judge(shared: &Shared, source: &PeerId, data: &[u8]) -> Option<ImportAnswer> {
    match Status::verify(data, &shared.genesis) {
        Ok(status) => shared.ledger.heard(status).await,
        Err(error) => {
            tracing::debug!(peer = %source, %error, "status refused");
            Some(ImportAnswer {
                verdict: GossipVerdict::Reject,
                ahead: None,
                held: false,
                sealed: None,
            })
        }
    }
}

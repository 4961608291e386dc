//! Acknowledgements: every node tells the proposer what it holds, cumulatively.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::handle::Shared;
use super::sync::HEAD_WAIT;
use super::thread::Call;
use super::wire::{LedgerRequest, LedgerResponse};

/// How often a node acknowledges although nothing changed: what was lost is made good within this time.
const REPEAT: Duration = Duration::from_secs(10);

/// Acknowledges at once when idle. While an acknowledgement is on its way, the next ones become one.
pub(super) async fn run(shared: Arc<Shared>, now: Arc<Notify>) {
    let mut view = shared.view.clone();
    let mut round = 0usize;
    loop {
        let head = view.borrow_and_update().clone();
        let proposer = shared.proposer_peer();
        if shared.net.is_connected(&proposer) {
            let ack = LedgerRequest::Ack {
                height: head.height,
                hash: head.hash,
            };
            if let Some(LedgerResponse::Head(theirs)) = shared.ask(proposer, &ack, HEAD_WAIT).await {
                shared
                    .ledger
                    .tell(Call::Learn {
                        confirmed_height: theirs.confirmed_height,
                    })
                    .await;
                if theirs.height > head.height {
                    shared.syncer.reach(&shared, proposer, theirs.height).await;
                }
            }
        } else if let Some(peer) = pick(&shared, round) {
            // Without the proposer a block that gossip lost would be missing until it is back.
            if let Some(LedgerResponse::Head(theirs)) =
                shared.ask(peer, &LedgerRequest::Head, HEAD_WAIT).await
                && theirs.height > head.height
            {
                shared.syncer.reach(&shared, peer, theirs.height).await;
            }
        }
        round = round.wrapping_add(1);
        let moved = async {
            // A change of the confirmed height alone is nothing to acknowledge.
            view.wait_for(|view| view.height != head.height).await.is_ok()
        };
        tokio::select! {
            going_on = moved => if !going_on { return },
            () = now.notified() => {}
            () = tokio::time::sleep(REPEAT) => {}
        }
    }
}

fn pick(shared: &Shared, round: usize) -> Option<blosm_net::PeerId> {
    let connected = shared.net.connected();
    (!connected.is_empty()).then(|| connected[round % connected.len()])
}

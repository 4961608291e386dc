//! The way out of a block that was sealed here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Ack, PublicKey, SealedBlock, State};
use blosm_net::{NetHandle, PeerId, Topic, peer_of_key};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::thread::Outlet;
use super::wire::{LedgerRequest, LedgerResponse};

/// Pushes of sealed blocks under way. One more is left to gossip.
pub(super) const MAX_PUSHES: usize = 256;
/// How long a party of a block may take to import it.
pub(super) const PUSH_WAIT: Duration = Duration::from_secs(10);

/// What happens to a block sealed here: on disk already, it goes to the topic and straight to those whom it concerns.
pub(super) fn outlet(me: PublicKey, net: NetHandle, acks: mpsc::Sender<(PeerId, Ack)>) -> Outlet {
    let runtime = Handle::current();
    let pushes = Arc::new(Semaphore::new(MAX_PUSHES));
    Box::new(move |block: &SealedBlock, state: &State| {
        let bytes = block.encode();
        if let Err(error) = net.publish(Topic::Block, bytes.clone()) {
            tracing::debug!(height = block.height(), %error, "block not published");
        }
        let request = Arc::new(LedgerRequest::Block(bytes));
        for peer in parties(block, state)
            .into_iter()
            .filter(|key| *key != me)
            .map(|key| peer_of_key(&key.0))
        {
            if !net.is_connected(&peer) {
                continue;
            }
            let Ok(permit) = pushes.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "too many pushes under way; left to gossip");
                continue;
            };
            let (net, request, acks) = (net.clone(), request.clone(), acks.clone());
            runtime.spawn(async move {
                let answer = request.ask(&net, peer);
                if let Ok(Ok(Some(LedgerResponse::Holds(ack)))) =
                    tokio::time::timeout(PUSH_WAIT, answer).await
                {
                    // Full means that acknowledgements come faster than they are counted; the next one says it all.
                    let _ = acks.try_send((peer, ack));
                }
                drop(permit);
            });
        }
    })
}

/// The nodes that a block concerns: those that its transactions name, and the owners and openers of their sessions.
fn parties(block: &SealedBlock, state: &State) -> BTreeSet<PublicKey> {
    let mut parties = BTreeSet::new();
    for transaction in &block.block.transactions {
        parties.extend(transaction.parties());
        if let Some(session) = transaction.payload.session().and_then(|id| state.session(&id)) {
            parties.extend([session.owner, session.opener]);
        }
    }
    parties
}

//! Acknowledgements: every node tells the proposer what it holds, cumulatively and signed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blosm_ledger::{Ack, AckBody, Hash, NEWEST_VERSION, Penalty, PublicKey, SecretKey};
use blosm_net::{PeerId, key_of_peer};
use tokio::sync::Notify;

use super::client::Call;
use super::handle::Shared;
use super::meter::ACK_FLOOD;
use super::sync::HEAD_WAIT;
use super::view::ChainView;
use super::wire::{LedgerRequest, LedgerResponse};
use crate::admission::SOFTWARE;

/// How often a node acknowledges although nothing changed: what was lost is made good within this time.
const REPEAT: Duration = Duration::from_secs(10);
/// The shortest time between two acknowledgements. The first after a pause goes at once; under load what came meanwhile
/// becomes one, and 200 members cost the authority 4,000 signatures per second at most.
const GAP: Duration = Duration::from_millis(50);

/// Signs this node's acknowledgements, in the order in which its chain grows.
#[derive(Debug)]
pub(super) struct Signer {
    key: Arc<SecretKey>,
    chain_id: Hash,
    run: u64,
    number: Mutex<u64>,
}

impl Signer {
    /// `run` tells this process from those before it.
    pub(super) fn new(key: Arc<SecretKey>, chain_id: Hash, run: u64) -> Signer {
        Signer {
            key,
            chain_id,
            run,
            number: Mutex::new(0),
        }
    }

    /// Acknowledges what the chain is at the moment. It is looked at under the lock, so that a higher number never names
    /// a lower block.
    pub(super) fn sign(&self, look: impl FnOnce() -> Arc<ChainView>) -> Ack {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        let view = look();
        let body = AckBody {
            chain_id: self.chain_id,
            member: self.key.public(),
            height: view.height,
            hash: view.hash,
            software: SOFTWARE.to_owned(),
            protocol: NEWEST_VERSION,
            run: self.run,
            number: *number,
        };
        Ack::sign(&self.key, body)
    }
}

/// Acknowledges at once when idle. While an acknowledgement is on its way, the next ones become one.
pub(super) async fn run(shared: Arc<Shared>, now: Arc<Notify>) {
    let mut view = shared.view.clone();
    let mut round = 0usize;
    loop {
        let said = view.borrow_and_update().height;
        let proposer = shared.proposer_peer();
        if shared.net.is_connected(&proposer) {
            tell(&shared, proposer).await;
        } else if let Some(peer) = pick(&shared, round) {
            // Without the proposer a block that gossip lost would be missing until it is back.
            if let Some(LedgerResponse::Head(theirs)) =
                shared.ask(peer, &LedgerRequest::Head, HEAD_WAIT).await
                && theirs.height > shared.snapshot().height
            {
                shared.syncer.reach(&shared, peer, theirs.height).await;
            }
        }
        round = round.wrapping_add(1);
        tokio::time::sleep(GAP).await;
        let moved = async {
            // A change of the confirmed height alone is nothing to acknowledge.
            view.wait_for(|view| view.height != said).await.is_ok()
        };
        tokio::select! {
            going_on = moved => if !going_on { return },
            () = now.notified() => {}
            () = tokio::time::sleep(REPEAT) => {}
        }
    }
}

/// Tells the proposer. Its answer says where it stands, and what time it is there.
async fn tell(shared: &Shared, proposer: PeerId) {
    let ack = LedgerRequest::Ack(shared.own_ack());
    let asked = Instant::now();
    let Some(LedgerResponse::Acked {
        head: theirs,
        time_ms,
    }) = shared.ask(proposer, &ack, HEAD_WAIT).await
    else {
        return;
    };
    shared
        .skew
        .measure(shared.clock.now_ms(), time_ms, asked.elapsed());
    let confirmed_height = theirs.confirmed_height;
    if confirmed_height > shared.snapshot().confirmed_height {
        shared.ledger.tell(Call::Learn { confirmed_height }).await;
    }
    if theirs.height > shared.snapshot().height {
        shared.syncer.reach(shared, proposer, theirs.height).await;
    }
}

/// The authority takes an acknowledgement that `peer` has sent. A false one changes nothing and silences its sender for
/// a while. Gives whether it was looked at and found to be honest.
pub(super) async fn take(shared: &Shared, peer: &PeerId, ack: Ack) -> bool {
    let Some(from) = key_of_peer(peer).map(PublicKey) else {
        return false;
    };
    let penalty = match ack.verify(shared.genesis_id, from) {
        Ok(ack) => shared.ledger.ack(ack).await,
        Err(error) => {
            shared.meter.rejected(error.reason());
            tracing::debug!(%from, %error, "acknowledgement refused");
            error.penalty()
        }
    };
    shared.toll().fine(Instant::now(), from, penalty);
    penalty == Penalty::None
}

/// Whether an acknowledgement of `peer`, a member, is looked at at all.
pub(super) fn may_send(shared: &Shared, peer: &PeerId) -> bool {
    let pays = key_of_peer(peer).is_some_and(|key| shared.toll().pay(Instant::now(), PublicKey(key)));
    if !pays {
        shared.meter.rejected(ACK_FLOOD);
    }
    pays
}

fn pick(shared: &Shared, round: usize) -> Option<PeerId> {
    let connected = shared.net.connected();
    (!connected.is_empty()).then(|| connected[round % connected.len()])
}

//! The calls that the ledger thread serves, and the client that makes them.

use blosm_ledger::{
    Ack, Confirmations, GossipVerdict, Hash, Penalty, SealedBlock, SealedTransaction, Status, StoreFigures,
    VerifiedAck, VerifiedStatus,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::BlockId;

/// Calls that wait for the ledger. When full, callers wait: peers' requests are bounded before they get here.
pub(super) const CALLS: usize = 256;

/// What became of a submitted transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubmitAnswer {
    /// It is in the block of this height.
    Sealed { height: u64 },
    /// The state or its own content forbids it. The sender of what is wrong whatever the state is should have known.
    Refused {
        reason: String,
        is_final: bool,
        is_fault: bool,
    },
    /// This node does not seal, or not yet.
    NotSealing,
}

/// What became of a block from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImportAnswer {
    /// What gossip should do with it.
    pub(super) verdict: GossipVerdict,
    /// Whether it is sealed and too far ahead: the blocks between have to be fetched.
    pub(super) ahead: Option<u64>,
    /// Whether this node now holds it.
    pub(super) held: bool,
    /// Its height, if the authority has sealed it, whatever else is wrong with it.
    pub(super) sealed: Option<u64>,
}

/// A call to the ledger thread.
#[derive(Debug)]
pub(super) enum Call {
    Submit {
        bytes: Vec<u8>,
        reply: oneshot::Sender<SubmitAnswer>,
    },
    Gossip {
        bytes: Vec<u8>,
        reply: oneshot::Sender<GossipVerdict>,
    },
    Import {
        bytes: Vec<u8>,
        reply: oneshot::Sender<ImportAnswer>,
    },
    Range {
        from: u64,
        max: u16,
        reply: oneshot::Sender<Vec<Vec<u8>>>,
    },
    Block {
        id: BlockId,
        reply: oneshot::Sender<Option<SealedBlock>>,
    },
    Transaction {
        hash: Hash,
        reply: oneshot::Sender<Option<SealedTransaction>>,
    },
    /// Count a member's acknowledgement; answered with what it costs the member.
    Ack {
        ack: Box<VerifiedAck>,
        reply: oneshot::Sender<Penalty>,
    },
    /// The acknowledgements that are counted.
    Acks { reply: oneshot::Sender<Vec<Ack>> },
    Confirmations {
        height: u64,
        reply: oneshot::Sender<Option<Confirmations>>,
    },
    /// This node's own status; none where it does not seal.
    Status { reply: oneshot::Sender<Option<Status>> },
    /// A status of the proposer has come.
    Heard {
        status: Box<VerifiedStatus>,
        reply: oneshot::Sender<ImportAnswer>,
    },
    /// The proposer says that this height is confirmed.
    Learn { confirmed_height: u64 },
    /// What the store holds and does.
    Store {
        reply: oneshot::Sender<Option<StoreFigures>>,
    },
    /// From now on this node seals.
    Open,
    /// Seal a block even if nothing waits.
    SealEmpty,
    /// Close the database and end.
    Stop,
}

/// Calls the ledger thread. A call that brings no answer has met a ledger that has stopped.
#[derive(Debug, Clone)]
pub(super) struct LedgerClient {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) stopped: watch::Receiver<()>,
    pub(super) counted: watch::Receiver<u64>,
}

impl LedgerClient {
    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(reply)).await.ok()?;
        answer.await.ok()
    }

    pub(super) async fn submit(&self, bytes: Vec<u8>) -> Option<SubmitAnswer> {
        self.call(|reply| Call::Submit { bytes, reply }).await
    }

    /// Judges a gossiped transaction, and takes it where this node seals. Returns once the call is queued, so that calls
    /// made one after the other are served in that order; the answer comes later.
    pub(super) async fn begin_gossip(&self, bytes: Vec<u8>) -> oneshot::Receiver<GossipVerdict> {
        let (reply, answer) = oneshot::channel();
        // A stopped ledger drops the reply, which the receiver sees.
        let _ = self.calls.send(Call::Gossip { bytes, reply }).await;
        answer
    }

    /// Imports a block, in the order of calls; see [`LedgerClient::begin_gossip`].
    pub(super) async fn begin_import(&self, bytes: Vec<u8>) -> oneshot::Receiver<ImportAnswer> {
        let (reply, answer) = oneshot::channel();
        let _ = self.calls.send(Call::Import { bytes, reply }).await;
        answer
    }

    pub(super) async fn import(&self, bytes: Vec<u8>) -> Option<ImportAnswer> {
        self.begin_import(bytes).await.await.ok()
    }

    pub(super) async fn range(&self, from: u64, max: u16) -> Option<Vec<Vec<u8>>> {
        self.call(|reply| Call::Range { from, max, reply }).await
    }

    pub(super) async fn block(&self, id: BlockId) -> Option<SealedBlock> {
        self.call(|reply| Call::Block { id, reply }).await.flatten()
    }

    pub(super) async fn transaction(&self, hash: Hash) -> Option<SealedTransaction> {
        self.call(|reply| Call::Transaction { hash, reply })
            .await
            .flatten()
    }

    pub(super) async fn confirmations(&self, height: u64) -> Option<Confirmations> {
        self.call(|reply| Call::Confirmations { height, reply })
            .await
            .flatten()
    }

    /// Follows the acknowledgements: the number changes with each that counts.
    pub(super) fn counted(&self) -> watch::Receiver<u64> {
        self.counted.clone()
    }

    /// Counts an acknowledgement; gives what it costs its sender.
    pub(super) async fn ack(&self, ack: VerifiedAck) -> Penalty {
        let ack = Box::new(ack);
        let penalty = self.call(|reply| Call::Ack { ack, reply }).await;
        penalty.unwrap_or(Penalty::None)
    }

    pub(super) async fn acks(&self) -> Vec<Ack> {
        self.call(|reply| Call::Acks { reply }).await.unwrap_or_default()
    }

    pub(super) async fn status(&self) -> Option<Status> {
        self.call(|reply| Call::Status { reply }).await.flatten()
    }

    pub(super) async fn heard(&self, status: VerifiedStatus) -> Option<ImportAnswer> {
        let status = Box::new(status);
        self.call(|reply| Call::Heard { status, reply }).await
    }

    pub(super) async fn store(&self) -> Option<StoreFigures> {
        self.call(|reply| Call::Store { reply }).await.flatten()
    }

    /// Makes a call that has no answer.
    pub(super) async fn tell(&self, call: Call) {
        // A stopped ledger has no use for it.
        let _ = self.calls.send(call).await;
    }

    pub(super) async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // The thread never sends; the error that ends the wait is its end.
        while stopped.changed().await.is_ok() {}
    }
}

//! What the swarm task tells the node, and how the node answers.

use std::fmt;

use libp2p::PeerId;
use libp2p::gossipsub::{MessageAcceptance, MessageId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::protocol::{Protocol, Topic};

/// Something that a peer did.
#[derive(Debug)]
pub enum NetEvent {
    /// A gossip message; it goes on to others only after [`crate::NetHandle::verdict`] has accepted it.
    Gossip {
        /// The topic.
        topic: Topic,
        /// The peer that forwarded it, which need not be its author.
        source: PeerId,
        /// The message.
        data: Vec<u8>,
        /// What the verdict names.
        id: GossipId,
    },
    /// A request that waits for an answer.
    Request {
        /// The protocol.
        protocol: Protocol,
        /// The peer that asks; its identity is proven.
        peer: PeerId,
        /// The request.
        data: Vec<u8>,
        /// Takes the answer.
        reply: Reply,
    },
    /// The first connection to a peer is up.
    Connected {
        /// The peer.
        peer: PeerId,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The major of the protocol that the two ends settled on: in it the request went, and the answer came.
    pub major: u16,
    /// The message.
    pub data: Vec<u8>,
}

/// Names one received gossip message. While it lives, the message's bytes count as waiting.
pub struct GossipId {
    pub(crate) topic: Topic,
    pub(crate) major: u16,
    pub(crate) message: MessageId,
    pub(crate) source: PeerId,
    pub(crate) _waiting: OwnedSemaphorePermit,
    pub(crate) _share: OwnedSemaphorePermit,
}

impl GossipId {
    /// The major of the topic on which it came.
    pub fn major(&self) -> u16 {
        self.major
    }
}

impl fmt::Debug for GossipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GossipId({})", self.message)
    }
}

/// The reader's judgement of a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Valid and new: forward it.
    Accept,
    /// Useless here, but nobody's fault: do not forward it.
    Ignore,
    /// Invalid, and the sender could have known: do not forward it, and hold it against the sender.
    Reject,
}

impl From<Verdict> for MessageAcceptance {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        }
    }
}

/// Takes the answer to one request. Dropping it ends the stream without an answer.
#[must_use = "a dropped reply refuses the request"]
pub struct Reply {
    pub(crate) major: u16,
    pub(crate) answer: oneshot::Sender<Vec<u8>>,
    pub(crate) limit: usize,
    pub(crate) _waiting: OwnedSemaphorePermit,
}

impl Reply {
    /// Sends the answer. An answer over the protocol's limit is dropped, which the peer sees as no answer; a peer that has
    /// gone meanwhile is not an error.
    pub fn send(self, response: Vec<u8>) {
        if response.len() > self.limit {
            tracing::warn!(
                size = response.len(),
                limit = self.limit,
                "answer over its protocol's limit dropped"
            );
            return;
        }
        let _ = self.answer.send(response);
    }

    /// The major of the protocol in which the request came; the answer is to be of the same.
    pub fn major(&self) -> u16 {
        self.major
    }

    /// The longest answer in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the peer has stopped waiting: its connection is gone, or its time is over.
    pub fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

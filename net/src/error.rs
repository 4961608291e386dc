//! What can go wrong, by who asked for it.

use std::io;

use libp2p::Multiaddr;

/// The swarm could not be started. An operator reads this, so each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The network prefix is not eight lower-case hex digits.
    #[error("the network prefix `{0}` is not eight hex digits")]
    Prefix(String),
    /// A bootstrap address does not name its peer.
    #[error(
        "bootstrap address `{0}` does not say whom it leads to: end it with /p2p/<PeerId> in network.toml"
    )]
    BootstrapWithoutPeer(Multiaddr),
    /// A listen address cannot be had: the port is taken, or the address is not of this machine.
    #[error(
        "cannot listen on {address}: {source}; change [net] listen in blosm.toml, or stop what uses the port"
    )]
    Listen {
        /// The address as configured.
        address: Multiaddr,
        /// Why the system refused it.
        source: io::Error,
    },
    /// The transport could not be built from the key.
    #[error("the noise keys could not be derived from the node key")]
    Noise(#[source] libp2p::noise::Error),
    /// The gossip settings contradict each other.
    #[error("the gossip settings are not valid: {0}")]
    Gossip(String),
}

/// A message was not handed to the gossip topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The message is longer than its topic allows.
    #[error("a message of {size} bytes is over the topic's limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        size: usize,
        /// The topic's limit in bytes.
        limit: usize,
    },
    /// The swarm task has too much to do; the message was dropped and counted.
    #[error("the network is busy; the message was not published")]
    Busy,
    /// The swarm was shut down.
    #[error("the network is shut down")]
    Stopped,
}

/// A request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no connection to the peer and no address to dial.
    #[error("not connected, and no address of the peer is known")]
    NotConnected,
    /// The peer's addresses were dialled without success.
    #[error("the peer could not be reached")]
    Dial,
    /// The request is longer than its protocol allows.
    #[error("a request of {size} bytes is over the protocol's limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        size: usize,
        /// The protocol's limit in bytes.
        limit: usize,
    },
    /// As many requests as allowed are already on their way to this peer.
    #[error("too many requests to this peer are unanswered")]
    Busy,
    /// The peer does not speak this protocol of this network.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// No answer within the protocol's time limit.
    #[error("no answer within the time limit")]
    Timeout,
    /// The connection ended before the answer was there.
    #[error("the connection was lost before the answer")]
    ConnectionLost,
    /// The stream broke, the peer gave no answer, or its answer was over the limit.
    #[error("the peer gave no usable answer")]
    Stream(#[source] io::Error),
    /// The swarm was shut down.
    #[error("the network is shut down")]
    Stopped,
}

impl RequestError {
    /// What it is called in metrics. One that is too large is refused before it comes to where requests are counted.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Dial => "dial",
            Self::TooLarge { .. } => "too_large",
            Self::Busy => "busy",
            Self::Unsupported => "unsupported",
            Self::Timeout => "timeout",
            Self::ConnectionLost => "connection_lost",
            Self::Stream(_) => "stream",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the peer may have received and acted upon the request. `false` is a promise: no byte of it left here.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::NotConnected | Self::Dial | Self::TooLarge { .. } | Self::Busy | Self::Unsupported => false,
            Self::Timeout | Self::ConnectionLost | Self::Stream(_) | Self::Stopped => true,
        }
    }
}

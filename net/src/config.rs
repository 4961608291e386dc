//! What a swarm is started with.

use std::fmt;

use libp2p::Multiaddr;

/// The settings of one swarm.
#[derive(Clone)]
pub struct NetConfig {
    /// The ed25519 seed of this node; its public key gives the [`crate::PeerId`].
    pub seed: [u8; 32],
    /// The first eight hex digits of the network's id. They are part of every protocol name, so that nodes of two networks
    /// have no protocol in common.
    pub net8: String,
    /// Addresses to listen on, for example `/ip4/0.0.0.0/tcp/4401`. Port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// Peers to stay connected to from the start; each address must end in `/p2p/<PeerId>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Name and version of this program as peers see it.
    pub agent: String,
}

impl fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed stays out of every log.
        f.debug_struct("NetConfig")
            .field("net8", &self.net8)
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

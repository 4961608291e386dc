//! What a swarm is started with.

use std::fmt;

use libp2p::{Multiaddr, PeerId};

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
    /// Members to stay connected to from the start; each address must end in `/p2p/<PeerId>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Members from the start that need no address, and for which there is always room: who may seal.
    pub authorities: Vec<PeerId>,
    /// Addresses that others are told to dial. Only asked about: whether a member reaches them, see
    /// [`crate::Reachability`].
    pub advertise: Vec<Multiaddr>,
    /// Connections of peers that are no members, for the join protocol alone. 0 refuses all of them.
    pub strangers: usize,
    /// Handshakes under way and connections of strangers from one IP address (of IPv6, one /64). Members do not count.
    pub per_address: usize,
    /// Finds members on the local network, and is found there. It is off without a network interface that can do it, and
    /// where no address but loopback is listened on.
    pub mdns: bool,
    /// Asks other members for one that is out of reach, and answers them. Off, addresses come from the ledger, the peers
    /// themselves and mDNS alone.
    pub kad: bool,
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
            .field("authorities", &self.authorities)
            .field("advertise", &self.advertise)
            .field("strangers", &self.strangers)
            .field("per_address", &self.per_address)
            .field("mdns", &self.mdns)
            .field("kad", &self.kad)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

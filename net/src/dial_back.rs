//! Tries whether a peer can be dialled, under a fresh key and beside the node's own swarm, so that the attempt is no
//! connection of this node.

use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, tcp, yamux};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Whether the peer itself answers at this address.
pub(crate) async fn answers(peer: PeerId, address: Multiaddr) -> bool {
    let attempt = async {
        let built = SwarmBuilder::with_new_identity().with_tokio().with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        );
        let Ok(builder) = built else { return false };
        let mut swarm = builder
            .with_behaviour(|_| dummy::Behaviour)
            .expect("a behaviour that is already built cannot fail")
            .build();
        let options = DialOpts::peer_id(peer).addresses(vec![address]).build();
        if swarm.dial(options).is_err() {
            return false;
        }
        loop {
            match swarm.select_next_some().await {
                // The handshake proves the peer's name; what it does with us afterwards does not matter.
                SwarmEvent::ConnectionEstablished { .. } => return true,
                SwarmEvent::OutgoingConnectionError { .. } => return false,
                _ => {}
            }
        }
    };
    tokio::time::timeout(ATTEMPT, attempt).await.unwrap_or(false)
}

/// The same for several addresses at once, in their order.
pub(crate) async fn try_all(peer: PeerId, addresses: &[Multiaddr]) -> Vec<bool> {
    let attempts = addresses.iter().map(|address| answers(peer, address.clone()));
    futures::future::join_all(attempts).await
}

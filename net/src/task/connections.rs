//! Connections: dialled, established, refused and closed.

use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionDenied, ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{connection_limits, ping};

use super::*;
use crate::behaviour::{BehaviourEvent, MembersEvent};
use crate::doors::Refusal;
use crate::handle::Direction;
use crate::learnt::Found;
use crate::links::{Established, Lost};

impl Task {
    /// Dials whose time has come, and says when the next one's comes. Every turn of the loop asks, and most dial nobody.
    pub(super) fn dial_due(&mut self) -> Option<Instant> {
        let (next, now) = (self.book.next_due()?, Instant::now());
        if next > now {
            return Some(next);
        }
        for (peer, addresses) in self.book.due(now) {
            self.dial(peer, addresses);
        }
        self.book.next_due()
    }

    pub(super) fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        // A port of its own: two ends that dial each other from their listening ports would make one connection with two
        // dialling ends, which no handshake survives. Whether the peer is connected the book knows best: a connection that
        // it had as a stranger is none.
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::NotDialing)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "not dialled");
            self.book.on_dial_failed(peer, Instant::now());
        }
    }

    pub(super) fn drop_lost(&mut self) {
        for (peer, lost) in self.links.round() {
            match lost {
                Lost::Silent => {
                    count(&self.counters.peers_silent);
                    tracing::info!(%peer, "peer has fallen silent; disconnected");
                }
                Lost::Deaf => {
                    tracing::debug!(%peer, "peer never told its topics; reconnecting");
                }
            }
            self.disconnect(peer);
        }
        let now = Instant::now();
        for id in self.links.surplus(|peer| self.book.is_quiet(peer, now)) {
            self.swarm.close_connection(id);
        }
    }

    pub(super) fn drop_unused(&mut self, now: Instant) {
        for peer in self.book.unused(now) {
            tracing::debug!(%peer, "nothing is asked of this peer any more; disconnected");
            self.disconnect(peer);
        }
    }

    pub(super) fn drop_overdue(&mut self, now: Instant) {
        for id in self.swarm.behaviour_mut().doors().overdue(now) {
            self.counters.refused(Refusal::Overdue);
            self.swarm.close_connection(id);
        }
    }

    pub(super) fn disconnect(&mut self, peer: PeerId) {
        // An error means that there is no connection.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    // === what the swarm reports ===

    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        self.meter.swarm(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_established(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                tracing::debug!(%peer, %error, "dial failed");
                if !matches!(error, DialError::DialPeerConditionFalse(_)) {
                    self.book.on_dial_failed(peer, Instant::now());
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "incoming connection failed");
                if let ListenError::Denied { cause } = error
                    && let Some(reason) = reason(&cause)
                {
                    self.counters.refused(reason);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listener reports an error");
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(?reason, "listener closed");
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        if self.swarm.behaviour_mut().doors().is_stranger(id) {
            tracing::debug!(%peer, "a stranger is connected");
            count(&self.counters.strangers);
            return;
        }
        let address = endpoint.get_remote_address().clone();
        let (direction, found) = match endpoint {
            ConnectedPoint::Dialer { .. } => (Direction::Outbound, self.book.found(&peer, &address)),
            ConnectedPoint::Listener { .. } => (Direction::Inbound, Found::Inbound),
        };
        if direction == Direction::Inbound && self.reach.on_inbound() {
            self.publish_reachability();
        }
        let now = Instant::now();
        tracing::debug!(%peer, ?direction, %address, found = found.name(), "connection established");
        match self
            .links
            .on_established(peer, id, direction, address, found, now)
        {
            Established::First => {
                self.book
                    .on_connected(peer, direction == Direction::Outbound, now);
                self.publish_peers();
                self.notice(NetEvent::Connected { peer });
            }
            Established::Second => {}
            Established::Reset => self.disconnect(peer),
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if self.links.on_closed(&peer, id) {
            self.book.on_disconnected(peer, Instant::now());
            self.publish_peers();
            self.notice(NetEvent::Disconnected { peer });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gated(MembersEvent::Gossip(event)) => self.on_gossip(event),
            BehaviourEvent::Gated(MembersEvent::Ledger(event)) => self.on_exchange(Protocol::Ledger, event),
            BehaviourEvent::Gated(MembersEvent::Session(event)) => self.on_exchange(Protocol::Session, event),
            BehaviourEvent::Gated(MembersEvent::Relay(event)) => self.on_exchange(Protocol::Relay, event),
            BehaviourEvent::Gated(MembersEvent::Transfer(event)) => {
                self.on_exchange(Protocol::Transfer, event);
            }
            BehaviourEvent::Join(event) => self.on_exchange(Protocol::Join, event),
            BehaviourEvent::Gated(MembersEvent::Identify(event)) => self.on_identify(event),
            BehaviourEvent::Gated(MembersEvent::Kad(event)) => self.on_kad(event),
            BehaviourEvent::Gated(MembersEvent::Reach(event)) => self.on_reach(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Ping(event) => {
                self.meter.ping(&event);
                let ping::Event { peer, result, .. } = event;
                if let Ok(rtt) = result {
                    self.links.on_rtt(&peer, rtt);
                    self.peers.send_if_modified(|peers| {
                        if let Some(info) = peers.get_mut(&peer) {
                            info.rtt = Some(rtt);
                        }
                        false
                    });
                }
            }
        }
    }
}

/// Why a connection was denied; none when no rule of ours did it.
fn reason(cause: &ConnectionDenied) -> Option<Refusal> {
    let own = cause.downcast_ref::<Refusal>().copied();
    let full = || {
        cause
            .downcast_ref::<connection_limits::Exceeded>()
            .map(|_| Refusal::Full)
    };
    own.or_else(full)
}

//! Lets the protocols of members run on members' connections only. A stranger's connection has nothing of them: they are
//! neither offered nor answered there, and they never hear of it.

use std::collections::{HashMap, HashSet};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::doors::{Doors, Guest};
use crate::learnt::{MAX_LEARNT, is_usable};

/// Runs `B` for members alone, and refuses whom [`Doors`] refuses.
pub(crate) struct Gated<B> {
    pub(crate) inner: B,
    pub(crate) doors: Doors,
    /// The members that searches are for.
    pub(crate) sought: HashSet<PeerId>,
    /// Guests between handshake and the swarm's word that the connection stands.
    entering: HashMap<ConnectionId, Guest>,
    /// Members' connections, which are all that `inner` knows of.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
}

impl<B> Gated<B> {
    pub(crate) fn new(inner: B, doors: Doors) -> Self {
        Self {
            inner,
            doors,
            sought: HashSet::new(),
            entering: HashMap::new(),
            connections: HashMap::new(),
        }
    }
}

impl<B: NetworkBehaviour> Gated<B> {
    fn on_established(&mut self, established: ConnectionEstablished<'_>) {
        let (peer, id) = (established.peer_id, established.connection_id);
        let guest = self.entering.remove(&id).unwrap_or(Guest::Stranger);
        self.doors.on_established(id, peer, guest, Instant::now());
        if guest == Guest::Member {
            let connections = self.connections.entry(peer).or_default();
            let other_established = connections.len();
            connections.push(id);
            self.inner
                .on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    other_established,
                    ..established
                }));
        }
    }

    fn on_closed(&mut self, closed: ConnectionClosed<'_>) {
        let (peer, id) = (closed.peer_id, closed.connection_id);
        if self.doors.on_ended(id) {
            return;
        }
        let mut remaining_established = 0;
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|other| *other != id);
            remaining_established = connections.len();
        }
        if remaining_established == 0 {
            self.connections.remove(&peer);
        }
        self.inner
            .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                remaining_established,
                ..closed
            }));
    }
}

impl<B: NetworkBehaviour> Gated<B> {
    /// A dial of a protocol's own: a search has found a member, or a request is for one, which the task has dialled already.
    /// At the addresses that the protocols know, of which a third party may have told any number; and with a port of its
    /// own, see the task.
    ///
    /// Without an address the dial fails, which is what a search hears of everybody else on its way: it would connect to
    /// twenty members to find one, and so, while a network starts, everybody to everybody.
    fn dial(&mut self, peer: PeerId) -> DialOpts {
        let nobody = ConnectionId::new_unchecked(0);
        let known = if self.sought.contains(&peer) {
            self.inner
                .handle_pending_outbound_connection(nobody, Some(peer), &[], Endpoint::Dialer)
                .unwrap_or_default()
        } else {
            Vec::new()
        };
        let usable = known.into_iter().filter(|address| is_usable(address, true));
        // A connection that the peer had as a stranger is none to these protocols.
        let condition = if self.connections.contains_key(&peer) {
            PeerCondition::DisconnectedAndNotDialing
        } else {
            PeerCondition::NotDialing
        };
        DialOpts::peer_id(peer)
            .condition(condition)
            .addresses(usable.take(MAX_LEARNT).collect())
            .allocate_new_port()
            .build()
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.doors
            .on_handshake(id, remote)
            .map_err(ConnectionDenied::new)?;
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let guest = self
            .doors
            .on_arrival(id, &peer, Instant::now())
            .map_err(ConnectionDenied::new)?;
        self.entering.insert(id, guest);
        match guest {
            Guest::Member => self
                .inner
                .handle_established_inbound_connection(id, peer, local, remote)
                .map(Either::Left),
            Guest::Stranger => Ok(Either::Right(dummy::ConnectionHandler)),
        }
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = &peer {
            self.doors
                .check(peer, Instant::now())
                .map_err(ConnectionDenied::new)?;
        }
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // It may have been evicted while it was dialled.
        self.doors
            .check(&peer, Instant::now())
            .map_err(ConnectionDenied::new)?;
        self.entering.insert(id, Guest::Member);
        self.inner
            .handle_established_outbound_connection(id, peer, address, role, port)
            .map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => self.on_established(established),
            FromSwarm::ConnectionClosed(closed) => self.on_closed(closed),
            FromSwarm::AddressChange(change) if self.doors.is_stranger(change.connection_id) => {}
            FromSwarm::ListenFailure(failure) => {
                self.doors.on_ended(failure.connection_id);
                self.entering.remove(&failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            FromSwarm::DialFailure(failure) => {
                self.entering.remove(&failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            _ => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, id, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let event = match self.inner.poll(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            };
            return Poll::Ready(match event {
                // Any of the peer's connections might be one that it had as a stranger, which cannot take the event.
                ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::Any,
                    event,
                } => {
                    let Some(id) = self.connections.get(&peer_id).and_then(|ids| ids.last()) else {
                        continue;
                    };
                    ToSwarm::NotifyHandler {
                        peer_id,
                        handler: NotifyHandler::One(*id),
                        event: Either::Left(event),
                    }
                }
                ToSwarm::Dial { opts } => ToSwarm::Dial {
                    opts: match opts.get_peer_id() {
                        Some(peer) => self.dial(peer),
                        None => opts,
                    },
                },
                other => other.map_in(Either::Left),
            });
        }
    }
}

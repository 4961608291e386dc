//! Where members are: what they say of themselves, what the local network says, and what other members know.

use libp2p::core::Endpoint;
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{identify, kad, mdns};

use super::*;
use crate::doors::Refusal;
use crate::learnt::{Found, MAX_LEARNT, is_usable};
use crate::protocol::is_of_network;

impl Task {
    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received {
            peer_id: peer, info, ..
        } = event
        else {
            return;
        };
        self.links.on_sign_of_life(&peer);
        if !is_of_network(&info.protocol_version, &self.net8) {
            self.counters.refused(Refusal::Network);
            tracing::debug!(%peer, version = ?info.protocol_version, "peer is of another network");
            self.disconnect(peer);
            return;
        }
        let protocols = info.protocols.iter().map(AsRef::as_ref);
        self.links.on_identified(&peer, &info.agent_version, protocols);
        self.publish_identity(peer);
        self.on_addresses(peer, info.listen_addrs);
        if self
            .reach
            .on_observed(&info.observed_addr, self.swarm.listeners())
        {
            self.publish_reachability();
        }
        self.ask_for_dial_back(Instant::now());
    }

    pub(super) fn publish_identity(&mut self, peer: PeerId) {
        let view = self.links.view();
        self.peers.send_if_modified(|peers| {
            if let (Some(info), Some(new)) = (peers.get_mut(&peer), view.get(&peer)) {
                info.agent.clone_from(&new.agent);
                info.protocols.clone_from(&new.protocols);
                info.majors.clone_from(&new.majors);
            }
            false
        });
    }

    /// A member has said where it listens. Its former addresses are no longer told to others.
    fn on_addresses(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        // Only who is on this machine can mean this machine.
        let here = self.links.ip(&peer).is_some_and(|ip| ip.is_loopback());
        let usable: Vec<_> = addresses
            .into_iter()
            .filter(|address| is_usable(address, here))
            .take(MAX_LEARNT)
            .collect();
        if usable.is_empty() {
            return;
        }
        if let Some(kad) = self.swarm.behaviour_mut().members().kad.as_mut() {
            kad.remove_peer(&peer);
            for address in &usable {
                kad.add_address(&peer, address.clone());
            }
        }
        self.book.learn(peer, usable, Found::Identify, Instant::now());
    }

    // === the local network ===

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, address) in found {
                    self.on_local(peer, vec![address]);
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    let plain = crate::book::split_peer(address.clone()).map_or(address, |(_, plain)| plain);
                    self.book.take_back(&peer, &plain, Found::Mdns);
                }
            }
        }
    }

    fn on_local(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.swarm.behaviour_mut().doors().is_member(&peer) {
            let usable = addresses.into_iter().filter(|address| is_usable(address, false));
            let usable = usable.take(MAX_LEARNT).collect();
            self.book.learn(peer, usable, Found::Mdns, Instant::now());
        }
    }

    /// A peer is a member from now on; the local network may have told of it before, and tells only once.
    pub(super) fn recall(&mut self, peer: PeerId) {
        let Some(mdns) = self.swarm.behaviour_mut().mdns.as_mut() else {
            return;
        };
        let nobody = ConnectionId::new_unchecked(0);
        let heard = mdns.handle_pending_outbound_connection(nobody, Some(peer), &[], Endpoint::Dialer);
        if let Ok(addresses) = heard
            && !addresses.is_empty()
        {
            self.on_local(peer, addresses);
        }
    }

    // === other members ===

    /// Asks the members that are connected for one that is not, and dials nobody else for it. One at a time: after a cut
    /// there are many.
    pub(super) fn search_lost(&mut self, now: Instant) {
        let Some(kad) = self.swarm.behaviour_mut().members().kad.as_mut() else {
            return;
        };
        if let Some(peer) = self.book.search(now) {
            tracing::debug!(%peer, "looking for a member");
            // Its own entry would be tried first, fail, and stand for what others know.
            kad.remove_peer(&peer);
            kad.get_closest_peers(peer);
            self.swarm.behaviour_mut().gated.sought.insert(peer);
        }
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        self.meter.kad(&event);
        let kad::Event::OutboundQueryProgressed {
            result: kad::QueryResult::GetClosestPeers(result),
            step,
            ..
        } = event
        else {
            return;
        };
        let (key, peers) = match result {
            Ok(found) => (found.key, found.peers),
            Err(kad::GetClosestPeersError::Timeout { key, peers }) => (key, peers),
        };
        if step.last
            && let Ok(peer) = PeerId::from_bytes(&key)
        {
            self.swarm.behaviour_mut().gated.sought.remove(&peer);
        }
        for found in peers {
            if self.swarm.behaviour_mut().doors().is_member(&found.peer_id) {
                let usable = found.addrs.into_iter().filter(|address| is_usable(address, true));
                let usable = usable.take(MAX_LEARNT).collect();
                self.book.learn(found.peer_id, usable, Found::Kad, Instant::now());
            }
        }
    }
}

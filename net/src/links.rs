//! The connections that are up: which of two to one peer stays, and which peers have gone silent or deaf. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::doors::ip_of;
use crate::handle::{Direction, PeerInfo, Peers};
use crate::learnt::Found;
use crate::protocol::{Protocol, Topic};

/// Two connections made within this time of each other are a meeting of two dials; it exceeds the time a dial may take.
const MEETING: Duration = Duration::from_secs(8);
/// So long the surplus one of two connections stays at least: what either end has sent on it arrives, the topics above all,
/// which are told once. Counted in rounds.
const GRACE_ROUNDS: u32 = 4;
/// A peer that has shown no sign of life for so many rounds is dead: its machine is off, or the link is cut.
/// Counted in rounds and not in time, so that a pause of this process does not condemn the others.
const SILENT_ROUNDS: u32 = 12;
/// A peer that has not told its topics for so many rounds lost them on the way; only a new connection makes it tell them again.
const DEAF_ROUNDS: u32 = 20;
/// A peer without gossipsub is no running node; it may be one that has been admitted and waits for an answer: that it is,
/// or whether it can be dialled, which takes some seconds.
const GOODBYE_ROUNDS: u32 = 10;
/// What a peer says of itself is kept up to here.
const MAX_PROTOCOLS: usize = 32;
const MAX_WORD: usize = 128;

/// How often [`Links::round`] is called. With the constants above a dead peer is dropped after 6 s.
pub(crate) const ROUND: Duration = Duration::from_millis(500);

/// The connections of all peers.
#[derive(Debug)]
pub(crate) struct Links {
    local: PeerId,
    peers: BTreeMap<PeerId, Peer>,
}

#[derive(Debug)]
struct Peer {
    links: Vec<Link>,
    silent: u32,
    deaf: u32,
    /// What it is subscribed to, with the majors.
    topics: BTreeSet<(Topic, u16)>,
    rtt: Option<Duration>,
    agent: String,
    protocols: Vec<String>,
    majors: BTreeMap<Protocol, u16>,
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    direction: Direction,
    address: Multiaddr,
    found: Found,
    since: Instant,
    since_clock: SystemTime,
    /// Rounds that it has left, if it is the surplus one of two.
    left: Option<u32>,
}

impl Peer {
    /// The connection that stays, or else the newest.
    fn link(&self) -> Option<&Link> {
        let stays = self.links.iter().rfind(|link| link.left.is_none());
        stays.or(self.links.last())
    }
}

/// What is to happen after a connection has come up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Established {
    /// It is the peer's first.
    First,
    /// Both ends dialled at the same time. One of the two is closed by both when nothing goes by it; see [`Links::surplus`].
    Second,
    /// The peer dials although we hold a connection, so it does not know that one: it was restarted or cut off. The protocols
    /// announce themselves on a first connection only, so all of them are closed, and the peers start afresh.
    Reset,
}

/// Why a peer is to be disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No sign of life.
    Silent,
    /// Its subscriptions never came.
    Deaf,
}

impl Links {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            peers: BTreeMap::new(),
        }
    }

    pub(crate) fn on_established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        direction: Direction,
        address: Multiaddr,
        found: Found,
        now: Instant,
    ) -> Established {
        let local = self.local;
        let known = self.peers.entry(peer).or_insert_with(|| Peer {
            links: Vec::new(),
            silent: 0,
            deaf: 0,
            topics: BTreeSet::new(),
            rtt: None,
            agent: String::new(),
            protocols: Vec::new(),
            majors: BTreeMap::new(),
        });
        known.silent = 0;
        let mut left = None;
        let first = known.links.is_empty();
        let verdict = match known.links.iter_mut().rfind(|link| link.left.is_none()) {
            None if first => Established::First,
            Some(old) if now.duration_since(old.since) < MEETING && old.direction != direction => {
                // Both ends see the same two connections and keep the one that the smaller id dialled.
                let keep = if local < peer {
                    Direction::Outbound
                } else {
                    Direction::Inbound
                };
                let surplus = if direction == keep {
                    &mut old.left
                } else {
                    &mut left
                };
                *surplus = Some(GRACE_ROUNDS);
                Established::Second
            }
            _ => Established::Reset,
        };
        known.links.push(Link {
            id,
            direction,
            address,
            found,
            since: now,
            since_clock: SystemTime::now(),
            left,
        });
        verdict
    }

    /// Returns whether it was the peer's last connection.
    pub(crate) fn on_closed(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(known) = self.peers.get_mut(peer) else {
            return false;
        };
        known.links.retain(|link| link.id != id);
        if known.links.is_empty() {
            self.peers.remove(peer);
            return true;
        }
        false
    }

    /// Any byte of a protocol is a sign of life.
    pub(crate) fn on_sign_of_life(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.silent = 0;
        }
    }

    pub(crate) fn on_rtt(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.silent = 0;
            known.rtt = Some(rtt);
        }
    }

    pub(crate) fn on_subscribed(&mut self, peer: &PeerId, topic: Topic, major: u16, subscribed: bool) {
        if let Some(known) = self.peers.get_mut(peer) {
            if subscribed {
                known.topics.insert((topic, major));
            } else {
                known.topics.remove(&(topic, major));
            }
        }
    }

    /// Whether a peer is not subscribed to this major of a topic, or has not told yet.
    pub(crate) fn lack(&self, topic: Topic, major: u16) -> bool {
        let mut peers = self.peers.values();
        peers.any(|known| !known.topics.contains(&(topic, major)))
    }

    /// The two ends have talked in this major of a protocol; returns whether that is new.
    pub(crate) fn on_settled(&mut self, peer: &PeerId, protocol: Protocol, major: u16) -> bool {
        let known = self.peers.get_mut(peer);
        known.is_some_and(|known| known.majors.insert(protocol, major) != Some(major))
    }

    /// What a peer says of itself; shown, and believed in nothing.
    pub(crate) fn on_identified<'a>(
        &mut self,
        peer: &PeerId,
        agent: &str,
        protocols: impl Iterator<Item = &'a str>,
    ) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.agent = plain(agent);
            known.protocols = protocols.take(MAX_PROTOCOLS).map(plain).collect();
            known.protocols.sort();
        }
    }

    /// A peer does not speak gossipsub: it goes as one that is deaf, only sooner.
    pub(crate) fn on_mute(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.deaf = known.deaf.max(DEAF_ROUNDS - GOODBYE_ROUNDS);
        }
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// The address that a peer's connection comes from or leads to.
    pub(crate) fn ip(&self, peer: &PeerId) -> Option<IpAddr> {
        ip_of(&self.peers.get(peer)?.link()?.address)
    }

    /// One round of waiting has passed; returns the peers that are to be disconnected.
    pub(crate) fn round(&mut self) -> Vec<(PeerId, Lost)> {
        // Every version has these two. A peer tells its topics all at once, and one of another version has others beside them.
        let common = [Topic::Tx, Topic::Block];
        let mut lost = Vec::new();
        for (peer, known) in &mut self.peers {
            known.silent += 1;
            let has = |topic: &Topic| known.topics.iter().any(|(known, _)| known == topic);
            known.deaf = if common.iter().all(has) { 0 } else { known.deaf + 1 };
            if known.silent >= SILENT_ROUNDS {
                known.silent = 0;
                lost.push((*peer, Lost::Silent));
            } else if known.deaf >= DEAF_ROUNDS {
                known.deaf = 0;
                lost.push((*peer, Lost::Deaf));
            }
        }
        lost
    }

    /// The surplus connections that have had their time; called in each round. A request may go by either of two connections
    /// and would be lost with it, so both stay for as long as there are any: `quiet` says whether a peer has had none for a
    /// while.
    pub(crate) fn surplus(&mut self, quiet: impl Fn(&PeerId) -> bool) -> Vec<ConnectionId> {
        let mut surplus = Vec::new();
        for (peer, known) in &mut self.peers {
            for link in &mut known.links {
                let Some(left) = &mut link.left else { continue };
                *left = left.saturating_sub(1);
                if *left == 0 && quiet(peer) {
                    surplus.push(link.id);
                }
            }
        }
        surplus
    }

    /// The view that handles read.
    pub(crate) fn view(&self) -> Peers {
        let info = |(peer, known): (&PeerId, &Peer)| {
            let link = known.link()?;
            Some((
                *peer,
                PeerInfo {
                    peer: *peer,
                    address: link.address.clone(),
                    direction: link.direction,
                    found: link.found,
                    since: link.since_clock,
                    rtt: known.rtt,
                    agent: known.agent.clone(),
                    protocols: known.protocols.clone(),
                    majors: known.majors.clone(),
                    score: 0,
                },
            ))
        };
        self.peers.iter().filter_map(info).collect()
    }
}

/// A peer's own words, in so far as they can be shown anywhere.
fn plain(words: &str) -> String {
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    words.chars().take(MAX_WORD).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        (a.min(b), a.max(b))
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn address() -> Multiaddr {
        "/ip4/10.0.0.1/tcp/1".parse().unwrap()
    }

    #[test]
    fn two_dials_that_meet_leave_the_same_connection_on_both_ends() {
        let (small, great) = peers();
        let now = Instant::now();
        // Connection 1 is dialled by the smaller id, 2 by the greater; each end may see them in either order.
        for order in [[1, 2], [2, 1]] {
            for (local, peer) in [(small, great), (great, small)] {
                let mut links = Links::new(local);
                for (n, expected) in order.into_iter().zip([Established::First, Established::Second]) {
                    let dialled_here = (n == 1) == (local == small);
                    let direction = if dialled_here {
                        Direction::Outbound
                    } else {
                        Direction::Inbound
                    };
                    let verdict = links.on_established(peer, id(n), direction, address(), Found::Chain, now);
                    assert_eq!(verdict, expected);
                }
                let ours = if local == small {
                    Direction::Outbound
                } else {
                    Direction::Inbound
                };
                assert_eq!(links.view()[&peer].direction, ours, "what stays is shown");
                // What was sent on the other has its time.
                for _ in 1..GRACE_ROUNDS {
                    assert_eq!(links.surplus(|_| true), vec![]);
                }
                // What is being asked too.
                assert_eq!(links.surplus(|_| false), vec![]);
                assert_eq!(links.surplus(|asked| *asked == peer), vec![id(2)]);
                assert!(!links.on_closed(&peer, id(2)));
                assert_eq!(links.surplus(|_| true), vec![]);
            }
        }
    }

    #[test]
    fn peer_that_dials_again_starts_afresh() {
        let (local, peer) = peers();
        let now = Instant::now();
        for (second, later) in [
            (Direction::Inbound, MEETING),
            (Direction::Inbound, Duration::ZERO),
            (Direction::Outbound, MEETING),
        ] {
            let mut links = Links::new(local);
            let first = Direction::Inbound;
            assert_eq!(
                links.on_established(peer, id(1), first, address(), Found::Inbound, now),
                Established::First
            );
            assert_eq!(
                links.on_established(peer, id(2), second, address(), Found::Inbound, now + later),
                Established::Reset
            );
            assert!(!links.on_closed(&peer, id(1)));
            assert!(links.on_closed(&peer, id(2)));
            assert!(links.view().is_empty());
        }
    }

    #[test]
    fn silent_peer_is_lost_and_a_sign_of_life_saves_it() {
        let (local, peer) = peers();
        let mut links = Links::new(local);
        links.on_established(
            peer,
            id(1),
            Direction::Outbound,
            address(),
            Found::Chain,
            Instant::now(),
        );
        for (topic, major) in Topic::all() {
            links.on_subscribed(&peer, topic, major, true);
        }
        for _ in 0..SILENT_ROUNDS - 1 {
            assert_eq!(links.round(), vec![]);
        }
        links.on_sign_of_life(&peer);
        for _ in 0..SILENT_ROUNDS - 1 {
            assert_eq!(links.round(), vec![]);
        }
        assert_eq!(links.round(), vec![(peer, Lost::Silent)]);
    }

    #[test]
    fn peer_without_the_common_topics_is_deaf() {
        let (local, peer) = peers();
        let mut links = Links::new(local);
        links.on_established(
            peer,
            id(1),
            Direction::Outbound,
            address(),
            Found::Chain,
            Instant::now(),
        );
        links.on_subscribed(&peer, Topic::Tx, 1, true);
        let mut rounds = 0;
        loop {
            rounds += 1;
            links.on_sign_of_life(&peer);
            if let [lost] = links.round()[..] {
                assert_eq!(lost, (peer, Lost::Deaf));
                break;
            }
        }
        assert_eq!(rounds, DEAF_ROUNDS);
    }

    #[test]
    fn a_topic_is_lacked_until_every_peer_has_told_that_it_has_it() {
        let (local, peer) = peers();
        let mut links = Links::new(local);
        let now = Instant::now();
        assert!(!links.lack(Topic::Block, 2), "there is nobody");
        links.on_established(peer, id(1), Direction::Inbound, address(), Found::Inbound, now);
        assert!(links.lack(Topic::Block, 2));
        for major in [1, 2] {
            assert!(links.lack(Topic::Block, 2));
            links.on_subscribed(&peer, Topic::Block, major, true);
        }
        assert!(!links.lack(Topic::Block, 2));
        assert!(links.lack(Topic::Tx, 2));
        // One major of each is enough to be no deaf peer.
        links.on_subscribed(&peer, Topic::Tx, 1, true);
        for _ in 0..DEAF_ROUNDS {
            links.on_sign_of_life(&peer);
            assert_eq!(links.round(), vec![]);
        }
        links.on_subscribed(&peer, Topic::Block, 2, false);
        assert!(links.lack(Topic::Block, 2));
    }

    #[test]
    fn majors_are_of_one_connection() {
        let (local, peer) = peers();
        let mut links = Links::new(local);
        let now = Instant::now();
        assert!(
            !links.on_settled(&peer, Protocol::Ledger, 1),
            "it is not connected"
        );
        links.on_established(peer, id(1), Direction::Inbound, address(), Found::Inbound, now);
        assert!(links.on_settled(&peer, Protocol::Ledger, 1));
        assert!(!links.on_settled(&peer, Protocol::Ledger, 1));
        assert_eq!(
            links.view()[&peer].majors,
            BTreeMap::from([(Protocol::Ledger, 1)])
        );
        links.on_closed(&peer, id(1));
        links.on_established(peer, id(2), Direction::Inbound, address(), Found::Inbound, now);
        assert!(links.view()[&peer].majors.is_empty(), "it may have been upgraded");
    }

    #[test]
    fn peer_without_gossip_may_hear_its_answer_and_goes() {
        let (local, peer) = peers();
        let mut links = Links::new(local);
        let now = Instant::now();
        links.on_established(peer, id(1), Direction::Inbound, address(), Found::Inbound, now);
        links.on_mute(&peer);
        for _ in 0..GOODBYE_ROUNDS - 1 {
            assert_eq!(links.round(), vec![]);
        }
        assert_eq!(links.round(), vec![(peer, Lost::Deaf)]);
    }

    #[test]
    fn what_a_peer_says_of_itself_is_bounded_and_plain() {
        let (local, peer) = peers();
        let mut links = Links::new(local);
        let now = Instant::now();
        links.on_established(peer, id(1), Direction::Inbound, address(), Found::Inbound, now);
        let long = "x\n\u{1b}[31m".repeat(1000);
        links.on_identified(&peer, &long, std::iter::repeat_n("/blosm/a\0", 1000));
        let info = links.view().remove(&peer).unwrap();
        assert_eq!(info.agent.len(), MAX_WORD);
        assert!(info.agent.starts_with("x??[31mx"), "{}", info.agent);
        assert_eq!(info.protocols, vec!["/blosm/a?"; MAX_PROTOCOLS]);
    }
}

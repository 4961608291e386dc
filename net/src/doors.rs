//! Who may connect: members, and on an authority a few strangers who want to ask for admission. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

/// A stranger has this long to ask and to hear the answer.
pub(crate) const STRANGER_LIFETIME: Duration = Duration::from_secs(30);
/// And this long to begin: whoever comes to ask has its question ready. A place is not for keeping.
const STRANGER_SILENCE: Duration = Duration::from_secs(3);
/// Requests of one stranger's connection: the question, and a few repetitions.
const STRANGER_REQUESTS: u32 = 8;

/// Why a peer was turned away, or its connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It is no member, and strangers are not let in here.
    #[error("the peer is no member of the network")]
    Stranger,
    /// As many strangers as allowed are connected.
    #[error("too many strangers are connected")]
    Strangers,
    /// Too many handshakes and strangers at its address, or as many strangers as half of all places.
    #[error("too many connections of strangers come from this address")]
    Address,
    /// A stranger that stayed, kept silent or asked longer than it may.
    #[error("the stranger had its time")]
    Overdue,
    /// Its score fell too low; it may come back after a while.
    #[error("the peer has misbehaved")]
    Score,
    /// The node has no room for more connections.
    #[error("there is no room for another connection")]
    Full,
    /// It speaks for another network.
    #[error("the peer is of another network")]
    Network,
}

impl Refusal {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Refusal; 7] = [
        Refusal::Stranger,
        Refusal::Strangers,
        Refusal::Address,
        Refusal::Overdue,
        Refusal::Score,
        Refusal::Full,
        Refusal::Network,
    ];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Stranger => "stranger",
            Refusal::Strangers => "strangers",
            Refusal::Address => "address",
            Refusal::Overdue => "overdue",
            Refusal::Score => "score",
            Refusal::Full => "full",
            Refusal::Network => "network",
        }
    }
}

/// As what a peer comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// All protocols.
    Member,
    /// The join protocol alone.
    Stranger,
}

/// How many strangers there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Connections of strangers; 0 lets none in.
    pub(crate) strangers: usize,
    /// Handshakes under way and connections of strangers, by address. Members never count.
    pub(crate) per_address: usize,
}

/// The members, and the connections that are not theirs.
#[derive(Debug)]
pub(crate) struct Doors {
    rules: Rules,
    members: HashSet<PeerId>,
    shut: HashMap<PeerId, Instant>,
    /// Connections of nobody knows whom, and of strangers.
    outside: HashMap<ConnectionId, Outside>,
    per_address: HashMap<IpAddr, usize>,
    strangers: usize,
}

#[derive(Debug)]
struct Outside {
    ip: Option<IpAddr>,
    stranger: Option<Stranger>,
}

#[derive(Debug)]
struct Stranger {
    peer: PeerId,
    since: Instant,
    requests: u32,
}

impl Doors {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            members: HashSet::new(),
            shut: HashMap::new(),
            outside: HashMap::new(),
            per_address: HashMap::new(),
            strangers: 0,
        }
    }

    // === members ===

    pub(crate) fn admit(&mut self, peer: PeerId) {
        self.members.insert(peer);
    }

    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.members.remove(peer);
        self.shut.remove(peer);
    }

    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.members.contains(peer)
    }

    /// Keeps a member out for a while.
    pub(crate) fn shut(&mut self, peer: PeerId, until: Instant) {
        self.shut.insert(peer, until);
    }

    /// Whether a peer may have a connection with all protocols.
    pub(crate) fn check(&mut self, peer: &PeerId, now: Instant) -> Result<(), Refusal> {
        if !self.members.contains(peer) {
            return Err(Refusal::Stranger);
        }
        match self.shut.get(peer) {
            Some(until) if now < *until => Err(Refusal::Score),
            Some(_) => {
                self.shut.remove(peer);
                Ok(())
            }
            None => Ok(()),
        }
    }

    // === connections ===

    /// Somebody dials; who it is will turn out.
    pub(crate) fn on_handshake(&mut self, id: ConnectionId, from: &Multiaddr) -> Result<(), Refusal> {
        let ip = ip_of(from);
        if let Some(source) = ip.map(source) {
            let count = self.per_address.entry(source).or_default();
            if *count >= self.rules.per_address {
                return Err(Refusal::Address);
            }
            *count += 1;
        }
        self.outside.insert(id, Outside { ip, stranger: None });
        Ok(())
    }

    /// Who dialled has proven its name.
    pub(crate) fn on_arrival(
        &mut self,
        id: ConnectionId,
        peer: &PeerId,
        now: Instant,
    ) -> Result<Guest, Refusal> {
        match self.check(peer, now) {
            Ok(()) => Ok(Guest::Member),
            Err(Refusal::Stranger) if self.rules.strangers == 0 => Err(Refusal::Stranger),
            Err(Refusal::Stranger) if self.strangers >= self.rules.strangers => Err(Refusal::Strangers),
            Err(Refusal::Stranger) if self.beside(id) >= self.rules.strangers.div_ceil(2) => {
                Err(Refusal::Address)
            }
            Err(Refusal::Stranger) => Ok(Guest::Stranger),
            Err(refusal) => Err(refusal),
        }
    }

    /// How many strangers are connected from the address of this connection. One address never has all places.
    fn beside(&self, id: ConnectionId) -> usize {
        let Some(here) = self.outside.get(&id).and_then(|outside| outside.ip).map(source) else {
            return 0;
        };
        let strangers = self.outside.values().filter(|outside| outside.stranger.is_some());
        strangers
            .filter(|outside| outside.ip.map(source) == Some(here))
            .count()
    }

    pub(crate) fn on_established(&mut self, id: ConnectionId, peer: PeerId, guest: Guest, now: Instant) {
        match guest {
            Guest::Member => {
                self.on_ended(id);
            }
            Guest::Stranger => {
                let outside = self.outside.entry(id).or_insert(Outside {
                    ip: None,
                    stranger: None,
                });
                outside.stranger = Some(Stranger {
                    peer,
                    since: now,
                    requests: 0,
                });
                self.strangers += 1;
            }
        }
    }

    /// A connection or a handshake is over. Returns whether it was a stranger's.
    pub(crate) fn on_ended(&mut self, id: ConnectionId) -> bool {
        let Some(outside) = self.outside.remove(&id) else {
            return false;
        };
        if let Some(source) = outside.ip.map(source)
            && let Some(count) = self.per_address.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&source);
            }
        }
        let stranger = outside.stranger.is_some();
        self.strangers -= usize::from(stranger);
        stranger
    }

    pub(crate) fn is_stranger(&self, id: ConnectionId) -> bool {
        self.outside
            .get(&id)
            .is_some_and(|outside| outside.stranger.is_some())
    }

    /// A stranger asks. Returns whether it may; a member's connection always may.
    pub(crate) fn on_question(&mut self, id: ConnectionId) -> bool {
        match self
            .outside
            .get_mut(&id)
            .and_then(|outside| outside.stranger.as_mut())
        {
            Some(stranger) => {
                stranger.requests += 1;
                stranger.requests <= STRANGER_REQUESTS
            }
            None => true,
        }
    }

    /// The connections of strangers whose time is over.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<ConnectionId> {
        let late = |stranger: &Stranger| {
            let limit = match stranger.requests {
                0 => STRANGER_SILENCE,
                _ => STRANGER_LIFETIME,
            };
            now.duration_since(stranger.since) >= limit
        };
        self.outside
            .iter()
            .filter(|(_, outside)| outside.stranger.as_ref().is_some_and(late))
            .map(|(id, _)| *id)
            .collect()
    }

    /// From where this stranger is connected; none when it is not.
    pub(crate) fn stranger_ip(&self, peer: &PeerId) -> Option<IpAddr> {
        let of = |outside: &&Outside| {
            outside
                .stranger
                .as_ref()
                .is_some_and(|stranger| stranger.peer == *peer)
        };
        self.outside.values().find(of)?.ip
    }
}

/// The address that connections are counted by. A whole /64 is one subscriber's, so it counts as one.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            if ip.to_ipv4_mapped().is_none() {
                octets[8..].fill(0);
            }
            Ipv6Addr::from(octets).into()
        }
    }
}

/// The IP address that a multiaddress begins with.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn doors(strangers: usize, per_address: usize) -> Doors {
        Doors::new(Rules {
            strangers,
            per_address,
        })
    }

    fn arrive(doors: &mut Doors, n: usize, from: &str, peer: PeerId, now: Instant) -> Result<Guest, Refusal> {
        doors.on_handshake(id(n), &address(from))?;
        let arrived = doors.on_arrival(id(n), &peer, now);
        match arrived {
            Ok(guest) => doors.on_established(id(n), peer, guest, now),
            Err(_) => {
                doors.on_ended(id(n));
            }
        }
        arrived
    }

    const HERE: &str = "/ip4/10.0.0.1/tcp/1";
    const THERE: &str = "/ip4/10.0.0.2/tcp/1";

    #[test]
    fn one_address_never_has_all_places_and_who_is_silent_keeps_none() {
        let mut doors = doors(32, 64);
        let now = Instant::now();
        // As many as the address may have, and they come again as soon as they are sent away.
        let crowd = |doors: &mut Doors, first: usize, now| {
            let came = (first..first + 64).map(|n| arrive(doors, n, HERE, PeerId::random(), now));
            came.filter(|came| *came == Ok(Guest::Stranger)).count()
        };
        assert_eq!(crowd(&mut doors, 0, now), 16);
        let refused = arrive(&mut doors, 100, HERE, PeerId::random(), now);
        assert_eq!(refused, Err(Refusal::Address));
        let joins = |doors: &mut Doors, n, now| arrive(doors, n, THERE, PeerId::random(), now);
        assert_eq!(joins(&mut doors, 101, now), Ok(Guest::Stranger));
        assert!(doors.on_question(id(101)));
        let later = now + STRANGER_SILENCE;
        let mut silent = doors.overdue(later);
        silent.sort_unstable();
        assert_eq!(silent, (0..16).map(id).collect::<Vec<_>>());
        for gone in silent {
            doors.on_ended(gone);
        }
        assert_eq!(crowd(&mut doors, 200, later), 16);
        assert_eq!(joins(&mut doors, 300, later), Ok(Guest::Stranger));
        // A single place is anybody's.
        let mut doors = self::doors(1, 9);
        assert_eq!(
            arrive(&mut doors, 1, HERE, PeerId::random(), now),
            Ok(Guest::Stranger)
        );
    }

    #[test]
    fn only_members_come_in_where_strangers_do_not() {
        let mut doors = doors(0, 4);
        let (peer, now) = (PeerId::random(), Instant::now());
        assert_eq!(arrive(&mut doors, 1, HERE, peer, now), Err(Refusal::Stranger));
        doors.admit(peer);
        assert_eq!(arrive(&mut doors, 2, HERE, peer, now), Ok(Guest::Member));
        doors.forget(&peer);
        assert_eq!(doors.check(&peer, now), Err(Refusal::Stranger));
        assert_eq!(arrive(&mut doors, 3, HERE, peer, now), Err(Refusal::Stranger));
    }

    #[test]
    fn strangers_have_few_places_and_little_time() {
        let mut doors = doors(2, 9);
        let now = Instant::now();
        for (n, from) in [HERE, THERE].into_iter().enumerate() {
            assert_eq!(
                arrive(&mut doors, n, from, PeerId::random(), now),
                Ok(Guest::Stranger)
            );
            assert!(doors.on_question(id(n)));
        }
        let third = PeerId::random();
        assert_eq!(arrive(&mut doors, 2, HERE, third, now), Err(Refusal::Strangers));
        assert!(doors.overdue(now).is_empty());
        assert!(
            doors.overdue(now + STRANGER_SILENCE).is_empty(),
            "they have asked"
        );
        assert_eq!(doors.overdue(now + STRANGER_LIFETIME).len(), 2);
        assert!(doors.on_ended(id(0)));
        assert!(!doors.on_ended(id(0)), "once only");
        assert_eq!(arrive(&mut doors, 3, HERE, third, now), Ok(Guest::Stranger));
        assert!(doors.is_stranger(id(3)));
        assert_eq!(doors.stranger_ip(&third), ip_of(&address(HERE)));
        doors.admit(third);
        assert_eq!(
            arrive(&mut doors, 4, HERE, third, now),
            Ok(Guest::Member),
            "no place is needed"
        );
    }

    #[test]
    fn a_stranger_asks_a_few_times() {
        let mut doors = doors(1, 9);
        let (peer, now) = (PeerId::random(), Instant::now());
        arrive(&mut doors, 1, HERE, peer, now).unwrap();
        for _ in 0..STRANGER_REQUESTS {
            assert!(doors.on_question(id(1)));
        }
        assert!(!doors.on_question(id(1)));
        assert!(doors.on_question(id(7)), "not a stranger's");
    }

    #[test]
    fn members_never_count_at_their_address() {
        let mut doors = doors(99, 3);
        let now = Instant::now();
        for n in 0..50 {
            let member = PeerId::random();
            doors.admit(member);
            assert_eq!(arrive(&mut doors, n, HERE, member, now), Ok(Guest::Member));
        }
        for n in 50..53 {
            assert_eq!(
                arrive(&mut doors, n, HERE, PeerId::random(), now),
                Ok(Guest::Stranger)
            );
        }
        assert_eq!(
            arrive(&mut doors, 53, HERE, PeerId::random(), now),
            Err(Refusal::Address)
        );
        assert_eq!(
            arrive(&mut doors, 54, THERE, PeerId::random(), now),
            Ok(Guest::Stranger)
        );
        for n in 0..55 {
            doors.on_ended(id(n));
        }
        assert!(doors.per_address.is_empty() && doors.outside.is_empty());
        assert_eq!(doors.strangers, 0);
    }

    #[test]
    fn one_subscriber_is_one_address() {
        let same = |a: &str, b: &str| ip_of(&address(a)).map(source) == ip_of(&address(b)).map(source);
        assert!(same("/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::ffff:1/tcp/2"));
        assert!(!same("/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8:0:1::1/tcp/1"));
        assert!(!same("/ip6/::ffff:10.0.0.1/tcp/1", "/ip6/::ffff:10.0.0.2/tcp/1"));
    }

    #[test]
    fn a_shut_door_opens_again() {
        let mut doors = doors(1, 9);
        let (peer, now) = (PeerId::random(), Instant::now());
        let until = now + Duration::from_secs(60);
        doors.admit(peer);
        doors.shut(peer, until);
        assert_eq!(arrive(&mut doors, 1, HERE, peer, now), Err(Refusal::Score));
        assert_eq!(doors.check(&peer, now), Err(Refusal::Score));
        assert_eq!(doors.check(&peer, until), Ok(()));
        assert!(doors.shut.is_empty());
    }

    #[test]
    fn names_and_order_agree() {
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
        }
    }
}

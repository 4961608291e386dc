//! Whom to dial, at which addresses, and when again. Pure: the swarm task gives the time and does the dialling.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The first wait before a peer is dialled again; it doubles with every failure.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest wait: a machine that comes back is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Of two peers that lose each other, the one with the greater id waits this much longer, so that they do not meet in two
/// connections at once.
const STAGGER: Duration = Duration::from_millis(300);
/// A connection that lasted less than this counts as a failure: two nodes that cannot live together must not spin.
const SETTLED: Duration = Duration::from_secs(2);
/// A connection that was dialled for a request and is not to be kept ends after so long without one. Longer than any request
/// may take, so that none is under way then.
const UNUSED: Duration = Duration::from_secs(180);
/// More addresses of one peer than this are not dialled.
const MAX_ADDRESSES: usize = 16;

/// The peers that are to stay connected, the ones that are dialled when they are needed, and the ones that may not be.
#[derive(Debug)]
pub(crate) struct Book {
    local: PeerId,
    peers: BTreeMap<PeerId, Entry>,
    refused: HashSet<PeerId>,
}

#[derive(Debug)]
struct Entry {
    bootstrap: Vec<Multiaddr>,
    member: Vec<Multiaddr>,
    /// It is to stay connected.
    keep: bool,
    state: State,
    failures: u32,
    /// When there was last something to ask of it or to answer to it.
    used: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { due: Instant },
    Dialling,
    Connected { since: Instant, dialled: bool },
}

/// How a peer can be reached at this moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// There is a connection, or one is being made.
    Under,
    /// These addresses are to be dialled now; the book notes the attempt.
    Dial(Vec<Multiaddr>),
    /// No address is known.
    Nowhere,
}

impl Book {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            peers: BTreeMap::new(),
            refused: HashSet::new(),
        }
    }

    /// Adds an address that holds whatever the members' list says.
    pub(crate) fn add_bootstrap(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        if peer != self.local {
            let entry = self.entry(peer, now);
            entry.bootstrap.push(address);
            entry.keep = true;
        }
    }

    /// Replaces the addresses of a member and lifts a refusal. A peer that is not to be kept may still have been named at
    /// the start, and is kept then.
    pub(crate) fn set_member(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, keep: bool, now: Instant) {
        if peer == self.local {
            return;
        }
        self.refused.remove(&peer);
        let addresses = of_peer(peer, addresses);
        let entry = self.entry(peer, now);
        let keep = keep || !entry.bootstrap.is_empty();
        if entry.member != addresses || entry.keep != keep {
            entry.member = addresses;
            entry.keep = keep;
            if let State::Idle { due } = &mut entry.state {
                entry.failures = 0;
                *due = now;
            }
        }
        self.drop_if_useless(peer);
    }

    /// Strikes a peer out: it is neither dialled nor accepted until it is a member again.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.refused.insert(peer);
    }

    pub(crate) fn is_refused(&self, peer: &PeerId) -> bool {
        self.refused.contains(peer)
    }

    /// The peers whose time to be dialled has come; the book notes the attempts.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut dials = Vec::new();
        for (peer, entry) in &mut self.peers {
            if entry.due().is_some_and(|due| due <= now) {
                entry.state = State::Dialling;
                dials.push((*peer, entry.addresses()));
            }
        }
        dials
    }

    /// When [`Book::due`] has something to say next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.peers.values().filter_map(Entry::due).min()
    }

    /// How to reach a peer that a request is for; a request does not wait for the backoff.
    pub(crate) fn reach(&mut self, peer: &PeerId) -> Reach {
        let Some(entry) = self.peers.get_mut(peer) else {
            return Reach::Nowhere;
        };
        match entry.state {
            State::Dialling | State::Connected { .. } => Reach::Under,
            State::Idle { .. } if entry.has_no_address() => Reach::Nowhere,
            State::Idle { .. } => {
                entry.state = State::Dialling;
                Reach::Dial(entry.addresses())
            }
        }
    }

    /// `dialled`: by this end.
    pub(crate) fn on_connected(&mut self, peer: PeerId, dialled: bool, now: Instant) {
        let entry = self.entry(peer, now);
        entry.state = State::Connected { since: now, dialled };
        entry.used = now;
    }

    /// There is something to ask of this peer, or it has asked something.
    pub(crate) fn on_used(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.used = now;
        }
    }

    /// The peers whose connections were dialled from here for a request, and have not been used for a while. What a peer
    /// has dialled is its own to end: it may want to keep it.
    pub(crate) fn unused(&self, now: Instant) -> Vec<PeerId> {
        let unused = self.peers.iter().filter(|(_, entry)| {
            let dialled = matches!(entry.state, State::Connected { dialled: true, .. });
            dialled && !entry.keep && !entry.has_no_address() && now.duration_since(entry.used) >= UNUSED
        });
        unused.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn on_disconnected(&mut self, peer: PeerId, now: Instant) {
        let stagger = self.stagger(&peer);
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        let settled =
            matches!(entry.state, State::Connected { since, .. } if now.duration_since(since) >= SETTLED);
        entry.failures = if settled {
            0
        } else {
            entry.failures.saturating_add(1)
        };
        let due = now + backoff(entry.failures) + stagger;
        entry.state = State::Idle { due };
        self.drop_if_useless(peer);
    }

    pub(crate) fn on_dial_failed(&mut self, peer: PeerId, now: Instant) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        // A connection that the peer made meanwhile stands.
        if entry.state == State::Dialling {
            entry.failures = entry.failures.saturating_add(1);
            let due = now + backoff(entry.failures);
            entry.state = State::Idle { due };
        }
    }

    fn stagger(&self, peer: &PeerId) -> Duration {
        if self.local > *peer {
            STAGGER
        } else {
            Duration::ZERO
        }
    }

    fn entry(&mut self, peer: PeerId, now: Instant) -> &mut Entry {
        self.peers.entry(peer).or_insert_with(|| Entry {
            bootstrap: Vec::new(),
            member: Vec::new(),
            keep: false,
            state: State::Idle { due: now },
            failures: 0,
            used: now,
        })
    }

    /// Strangers that have left would otherwise stay in the book for ever.
    fn drop_if_useless(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.get(&peer)
            && entry.has_no_address()
            && matches!(entry.state, State::Idle { .. })
        {
            self.peers.remove(&peer);
        }
    }
}

impl Entry {
    fn has_no_address(&self) -> bool {
        self.bootstrap.is_empty() && self.member.is_empty()
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let mut addresses = self.member.clone();
        for address in &self.bootstrap {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Idle { due } if self.keep && !self.has_no_address() => Some(due),
            _ => None,
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    BACKOFF_MIN.saturating_mul(factor.max(1)).min(BACKOFF_MAX)
}

/// Splits `/…/p2p/<peer>` into address and peer.
pub(crate) fn split_peer(mut address: Multiaddr) -> Option<(PeerId, Multiaddr)> {
    match address.pop() {
        Some(Protocol::P2p(peer)) if !address.is_empty() => Some((peer, address)),
        _ => None,
    }
}

/// The addresses without their `/p2p` end; the ones that name another peer are left out.
fn of_peer(peer: PeerId, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    addresses
        .into_iter()
        .filter_map(|address| match split_peer(address.clone()) {
            Some((named, plain)) => (named == peer).then_some(plain),
            None => Some(address),
        })
        .take(MAX_ADDRESSES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        (a.min(b), a.max(b))
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn member_is_dialled_once_and_again_after_a_growing_wait() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let mut now = Instant::now();
        book.set_member(peer, vec![address(1)], true, now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
            assert_eq!(book.due(now), vec![], "an attempt is under way");
            assert_eq!(book.next_due(), None);
            book.on_dial_failed(peer, now);
            let next = book.next_due().unwrap();
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn lost_peer_is_dialled_at_once_by_the_smaller_id_first() {
        let (small, great) = peers();
        for (local, peer, wait) in [(small, great, 200), (great, small, 500)] {
            let mut book = Book::new(local);
            let start = Instant::now();
            book.set_member(peer, vec![address(1)], true, start);
            book.on_dial_failed(peer, start);
            book.on_connected(peer, true, start);
            let end = start + SETTLED;
            book.on_disconnected(peer, end);
            assert_eq!(book.next_due(), Some(end + Duration::from_millis(wait)));
        }
    }

    #[test]
    fn connections_that_do_not_last_are_tried_ever_more_slowly() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let mut now = Instant::now();
        book.set_member(peer, vec![address(1)], true, now);
        for _ in 0..10 {
            book.on_connected(peer, true, now);
            book.on_disconnected(peer, now);
            now = book.next_due().unwrap();
        }
        book.on_connected(peer, true, now);
        book.on_disconnected(peer, now);
        assert_eq!(book.next_due(), Some(now + BACKOFF_MAX));
    }

    #[test]
    fn new_addresses_are_tried_at_once_and_the_same_ones_are_not() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.set_member(peer, vec![address(1)], true, now);
        book.due(now);
        book.on_dial_failed(peer, now);
        book.set_member(peer, vec![address(1)], true, now);
        assert_eq!(book.due(now), vec![]);
        book.set_member(peer, vec![address(2)], true, now);
        assert_eq!(book.due(now), vec![(peer, vec![address(2)])]);
    }

    #[test]
    fn request_does_not_wait_for_the_backoff() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        assert_eq!(book.reach(&peer), Reach::Nowhere);
        book.set_member(peer, vec![address(1)], true, now);
        book.due(now);
        book.on_dial_failed(peer, now);
        assert_eq!(book.reach(&peer), Reach::Dial(vec![address(1)]));
        assert_eq!(book.reach(&peer), Reach::Under);
    }

    #[test]
    fn failed_dial_does_not_undo_an_incoming_connection() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.set_member(peer, vec![address(1)], true, now);
        book.due(now);
        book.on_connected(peer, true, now);
        book.on_dial_failed(peer, now);
        assert_eq!(book.reach(&peer), Reach::Under);
        assert_eq!(book.next_due(), None);
    }

    #[test]
    fn forgotten_peer_is_refused_until_it_is_a_member_again() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.add_bootstrap(peer, address(1), now);
        book.forget(peer);
        assert!(book.is_refused(&peer));
        assert_eq!(book.next_due(), None);
        book.on_disconnected(peer, now);
        assert_eq!(book.next_due(), None);
        book.set_member(peer, vec![address(2)], true, now);
        assert!(!book.is_refused(&peer));
        assert_eq!(book.next_due(), Some(now));
    }

    #[test]
    fn stranger_leaves_no_trace() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.on_connected(peer, true, now);
        book.on_disconnected(peer, now);
        assert!(book.peers.is_empty());
        book.set_member(peer, vec![], true, now);
        assert!(book.peers.is_empty());
    }

    #[test]
    fn bootstrap_address_outlives_the_members_list() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.add_bootstrap(peer, address(1), now);
        book.set_member(peer, vec![address(2), address(1)], true, now);
        book.set_member(peer, vec![], true, now);
        assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
    }

    #[test]
    fn addresses_of_somebody_else_are_left_out() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        let with = |id: PeerId| address(1).with(Protocol::P2p(id));
        book.set_member(peer, vec![with(local), with(peer)], true, now);
        assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
        book.set_member(local, vec![address(1)], true, now);
        assert!(!book.peers.contains_key(&local), "never dial oneself");
    }

    #[test]
    fn peer_that_is_not_kept_is_dialled_for_requests_only_and_left_when_it_is_not_used() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.set_member(peer, vec![address(1)], false, now);
        assert_eq!((book.next_due(), book.due(now)), (None, vec![]));
        assert_eq!(book.reach(&peer), Reach::Dial(vec![address(1)]));
        book.on_connected(peer, true, now);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(book.unused(later(179)), vec![]);
        book.on_used(&peer, later(100));
        assert_eq!(book.unused(later(279)), vec![]);
        assert_eq!(book.unused(later(280)), vec![peer]);
        book.on_disconnected(peer, later(280));
        assert_eq!(book.next_due(), None, "it is not dialled again by itself");

        // What the peer has dialled is not ended from here.
        book.on_connected(peer, false, later(300));
        assert_eq!(book.unused(later(9999)), vec![]);
        book.on_disconnected(peer, later(9999));

        // From now on it is kept, so it is dialled at once and never left.
        book.set_member(peer, vec![address(1)], true, later(10_000));
        assert_eq!(book.due(later(10_000)), vec![(peer, vec![address(1)])]);
        book.on_connected(peer, true, later(10_000));
        assert_eq!(book.unused(later(99_999)), vec![]);
        book.set_member(peer, vec![address(1)], false, later(99_999));
        assert_eq!(
            book.unused(later(99_999)),
            vec![peer],
            "until it is not kept any more"
        );
    }

    #[test]
    fn bootstrap_peer_is_kept_whatever_the_members_list_says() {
        let (local, peer) = peers();
        let mut book = Book::new(local);
        let now = Instant::now();
        book.add_bootstrap(peer, address(1), now);
        book.set_member(peer, vec![address(1)], false, now);
        assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
    }
}

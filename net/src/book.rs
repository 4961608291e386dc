//! Whom to dial, at which addresses, and when again. Pure: the swarm task gives the time and does the dialling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::learnt::{Found, Learnt};

/// The first wait before a peer is dialled again; it doubles with every failure.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest wait: a machine that comes back is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Of two peers that lose each other, the one with the greater id waits this much longer, so that they do not meet in two
/// connections at once.
const STAGGER: Duration = Duration::from_millis(300);
/// A connection that lasted less than this counts as a failure: two nodes that cannot live together must not spin.
const SETTLED: Duration = Duration::from_secs(2);
/// A connection that was dialled for a request and is not to be kept ends after so long without one: what two members do
/// together asks again sooner.
const UNUSED: Duration = Duration::from_secs(30);
/// One that nobody asked for and that is not to be kept ends after so long without a request: it was dialled when the members
/// were others.
const SPARE: Duration = Duration::from_secs(5);
/// Of two connections to one peer the surplus one goes when neither end has asked the other for so long: the other end cannot
/// know that it is about to go, and should not just then be asking by it.
const QUIET: Duration = Duration::from_secs(5);
/// More addresses of one peer than this are not taken from the ledger.
const MAX_ADDRESSES: usize = 16;
/// A new learnt address is dialled after at most this time, and not at once: whoever tells them must not set the pace.
const LEARNT_WAIT: Duration = Duration::from_millis(500);
/// A member that cannot be reached for so long is looked for; the wait doubles with every search.
const LOOKUP_MIN: Duration = Duration::from_secs(5);
/// The longest wait between two searches for one member.
const LOOKUP_MAX: Duration = Duration::from_secs(300);

/// The peers that are to stay connected, and the ones that are dialled when they are needed.
#[derive(Debug)]
pub(crate) struct Book {
    local: PeerId,
    peers: BTreeMap<PeerId, Entry>,
}

#[derive(Debug)]
struct Entry {
    bootstrap: Vec<Multiaddr>,
    /// The addresses on the ledger; none when the ledger does not name it.
    member: Option<Vec<Multiaddr>>,
    learnt: Learnt,
    /// It is to stay connected.
    keep: bool,
    state: State,
    failures: u32,
    /// When there was last something to ask of it or to answer to it.
    used: Instant,
    /// Requests under way, in both directions.
    open: u32,
    /// The connection, or the attempt at one, is for a request.
    asked: bool,
    search: Search,
}

/// When a peer that is not connected is looked for.
#[derive(Debug, Clone, Copy)]
struct Search {
    due: Instant,
    wait: Duration,
}

impl Search {
    fn new(now: Instant) -> Self {
        Self {
            due: now + LOOKUP_MIN,
            wait: LOOKUP_MIN,
        }
    }
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

    /// Replaces the addresses of a member. A peer that is not to be kept may still have been named at the start, and is kept
    /// then.
    pub(crate) fn set_member(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, keep: bool, now: Instant) {
        if peer == self.local {
            return;
        }
        let addresses = of_peer(peer, addresses);
        let entry = self.entry(peer, now);
        let keep = keep || !entry.bootstrap.is_empty();
        if entry.member.as_ref() != Some(&addresses) || entry.keep != keep {
            entry.member = Some(addresses);
            entry.keep = keep;
            if let State::Idle { due } = &mut entry.state {
                entry.failures = 0;
                *due = now;
            }
        }
    }

    /// Strikes a peer out: it is not dialled until it is a member again.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }

    /// Notes addresses that others told of a member. They expire.
    pub(crate) fn learn(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, found: Found, now: Instant) {
        if peer == self.local {
            return;
        }
        let entry = self.entry(peer, now);
        for address in of_peer(peer, addresses) {
            let new = !entry.holds(&address) && entry.learnt.note(address, found, now);
            if let (true, State::Idle { due }) = (new, &mut entry.state) {
                *due = (*due).min(now + LEARNT_WAIT);
            }
        }
        self.drop_if_useless(peer);
    }

    /// Drops an address that `found` had told.
    pub(crate) fn take_back(&mut self, peer: &PeerId, address: &Multiaddr, found: Found) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.learnt.take_back(address, found);
            self.drop_if_useless(*peer);
        }
    }

    /// Drops learnt addresses whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        for entry in self.peers.values_mut() {
            entry.learnt.expire(now);
        }
        self.peers.retain(|_, entry| !entry.is_useless());
    }

    /// How the address of an outbound connection was found.
    pub(crate) fn found(&self, peer: &PeerId, address: &Multiaddr) -> Found {
        let plain = split_peer(address.clone()).map_or_else(|| address.clone(), |(_, plain)| plain);
        let Some(entry) = self.peers.get(peer) else {
            return Found::Kad;
        };
        if entry.member.iter().flatten().any(|known| *known == plain) {
            Found::Chain
        } else if entry.bootstrap.contains(&plain) {
            Found::Bootstrap
        } else {
            // What the book does not know was dialled by the search itself.
            entry.learnt.found(&plain).unwrap_or(Found::Kad)
        }
    }

    /// A member to be kept that has been out of reach for a while, to be looked for; the book notes the search.
    pub(crate) fn search(&mut self, now: Instant) -> Option<PeerId> {
        let lost = |entry: &&mut Entry| {
            entry.is_wanted()
                && entry.keep
                && !matches!(entry.state, State::Connected { .. })
                && entry.search.due <= now
        };
        let (peer, entry) = self
            .peers
            .iter_mut()
            .map(|(peer, entry)| (*peer, entry))
            .find(|(_, entry)| lost(entry))?;
        entry.search.due = now + entry.search.wait;
        entry.search.wait = (entry.search.wait * 2).min(LOOKUP_MAX);
        Some(peer)
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
        entry.asked = true;
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
    pub(crate) fn on_begun(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.used = now;
            entry.open += 1;
        }
    }

    /// A request that had begun has its answer, or has failed.
    pub(crate) fn on_ended(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.used = now;
            // It may have been struck out and named again meanwhile.
            entry.open = entry.open.saturating_sub(1);
        }
    }

    /// Whether neither end has asked the other anything for a while, and nothing is being asked.
    pub(crate) fn is_quiet(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers
            .get(peer)
            .is_none_or(|entry| entry.open == 0 && now.duration_since(entry.used) >= QUIET)
    }

    /// The peers whose connections were dialled from here, are not to be kept, and have not been used for a while. What a
    /// peer has dialled is its own to end: it may want to keep it.
    pub(crate) fn unused(&self, now: Instant) -> Vec<PeerId> {
        let unused = self.peers.iter().filter(|(_, entry)| {
            let dialled = matches!(entry.state, State::Connected { dialled: true, .. });
            let idle = entry.open == 0 && now.duration_since(entry.used) >= entry.patience();
            dialled && !entry.keep && !entry.has_no_address() && idle
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
        entry.asked = false;
        if settled {
            entry.search = Search::new(now);
        }
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
            member: None,
            learnt: Learnt::default(),
            // Until the ledger says that it need not be.
            keep: true,
            state: State::Idle { due: now },
            failures: 0,
            used: now,
            open: 0,
            asked: false,
            search: Search::new(now),
        })
    }

    /// A peer that nobody has named leaves nothing behind.
    fn drop_if_useless(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(Entry::is_useless) {
            self.peers.remove(&peer);
        }
    }
}

impl Entry {
    fn has_no_address(&self) -> bool {
        self.bootstrap.is_empty() && self.member.iter().flatten().next().is_none() && self.learnt.is_empty()
    }

    /// Whether the operator or the ledger wants it connected.
    fn is_wanted(&self) -> bool {
        self.member.is_some() || !self.bootstrap.is_empty()
    }

    fn is_useless(&self) -> bool {
        !self.is_wanted() && self.learnt.is_empty() && matches!(self.state, State::Idle { .. })
    }

    /// Whether the operator or the ledger names this address.
    fn holds(&self, address: &Multiaddr) -> bool {
        self.bootstrap.contains(address) || self.member.iter().flatten().any(|known| known == address)
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let mut addresses = self.member.clone().unwrap_or_default();
        for address in self.bootstrap.iter().chain(self.learnt.addresses()) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// How long its connection may be unused, when it is not to be kept.
    fn patience(&self) -> Duration {
        if self.asked { UNUSED } else { SPARE }
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
mod tests;

//! Whom a node stays connected to. Pure.
//!
//! Every connection costs both ends a sign of life every few seconds, so that in a full mesh the cost of a node rises with
//! the number of nodes, and that of a network with its square. A small network is a full mesh all the same. In a larger one
//! a node keeps
//! - the authority, which seals, counts acknowledgements and publishes blocks;
//! - the nearest members, with which it hands over sessions;
//! - some members all over the network, so that gossip needs few steps and no part of the road falls off: on the ring of all
//!   keys, the next one, and the first ones from a half, a quarter, an eighth and a sixteenth of the ring on.
//!
//! It is kept by as many others. Whoever else it has a request for is dialled then, and stays for as long as it is used.
//!
//! A node that catches up sees the members come one after the other who have been there for long. [`Calm`] lets it choose
//! once they are all here: at every step it would connect to other ones, and in the end to nearly everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use blosm_ledger::{Location, PublicKey};
use blosm_migrate::placement::{Position, nearest_first};
use tokio::time::Instant;

/// With so many other members or fewer, all are kept.
pub(crate) const FULL_MESH: usize = 16;
/// So many of the nearest members are kept.
const NEAREST: usize = 4;
/// How far along the ring of keys others are kept, as binary logarithms of parts of the ring.
const FINGERS: [u32; 4] = [1, 2, 3, 4];

/// The members have not changed for so long when a node chooses anew.
const CALM: Duration = Duration::from_millis(300);
/// It waits no longer than this from the first change on.
const CALM_MAX: Duration = Duration::from_secs(5);

/// When a node chooses anew.
#[derive(Debug, Default)]
pub(super) struct Calm {
    first: Option<Instant>,
    due: Option<Instant>,
}

impl Calm {
    /// The members have changed.
    pub(super) fn on_change(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + CALM).min(first + CALM_MAX));
    }

    /// The time to choose; none while the choice stands.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The choice is made.
    pub(super) fn on_choice(&mut self) {
        *self = Calm::default();
    }
}

/// The members that `me` keeps a connection to. The same for the same members, and little changes with one of them.
pub(super) fn choose(
    me: PublicKey,
    proposer: PublicKey,
    members: &BTreeMap<PublicKey, Location>,
) -> BTreeSet<PublicKey> {
    let others = || members.iter().filter(|(key, _)| **key != me);
    if others().count() <= FULL_MESH {
        return others().map(|(key, _)| *key).collect();
    }
    let mut kept = BTreeSet::from([proposer]);
    // Who is not admitted yet has no place.
    if let Some(from) = members.get(&me).and_then(position) {
        let places: Vec<(PublicKey, Position)> = others()
            .filter_map(|(key, location)| Some((*key, position(location)?)))
            .collect();
        kept.extend(
            nearest_first(&places, from)
                .into_iter()
                .take(NEAREST)
                .map(|(key, _)| key),
        );
    }
    // Keys are random, so they lie evenly on the ring of the numbers that they begin with.
    let ring: BTreeSet<(u64, PublicKey)> = others().map(|(key, _)| (place(key), *key)).collect();
    let own = place(&me);
    let fingers = FINGERS
        .iter()
        .map(|part| own.wrapping_add(1 << (u64::BITS - part)));
    let starts = fingers.map(|from| Bound::Included((from, PublicKey([0; 32]))));
    for start in std::iter::once(Bound::Excluded((own, me))).chain(starts) {
        // Beyond the greatest number the ring begins again.
        let found = ring
            .range((start, Bound::Unbounded))
            .next()
            .or_else(|| ring.iter().next());
        kept.extend(found.map(|(_, key)| *key));
    }
    kept.remove(&me);
    kept
}

fn place(key: &PublicKey) -> u64 {
    u64::from_be_bytes(key.0[..8].try_into().expect("a key has more bytes than these"))
}

fn position(location: &Location) -> Option<Position> {
    Position::from_e7(location.lat_e7, location.lon_e7).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys as random as real ones, from a small generator with a fixed start.
    fn key(n: u64) -> PublicKey {
        let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 24) as u8;
        }
        PublicKey(bytes)
    }

    /// So many members along a road, 500 m apart.
    fn road(count: u64) -> BTreeMap<PublicKey, Location> {
        let place = |n: u64| Location {
            lat_e7: 374_500_000,
            lon_e7: 1_266_500_000 + 56_600 * i32::try_from(n).unwrap(),
        };
        (0..count).map(|n| (key(n), place(n))).collect()
    }

    fn chosen(members: &BTreeMap<PublicKey, Location>) -> BTreeMap<PublicKey, BTreeSet<PublicKey>> {
        let chosen = members.keys().map(|me| (*me, choose(*me, key(0), members)));
        chosen.collect()
    }

    /// The links that stand when each member has what it chooses and is chosen by.
    fn links(members: &BTreeMap<PublicKey, Location>) -> BTreeMap<PublicKey, BTreeSet<PublicKey>> {
        let mut links: BTreeMap<PublicKey, BTreeSet<PublicKey>> = BTreeMap::new();
        for (me, others) in chosen(members) {
            for other in others {
                links.entry(me).or_default().insert(other);
                links.entry(other).or_default().insert(me);
            }
        }
        links
    }

    /// How many members `from` reaches over links among `up`.
    fn reach(
        links: &BTreeMap<PublicKey, BTreeSet<PublicKey>>,
        up: &BTreeSet<PublicKey>,
        from: PublicKey,
    ) -> usize {
        let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = next.pop() {
            for other in links[&at].iter().filter(|other| up.contains(other)) {
                if seen.insert(*other) {
                    next.push(*other);
                }
            }
        }
        seen.len()
    }

    #[test]
    fn choice_waits_for_members_that_come_in_a_row_but_not_for_ever() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut calm = Calm::default();
        assert_eq!(calm.due(), None);
        calm.on_change(at(0));
        assert_eq!(calm.due(), Some(at(300)));
        for ms in (0..4800).step_by(100) {
            calm.on_change(at(ms));
            assert_eq!(calm.due(), Some(at(ms + 300)));
        }
        calm.on_change(at(4900));
        assert_eq!(calm.due(), Some(at(5000)));
        calm.on_choice();
        assert_eq!(calm.due(), None);
        calm.on_change(at(6000));
        assert_eq!(calm.due(), Some(at(6300)));
    }

    #[test]
    fn small_network_is_a_full_mesh() {
        let members = road(17);
        for (me, others) in chosen(&members) {
            assert_eq!(others.len(), 16);
            assert!(!others.contains(&me));
        }
    }

    #[test]
    fn large_network_has_few_links_and_the_nearest_and_the_authority_among_them() {
        for count in [18, 100, 200] {
            let members = road(count);
            let mut degrees: Vec<usize> = links(&members)
                .iter()
                .filter(|(key, _)| **key != self::key(0))
                .map(|(_, others)| others.len())
                .collect();
            degrees.sort_unstable();
            let (median, most) = (degrees[degrees.len() / 2], degrees[degrees.len() - 1]);
            assert!(
                (9..=16).contains(&median) && most <= 40,
                "{count}: {median} {most}"
            );
            let own = choose(key(5), key(0), &members);
            for near in [key(0), key(3), key(4), key(6), key(7)] {
                assert!(own.contains(&near), "{count}");
            }
            assert!(own.len() <= 1 + NEAREST + 1 + FINGERS.len());
        }
    }

    #[test]
    fn network_holds_together_without_the_authority_and_a_fifth_of_the_members() {
        let members = road(100);
        let links = links(&members);
        for first in 0..5 {
            let up: BTreeSet<PublicKey> = (1..100).filter(|n| n % 5 != first).map(key).collect();
            let from = *up.first().unwrap();
            assert_eq!(reach(&links, &up, from), up.len(), "every fifth from {first}");
        }
        // A whole stretch of the road is dark.
        let up: BTreeSet<PublicKey> = (1..100).filter(|n| !(40..60).contains(n)).map(key).collect();
        assert_eq!(reach(&links, &up, key(1)), up.len());
    }

    #[test]
    fn newcomer_changes_little() {
        let (before, after) = (chosen(&road(100)), chosen(&road(101)));
        let changed: usize = before
            .iter()
            .map(|(me, others)| others.symmetric_difference(&after[me]).count())
            .sum();
        assert!(changed <= 40, "{changed}");
        // Before it is admitted it finds some all over the network.
        let members = road(100);
        let own = choose(key(100), key(0), &members);
        assert!(own.contains(&key(0)) && own.len() >= 4, "{own:?}");
    }
}

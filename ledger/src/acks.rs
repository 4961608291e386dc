//! Confirmations (the paper's Algorithm 1): which block how many members are known to hold.
//!
//! A member acknowledges its head: that block and all before it are on its disk. One number per member is enough,
//! whatever the number of blocks. Pure: who acknowledges, and whether the hash was right, is checked by the caller.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::key::PublicKey;
use crate::members::Members;

/// How many of a block's members are known to hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Confirmations {
    /// Members that hold it.
    pub acked: u32,
    /// Members at that block.
    pub members: u32,
}

impl Confirmations {
    /// Whether 90 % of the members hold it.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        // Alg. 1: confirmations(tx) >= 0.9 * totalNodes().
        self.members > 0 && self.acked >= threshold(self.members)
    }
}

/// How many confirmations `members` members need: 90 %, rounded up.
#[must_use]
pub fn threshold(members: u32) -> u32 {
    let needed = (u64::from(members) * 9).div_ceil(10);
    u32::try_from(needed).expect("nine tenths of a u32 fit into a u32")
}

/// The newest acknowledgement of every member, and the confirmed height.
#[derive(Debug, Clone, Default)]
pub struct Acks {
    newest: BTreeMap<PublicKey, u64>,
    confirmed: u64,
}

impl Acks {
    /// Starts from the confirmed height that the head's header carries.
    #[must_use]
    pub fn starting_at(confirmed: u64) -> Acks {
        Acks {
            newest: BTreeMap::new(),
            confirmed,
        }
    }

    /// Notes that `member` holds every block up to `height`. A member whose head went back says so with a lower
    /// height, which then counts.
    pub fn record(&mut self, member: PublicKey, height: u64) {
        self.newest.insert(member, height);
    }

    /// Forgets acknowledgements of nodes that are no members any more.
    pub fn retain_members(&mut self, members: &Members) {
        self.newest.retain(|key, _| members.contains(key));
    }

    /// How many members hold block `height`, of the `total` that its header counts. Only members of that block count:
    /// one that was admitted later does not.
    #[must_use]
    pub fn confirmations(&self, height: u64, total: u32, members: &Members) -> Confirmations {
        let holds = |(key, acked): &(&PublicKey, &u64)| {
            **acked >= height
                && members
                    .get(key)
                    .is_some_and(|member| member.since_height <= height)
        };
        let acked = self.newest.iter().filter(holds).count();
        let acked = u32::try_from(acked).unwrap_or(u32::MAX).min(total);
        Confirmations {
            acked,
            members: total,
        }
    }

    /// The confirmed height: the highest that 90 % hold. It never falls.
    #[must_use]
    pub fn confirmed_height(&self) -> u64 {
        self.confirmed
    }

    /// Raises the confirmed height as far as the acknowledgements go, at most to `head`. `total_at` gives the number
    /// of members at a height. Gives the confirmed height.
    pub fn advance<E>(
        &mut self,
        head: u64,
        members: &Members,
        mut total_at: impl FnMut(u64) -> Result<u32, E>,
    ) -> Result<u64, E> {
        // Between two candidates the count is the same and only the number of members could fall, which an eviction
        // does at a height from which acknowledgements of the rest are candidates anyway.
        let acked = self.newest.values().copied();
        let before_admissions = members
            .iter()
            .map(|(_, member)| member.since_height.saturating_sub(1));
        let mut candidates: Vec<u64> = acked
            .chain(before_admissions)
            .map(|height| height.min(head))
            .filter(|height| *height > self.confirmed)
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        for height in candidates.into_iter().rev() {
            if self.confirmations(height, total_at(height)?, members).confirmed() {
                self.confirmed = height;
                break;
            }
        }
        Ok(self.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::payload::{Admit, Evict, Location};

    fn key(i: u8) -> PublicKey {
        PublicKey([i; 32])
    }

    fn members(since: &[u64]) -> Members {
        let mut members = Members::default();
        for (i, height) in (0u8..).zip(since) {
            let admit = Admit {
                key: key(i),
                admission: Hash([i; 32]),
                addresses: vec![],
                gateway: String::new(),
                metrics: None,
                location: Location { lat_e7: 0, lon_e7: 0 },
                radius_m: 1,
                label: String::new(),
            };
            members.admit(&admit, *height).unwrap();
        }
        members
    }

    fn total(since: &[u64]) -> impl FnMut(u64) -> Result<u32, ()> + '_ {
        |height| Ok(since.iter().filter(|s| **s <= height).count() as u32)
    }

    #[test]
    fn ninety_percent_rounds_up() {
        for (members, needed) in [
            (1, 1),
            (2, 2),
            (3, 3),
            (9, 9),
            (10, 9),
            (11, 10),
            (20, 18),
            (40, 36),
            (100, 90),
        ] {
            assert_eq!(threshold(members), needed, "{members} members");
        }
        assert!(!Confirmations { acked: 0, members: 0 }.confirmed());
    }

    #[test]
    fn confirmed_height_rises_and_never_falls() {
        let since = [1; 10];
        let members = members(&since);
        let mut acks = Acks::default();
        for i in 0..8 {
            acks.record(key(i), 7);
        }
        assert_eq!(acks.advance(9, &members, total(&since)), Ok(0));
        acks.record(key(8), 5);
        assert_eq!(acks.advance(9, &members, total(&since)), Ok(5));
        acks.record(key(9), 9);
        assert_eq!(acks.advance(9, &members, total(&since)), Ok(7));
        assert_eq!(
            acks.confirmations(9, 10, &members),
            Confirmations {
                acked: 1,
                members: 10
            }
        );
        // A node that lost its tail acknowledges less: the count falls, the confirmed height does not.
        acks.record(key(0), 2);
        assert_eq!(acks.advance(9, &members, total(&since)), Ok(7));
        assert_eq!(acks.confirmations(7, 10, &members).acked, 8);
    }

    #[test]
    fn acknowledgements_above_the_head_do_not_lift_it() {
        let since = [1];
        let mut acks = Acks::default();
        acks.record(key(0), u64::MAX);
        assert_eq!(acks.advance(4, &members(&since), total(&since)), Ok(4));
    }

    #[test]
    fn only_members_of_that_block_count() {
        let since = [1, 6];
        let members = members(&since);
        let mut acks = Acks::default();
        acks.record(key(1), 8);
        assert_eq!(acks.confirmations(5, 1, &members).acked, 0);
        acks.record(key(0), 5);
        acks.record(key(7), 8);
        assert_eq!(acks.advance(8, &members, total(&since)), Ok(5));
        // With the first behind at 5, block 6 and on has two members and one acknowledgement.
        acks.record(key(0), 8);
        assert_eq!(acks.advance(8, &members, total(&since)), Ok(8));
    }

    #[test]
    fn a_block_before_an_admission_can_be_the_confirmed_one() {
        let since = [1, 6];
        let members = members(&since);
        let mut acks = Acks::default();
        acks.record(key(0), 8);
        assert_eq!(acks.advance(8, &members, total(&since)), Ok(5));
    }

    #[test]
    fn evicted_members_stop_counting() {
        let mut members = members(&[1, 1]);
        let mut acks = Acks::default();
        acks.record(key(0), 3);
        acks.record(key(1), 3);
        members
            .evict(
                &Evict {
                    key: key(1),
                    reason: String::new(),
                    lost: true,
                },
                4,
            )
            .unwrap();
        acks.retain_members(&members);
        assert_eq!(
            acks.confirmations(3, 2, &members),
            Confirmations { acked: 1, members: 2 }
        );
    }
}

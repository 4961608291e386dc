//! The members: who may connect, submit and count as a confirmation.

use borsh::{BorshDeserialize, BorshSerialize};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::hash::{Hash, canonical};
use crate::key::PublicKey;
use crate::merkle;
use crate::payload::{Admit, Evict, Location};
use crate::refusal::Refusal;

/// What the ledger knows of a member.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Member {
    /// The id of its newest admission.
    pub admission: Hash,
    /// The height from which it has been a member without a break.
    pub since_height: u64,
    /// libp2p multiaddresses to dial.
    pub addresses: Vec<String>,
    /// The URL of its gateway.
    pub gateway: String,
    /// The URL of its metrics, if it shows them.
    pub metrics: Option<String>,
    /// Where it stands.
    pub location: Location,
    /// How far its coverage reaches, in metres.
    pub radius_m: u32,
    /// Its name for people.
    pub label: String,
}

/// What the ledger keeps of a node that was a member.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Evicted {
    /// The height at which it was evicted.
    pub height: u64,
    /// Why, in an operator's words.
    pub reason: String,
    /// Whether the operator said that the machine is off.
    pub lost: bool,
}

/// All members, former members and used admission ids. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    current: OrdMap<PublicKey, Member>,
    /// The hashes of their leaves: of a hundred members, a block changes one.
    leaves: OrdMap<PublicKey, Hash>,
    evicted: OrdMap<PublicKey, Evicted>,
    admissions: OrdSet<Hash>,
}

impl Members {
    /// Rebuilds the set from what the store holds.
    pub(crate) fn from_parts(
        current: OrdMap<PublicKey, Member>,
        evicted: OrdMap<PublicKey, Evicted>,
        admissions: OrdSet<Hash>,
    ) -> Members {
        let leaves = current
            .iter()
            .map(|(key, member)| (*key, leaf_hash(key, member)))
            .collect();
        Members {
            current,
            leaves,
            evicted,
            admissions,
        }
    }

    /// The member with this key.
    #[must_use]
    pub fn get(&self, key: &PublicKey) -> Option<&Member> {
        self.current.get(key)
    }

    /// Whether `key` is a member now.
    #[must_use]
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.current.contains_key(key)
    }

    /// All members in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Member)> {
        self.current.iter()
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current.len()
    }

    /// The same, as headers count them.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.len()).expect("fewer members than 2^32: each took a transaction of its own")
    }

    /// Whether there is no member yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// How `key` was evicted, if it was and has not been admitted again.
    #[must_use]
    pub fn evicted(&self, key: &PublicKey) -> Option<&Evicted> {
        self.evicted.get(key)
    }

    /// All nodes that were members and are not, in key order.
    pub fn former(&self) -> impl Iterator<Item = (&PublicKey, &Evicted)> {
        self.evicted.iter()
    }

    /// Whether `key` is or was a member.
    #[must_use]
    pub fn ever_admitted(&self, key: &PublicKey) -> bool {
        self.contains(key) || self.evicted.contains_key(key)
    }

    /// Whether an admission id has been used.
    #[must_use]
    pub fn admission_used(&self, admission: &Hash) -> bool {
        self.admissions.contains(admission)
    }

    /// The root over the members in key order. The number of leaves is the header's `member_count`.
    #[must_use]
    pub fn root(&self) -> Hash {
        merkle::root_of_hashes(self.leaves.values().copied())
    }

    /// Admits a node, or gives a member a new record (a new address, say). It keeps the height since which it is a
    /// member.
    pub(crate) fn admit(&mut self, admit: &Admit, height: u64) -> Result<(), Refusal> {
        if self.admissions.contains(&admit.admission) {
            return Err(Refusal::AdmissionUsed(admit.admission));
        }
        let since_height = self.get(&admit.key).map_or(height, |member| member.since_height);
        self.admissions.insert(admit.admission);
        self.evicted.remove(&admit.key);
        let member = Member {
            admission: admit.admission,
            since_height,
            addresses: admit.addresses.clone(),
            gateway: admit.gateway.clone(),
            metrics: admit.metrics.clone(),
            location: admit.location,
            radius_m: admit.radius_m,
            label: admit.label.clone(),
        };
        self.leaves.insert(admit.key, leaf_hash(&admit.key, &member));
        self.current.insert(admit.key, member);
        Ok(())
    }

    /// Evicts a member.
    pub(crate) fn evict(&mut self, evict: &Evict, height: u64) -> Result<(), Refusal> {
        if self.current.remove(&evict.key).is_none() {
            return Err(Refusal::NotMember(evict.key));
        }
        self.leaves.remove(&evict.key);
        let record = Evicted {
            height,
            reason: evict.reason.clone(),
            lost: evict.lost,
        };
        self.evicted.insert(evict.key, record);
        Ok(())
    }
}

/// The bytes of a member's leaf in the members root.
#[must_use]
pub fn member_leaf(key: &PublicKey, member: &Member) -> Vec<u8> {
    canonical(&(key, member))
}

fn leaf_hash(key: &PublicKey, member: &Member) -> Hash {
    merkle::leaf(&member_leaf(key, member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(key: u8, admission: u8, label: &str) -> Admit {
        Admit {
            key: PublicKey([key; 32]),
            admission: Hash([admission; 32]),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            gateway: String::new(),
            metrics: None,
            location: Location { lat_e7: 1, lon_e7: 2 },
            radius_m: 3,
            label: label.to_owned(),
        }
    }

    #[test]
    fn kept_leaves_are_those_of_the_members() {
        let mut members = Members::default();
        let check = |members: &Members| {
            let anew = merkle::root(members.iter().map(|(key, member)| member_leaf(key, member)));
            assert_eq!(members.root(), anew);
            let Members {
                current,
                evicted,
                admissions,
                ..
            } = members.clone();
            assert_eq!(Members::from_parts(current, evicted, admissions), *members);
        };
        check(&members);
        for i in [5, 1, 9, 3] {
            members.admit(&admit(i, i, "new"), 1).unwrap();
            check(&members);
        }
        members.admit(&admit(9, 10, "another name"), 2).unwrap();
        check(&members);
        let evict = Evict {
            key: PublicKey([5; 32]),
            reason: String::new(),
            lost: false,
        };
        members.evict(&evict, 3).unwrap();
        check(&members);
        members.admit(&admit(5, 11, "back"), 4).unwrap();
        check(&members);
        members.admit(&admit(1, 11, "used twice"), 5).unwrap_err();
        members
            .evict(
                &Evict {
                    key: PublicKey([7; 32]),
                    ..evict
                },
                5,
            )
            .unwrap_err();
        check(&members);
    }
}

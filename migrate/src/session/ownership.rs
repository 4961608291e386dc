//! The rules by which a node tells who owns a session: its journal before its chain, the newer fact before the older.

use blosm_ledger::{Hash, Payload, PublicKey, SessionId, SessionRecord, Transaction};

use super::entry::Pending;
use super::record::{Record, Standing};

/// What a node does with a session that its journal knows, given what its chain holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The session is this node's: its container runs, or is started.
    Mine {
        /// The epoch at which it owns the session.
        epoch: u64,
    },
    /// It is not: a container of it is stopped and kept.
    NotMine,
    /// The session is over: its container is stopped.
    Closed,
}

/// Who is known to own a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownOwner {
    /// This node.
    Me,
    /// Another one, at this epoch.
    Other {
        /// The owner.
        owner: PublicKey,
        /// The epoch at which it owns the session.
        epoch: u64,
    },
    /// Nobody any more.
    Closed,
    /// Neither the journal nor the chain has heard of it.
    Unknown,
}

/// Rule 7. A session is mine if the newest journal entry gives it to me, I have signed nothing later, and the chain
/// holds nothing of it at the same or a higher epoch but that entry. A chain that is behind takes nothing away; one that
/// has gone another way does: whoever gave me the session is not who owns it by the chain.
pub fn adopt(record: &Record, chain: Option<&SessionRecord>, me: PublicKey) -> Adoption {
    let Standing::Owner { epoch, since } = record.standing else {
        return match record.standing {
            Standing::Closed => Adoption::Closed,
            _ => Adoption::NotMine,
        };
    };
    match chain {
        None => Adoption::Mine { epoch },
        Some(chain) if chain.epoch < epoch && chain.is_open() => {
            if record.is_parted(chain, me) {
                Adoption::NotMine
            } else {
                Adoption::Mine { epoch }
            }
        }
        Some(chain) if !chain.is_open() => Adoption::Closed,
        Some(chain) if chain.epoch == epoch && chain.owner == me && chain.since == since => {
            Adoption::Mine { epoch }
        }
        Some(_) => Adoption::NotMine,
    }
}

/// Rule 1: a node answers and relays by the newest fact that it holds, its journal before its chain.
pub fn newest_owner(record: Option<&Record>, chain: Option<&SessionRecord>, me: PublicKey) -> KnownOwner {
    let by_chain = match chain {
        None => KnownOwner::Unknown,
        Some(chain) if !chain.is_open() => KnownOwner::Closed,
        // A hand-over to this node was sealed before this node has journaled it: it is about to.
        Some(chain) if chain.owner == me => KnownOwner::Me,
        Some(chain) => KnownOwner::Other {
            owner: chain.owner,
            epoch: chain.epoch,
        },
    };
    let Some(record) = record else {
        return by_chain;
    };
    match record.standing {
        Standing::Visitor => by_chain,
        Standing::Closed => KnownOwner::Closed,
        Standing::Owner { .. } => match adopt(record, chain, me) {
            Adoption::Mine { .. } => KnownOwner::Me,
            Adoption::NotMine | Adoption::Closed => by_chain,
        },
        Standing::Gave => match (&record.gave, by_chain) {
            (Some(gave), KnownOwner::Other { owner, epoch }) if epoch >= gave.epoch => {
                KnownOwner::Other { owner, epoch }
            }
            (_, KnownOwner::Closed) => KnownOwner::Closed,
            (Some(gave), KnownOwner::Me) if chain.is_some_and(|chain| chain.epoch >= gave.epoch) => {
                KnownOwner::Me
            }
            (Some(gave), _) => KnownOwner::Other {
                owner: gave.destination,
                epoch: gave.epoch,
            },
            (None, known) => known,
        },
    }
}

/// Where a request goes that its session's gate on this node does not lead to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// To this node.
    To(PublicKey),
    /// Here: a hand-over to this node is being taken up.
    Wait,
    /// Nowhere: the session is over, or its state exists nowhere any more.
    Gone,
    /// Nowhere that is known: anybody can sign a token, and its opener is no member that this node has heard of.
    Unknown,
}

/// Rule 1: where a request with a token goes by the newest fact. `opener` is the one that the token names, and
/// `opener_known` whether the chain says that it is or was a member.
pub fn turn(owner: KnownOwner, opener: PublicKey, opener_known: bool, me: PublicKey) -> Turn {
    match owner {
        KnownOwner::Other { owner, .. } => Turn::To(owner),
        KnownOwner::Closed => Turn::Gone,
        KnownOwner::Me => Turn::Wait,
        // This node opened it and knows nothing of it any more.
        KnownOwner::Unknown if opener == me => Turn::Gone,
        KnownOwner::Unknown if opener_known => Turn::To(opener),
        KnownOwner::Unknown => Turn::Unknown,
    }
}

/// Rule 4: whether the chain has gone past the point at which this could ever be sealed.
pub fn overtaken(payload: &Payload, sealed: Option<&SessionRecord>) -> bool {
    let Some(sealed) = sealed else { return false };
    if !sealed.is_open() {
        return true;
    }
    match payload {
        Payload::HandOver(handover) => handover.epoch < sealed.epoch,
        Payload::Release(release) => release.epoch < sealed.epoch,
        _ => true,
    }
}

/// A fact about a session that the chain need not hold yet, its signature checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Its opener says so.
    Opened {
        /// The signer.
        opener: PublicKey,
    },
    /// The owner at `epoch` gave it away.
    HandedOver {
        /// The signer.
        sender: PublicKey,
        /// The epoch that it ends.
        epoch: u64,
        /// The new owner.
        destination: PublicKey,
    },
}

/// The facts that these transactions are about a session, each signed by its sender, in their order. None when one of
/// them can't be read or is not valid by itself.
pub fn facts(session: SessionId, pending: &[Pending], chain_id: Hash) -> Option<Vec<Fact>> {
    let mut facts = Vec::with_capacity(pending.len());
    for pending in pending {
        let transaction = Transaction::decode(&pending.bytes).ok()?;
        transaction.verify(chain_id).ok()?;
        match transaction.payload {
            // That the session is its sender's to open is part of what makes a transaction valid.
            Payload::Open(open) if open.session == session => {
                facts.push(Fact::Opened {
                    opener: transaction.sender,
                });
            }
            Payload::HandOver(handover) if handover.session == session => {
                facts.push(Fact::HandedOver {
                    sender: transaction.sender,
                    epoch: handover.epoch,
                    destination: handover.destination,
                });
            }
            _ => {}
        }
    }
    Some(facts)
}

/// Who owns a session by the chain and by newer facts in their order. A claim to own it that is not among them is
/// nobody's word but the claimant's.
pub fn proven_owner(
    chain: Option<&SessionRecord>,
    opener: Option<PublicKey>,
    facts: &[Fact],
) -> Option<(PublicKey, u64)> {
    let mut owner = match chain {
        Some(chain) if !chain.is_open() => return None,
        Some(chain) => Some((chain.owner, chain.epoch)),
        None => opener.map(|opener| (opener, 0)),
    };
    for fact in facts {
        match *fact {
            Fact::Opened { opener } => owner = owner.or(Some((opener, 0))),
            Fact::HandedOver {
                sender,
                epoch,
                destination,
            } => {
                if owner == Some((sender, epoch)) {
                    owner = Some((destination, epoch + 1));
                }
            }
        }
    }
    owner
}

#[cfg(test)]
mod tests;

//! The fold of a session's journal entries: what this node holds to be true.

use blosm_ledger::{Hash, Payload, PublicKey, SessionId, SessionRecord, Transaction};
use borsh::{BorshDeserialize, BorshSerialize};

use super::entry::{Attempt, Entry, Pending};

/// What this node is to a session, by its own journal alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Standing {
    /// It has never owned it; a container may be staged.
    Visitor,
    /// It owns the session since the transaction `since`.
    Owner {
        /// The present epoch.
        epoch: u64,
        /// Hash of the `Open`, `HandOver` or `Abort` that gave it the session.
        since: Hash,
    },
    /// It signed the session away.
    Gave,
    /// The session is over.
    Closed,
}

/// A container of the session in this node's engine.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Container {
    /// Its name in the engine.
    pub name: String,
    /// The image reference it was created from.
    pub image: String,
    /// The epoch for which it was created.
    pub epoch: u64,
    /// Whether its real entrypoint may ever have run.
    pub started: bool,
}

/// A container that holds the source's final state and waits for the signature.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Applied {
    /// Who gives the session.
    pub source: PublicKey,
    /// The epoch that the hand-over would end.
    pub epoch: u64,
    /// The attempt under which it was staged.
    pub attempt: Attempt,
    /// What the hand-over must name.
    pub root: Hash,
    /// The container itself.
    pub container: Container,
}

/// A hand-over that this node signed.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Gave {
    /// The new epoch.
    pub epoch: u64,
    /// The new owner.
    pub destination: PublicKey,
    /// The attempt that it ended.
    pub attempt: Attempt,
    /// What the destination must have applied.
    pub root: Hash,
    /// The transaction.
    pub handover: Pending,
    /// The new owner has journaled it.
    pub acknowledged: bool,
    /// The new owner has served.
    pub served: bool,
}

/// A container of an earlier stay of the session on this node, which a newer fact has made worthless.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Stale {
    /// The container.
    pub container: Container,
    /// The epoch at which its state was given away, and the attempt, if it was.
    pub given: Option<(u64, Attempt)>,
}

/// All that the journal says of one session.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// The session.
    pub session: SessionId,
    /// Name of the declared service.
    pub service: String,
    /// What this node is to the session.
    pub standing: Standing,
    /// The container that is, or last was, the session's current one here.
    pub container: Option<Container>,
    /// A staged container that waits for the signature.
    pub applied: Option<Applied>,
    /// The last hand-over that this node signed.
    pub gave: Option<Gave>,
    /// Who gave the session and what its state was, until this node has routed the first request to it: so long it can
    /// be handed back (rule 6).
    pub came: Option<(PublicKey, Hash)>,
    /// Containers that are still in the engine and only wait to be removed.
    pub stale: Vec<Stale>,
    /// `Open`, `HandOver`s and `Release` that the chain was not seen to hold, oldest first (rule 4).
    pub pending: Vec<Pending>,
}

impl Record {
    /// A record of a session of which nothing is known yet.
    pub fn new(session: SessionId) -> Self {
        Self {
            session,
            service: String::new(),
            standing: Standing::Visitor,
            container: None,
            applied: None,
            gave: None,
            came: None,
            stale: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Rule 4: the only condition under which a real entrypoint of this session may run on this node.
    pub fn may_run(&self) -> bool {
        matches!(self.standing, Standing::Owner { .. })
    }

    /// The epoch at which this node owns the session, if it does.
    pub fn owned_epoch(&self) -> Option<u64> {
        match self.standing {
            Standing::Owner { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Whether a `HandOver` of this root, ending this epoch, gives the session to this node (rule 4).
    pub fn accepts(&self, epoch: u64, root: Hash) -> bool {
        let newer = match self.standing {
            Standing::Visitor => true,
            Standing::Owner { .. } | Standing::Closed => false,
            Standing::Gave => self.gave.as_ref().is_some_and(|gave| epoch >= gave.epoch),
        };
        newer
            && (self
                .applied
                .as_ref()
                .is_some_and(|applied| applied.epoch == epoch && applied.root == root)
                || self.is_hand_back(epoch, root))
    }

    /// Rule 6: a hand-over of the very state that this node gave, by the node it gave it to.
    pub fn is_hand_back(&self, epoch: u64, root: Hash) -> bool {
        self.standing == Standing::Gave
            && self.container.is_some()
            && self
                .gave
                .as_ref()
                .is_some_and(|gave| gave.epoch == epoch && gave.root == root && !gave.served)
    }

    /// What a new owner has to submit before the hand-over itself, oldest first.
    pub fn pending_before(&self, gave: &Gave) -> Vec<Pending> {
        self.pending
            .iter()
            .filter(|pending| pending.hash != gave.handover.hash)
            .cloned()
            .collect()
    }

    /// The unsealed hand-over that would end `epoch`: its signer and the destination.
    pub fn unsealed(&self, epoch: u64) -> Option<(PublicKey, PublicKey)> {
        self.pending.iter().find_map(|pending| {
            let transaction = Transaction::decode(&pending.bytes).ok()?;
            match transaction.payload {
                Payload::HandOver(body) if body.epoch == epoch => {
                    Some((transaction.sender, body.destination))
                }
                _ => None,
            }
        })
    }

    /// Whether the unsealed hand-overs that brought the session here go another way than the chain: the one that would
    /// be sealed next is signed by somebody else than the owner.
    pub fn is_parted(&self, chain: &SessionRecord, me: PublicKey) -> bool {
        let next = self.unsealed(chain.epoch);
        chain.owner != me && next.is_some_and(|(signer, _)| signer != chain.owner)
    }

    /// Whether nothing is left to do for the session on this node.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
            && self.container.is_none()
            && self.applied.is_none()
            && self.stale.is_empty()
            && !self.may_run()
            && self.gave.as_ref().is_none_or(|gave| gave.served)
    }

    /// Takes one more entry into account.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Opened { service, open, .. } => {
                self.service = service;
                self.standing = Standing::Owner {
                    epoch: 0,
                    since: open.hash,
                };
                self.push_pending(open);
            }
            Entry::Creating {
                epoch,
                container,
                image,
                ..
            } => {
                self.container = Some(Container {
                    name: container,
                    image,
                    epoch,
                    started: false,
                });
            }
            Entry::Starting { container, .. } => {
                if let Some(current) = self
                    .container
                    .as_mut()
                    .filter(|current| current.name == container)
                {
                    current.started = true;
                }
            }
            Entry::Applied {
                service,
                source,
                epoch,
                attempt,
                root,
                container,
                image,
                ..
            } => {
                self.service = service;
                let container = Container {
                    name: container,
                    image,
                    epoch: epoch + 1,
                    started: false,
                };
                self.applied = Some(Applied {
                    source,
                    epoch,
                    attempt,
                    root,
                    container,
                });
            }
            Entry::Acquired {
                epoch,
                handover,
                pending,
                ..
            } => {
                self.standing = Standing::Owner {
                    epoch,
                    since: handover.hash,
                };
                // A session handed back finds its kept container; any other one the container that was applied.
                if let Some(applied) = self.applied.take_if(|applied| applied.epoch + 1 == epoch) {
                    let given = self.gave.as_ref().map(|gave| (gave.epoch - 1, gave.attempt));
                    self.came = Some((applied.source, applied.root));
                    let replaced = self.container.replace(applied.container);
                    self.stale
                        .extend(replaced.map(|container| Stale { container, given }));
                }
                self.gave = None;
                for transaction in pending {
                    self.push_pending(transaction);
                }
                self.push_pending(handover);
            }
            Entry::Signed {
                epoch,
                destination,
                attempt,
                root,
                handover,
                ..
            } => {
                self.standing = Standing::Gave;
                self.came = None;
                self.push_pending(handover.clone());
                self.gave = Some(Gave {
                    epoch,
                    destination,
                    attempt,
                    root,
                    handover,
                    acknowledged: false,
                    served: false,
                });
            }
            Entry::Acknowledged { epoch, .. } => {
                if let Some(gave) = self.gave.as_mut().filter(|gave| gave.epoch == epoch) {
                    gave.acknowledged = true;
                }
            }
            Entry::Served { epoch, .. } => {
                if let Some(gave) = self.gave.as_mut().filter(|gave| gave.epoch == epoch) {
                    gave.acknowledged = true;
                    gave.served = true;
                }
            }
            Entry::Removed { container, .. } => {
                self.container.take_if(|current| current.name == container);
                self.applied
                    .take_if(|applied| applied.container.name == container);
                self.stale.retain(|stale| stale.container.name != container);
            }
            Entry::Sealed { transaction, .. } => self.pending.retain(|pending| pending.hash != transaction),
            Entry::Reclaimed {
                epoch, abort_hash, ..
            } => {
                // What was handed over since lost its place on the chain for good; submitting it again is pointless.
                let gave = self.gave.take().map(|gave| gave.handover.hash);
                self.pending.retain(|pending| {
                    let transaction = Transaction::decode(&pending.bytes);
                    let is_handover = transaction
                        .is_ok_and(|transaction| matches!(transaction.payload, Payload::HandOver(_)));
                    !is_handover && Some(pending.hash) != gave
                });
                self.standing = Standing::Owner {
                    epoch,
                    since: abort_hash,
                };
            }
            Entry::Closed { release, .. } => {
                self.standing = Standing::Closed;
                self.came = None;
                if let Some(release) = release {
                    self.push_pending(release);
                }
            }
            Entry::Routed { .. } => self.came = None,
            Entry::Snapshot(record) => *self = *record,
        }
    }

    fn push_pending(&mut self, pending: Pending) {
        if !self.pending.iter().any(|known| known.hash == pending.hash) {
            self.pending.push(pending);
        }
    }
}

#[cfg(test)]
mod tests;

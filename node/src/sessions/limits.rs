//! How many sessions may leave this node, and come to it, at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions of members before a migration that are answered at once: each has the engine list what it holds.
const MAX_ASSESSING: usize = 2;

/// Free places for migrations. A place is given back when its [`Permit`] goes.
#[derive(Debug)]
pub(crate) struct Slots {
    max_out: usize,
    max_in: usize,
    outgoing: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
    assessing: Arc<Semaphore>,
}

/// One taken place.
#[derive(Debug)]
#[must_use = "the place is free again when the permit is dropped"]
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Slots {
    /// That many places, each way.
    pub(crate) fn new(max_out: usize, max_in: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            max_out,
            max_in,
            outgoing: places(max_out),
            incoming: places(max_in),
            assessing: places(MAX_ASSESSING),
        }
    }

    /// A place for a session that leaves; `None` when `max_out` leave already.
    pub(crate) fn outgoing(&self) -> Option<Permit> {
        take(&self.outgoing)
    }

    /// A place for a session that comes; `None` when `max_in` come already.
    pub(crate) fn incoming(&self) -> Option<Permit> {
        take(&self.incoming)
    }

    /// A place for a question whether this node would take a session.
    pub(crate) fn assessing(&self) -> Option<Permit> {
        take(&self.assessing)
    }

    /// How many sessions leave and come now.
    pub(crate) fn taken(&self) -> (usize, usize) {
        (
            self.max_out - self.outgoing.available_permits(),
            self.max_in - self.incoming.available_permits(),
        )
    }

    /// Whether another session may leave now. It may be otherwise a moment later: what claims takes a place.
    pub(crate) fn may_leave(&self) -> bool {
        self.outgoing.available_permits() > 0
    }
}

fn take(places: &Arc<Semaphore>) -> Option<Permit> {
    let place = places.clone().try_acquire_owned().ok()?;
    Some(Permit { _place: place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_goes() {
        let slots = Slots::new(2, 1);
        let (first, second) = (slots.outgoing(), slots.outgoing());
        assert!(first.is_some() && second.is_some());
        assert!(slots.outgoing().is_none() && !slots.may_leave());
        assert_eq!(slots.taken(), (2, 0));
        let coming = slots.incoming();
        assert!(
            coming.is_some() && slots.incoming().is_none(),
            "each way by itself"
        );
        drop(second);
        assert!(slots.may_leave() && slots.outgoing().is_some());
        drop(coming);
        assert!(slots.incoming().is_some());
    }
}

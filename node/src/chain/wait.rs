//! Waiting until more members hold a block.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blosm_ledger::Confirmations;
use blosm_net::PeerId;
use tokio::time::Instant;

use super::handle::Shared;

/// The longest wait that is granted: an answer has to come within the time limit of the protocol.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(8);
/// Peers that wait at the same time, in all and of one member. One more is answered at once.
const SEATS: usize = 256;
const SEATS_OF_ONE: usize = 16;

/// Waits at the proposer until more than `beyond` members hold the block of `height`, or 90 % do, or `limit` is over.
/// Then gives how many do; none above the head.
pub(super) async fn here(
    shared: &Shared,
    height: u64,
    beyond: u32,
    limit: Duration,
) -> Option<Confirmations> {
    let end = Instant::now() + limit.min(MAX_WAIT);
    let (mut counted, mut view) = (shared.ledger.counted(), shared.view.clone());
    loop {
        // Marked before the count is asked for, so that no change falls between the two.
        counted.mark_unchanged();
        view.mark_unchanged();
        let found = shared.ledger.confirmations(height).await?;
        if found.acked > beyond || found.confirmed() {
            return Some(found);
        }
        // Who waits for nine tenths is not woken by each acknowledgement: the one that confirms moves the view. After an
        // admission and an eviction it may not, and the next status or the end of this wait shows it.
        let each = beyond < found.members;
        let changed = async {
            tokio::select! {
                changed = counted.changed(), if each => changed.is_ok(),
                // What is confirmed has changed, or by an admission or an eviction who counts.
                changed = view.changed() => changed.is_ok(),
            }
        };
        match tokio::time::timeout_at(end, changed).await {
            Ok(true) => {}
            Ok(false) => return Some(found),
            Err(_) if each || limit.is_zero() => return Some(found),
            // What was counted since has woken nobody.
            Err(_) => return shared.ledger.confirmations(height).await,
        }
    }
}

/// Who waits here.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<HashMap<PeerId, usize>>>);

/// A place to wait. It is free again when this goes.
#[derive(Debug)]
pub(super) struct Seat {
    waiting: Waiting,
    peer: PeerId,
}

impl Waiting {
    /// A place for `peer`, if there is one.
    pub(super) fn seat(&self, peer: PeerId) -> Option<Seat> {
        let mut seats = self.lock();
        let (all, own) = (seats.values().sum::<usize>(), seats.entry(peer).or_default());
        if all >= SEATS || *own >= SEATS_OF_ONE {
            if *own == 0 {
                seats.remove(&peer);
            }
            return None;
        }
        *own += 1;
        Some(Seat {
            waiting: self.clone(),
            peer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.waiting.lock();
        if let Some(own) = seats.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                seats.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let waiting = Waiting::default();
        let (greedy, other) = (PeerId::random(), PeerId::random());
        let mut seats: Vec<Seat> = (0..SEATS_OF_ONE).map(|_| waiting.seat(greedy).unwrap()).collect();
        assert!(waiting.seat(greedy).is_none());
        let one = waiting.seat(other).unwrap();
        seats.pop();
        seats.push(waiting.seat(greedy).unwrap());
        drop(one);
        drop(seats);
        assert!(waiting.lock().is_empty(), "what is free is forgotten");
        let mut all = Vec::new();
        while all.len() < SEATS {
            let peer = PeerId::random();
            all.extend((0..SEATS_OF_ONE).map(|_| waiting.seat(peer).unwrap()));
        }
        assert!(waiting.seat(other).is_none());
        all.pop();
        assert!(waiting.seat(other).is_some());
    }
}

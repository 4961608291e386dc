//! Whether any other member can be reached.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blosm_net::{PeerInfo, peer_of_key};
use tokio::time::{Instant, MissedTickBehavior};

use super::handle::Shared;

/// How often the connections are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// From the last connection to the warning: links of a road come and go.
const PATIENCE: Duration = Duration::from_secs(30);

/// When another member was reachable last.
#[derive(Debug)]
pub(super) struct Contact(Mutex<Instant>);

/// No other member has been reachable for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isolated(pub Duration);

impl fmt::Display for Isolated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no other member has been reachable for {} s: what is done here is sealed, and sessions move, only when one is; \
             look at this node's network, and at an authority whether it is still a member",
            self.0.as_secs()
        )
    }
}

impl Contact {
    pub(super) fn new(now: Instant) -> Contact {
        Contact(Mutex::new(now))
    }

    fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub(super) fn isolated(&self, now: Instant) -> Option<Isolated> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(last);
        (since >= PATIENCE).then_some(Isolated(since))
    }
}

/// Watches the connections until the ledger task ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let view = shared.snapshot();
        let peers = shared.net.watch_peers();
        let peers = peers.borrow();
        let mut others = view.state.members().iter().filter(|(key, _)| **key != shared.me);
        if others.any(|(key, _)| peers.get(&peer_of_key(&key.0)).is_some_and(is_open)) {
            shared.contact.note(Instant::now());
        }
    }
}

/// Who takes this node for a stranger tells it nothing of itself.
fn is_open(peer: &PeerInfo) -> bool {
    !peer.agent.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_silence_is_no_isolation() {
        let begin = Instant::now();
        let contact = Contact::new(begin);
        assert_eq!(contact.isolated(begin + PATIENCE - LOOK), None);
        assert_eq!(contact.isolated(begin + PATIENCE), Some(Isolated(PATIENCE)));
        contact.note(begin + PATIENCE);
        assert_eq!(contact.isolated(begin + PATIENCE + LOOK), None);
        assert_eq!(
            contact.isolated(begin),
            None,
            "a note of another thread may be later than the question"
        );
        let text = Isolated(Duration::from_millis(45_900)).to_string();
        assert!(
            text.starts_with("no other member has been reachable for 45 s:"),
            "{text}"
        );
    }
}

//! What the swarm task sent, took and had to let fall, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of the counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Gossip messages handed to the reader.
    pub gossip_received: u64,
    /// Gossip messages given to the topic.
    pub gossip_published: u64,
    /// Gossip messages that were ignored because the reader was behind.
    pub gossip_dropped: u64,
    /// Messages that could not be published, for want of room in the queues.
    pub publish_dropped: u64,
    /// Requests handed to the reader.
    pub requests_received: u64,
    /// Requests that were refused because the reader was behind or too many bytes waited.
    pub requests_dropped: u64,
    /// Requests sent to peers.
    pub requests_sent: u64,
    /// Answers given to peers.
    pub responses_sent: u64,
    /// Requests sent that brought no answer.
    pub requests_failed: u64,
    /// Peers dropped because they had fallen silent.
    pub peers_silent: u64,
    /// Peers dropped because they speak for another network or must not connect.
    pub peers_refused: u64,
}

macro_rules! live {
    ($($field:ident),* $(,)?) => {
        impl Counters {
            /// All counters, each with its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }

        /// The counters as the swarm task moves them.
        #[derive(Debug, Default)]
        pub(crate) struct Live { $(pub(crate) $field: AtomicU64),* }

        impl Live {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($field: self.$field.load(Ordering::Relaxed)),* }
            }
        }
    };
}

live!(
    gossip_received,
    gossip_published,
    gossip_dropped,
    publish_dropped,
    requests_received,
    requests_dropped,
    requests_sent,
    responses_sent,
    requests_failed,
    peers_silent,
    peers_refused,
);

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

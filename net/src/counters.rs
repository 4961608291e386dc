//! What the swarm task sent, took and had to let fall, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::buckets::Intake;
use crate::doors::Refusal;
use crate::scores::Misdeed;

macro_rules! counters {
    ($($(#[$doc:meta])+ $field:ident,)*) => {
        /// A snapshot of the counters since the start.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])+ pub $field: u64,)*
            refused: [u64; Refusal::ALL.len()],
            limited: [u64; Intake::ALL.len()],
            misdeeds: [u64; Misdeed::ALL.len()],
        }

        impl Counters {
            /// The counters that are plain numbers, each with its name, and all refusals together.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let refused = ("peers_refused", self.refused.iter().sum());
                [$((stringify!($field), self.$field)),*].into_iter().chain([refused])
            }
        }

        /// The counters as the swarm task moves them.
        #[derive(Debug, Default)]
        pub(crate) struct Live {
            $(pub(crate) $field: AtomicU64,)*
            refused: [AtomicU64; Refusal::ALL.len()],
            limited: [AtomicU64; Intake::ALL.len()],
            misdeeds: [AtomicU64; Misdeed::ALL.len()],
        }

        impl Live {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters {
                    $($field: read(&self.$field),)*
                    refused: self.refused.each_ref().map(read),
                    limited: self.limited.each_ref().map(read),
                    misdeeds: self.misdeeds.each_ref().map(read),
                }
            }
        }
    };
}

counters!(
    /// Gossip messages handed to the reader.
    gossip_received,
    /// Gossip messages given to the topic.
    gossip_published,
    /// Gossip messages that were ignored because the reader was behind.
    gossip_dropped,
    /// Messages that could not be published, for want of room in the queues.
    publish_dropped,
    /// Requests handed to the reader.
    requests_received,
    /// Requests that were refused because the reader was behind or too many bytes waited.
    requests_dropped,
    /// Answers dropped because peers had not taken too many bytes of others.
    answers_dropped,
    /// Requests sent to peers.
    requests_sent,
    /// Answers given to peers.
    responses_sent,
    /// Requests sent that brought no answer.
    requests_failed,
    /// Peers dropped because they had fallen silent.
    peers_silent,
    /// Members kept out for a while because of their score.
    peers_kept_out,
    /// Connections of strangers that were let in.
    strangers,
);

impl Counters {
    /// Connections and dials refused for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// Messages and requests that were over a peer's allowance.
    pub fn limited(&self, kind: Intake) -> u64 {
        self.limited[kind.index()]
    }

    /// Misdeeds that cost a member score.
    pub fn misdeeds(&self, misdeed: Misdeed) -> u64 {
        self.misdeeds[misdeed as usize]
    }
}

impl Live {
    pub(crate) fn refused(&self, reason: Refusal) {
        count(&self.refused[reason as usize]);
    }

    pub(crate) fn limited(&self, kind: Intake) {
        count(&self.limited[kind.index()]);
    }

    pub(crate) fn misdeed(&self, misdeed: Misdeed) {
        count(&self.misdeeds[misdeed as usize]);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

//! What this node knows of the others beyond the chain: when each was last here, and what it says of itself.
//!
//! Members are asked only when somebody looks, and an answer is good for some seconds. What a member says is its own word.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use blosm_ledger::PublicKey;
use blosm_net::peer_of_key;
use borsh::{BorshDeserialize, BorshSerialize};
use futures::StreamExt;
use serde::Serialize;

use super::wire::{SessionRequest, SessionResponse};
use super::{SessionsHandle, notice, unix_ms};
use crate::admission::{PROTOCOL, SOFTWARE};

/// An answer is used again for so long.
const FRESH: Duration = Duration::from_secs(5);
/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Members asked at once.
const AT_ONCE: usize = 64;
/// The longest text of an answer, in bytes, and the most methods.
const MAX_TEXT: usize = 32;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize)]
pub(crate) struct NodeStatus {
    /// Version of its software.
    pub(crate) software: String,
    /// Version of what it speaks.
    pub(crate) protocol: u16,
    /// Height of its newest block.
    pub(crate) height: u64,
    /// Its wall clock.
    pub(crate) clock_unix_ms: u64,
    /// The methods by which it takes sessions.
    pub(crate) methods: Vec<String>,
    /// Bytes that it can still give away.
    pub(crate) memory_free: u64,
    /// Thousandths of a core that it can still give away.
    pub(crate) cpu_free_milli: u64,
    /// Bytes free where its engine keeps its layers.
    pub(crate) disk_free: u64,
    /// Sessions that it owns.
    pub(crate) sessions: u32,
    /// Whether it takes none.
    pub(crate) drained: bool,
}

/// What is known of one member.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Known {
    /// What it said last.
    pub(crate) status: Option<NodeStatus>,
    /// How long ago.
    pub(crate) status_age_ms: Option<u64>,
    /// How far its clock is ahead of this node's, give or take half a round trip.
    pub(crate) clock_offset_ms: Option<i64>,
    /// How many blocks it is behind this node.
    pub(crate) lag: Option<u64>,
    /// Since when it was not here, by this machine's clock; none while it is connected or has just answered.
    pub(crate) dark_since_unix_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    status: NodeStatus,
    clock_offset_ms: i64,
}

#[derive(Debug, Default)]
struct Seen {
    answer: Option<Answer>,
    dark_since_unix_ms: Option<u64>,
}

/// The members as this node has met them.
#[derive(Debug)]
pub(crate) struct Census {
    /// A member that was never here is dark since this node's start.
    started_unix_ms: u64,
    seen: Mutex<BTreeMap<PublicKey, Seen>>,
}

impl Default for Census {
    fn default() -> Self {
        Self {
            started_unix_ms: unix_ms(),
            seen: Mutex::default(),
        }
    }
}

impl Census {
    /// A member has connected, or is gone.
    pub(crate) fn note(&self, member: PublicKey, connected: bool) {
        let dark = (!connected).then(unix_ms);
        self.seen().entry(member).or_default().dark_since_unix_ms = dark;
    }

    fn answered(&self, member: PublicKey, asked: Instant, mut status: NodeStatus) {
        let clean = |text: &mut String| {
            text.retain(|c| !c.is_control());
            if text.len() > MAX_TEXT {
                text.clear();
            }
        };
        clean(&mut status.software);
        status.methods.truncate(MAX_TEXT);
        status.methods.iter_mut().for_each(clean);
        let at = Instant::now();
        let half = (at - asked) / 2;
        let theirs = i128::from(status.clock_unix_ms) + i128::try_from(half.as_millis()).unwrap_or(0);
        let offset = theirs - i128::from(unix_ms());
        self.seen().entry(member).or_default().answer = Some(Answer {
            at,
            status,
            clock_offset_ms: i64::try_from(offset).unwrap_or(i64::MAX),
        });
    }

    fn is_fresh(&self, member: &PublicKey) -> bool {
        let seen = self.seen();
        let answer = seen.get(member).and_then(|seen| seen.answer.as_ref());
        answer.is_some_and(|answer| answer.at.elapsed() < FRESH)
    }

    fn known(&self, member: &PublicKey, here: bool, height: u64) -> Known {
        let seen = self.seen();
        let known = seen.get(member);
        let answer = known.and_then(|seen| seen.answer.clone());
        let age = |answer: &Answer| u64::try_from(answer.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Known {
            status_age_ms: answer.as_ref().map(age),
            clock_offset_ms: answer.as_ref().map(|answer| answer.clock_offset_ms),
            lag: answer
                .as_ref()
                .map(|answer| height.saturating_sub(answer.status.height)),
            dark_since_unix_ms: (!here).then(|| {
                known
                    .and_then(|seen| seen.dark_since_unix_ms)
                    .unwrap_or(self.started_unix_ms)
            }),
            status: answer.map(|answer| answer.status),
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Seen>> {
        self.seen
            .lock()
            .expect("nothing panics while it holds what was seen")
    }
}

impl SessionsHandle {
    /// What this node says of itself.
    pub(crate) fn node_status(&self) -> NodeStatus {
        let parts = self.parts();
        let free = parts.bookings().remaining(Instant::now());
        NodeStatus {
            software: SOFTWARE.to_owned(),
            protocol: PROTOCOL,
            height: parts.chain.snapshot().height,
            clock_unix_ms: unix_ms(),
            methods: parts.methods.available(),
            memory_free: free.memory,
            cpu_free_milli: free.cpu_milli,
            disk_free: parts.readings().map_or(0, |readings| readings.disk_free),
            sessions: u32::try_from(self.owned().len()).unwrap_or(u32::MAX),
            drained: parts.drain.is_on(),
        }
    }

    /// What is known of every member, this node among them. All are asked anew, at most every five seconds; one that does
    /// not answer within two is shown as it was known before.
    pub(crate) async fn census(&self) -> BTreeMap<PublicKey, Known> {
        let parts = self.parts();
        let view = parts.chain.snapshot();
        let members: Vec<PublicKey> = view.state.members().iter().map(|(key, _)| *key).collect();
        let connected = |key: &PublicKey| *key == parts.me || parts.net.is_connected(&peer_of_key(&key.0));
        // Also those that are not connected: in a larger network a node keeps a few neighbours only, and dials the others.
        let stale: Vec<PublicKey> = members
            .iter()
            .copied()
            .filter(|key| *key != parts.me && !parts.census.is_fresh(key))
            .collect();
        futures::stream::iter(stale)
            .for_each_concurrent(AT_ONCE, |member| async move {
                let asked = Instant::now();
                let question = notice::ask(parts, member, &SessionRequest::Status);
                if let Ok(Ok(SessionResponse::Status(status))) = tokio::time::timeout(ANSWER, question).await
                {
                    parts.census.answered(member, asked, *status);
                }
            })
            .await;
        parts
            .census
            .answered(parts.me, Instant::now(), self.node_status());
        parts
            .census
            .seen()
            .retain(|key, _| view.state.members().contains(key));
        members
            .iter()
            .map(|key| {
                let here = connected(key) || parts.census.is_fresh(key);
                (*key, parts.census.known(key, here, view.height))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(height: u64, clock_unix_ms: u64) -> NodeStatus {
        NodeStatus {
            software: "0.1.0\u{1b}[2J".into(),
            protocol: 1,
            height,
            clock_unix_ms,
            methods: vec!["live".into(), "x".repeat(1000)],
            memory_free: 1,
            cpu_free_milli: 1,
            disk_free: 1,
            sessions: 0,
            drained: false,
        }
    }

    #[test]
    fn a_member_is_dark_from_the_moment_it_was_last_here() {
        let census = Census::default();
        let member = PublicKey([1; 32]);
        let never = census.known(&member, false, 9);
        assert_eq!(never.dark_since_unix_ms, Some(census.started_unix_ms));
        census.note(member, true);
        assert_eq!(census.known(&member, true, 9).dark_since_unix_ms, None);
        census.note(member, false);
        assert!(census.known(&member, false, 9).dark_since_unix_ms >= never.dark_since_unix_ms);
    }

    #[test]
    fn what_it_says_is_bounded_and_kept() {
        let census = Census::default();
        let member = PublicKey([1; 32]);
        assert!(!census.is_fresh(&member));
        let asked = Instant::now();
        census.answered(member, asked, status(7, unix_ms() + 52_000));
        assert!(census.is_fresh(&member));
        let known = census.known(&member, true, 9);
        assert_eq!(known.lag, Some(2));
        let offset = known.clock_offset_ms.unwrap();
        // A test machine may stop for a while between the two readings, which makes it less.
        assert!((0..=52_001).contains(&offset), "{offset}");
        let status = known.status.unwrap();
        assert_eq!(status.software, "0.1.0[2J");
        assert_eq!(status.methods, ["live", ""]);
        // A node that is ahead is not behind.
        assert_eq!(census.known(&member, true, 3).lag, Some(0));
    }
}

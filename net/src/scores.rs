//! How members behave. Misdeeds cost score, the score recovers with time, and who falls too low is kept out for a while.
//!
//! What counts is behaviour, not volume: a duplicate, a late message or many requests cost nothing. Only gossip that goes
//! on far above its allowance does. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// A score halves its distance to zero in this time.
const HALF_LIFE: Duration = Duration::from_secs(300);
/// Who falls to this is kept out.
const LOWEST: f64 = -50.0;
/// With what a member that was kept out begins again: less is needed the next time.
const AFTERWARDS: f64 = -25.0;
/// Slowness counts at most this often, so that a peer that is only slow never falls to [`LOWEST`].
const SLOW_EVERY: Duration = Duration::from_secs(10);
/// Nearer to zero than this a score is forgotten.
const FORGOTTEN: f64 = -0.5;

/// How long a member is kept out.
const KEPT_OUT: Duration = Duration::from_secs(60);
/// The same for an authority: without it the network stands still.
const AUTHORITY_KEPT_OUT: Duration = Duration::from_secs(5);

/// What a member did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misdeed {
    /// It forwarded a gossip message that the reader rejected, or said such a thing in a request or an answer.
    Message,
    /// It sent a frame over its protocol's limit.
    Frame,
    /// It began a request and did not finish it in time.
    Stalled,
    /// It left a question of the ledger, which needs no container and no disk, unanswered.
    Timeout,
    /// It grafts and prunes, or promises messages, against the rules of gossipsub.
    Control,
    /// It sends more gossip than it is allowed, which no honest member comes near: each message leaves a trace for a while.
    Flood,
}

impl Misdeed {
    /// All misdeeds, in the order of their discriminants.
    pub const ALL: [Misdeed; 6] = [
        Misdeed::Message,
        Misdeed::Frame,
        Misdeed::Stalled,
        Misdeed::Timeout,
        Misdeed::Control,
        Misdeed::Flood,
    ];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Misdeed::Message => "message",
            Misdeed::Frame => "frame",
            Misdeed::Stalled => "stalled",
            Misdeed::Timeout => "timeout",
            Misdeed::Control => "control",
            Misdeed::Flood => "flood",
        }
    }

    fn cost(self) -> f64 {
        match self {
            Misdeed::Message => 5.0,
            Misdeed::Frame | Misdeed::Control => 10.0,
            Misdeed::Stalled | Misdeed::Timeout => 1.0,
            Misdeed::Flood => 0.01,
        }
    }

    /// A slow link or a busy machine can be nobody's fault.
    fn is_slowness(self) -> bool {
        matches!(self, Misdeed::Stalled | Misdeed::Timeout)
    }
}

/// The scores of members that have one.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    peers: HashMap<PeerId, Score>,
}

#[derive(Debug)]
struct Score {
    value: f64,
    at: Instant,
    slow: Option<Instant>,
}

impl Score {
    fn decay(&mut self, now: Instant) {
        let halves = now.duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.value *= 0.5f64.powf(halves);
        self.at = now;
    }
}

/// What comes of a misdeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did not count: slowness is counted seldom.
    Passed,
    /// The score is lower now.
    Noted,
    /// The peer is to be kept out for this long.
    Out(Duration),
}

impl Scores {
    pub(crate) fn on_misdeed(
        &mut self,
        peer: PeerId,
        misdeed: Misdeed,
        authority: bool,
        now: Instant,
    ) -> Outcome {
        let score = self.peers.entry(peer).or_insert(Score {
            value: 0.0,
            at: now,
            slow: None,
        });
        if misdeed.is_slowness() {
            if score
                .slow
                .is_some_and(|last| now.duration_since(last) < SLOW_EVERY)
            {
                return Outcome::Passed;
            }
            score.slow = Some(now);
        }
        score.decay(now);
        score.value -= misdeed.cost();
        if score.value > LOWEST {
            return Outcome::Noted;
        }
        score.value = AFTERWARDS;
        Outcome::Out(if authority { AUTHORITY_KEPT_OUT } else { KEPT_OUT })
    }

    /// The score of a peer, 0 at best, rounded.
    pub(crate) fn of(&self, peer: &PeerId) -> i32 {
        self.peers.get(peer).map_or(0, |score| score.value.round() as i32)
    }

    /// Lets time pass.
    pub(crate) fn round(&mut self, now: Instant) {
        for score in self.peers.values_mut() {
            score.decay(now);
        }
        self.peers.retain(|_, score| score.value < FORGOTTEN);
    }

    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_invalid_messages_are_too_many() {
        let (mut scores, peer, now) = (Scores::default(), PeerId::random(), Instant::now());
        for _ in 0..9 {
            assert_eq!(
                scores.on_misdeed(peer, Misdeed::Message, false, now),
                Outcome::Noted
            );
        }
        assert_eq!(scores.of(&peer), -45);
        let out = scores.on_misdeed(peer, Misdeed::Message, false, now);
        assert_eq!(out, Outcome::Out(KEPT_OUT));
        // It comes back with half of it, and falls sooner.
        for _ in 0..4 {
            assert_eq!(
                scores.on_misdeed(peer, Misdeed::Message, false, now),
                Outcome::Noted
            );
        }
        assert_eq!(
            scores.on_misdeed(peer, Misdeed::Message, true, now),
            Outcome::Out(AUTHORITY_KEPT_OUT)
        );
    }

    #[test]
    fn time_heals() {
        let (mut scores, peer, now) = (Scores::default(), PeerId::random(), Instant::now());
        for _ in 0..4 {
            scores.on_misdeed(peer, Misdeed::Frame, false, now);
        }
        assert_eq!(scores.of(&peer), -40);
        scores.round(now + HALF_LIFE);
        assert_eq!(scores.of(&peer), -20);
        scores.round(now + 8 * HALF_LIFE);
        assert_eq!(scores.of(&peer), 0);
        assert!(scores.peers.is_empty(), "nothing is kept of it");
    }

    #[test]
    fn slowness_alone_never_keeps_out() {
        let (mut scores, peer, start) = (Scores::default(), PeerId::random(), Instant::now());
        for tenth in 0..100_000u32 {
            let now = start + tenth * Duration::from_millis(100);
            let misdeed = if tenth % 2 == 0 {
                Misdeed::Timeout
            } else {
                Misdeed::Stalled
            };
            assert!(
                !matches!(scores.on_misdeed(peer, misdeed, false, now), Outcome::Out(_)),
                "{tenth}"
            );
        }
    }

    #[test]
    fn a_flood_ends_and_a_gush_is_forgotten() {
        let (mut scores, peer, now) = (Scores::default(), PeerId::random(), Instant::now());
        let mut gush = |count| {
            (0..count)
                .map(|_| scores.on_misdeed(peer, Misdeed::Flood, false, now))
                .last()
        };
        assert_eq!(gush(4_000), Some(Outcome::Noted));
        assert_eq!(gush(1_001), Some(Outcome::Out(KEPT_OUT)));
        for later in 1..100u32 {
            let now = now + later * 10 * HALF_LIFE;
            scores.round(now);
            assert_eq!(scores.of(&peer), 0);
            for _ in 0..4_000 {
                assert_eq!(
                    scores.on_misdeed(peer, Misdeed::Flood, false, now),
                    Outcome::Noted
                );
            }
        }
    }

    #[test]
    fn peers_do_not_answer_for_each_other() {
        let (mut scores, now) = (Scores::default(), Instant::now());
        let (a, b) = (PeerId::random(), PeerId::random());
        scores.on_misdeed(a, Misdeed::Control, false, now);
        assert_eq!((scores.of(&a), scores.of(&b)), (-10, 0));
        scores.forget(&a);
        assert_eq!(scores.of(&a), 0);
    }

    #[test]
    fn names_and_order_agree() {
        for (index, misdeed) in Misdeed::ALL.into_iter().enumerate() {
            assert_eq!(misdeed as usize, index);
        }
    }
}

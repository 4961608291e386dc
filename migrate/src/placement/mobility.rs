//! When a node that relays for a session should claim it (rule 10: no ping-pong).

use std::time::{Duration, Instant};

use super::position::{Position, Track, distance_m};

/// Silence after which "has sent only to this node" starts over: the client may have been elsewhere
/// without our hearing of it.
const SILENCE: Duration = Duration::from_secs(10);

/// What an operator sets about following clients.
#[derive(Debug, Clone, Copy)]
pub struct MobilityPolicy {
    /// Metres by which the client must be nearer to this node than to the owner.
    pub margin_m: f64,
    /// Least time between two hand-overs of a session.
    pub min_stay: Duration,
    /// Time for which a client must have sent only here when positions say nothing.
    pub settle: Duration,
}

impl Default for MobilityPolicy {
    fn default() -> Self {
        Self {
            margin_m: 50.0,
            min_stay: Duration::from_secs(10),
            settle: Duration::from_secs(2),
        }
    }
}

/// Why a claim is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimReason {
    /// The client is nearer to this node by the margin.
    Nearer,
    /// The client has sent only here for a while.
    SentOnlyHere,
}

/// What one node knows of one client whose session it relays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mobility {
    track: Track,
    only_here_since: Option<Instant>,
    last_request: Option<Instant>,
}

impl Mobility {
    /// A request came straight from the client, with the position it gave, if any.
    pub fn request_here(&mut self, now: Instant, position: Option<Position>) {
        let silent = self
            .last_request
            .is_none_or(|last| now.saturating_duration_since(last) > SILENCE);
        if silent || self.only_here_since.is_none() {
            self.only_here_since = Some(now);
        }
        self.last_request = Some(now);
        if let Some(position) = position {
            self.track.observe(now, position);
        }
    }

    /// The client was heard of at another node.
    pub fn request_elsewhere(&mut self) {
        self.only_here_since = None;
    }

    /// The client's last believable position.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.track.position()
    }

    /// Whether to claim the session now. `here` and `owner` are the two nodes' places;
    /// `last_hand_over` is when the session last changed hands, if this node knows of such a time.
    #[must_use]
    pub fn decide(
        &self,
        now: Instant,
        policy: &MobilityPolicy,
        here: Position,
        owner: Position,
        last_hand_over: Option<Instant>,
    ) -> Option<ClaimReason> {
        let since = |at: Instant| now.saturating_duration_since(at);
        if last_hand_over.is_some_and(|at| since(at) < policy.min_stay) {
            return None;
        }
        // What was last heard long ago says nothing of now.
        if self.last_request.is_none_or(|last| since(last) > SILENCE) {
            return None;
        }
        // Alg. 3, line 18: the distance decides whether the container stays.
        if let Some(client) = self.track.position()
            && distance_m(client, here) + policy.margin_m <= distance_m(client, owner)
        {
            return Some(ClaimReason::Nearer);
        }
        if self.only_here_since.is_some_and(|at| since(at) >= policy.settle) {
            return Some(ClaimReason::SentOnlyHere);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    /// Two nodes about 1,112 m apart on the equator.
    fn places() -> (Position, Position) {
        (at("0,0.01"), at("0,0"))
    }

    #[test]
    fn a_claim_waits_for_margin_or_settling_and_for_min_stay() {
        let policy = MobilityPolicy::default();
        let (here, owner) = places();
        let t0 = Instant::now() + Duration::from_secs(3600);
        let ms = Duration::from_millis;
        // (what, requests as (ms, position), ask at ms, last hand-over ms ago, expect)
        type Row<'a> = (
            &'a str,
            &'a [(u64, Option<&'a str>)],
            u64,
            Option<u64>,
            Option<ClaimReason>,
        );
        let rows: &[Row<'_>] = &[
            ("never heard of", &[], 0, None, None),
            (
                "nearer by far",
                &[(0, Some("0,0.009"))],
                0,
                None,
                Some(ClaimReason::Nearer),
            ),
            (
                "nearer, but within the margin",
                &[(0, Some("0,0.0052"))],
                0,
                None,
                None,
            ),
            (
                "nearer by just the margin and more",
                &[(0, Some("0,0.0053"))],
                0,
                None,
                Some(ClaimReason::Nearer),
            ),
            (
                "nearer, handed over 9.9 s ago",
                &[(0, Some("0,0.009"))],
                0,
                Some(9_900),
                None,
            ),
            (
                "nearer, handed over 10 s ago",
                &[(0, Some("0,0.009"))],
                0,
                Some(10_000),
                Some(ClaimReason::Nearer),
            ),
            ("no position, one request", &[(0, None)], 0, None, None),
            (
                "no position, 1.9 s",
                &[(0, None), (1_900, None)],
                1_900,
                None,
                None,
            ),
            (
                "no position, 2 s",
                &[(0, None), (2_000, None)],
                2_000,
                None,
                Some(ClaimReason::SentOnlyHere),
            ),
            (
                "settled, handed over lately",
                &[(0, None), (2_000, None)],
                2_000,
                Some(3_000),
                None,
            ),
            (
                "a long silence starts over",
                &[(0, None), (11_000, None)],
                11_000,
                None,
                None,
            ),
            (
                "nearer to the owner, but only here",
                &[(0, Some("0,0.001")), (2_000, None)],
                2_000,
                None,
                Some(ClaimReason::SentOnlyHere),
            ),
            (
                "a jump here is not believed",
                &[(0, Some("0,0")), (100, Some("0,0.01"))],
                100,
                None,
                None,
            ),
            ("heard long ago", &[(0, Some("0,0.009"))], 10_001, None, None),
        ];
        for (what, requests, ask, ago, expect) in rows {
            let mut mobility = Mobility::default();
            for (when, position) in *requests {
                mobility.request_here(t0 + ms(*when), position.map(at));
            }
            let now = t0 + ms(*ask);
            let last = ago.map(|ago| now - ms(ago));
            assert_eq!(
                mobility.decide(now, &policy, here, owner, last),
                *expect,
                "{what}"
            );
        }
    }

    #[test]
    fn hearing_of_the_client_elsewhere_starts_over() {
        let policy = MobilityPolicy::default();
        let (here, owner) = places();
        let t0 = Instant::now();
        let mut mobility = Mobility::default();
        mobility.request_here(t0, None);
        mobility.request_elsewhere();
        let later = t0 + policy.settle;
        mobility.request_here(later, None);
        assert_eq!(mobility.decide(later, &policy, here, owner, None), None);
        let settled = later + policy.settle;
        mobility.request_here(settled, None);
        assert_eq!(
            mobility.decide(settled, &policy, here, owner, None),
            Some(ClaimReason::SentOnlyHere)
        );
    }
}

//! When to stop copying a layer that is still being written to, as a pure rule.
//!
//! Each round brings what changed since the round before was looked at. What will be left for the cut is predicted from
//! the newest round: the rate at which it filled, times the time that has passed since the source looked. The container
//! is stopped as soon as that costs next to no link time, or when further rounds do not make it less.

use std::time::Duration;

/// A last delta of this much link time is as good as none.
const ENOUGH: Duration = Duration::from_millis(20);
/// Rounds after the first, at most.
const MAX_ROUNDS: u32 = 8;
/// A round that leaves more than this part of what the one before left has brought no progress.
const PROGRESS: f64 = 0.9;
/// Rounds without progress, one after another, that end the copying.
const MAX_IDLE_ROUNDS: u32 = 2;
/// From the decision to the source's last look: the question's way, the drain, the service's own stop.
const ALLOWANCE: Duration = Duration::from_millis(20);

/// What one round was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Round {
    /// Compressed bytes that it took.
    pub wire_bytes: u64,
    /// Time over which its changes had gathered: from the source's look before it to its own. None for the first
    /// round, which brings everything.
    pub gathered: Option<Duration>,
    /// Time since the source looked for it.
    pub since_look: Duration,
}

/// What to do after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another round.
    Again,
    /// Stop the source: little is left, or it does not get less.
    Cut,
    /// The service writes too fast: what is left would take longer than allowed.
    GiveUp,
}

/// The rule, over the rounds of one attempt.
#[derive(Debug, Clone)]
pub struct Precopy {
    max_downtime: Duration,
    force: bool,
    rounds: u32,
    idle: u32,
    left: Option<Duration>,
}

impl Precopy {
    /// For an attempt whose last delta may take `max_downtime` of link time; with `force` it may take any.
    #[must_use]
    pub fn new(max_downtime: Duration, force: bool) -> Self {
        Self {
            max_downtime,
            force,
            rounds: 0,
            idle: 0,
            left: None,
        }
    }

    /// Takes a finished round into account. `rate`: what the link carries, bytes per second.
    pub fn after(&mut self, round: Round, rate: f64) -> Next {
        let Some(gathered) = round.gathered else {
            return Next::Again;
        };
        let left = predict(round, gathered, rate);
        let progress = self
            .left
            .is_none_or(|before| left.as_secs_f64() < before.as_secs_f64() * PROGRESS);
        self.idle = if progress { 0 } else { self.idle + 1 };
        self.rounds += 1;
        self.left = Some(left);
        if left <= ENOUGH {
            Next::Cut
        } else if self.rounds < MAX_ROUNDS && self.idle < MAX_IDLE_ROUNDS {
            Next::Again
        } else if left <= self.max_downtime || self.force {
            Next::Cut
        } else if self.rounds < MAX_ROUNDS {
            // Not yet: a burst of writes may pass.
            Next::Again
        } else {
            Next::GiveUp
        }
    }

    /// Link time that the last delta is predicted to take; none before the second round.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.left
    }
}

fn predict(round: Round, gathered: Duration, rate: f64) -> Duration {
    let per_second = round.wire_bytes as f64 / gathered.as_secs_f64().max(0.001);
    let bytes = per_second * (round.since_look + ALLOWANCE).as_secs_f64();
    // A link whose rate is not known yet, or absurd, must not make a time that does not exist.
    Duration::try_from_secs_f64(bytes / rate.max(1.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 Mbit/s.
    const LINK: f64 = 5e6;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn round(wire_bytes: u64, gathered: u64, since_look: u64) -> Round {
        Round {
            wire_bytes,
            gathered: Some(ms(gathered)),
            since_look: ms(since_look),
        }
    }

    fn first(wire_bytes: u64) -> Round {
        Round {
            wire_bytes,
            gathered: None,
            since_look: ms(100),
        }
    }

    #[test]
    fn the_first_round_says_nothing_of_the_writer() {
        let mut precopy = Precopy::new(ms(1500), false);
        assert_eq!(precopy.after(first(0), LINK), Next::Again);
        assert_eq!(precopy.left(), None);
    }

    #[test]
    fn a_quiet_service_is_cut_after_its_second_look() {
        let mut precopy = Precopy::new(ms(1500), false);
        precopy.after(first(30_000_000), LINK);
        assert_eq!(precopy.after(round(200, 7000, 30), LINK), Next::Cut);
    }

    #[test]
    fn rounds_shrink_until_the_rest_is_next_to_nothing() {
        let mut precopy = Precopy::new(ms(1500), false);
        precopy.after(first(30_000_000), LINK);
        // 0.75 MB/s of compressed changes; each round takes as long as its bytes, and some.
        assert_eq!(precopy.after(round(5_200_000, 7000, 1200), LINK), Next::Again);
        assert_eq!(precopy.after(round(900_000, 1200, 300), LINK), Next::Again);
        assert_eq!(precopy.after(round(225_000, 300, 150), LINK), Next::Again);
        assert_eq!(precopy.after(round(112_000, 150, 100), LINK), Next::Cut);
    }

    #[test]
    fn a_plateau_below_the_limit_is_cut_and_above_it_given_up() {
        let plateau = |writer: u64, force: bool| {
            let mut precopy = Precopy::new(ms(1500), force);
            precopy.after(first(30_000_000), LINK);
            let mut next = Next::Again;
            let mut rounds = 0;
            while next == Next::Again {
                next = precopy.after(round(writer, 1000, 1000), LINK);
                rounds += 1;
                assert!(rounds <= MAX_ROUNDS);
            }
            (next, rounds)
        };
        // 1 MB/s looked at once a second: 200 ms of link time, again and again.
        assert_eq!(plateau(1_000_000, false), (Next::Cut, 1 + MAX_IDLE_ROUNDS));
        // 8 MB/s: never.
        assert_eq!(plateau(8_000_000, false), (Next::GiveUp, MAX_ROUNDS));
        assert_eq!(plateau(8_000_000, true), (Next::Cut, 1 + MAX_IDLE_ROUNDS));
    }

    #[test]
    fn absurd_figures_make_no_absurd_times() {
        let mut precopy = Precopy::new(ms(1500), false);
        assert_eq!(precopy.after(round(u64::MAX, 0, 1), 0.0), Next::Again);
        assert_eq!(precopy.left(), Some(Duration::MAX));
    }
}

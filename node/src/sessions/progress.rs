//! How far a migration is: its phase, and within a phase bytes, rate and the time that is left.

use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::Serialize;

/// The phases of a migration by the names that logs, events and reports use, in no order that means anything. A phase
/// crosses the wire as its index here: new ones are added at the end.
const PHASES: [&str; 16] = [
    "announce", "claim", "stage", "precopy", "drain", "stop", "commit", "transfer", "applied", "signed",
    "acquired", "serving", "relayed", "aborted", "start", "last",
];

/// What is known of a phase that takes a while. Absent fields are not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, BorshSerialize, BorshDeserialize)]
pub struct Progress {
    /// Round of copying, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// Bytes that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes that have to be there in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bytes_s: Option<u64>,
    /// Milliseconds until the phase is over, at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
}

impl Progress {
    /// `bytes` of `total_bytes` after `elapsed`, with the rate and the time left that follow from it.
    pub fn of(bytes: u64, total_bytes: u64, elapsed: Duration) -> Self {
        let rate = per_second(bytes, elapsed);
        let left = total_bytes.saturating_sub(bytes);
        Self {
            round: None,
            bytes: Some(bytes),
            total_bytes: Some(total_bytes),
            rate_bytes_s: rate,
            eta_ms: rate
                .filter(|rate| *rate > 0)
                .map(|rate| left.saturating_mul(1000) / rate),
        }
    }

    /// The same in that round.
    pub fn in_round(self, round: u32) -> Self {
        Self {
            round: Some(round),
            ..self
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_whole(&self) -> bool {
        self.total_bytes.is_some() && self.bytes >= self.total_bytes
    }
}

/// A phase and how far it is, as a destination tells its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Step {
    phase: u8,
    pub(crate) progress: Progress,
}

impl Step {
    /// `None` for a phase that has no number on the wire.
    pub(crate) fn new(phase: &str, progress: Progress) -> Option<Self> {
        let phase = PHASES.iter().position(|known| *known == phase)?;
        Some(Self {
            phase: u8::try_from(phase).ok()?,
            progress,
        })
    }

    /// The phase's name; `None` for one that this version does not know.
    pub(crate) fn phase(&self) -> Option<&'static str> {
        PHASES.get(usize::from(self.phase)).copied()
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> Option<u64> {
    let micros = elapsed.as_micros();
    if micros == 0 {
        return None;
    }
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_follow_from_bytes_and_time() {
        let half = Progress::of(5_000_000, 10_000_000, Duration::from_secs(2)).in_round(1);
        assert_eq!(
            half,
            Progress {
                round: Some(1),
                bytes: Some(5_000_000),
                total_bytes: Some(10_000_000),
                rate_bytes_s: Some(2_500_000),
                eta_ms: Some(2000),
            }
        );
        assert!(!half.is_whole());
        let begun = Progress::of(0, 10, Duration::from_secs(1));
        assert_eq!((begun.rate_bytes_s, begun.eta_ms), (Some(0), None));
        assert_eq!(Progress::of(1, 10, Duration::ZERO).rate_bytes_s, None);
        let more = Progress::of(11, 10, Duration::from_secs(1));
        assert!(more.is_whole() && more.eta_ms == Some(0));
        assert!(
            Progress::of(u64::MAX, u64::MAX, Duration::from_micros(1))
                .rate_bytes_s
                .is_none()
        );
    }

    #[test]
    fn a_phase_crosses_the_wire_by_its_number() {
        let step = Step::new("transfer", Progress::default()).unwrap();
        let bytes = borsh::to_vec(&step).unwrap();
        assert_eq!(bytes.first(), Some(&7), "a number once given stays");
        assert_eq!(
            borsh::from_slice::<Step>(&bytes).unwrap().phase(),
            Some("transfer")
        );
        assert_eq!(Step::new("teleport", Progress::default()), None);
        let later = Step {
            phase: 200,
            progress: Progress::default(),
        };
        assert_eq!(later.phase(), None);
    }
}

//! The wall clock, and how wrong it is. Nothing that safety rests on reads it: it dates blocks and reports.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that is off by less is good enough: no message takes that long, and dates in reports are read by people.
const TOLERANCE: Duration = Duration::from_secs(10);

/// Tells the time in milliseconds since the Unix epoch.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock of the caller's.
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now_ms))
    }

    /// What it shows.
    pub(super) fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    /// This machine's. Before 1970 it shows 0.
    fn default() -> Clock {
        Clock::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now_ms())
    }
}

/// What is known of this node's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockView {
    /// This node's clock less the authority's, in milliseconds, as it was measured last, to about half a round trip; 0
    /// on the authority. None before the authority has answered.
    pub offset_ms: Option<i64>,
    /// What is wrong with it.
    pub fault: Option<ClockFault>,
}

impl ClockView {
    /// [`ClockView::offset_ms`] in seconds.
    #[must_use]
    pub fn offset_seconds(&self) -> Option<f64> {
        self.offset_ms.map(seconds)
    }
}

/// A clock that is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockFault {
    /// It differs from the authority's.
    OffAuthority {
        /// This clock less the authority's, in milliseconds.
        offset_ms: i64,
    },
    /// It shows a time before that of the newest block.
    BehindChain {
        /// By so many milliseconds.
        by_ms: u64,
    },
}

impl fmt::Display for ClockFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClockFault::OffAuthority { offset_ms } => {
                let way = if *offset_ms < 0 { "behind" } else { "ahead of" };
                let by = seconds(*offset_ms).abs();
                write!(f, "this node's clock is {by:.1} s {way} the authority's")?;
            }
            ClockFault::BehindChain { by_ms } => {
                let by = *by_ms as f64 / 1000.0;
                write!(
                    f,
                    "this node's clock is {by:.1} s behind the time of the newest block"
                )?;
            }
        }
        f.write_str("; set the clock (NTP). Until then dates in reports and logs are wrong")
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The offset as it was measured last.
#[derive(Debug, Default)]
pub(super) struct Skew(Mutex<Option<i64>>);

impl Skew {
    /// The authority has answered with the time `theirs_ms`; `now_ms` shows this clock as the answer came in, after
    /// `round_trip`.
    pub(super) fn measure(&self, now_ms: u64, theirs_ms: u64, round_trip: Duration) {
        *self.lock() = Some(offset(now_ms, theirs_ms, round_trip));
    }

    /// What is known now, with `head_ms` the time of the newest block.
    pub(super) fn view(&self, now_ms: u64, head_ms: u64, is_authority: bool) -> ClockView {
        let offset_ms = if is_authority { Some(0) } else { *self.lock() };
        ClockView {
            offset_ms,
            fault: fault(now_ms, head_ms, offset_ms.filter(|_| !is_authority)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer was on its way for about half of the round trip.
fn offset(now_ms: u64, theirs_ms: u64, round_trip: Duration) -> i64 {
    let half = round_trip.as_millis() as i128 / 2;
    let offset = i128::from(now_ms) - half - i128::from(theirs_ms);
    offset.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// A measured offset decides. Before there is one, and on the authority, the chain can only tell a clock that is late.
fn fault(now_ms: u64, head_ms: u64, offset_ms: Option<i64>) -> Option<ClockFault> {
    let tolerance = TOLERANCE.as_millis() as u64;
    match offset_ms {
        Some(offset_ms) => {
            (offset_ms.unsigned_abs() > tolerance).then_some(ClockFault::OffAuthority { offset_ms })
        }
        None => {
            let by_ms = head_ms.saturating_sub(now_ms);
            (by_ms > tolerance).then_some(ClockFault::BehindChain { by_ms })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn half_of_the_round_trip_is_taken_off() {
        let trip = Duration::from_millis(80);
        assert_eq!(offset(NOW + 40, NOW, trip), 0);
        assert_eq!(offset(NOW + 1_040, NOW, trip), 1_000);
        assert_eq!(offset(0, NOW, Duration::ZERO), -(NOW as i64));
        assert_eq!(offset(u64::MAX, 0, Duration::ZERO), i64::MAX);
        assert_eq!(offset(0, u64::MAX, trip), i64::MIN);
    }

    #[test]
    fn a_clock_is_wrong_against_the_authority_or_at_least_the_chain() {
        let skew = Skew::default();
        assert_eq!(skew.view(NOW, NOW, false).fault, None);
        assert_eq!(skew.view(NOW, NOW + 9_000, false).fault, None);
        assert_eq!(
            skew.view(0, NOW, false),
            ClockView {
                offset_ms: None,
                fault: Some(ClockFault::BehindChain { by_ms: NOW })
            }
        );
        skew.measure(NOW, NOW + 11_000, Duration::ZERO);
        let view = skew.view(NOW, NOW, false);
        assert_eq!(view.offset_seconds(), Some(-11.0));
        assert_eq!(view.fault, Some(ClockFault::OffAuthority { offset_ms: -11_000 }));
        // A head from an authority that was ahead for a time is no fault of a clock that fits to it now.
        skew.measure(NOW, NOW, Duration::ZERO);
        assert_eq!(skew.view(NOW, NOW + 60_000, false).fault, None);
        let authority = skew.view(0, NOW, true);
        assert_eq!(authority.offset_ms, Some(0));
        assert_eq!(authority.fault, Some(ClockFault::BehindChain { by_ms: NOW }));
    }

    #[test]
    fn the_operator_is_told_what_to_do() {
        let text = ClockFault::OffAuthority { offset_ms: -11_500 }.to_string();
        assert!(
            text.contains("11.5 s behind the authority's; set the clock"),
            "{text}"
        );
        let text = ClockFault::OffAuthority { offset_ms: 11_500 }.to_string();
        assert!(text.contains("11.5 s ahead of"), "{text}");
        let text = ClockFault::BehindChain { by_ms: 2_000 }.to_string();
        assert!(
            text.contains("2.0 s behind the time of the newest block"),
            "{text}"
        );
    }
}

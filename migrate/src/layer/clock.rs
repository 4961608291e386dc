//! Whether the clock that stamps the files can be believed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock, since 1970. The kernel stamps files with it.
    pub realtime: Duration,
    /// A clock that is never set, since any fixed moment.
    pub monotonic: Duration,
}

impl Stamp {
    /// This machine's clocks.
    pub fn clock() -> impl Fn() -> Stamp + Send + 'static {
        let start = Instant::now();
        move || Stamp {
            realtime: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            monotonic: start.elapsed(),
        }
    }
}

/// Timestamps closer than this to their reading do not tell a later change.
const COARSE: Duration = Duration::from_secs(2);
/// The two clocks may drift apart by this much. It is less than [`COARSE`]: a smaller step back
/// cannot give a change the time of an earlier one that counts as settled.
const DRIFT: Duration = Duration::from_secs(1);

/// Watches the wall clock against the monotonic one.
pub(super) struct Clock {
    now: Box<dyn Fn() -> Stamp + Send>,
    /// Smallest and largest `realtime - monotonic` so far, ns.
    apart: Option<(i128, i128)>,
    future: bool,
}

impl Clock {
    pub(super) fn new(now: impl Fn() -> Stamp + Send + 'static) -> Clock {
        let mut clock = Clock {
            now: Box::new(now),
            apart: None,
            future: false,
        };
        clock.read();
        clock
    }

    /// The wall clock now.
    pub(super) fn read(&mut self) -> Duration {
        let stamp = (self.now)();
        let apart = nanos(stamp.realtime) - nanos(stamp.monotonic);
        let (least, most) = self.apart.unwrap_or((apart, apart));
        self.apart = Some((least.min(apart), most.max(apart)));
        stamp.realtime
    }

    /// Whether a file with this ctime may change after `read` without its ctime telling. A ctime in
    /// the future makes every timestamp doubtful.
    pub(super) fn is_recent(&mut self, ctime: (i64, u64), read: Duration) -> bool {
        self.future |= age(ctime, read) < 0;
        is_young(ctime, read)
    }

    /// Whether timestamps prove nothing: the wall clock jumped, or a file came from the future.
    pub(super) fn is_doubtful(&self) -> bool {
        self.future
            || self
                .apart
                .is_some_and(|(least, most)| most - least >= nanos(DRIFT))
    }
}

/// Whether a ctime is so close to `now` that a later change may have the same one.
pub(super) fn is_young(ctime: (i64, u64), now: Duration) -> bool {
    age(ctime, now) < nanos(COARSE)
}

fn age(ctime: (i64, u64), now: Duration) -> i128 {
    nanos(now) - i128::from(ctime.0) * 1_000_000_000 - i128::from(ctime.1)
}

fn nanos(of: Duration) -> i128 {
    i128::from(of.as_secs()) * 1_000_000_000 + i128::from(of.subsec_nanos())
}

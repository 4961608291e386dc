//! Progress of what takes minutes.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Says what happens, with the seconds since the start.
pub(crate) struct Teller(Instant);

impl Teller {
    /// Its start is now.
    pub(crate) fn begin() -> Teller {
        Teller(Instant::now())
    }

    /// One line.
    pub(crate) fn say(&self, line: &str) {
        println!("[{:6.1} s] {line}", self.0.elapsed().as_secs_f64());
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn unix_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

//! Progress of what takes minutes.

use std::time::Instant;

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

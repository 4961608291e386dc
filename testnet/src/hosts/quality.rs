//! What a link does to packets: delay, jitter, loss, and one direction that is cut.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Longest delay and jitter: a minute is longer than any peer waits.
const LONGEST_MS: u32 = 60_000;

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// What every packet waits, milliseconds.
    pub delay_ms: u32,
    /// What it waits on top, evenly distributed from 0 to this, milliseconds. Packets keep their order.
    pub jitter_ms: u32,
    /// Of a hundred packets so many are lost, each independently of the others.
    pub loss: Percent,
    /// Every packet is lost.
    pub cut: bool,
}

/// Both directions, as the host sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkQuality {
    /// From the host to the road.
    pub up: Quality,
    /// From the road to the host.
    pub down: Quality,
}

impl LinkQuality {
    /// Whether packets pass as if nothing were between.
    pub fn is_clear(&self) -> bool {
        *self == LinkQuality::default()
    }
}

impl fmt::Display for LinkQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.up == self.down {
            return write!(f, "{}", self.up);
        }
        write!(f, "up {}, down {}", self.up, self.down)
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cut {
            return f.write_str("cut");
        }
        write!(f, "{} ms", self.delay_ms)?;
        if self.jitter_ms > 0 {
            write!(f, " to {} ms", self.delay_ms + self.jitter_ms)?;
        }
        if self.loss.0 > 0.0 {
            write!(f, ", {} lost", self.loss)?;
        }
        Ok(())
    }
}

/// A share of packets, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent(f64);

impl TryFrom<f64> for Percent {
    type Error = anyhow::Error;

    fn try_from(value: f64) -> Result<Percent> {
        if (0.0..=100.0).contains(&value) {
            Ok(Percent(value))
        } else {
            bail!("a loss lies between 0% and 100%")
        }
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> f64 {
        percent.0
    }
}

impl FromStr for Percent {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Percent> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let value: f64 = number
            .parse()
            .with_context(|| format!("{text:?} is no loss: write it as 1% or 0.5%"))?;
        Percent::try_from(value)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Reads a time as `20ms` or `1s`; gives milliseconds.
///
/// # Errors
/// It is none, or longer than a minute.
pub fn millis(text: &str) -> Result<u32> {
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        _ => bail!("{text:?} is no time: write it as 20ms or 1s"),
    };
    let number: u32 = number
        .parse()
        .with_context(|| format!("{text:?} is no time: write it as 20ms or 1s"))?;
    match number.checked_mul(factor) {
        Some(millis @ 0..=LONGEST_MS) => Ok(millis),
        _ => bail!("a packet waits at most {} s", LONGEST_MS / 1000),
    }
}

/// Decides over the packets of one direction. Pure: chance and time come in.
#[derive(Debug, Default)]
pub(super) struct Judge {
    last: Option<Instant>,
}

impl Judge {
    /// When a packet that has come now goes on; none when it is lost. `chance` gives numbers from 0 up to 1.
    pub(super) fn release(
        &mut self,
        quality: &Quality,
        now: Instant,
        mut chance: impl FnMut() -> f64,
    ) -> Option<Instant> {
        if quality.cut || chance() * 100.0 < quality.loss.0 {
            return None;
        }
        let jitter = f64::from(quality.jitter_ms) * chance();
        let wait = Duration::from_secs_f64((f64::from(quality.delay_ms) + jitter) / 1000.0);
        // A link does not overtake itself.
        let at = self.last.map_or(now + wait, |last| last.max(now + wait));
        self.last = Some(at);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_losses_are_read() {
        assert_eq!((millis("20ms").unwrap(), millis("1s").unwrap()), (20, 1000));
        for text in ["", "20", "ms", "-1ms", "1m", "61s", "99999999999ms"] {
            assert!(millis(text).is_err(), "{text}");
        }
        assert_eq!("0.5%".parse::<Percent>().unwrap().0, 0.5);
        assert_eq!("100".parse::<Percent>().unwrap().0, 100.0);
        for text in ["", "%", "-1%", "101%", "NaN", "much"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[test]
    fn packets_wait_and_keep_their_order() {
        let quality = Quality {
            delay_ms: 50,
            jitter_ms: 20,
            ..Quality::default()
        };
        let (mut judge, now) = (Judge::default(), Instant::now());
        let mut at = |after: u64, chance: f64| {
            let came = now + Duration::from_millis(after);
            judge.release(&quality, came, || chance).unwrap() - now
        };
        assert_eq!(at(0, 1.0), Duration::from_millis(70));
        assert_eq!(at(1, 0.0), Duration::from_millis(70), "not before the first one");
        assert_eq!(at(100, 0.5), Duration::from_millis(160));
    }

    #[test]
    fn a_share_is_lost_and_a_cut_loses_all() {
        let lossy = Quality {
            loss: Percent(10.0),
            ..Quality::default()
        };
        let now = Instant::now();
        // The first number of each packet decides over its loss, whether it waits or not.
        let lost = |quality: &Quality| {
            let mut judge = Judge::default();
            let kept = |packet: &u32| {
                let first = f64::from(packet % 100) / 100.0;
                let mut chances = [first, 0.5].into_iter();
                judge.release(quality, now, || chances.next().unwrap()).is_some()
            };
            1000 - (0..1000).filter(kept).count()
        };
        assert_eq!(lost(&lossy), 100);
        assert_eq!(lost(&Quality::default()), 0);
        let cut = Quality {
            cut: true,
            ..Quality::default()
        };
        assert_eq!(lost(&cut), 1000);
    }

    #[test]
    fn a_link_is_said_in_words() {
        let mut link = LinkQuality::default();
        assert!(link.is_clear());
        link.up.delay_ms = 20;
        link.up.jitter_ms = 5;
        link.up.loss = Percent(1.0);
        link.down.cut = true;
        assert_eq!(link.to_string(), "up 20 ms to 25 ms, 1% lost, down cut");
        let text = serde_json::to_string(&link).unwrap();
        assert_eq!(serde_json::from_str::<LinkQuality>(&text).unwrap(), link);
        assert!(serde_json::from_str::<Percent>("101").is_err());
    }
}

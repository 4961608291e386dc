//! `/proc`: memory, processor time, load.

use std::time::Duration;

use super::ResourceError;

const MEMINFO: &str = "/proc/meminfo";
const STAT: &str = "/proc/stat";
const LOADAVG: &str = "/proc/loadavg";

/// Memory of the machine, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
}

/// Counters of processor time since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    /// Processors that are online.
    pub cpus: u32,
    /// Ticks of all kinds.
    pub total: u64,
    /// Idle ticks, waiting for disks included.
    pub idle: u64,
}

/// Ticks in a second, as the kernel shows them on every architecture.
const TICKS: u64 = 100;

impl CpuTimes {
    /// Processor time that was not idle.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_millis(self.total.saturating_sub(self.idle) * (1000 / TICKS))
    }

    /// Idle share between two looks, thousandths of a core.
    #[must_use]
    pub fn idle_milli_since(&self, before: &Self) -> u64 {
        let span = self.total.saturating_sub(before.total);
        let idle = self.idle.saturating_sub(before.idle).min(span);
        let cores_milli = u64::from(self.cpus) * 1000;
        // Two looks within one tick say nothing; what was idle before is as good a guess as any.
        (cores_milli * idle).checked_div(span).unwrap_or(cores_milli)
    }
}

/// Memory now.
///
/// # Errors
/// The file cannot be read or says something else.
pub fn memory() -> Result<Memory, ResourceError> {
    parse_memory(&read(MEMINFO)?)
}

/// Processor counters now.
///
/// # Errors
/// As for [`memory`].
pub fn cpu_times() -> Result<CpuTimes, ResourceError> {
    parse_times(&read(STAT)?)
}

/// Load of the last minute, thousandths of a core.
///
/// # Errors
/// As for [`memory`].
pub fn load_milli() -> Result<u64, ResourceError> {
    parse_load(&read(LOADAVG)?)
}

fn read(path: &'static str) -> Result<String, ResourceError> {
    std::fs::read_to_string(path).map_err(|source| ResourceError::Read { path, source })
}

fn parse_memory(text: &str) -> Result<Memory, ResourceError> {
    let kib = |key: &str, what| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(key)?
                    .strip_prefix(':')?
                    .split_ascii_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .map(|kib: u64| kib.saturating_mul(1024))
            .ok_or(ResourceError::Format { path: MEMINFO, what })
    };
    Ok(Memory {
        total: kib("MemTotal", "MemTotal")?,
        available: kib("MemAvailable", "MemAvailable")?,
    })
}

fn parse_times(text: &str) -> Result<CpuTimes, ResourceError> {
    let format = |what| ResourceError::Format { path: STAT, what };
    let all = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .ok_or(format("a line for all processors"))?;
    let ticks: Vec<u64> = all
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest times are inside user's.
    let (Some(idle), Some(wait)) = (ticks.get(3), ticks.get(4)) else {
        return Err(format("idle times"));
    };
    let cpus = text
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .count();
    Ok(CpuTimes {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX).max(1),
        total: ticks.iter().take(8).sum(),
        idle: idle + wait,
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a range that fits"
)]
fn parse_load(text: &str) -> Result<u64, ResourceError> {
    text.split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse::<f64>().ok())
        .map(|load| (load * 1000.0).clamp(0.0, 1e9) as u64)
        .ok_or(ResourceError::Format {
            path: LOADAVG,
            what: "the load of the last minute",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read() {
        let memory = parse_memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n").unwrap();
        assert_eq!(
            memory,
            Memory {
                total: 1_024_000,
                available: 409_600
            }
        );
        assert!(parse_memory("MemTotal: 1 kB\n").is_err());

        let stat =
            "cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 5 0 5 35 5 0 0 0 0 0\ncpu1 5 0 5 35 5 0 0 0 0 0\nintr 1\n";
        assert_eq!(
            parse_times(stat).unwrap(),
            CpuTimes {
                cpus: 2,
                total: 100,
                idle: 80
            }
        );
        assert!(parse_times("cpu  1 2\n").is_err());
        assert_eq!(parse_load("0.52 1 1 1/2 3").unwrap(), 520);
        assert!(parse_load("").is_err());
    }

    #[test]
    fn idle_share_is_between_two_looks() {
        let before = CpuTimes {
            cpus: 2,
            total: 100,
            idle: 80,
        };
        let after = CpuTimes {
            cpus: 2,
            total: 300,
            idle: 180,
        };
        assert_eq!(after.idle_milli_since(&before), 1000);
        assert_eq!(before.idle_milli_since(&before), 2000);
        assert_eq!(after.busy(), Duration::from_millis(1200));
        // Counters may step back when a processor goes offline.
        assert_eq!(before.idle_milli_since(&after), 2000);
    }
}

//! What this process takes of its machine, under the names that all of Prometheus' clients use.

use std::fs;

use prometheus::{Counter, Error, Gauge};
use rustix::process::{Resource, getrlimit};

use super::register::Register;

/// The kernel's ticks in a second, as it shows them in `/proc` on every architecture.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start_time: Gauge,
}

impl ProcessMetrics {
    pub(super) fn register(register: Register<'_>) -> Result<Self, Error> {
        Ok(Self {
            cpu_seconds: register.seconds(
                "process_cpu_seconds_total",
                "Processor time of the process, user and system together",
            )?,
            resident: register.gauge("process_resident_memory_bytes", "Resident memory of the process")?,
            virtual_memory: register
                .gauge("process_virtual_memory_bytes", "Virtual memory of the process")?,
            open_fds: register.gauge("process_open_fds", "Open file descriptors of the process")?,
            max_fds: register.gauge("process_max_fds", "File descriptors that the process may open")?,
            threads: register.gauge("process_threads", "Threads of the process")?,
            start_time: register.gauge(
                "process_start_time_seconds",
                "Start of the process, in seconds since the Unix epoch",
            )?,
        })
    }

    /// Reads `/proc/self`. What the kernel does not say stays as it was.
    pub(super) fn read(&self) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        if let Some((cpu_ticks, started_ticks)) = times(&read("/proc/self/stat")) {
            let more = cpu_ticks as f64 / TICKS - self.cpu_seconds.get();
            self.cpu_seconds.inc_by(more.max(0.0));
            if let Some(boot) = field(&read("/proc/stat"), "btime ") {
                self.start_time.set(boot as f64 + started_ticks as f64 / TICKS);
            }
        }
        let status = read("/proc/self/status");
        for (gauge, name, unit) in [
            (&self.resident, "VmRSS:", 1024.0),
            (&self.virtual_memory, "VmSize:", 1024.0),
            (&self.threads, "Threads:", 1.0),
        ] {
            if let Some(value) = field(&status, name) {
                gauge.set(value as f64 * unit);
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them reads the folder.
            self.open_fds.set(open.count().saturating_sub(1) as f64);
        }
        let limit = getrlimit(Resource::Nofile).current;
        self.max_fds
            .set(limit.map_or(f64::INFINITY, |limit| limit as f64));
    }
}

/// Processor time and start in ticks, of a `/proc/PID/stat`.
fn times(stat: &str) -> Option<(u64, u64)> {
    // The second field, the program's name in brackets, may hold spaces and brackets itself.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and two fields are before these.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(22)?))
}

/// The number behind `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus::Registry;

    use super::*;

    #[test]
    fn kernel_files_are_read() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 123456 4096000 77 0";
        assert_eq!(times(stat), Some((200, 123_456)));
        assert_eq!(times("42 (x) S 1"), None);
        let status = "Name:\tblosm\nVmSize:\t  9000 kB\nVmRSS:\t 77 kB\n";
        assert_eq!(field(status, "VmRSS:"), Some(77));
        assert_eq!(field(status, "Threads:"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let registry = Registry::new();
        let metrics = ProcessMetrics::register(Register(&registry)).unwrap();
        metrics.read();
        assert!(metrics.resident.get() > 1_000_000.0);
        assert!(metrics.virtual_memory.get() >= metrics.resident.get());
        assert!(metrics.open_fds.get() >= 3.0 && metrics.open_fds.get() < metrics.max_fds.get());
        assert!(metrics.threads.get() >= 1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - metrics.start_time.get();
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
        let (before, mut sum) = (metrics.cpu_seconds.get(), 0_u64);
        while metrics.cpu_seconds.get() <= before {
            sum = (0..1_000_000_u64).fold(sum, |sum, n| sum.wrapping_add(std::hint::black_box(n)));
            metrics.read();
        }
    }
}

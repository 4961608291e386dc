//! What the machine has and what of it is free: real readings, no estimates.
//!
//! [`Probe::read`] asks `/proc`, the control groups, the file system under the engine and, where
//! its library loads, NVML. R_tot for placement is [`Readings::total`] under the configured [`Caps`].

pub mod cgroup;
mod machine;
pub mod nvml;
pub mod proc;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use machine::{Machine, Watcher};
pub use nvml::Gpu;

use crate::placement::Amount;

/// Caps on R_tot from the configuration; absent means all that the machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// GPUs.
    pub gpus: Option<u32>,
}

/// One look at the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    /// Bytes, under the machine's control group limit.
    pub memory_total: u64,
    /// Bytes that can be had without swapping.
    pub memory_free: u64,
    /// Thousandths of a core, under the machine's control group limit.
    pub cpu_total_milli: u64,
    /// Of those, idle since the last look (at the first look: by the load average).
    pub cpu_free_milli: u64,
    /// Bytes free where the engine keeps its layers.
    pub disk_free: u64,
    /// Bytes of that file system.
    pub disk_total: u64,
    /// GPUs; none where NVML does not load.
    pub gpus: Vec<Gpu>,
}

/// The machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// A file of the kernel's.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content is not what kernels write.
    #[error("{path} does not say {what}")]
    Format {
        /// Which.
        path: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// The file system under the engine.
    #[error("cannot read free space of {}: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Readings {
    /// R_tot: what placement may give away.
    #[must_use]
    pub fn total(&self, caps: &Caps) -> Amount {
        let gpus = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        Amount {
            memory: self.memory_total.min(caps.memory.unwrap_or(u64::MAX)),
            cpu_milli: self.cpu_total_milli.min(caps.cpu_milli.unwrap_or(u64::MAX)),
            gpus: gpus.min(caps.gpus.unwrap_or(u32::MAX)),
            gpu_memory: self.gpus.iter().map(|gpu| gpu.memory_total).sum(),
        }
    }
}

/// Reads the machine; keeps the last processor counters, so that "free" is since the last look.
#[derive(Debug)]
pub struct Probe {
    engine_root: PathBuf,
    last: Option<proc::CpuTimes>,
    nvml: Arc<nvml::Devices>,
    /// What a simulated machine has; what is not named is as this machine has it.
    simulated: Option<Caps>,
}

impl Probe {
    /// A probe for the machine whose engine keeps its data in `engine_root`. Says once in the log
    /// whether GPUs can be seen.
    #[must_use]
    pub fn new(engine_root: &Path) -> Self {
        Self {
            engine_root: engine_root.to_owned(),
            last: None,
            nvml: Arc::new(nvml::Devices::open()),
            simulated: None,
        }
    }

    /// A probe for a machine of which many share this one: it has what `caps` say, be it more than this machine has, and
    /// all of it is free. Only the disk under `root` is real.
    #[must_use]
    pub fn simulated(root: &Path, caps: Caps) -> Self {
        Self {
            engine_root: root.to_owned(),
            last: None,
            nvml: Arc::new(nvml::Devices::none()),
            simulated: Some(caps),
        }
    }

    /// Takes one look. Reads files; does not block on anything slow.
    ///
    /// # Errors
    /// When the kernel's files or the engine's file system cannot be read.
    pub fn read(&mut self) -> Result<Readings, ResourceError> {
        if let Some(caps) = self.simulated {
            return self.read_simulated(&caps);
        }
        let (memory_total, memory_free) = machine::memory()?;
        let times = proc::cpu_times()?;
        let cores_milli = u64::from(times.cpus) * 1000;
        let idle_milli = match self.last.replace(times) {
            Some(before) => times.idle_milli_since(&before),
            None => cores_milli.saturating_sub(proc::load_milli()?),
        };
        let limits = cgroup::machine_limits();
        let cpu_total_milli = cores_milli.min(limits.cpu_milli.unwrap_or(u64::MAX));
        let (disk_free, disk_total) = disk(&self.engine_root)?;
        Ok(Readings {
            memory_total,
            memory_free,
            cpu_total_milli,
            cpu_free_milli: idle_milli.min(cpu_total_milli),
            disk_free,
            disk_total,
            gpus: self.nvml.read(),
        })
    }

    fn read_simulated(&self, caps: &Caps) -> Result<Readings, ResourceError> {
        let memory = match caps.memory {
            Some(memory) => memory,
            None => proc::memory()?.total,
        };
        let cpu_milli = match caps.cpu_milli {
            Some(cpu_milli) => cpu_milli,
            None => u64::from(proc::cpu_times()?.cpus) * 1000,
        };
        let (disk_free, disk_total) = disk(&self.engine_root)?;
        Ok(Readings {
            memory_total: memory,
            memory_free: memory,
            cpu_total_milli: cpu_milli,
            cpu_free_milli: cpu_milli,
            disk_free,
            disk_total,
            gpus: Vec::new(),
        })
    }
}

/// Bytes free, for a writer without rights, and bytes at all of the file system that holds `root`. The engine's directory is
/// often closed to us; the nearest ancestor that is not lies on the same file system in all common set-ups.
///
/// # Errors
/// The kernel says nothing of it.
pub fn disk(root: &Path) -> Result<(u64, u64), ResourceError> {
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for path in root.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        match rustix::fs::statvfs(path) {
            Ok(stat) => {
                let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
                return Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)));
            }
            Err(errno) => error = errno.into(),
        }
    }
    Err(ResourceError::Disk {
        path: root.to_owned(),
        source: error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut probe = Probe::new(&dir.path().join("not/there"));
        for _ in 0..2 {
            let readings = probe.read().unwrap();
            assert!(
                readings.memory_total > 0 && readings.memory_free <= readings.memory_total,
                "{readings:?}"
            );
            assert!(readings.cpu_total_milli > 0 && readings.cpu_free_milli <= readings.cpu_total_milli);
            assert!(readings.disk_free > 0 && readings.disk_free <= readings.disk_total);
        }
    }

    #[test]
    fn a_simulated_machine_has_what_it_is_said_to_have() {
        let dir = tempfile::tempdir().unwrap();
        let caps = Caps {
            memory: Some(1 << 50),
            cpu_milli: Some(64_000),
            gpus: None,
        };
        let readings = Probe::simulated(dir.path(), caps).read().unwrap();
        assert_eq!((readings.memory_total, readings.memory_free), (1 << 50, 1 << 50));
        assert_eq!(readings.cpu_free_milli, 64_000);
        assert_eq!(readings.total(&caps).cpu_milli, 64_000);
        assert!(readings.disk_free > 0);
        let as_here = Probe::simulated(dir.path(), Caps::default()).read().unwrap();
        assert!(as_here.memory_total > 0 && as_here.cpu_total_milli > 0);
    }

    #[test]
    fn caps_lower_and_never_raise() {
        let readings = Readings {
            memory_total: 100,
            cpu_total_milli: 2000,
            ..Readings::default()
        };
        let caps = Caps {
            memory: Some(50),
            cpu_milli: Some(9000),
            gpus: None,
        };
        let total = readings.total(&caps);
        assert_eq!((total.memory, total.cpu_milli, total.gpus), (50, 2000, 0));
    }
}

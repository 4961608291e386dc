//! The machine as a whole, for whoever watches it: what it has, and what all that runs on it takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::nvml::{self, Gpu};
use super::{Probe, ResourceError, cgroup, disk, proc};

/// What the machine has and what is used of it, by whomever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Bytes, under the machine's control group limit.
    pub memory_total: u64,
    /// Bytes that cannot be had without swapping.
    pub memory_used: u64,
    /// Processor time of all processes since the machine's start.
    pub cpu_busy: Duration,
    /// Bytes of the file system under the engine.
    pub disk_total: u64,
    /// Bytes free there.
    pub disk_free: u64,
    /// GPUs; none where NVML does not load.
    pub gpus: Vec<Gpu>,
}

/// Looks at the whole machine, beside a [`Probe`] and without one's span over which that says what is idle: as often as one
/// likes, and from wherever.
#[derive(Debug, Clone)]
pub struct Watcher {
    engine_root: PathBuf,
    nvml: Arc<nvml::Devices>,
}

impl Probe {
    /// A look at the machine of this probe, whoever uses it. Of a simulated machine this is the real one below it, without
    /// GPUs.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher {
            engine_root: self.engine_root.clone(),
            nvml: Arc::clone(&self.nvml),
        }
    }
}

impl Watcher {
    /// Looks. A slow disk or the driver of a GPU may take its time.
    ///
    /// # Errors
    /// As for [`Probe::read`].
    pub fn machine(&self) -> Result<Machine, ResourceError> {
        let (memory_total, memory_free) = memory()?;
        let times = proc::cpu_times()?;
        let (disk_free, disk_total) = disk(&self.engine_root)?;
        Ok(Machine {
            memory_total,
            memory_used: memory_total.saturating_sub(memory_free),
            cpu_busy: times.busy(),
            disk_total,
            disk_free,
            gpus: self.nvml.read(),
        })
    }
}

/// Bytes of memory at all and free, under the machine's control group limit.
pub(super) fn memory() -> Result<(u64, u64), ResourceError> {
    let memory = proc::memory()?;
    let limits = cgroup::machine_limits();
    let Some(limit) = limits.memory else {
        return Ok((memory.total, memory.available));
    };
    let total = memory.total.min(limit);
    let under_limit = total.saturating_sub(limits.memory_used.unwrap_or(0));
    Ok((total, memory.available.min(under_limit)))
}

#[cfg(test)]
mod tests {
    use super::super::Caps;
    use super::*;

    #[test]
    fn this_machine_is_seen_also_below_a_simulated_one() {
        let dir = tempfile::tempdir().unwrap();
        let caps = Caps {
            memory: Some(1),
            ..Caps::default()
        };
        for probe in [Probe::new(dir.path()), Probe::simulated(dir.path(), caps)] {
            let machine = probe.watcher().machine().unwrap();
            assert!(
                machine.memory_used > 0 && machine.memory_used < machine.memory_total,
                "{machine:?}"
            );
            assert!(machine.cpu_busy > Duration::ZERO);
            assert!(machine.disk_free > 0 && machine.disk_free <= machine.disk_total);
        }
    }
}

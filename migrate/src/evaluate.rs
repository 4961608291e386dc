//! Algorithm 2: does this node, by its own judgement, take that container?
//!
//! Pure: the announced metadata, our own declaration and a view of the machine go in, a
//! [`Verdict`] comes out. The paper's listing adds `meta > sys` to the list of things the node *can*
//! do; its text says the opposite and is followed here: true means that the node can provide it.

use blosm_ledger::{HardFailure, Metadata, Verdict};

use crate::placement::Amount;
use crate::resources::Readings;
use crate::service::Service;

/// What this node can give at the moment of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemView {
    /// Free memory, bytes.
    pub memory_free: u64,
    /// Free processor share, thousandths of a core.
    pub cpu_free_milli: u64,
    /// Free GPU share, thousandths of a GPU.
    pub gpu_free_milli: u64,
    /// Free space where the engine keeps its layers, bytes.
    pub disk_free: u64,
    /// With less free space than this no container is taken, bytes.
    pub disk_least: u64,
    /// `amd64`, `arm64`, ...: as image configs write it.
    pub architecture: String,
    /// False when the engine does not answer.
    pub runtime_ready: bool,
    /// GPUs that can still be given to a container.
    pub gpus_free: u32,
    /// True when the engine already holds the pinned base.
    pub base_held: bool,
}

impl SystemView {
    /// The smaller of what the machine has free and what our bookings leave: memory that a started
    /// container has not touched yet is not free, and neither is memory that others took.
    #[must_use]
    pub fn new(
        readings: &Readings,
        remaining: Amount,
        architecture: &str,
        runtime_ready: bool,
        base_held: bool,
        disk_least: u64,
    ) -> Self {
        let gpu_free_milli = readings.gpus.iter().map(|gpu| u64::from(gpu.free_milli)).sum();
        Self {
            memory_free: readings.memory_free.min(remaining.memory),
            cpu_free_milli: readings.cpu_free_milli.min(remaining.cpu_milli),
            gpu_free_milli,
            disk_free: readings.disk_free,
            disk_least,
            architecture: architecture.to_owned(),
            runtime_ready,
            gpus_free: remaining.gpus,
            base_held,
        }
    }
}

/// Judges an announced container. `service` is our own declaration of that name, if there is one;
/// `tolerance` is how many of memory, cpu and gpu may fall short (1 in the paper).
///
/// Hard failures come first and no tolerance mends them: another architecture, an engine that does
/// not answer, no room on disk, the declared memory reservation, a missing GPU.
#[must_use]
pub fn evaluate(meta: &Metadata, service: Option<&Service>, system: &SystemView, tolerance: u8) -> Verdict {
    // Alg. 2, line 8: the container's size against free memory.
    let memory = meta.total_size.max(meta.memory) <= system.memory_free;
    // Alg. 2, line 9.
    let cpu = u64::from(meta.cpu_usage) <= system.cpu_free_milli;
    // Alg. 2, line 10.
    let gpu = u64::from(meta.gpu_usage) <= system.gpu_free_milli;
    // Alg. 2, lines 11-13: an application of that type here. The same name is not enough, it must
    // be the same declaration of the same base, or another thing would run under that name.
    let ours = service.filter(|ours| {
        ours.name == meta.service
            && ours.declaration_hash() == meta.declaration_hash
            && ours.image.config_digest.0 == meta.config_digest
    });
    let hard = hard_failure(meta, ours, system);
    // Alg. 2, lines 19-22.
    let short = [memory, cpu, gpu].iter().filter(|can| !**can).count();
    // Alg. 2, lines 16-17 (no application of that type) and 23-24 (too many fall short).
    let accepted = ours.is_some() && hard.is_none() && short <= usize::from(tolerance);
    Verdict {
        memory,
        cpu,
        gpu,
        service: ours.is_some(),
        hard,
        accepted,
    }
}

fn hard_failure(meta: &Metadata, ours: Option<&Service>, system: &SystemView) -> Option<HardFailure> {
    if !system.runtime_ready {
        return Some(HardFailure::Runtime);
    }
    if meta.architecture != system.architecture {
        return Some(HardFailure::Architecture);
    }
    // A load keeps the tar's bytes and the unpacked files side by side for a moment.
    let arriving = if system.base_held {
        meta.writable_size
    } else {
        meta.total_size.max(meta.writable_size)
    };
    if system.disk_free < system.disk_least || arriving.saturating_mul(2) > system.disk_free {
        return Some(HardFailure::Disk);
    }
    let needs = &ours?.resources;
    // REQ_res >= R_rem, as a booking has it (Alg. 3, line 12).
    if needs.memory >= system.memory_free {
        return Some(HardFailure::Reservation);
    }
    if needs.gpu > system.gpus_free {
        return Some(HardFailure::GpuDevice);
    }
    None
}

#[cfg(test)]
mod tests;

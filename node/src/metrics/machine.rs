//! What is offered to containers, and what the machine below really has and uses.

use blosm_migrate::resources::Machine;
use prometheus::{Counter, Error, GaugeVec};

use super::register::Register;

/// An amount of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// All that is offered (R_tot).
    pub total: u64,
    /// Booked by containers and accepted claims.
    pub reserved: u64,
    /// What a new container may have.
    pub free: u64,
}

#[derive(Debug)]
pub(super) struct MachineMetrics {
    /// Offered to containers, by kind (total, reserved, free).
    memory: GaugeVec,
    cpu: GaugeVec,
    gpu: GaugeVec,
    /// Of the whole machine, by kind (total, used or free).
    machine_memory: GaugeVec,
    machine_cpu: Counter,
    machine_disk: GaugeVec,
    machine_gpu: GaugeVec,
    machine_gpu_memory: GaugeVec,
}

impl MachineMetrics {
    pub(super) fn register(register: Register<'_>) -> Result<Self, Error> {
        let kinds = |name, help| register.gauges(name, help, &["kind"]);
        Ok(Self {
            memory: kinds(
                "blosm_resource_memory_bytes",
                "Memory that the node offers to containers",
            )?,
            cpu: kinds(
                "blosm_resource_cpu_cores",
                "Processor that the node offers to containers",
            )?,
            gpu: kinds(
                "blosm_resource_gpu_ratio",
                "GPUs that the node offers to containers; 1 is a whole device",
            )?,
            machine_memory: kinds(
                "blosm_machine_memory_bytes",
                "Memory of the machine and what all its processes use",
            )?,
            machine_cpu: register.seconds(
                "blosm_machine_cpu_seconds_total",
                "Processor time of all the machine's processes since its start",
            )?,
            machine_disk: kinds(
                "blosm_machine_disk_bytes",
                "The file system under the engine and what of it is free",
            )?,
            machine_gpu: kinds(
                "blosm_machine_gpu_ratio",
                "GPUs of the machine and how many are busy; 1 is a whole device",
            )?,
            machine_gpu_memory: kinds(
                "blosm_machine_gpu_memory_bytes",
                "Memory of all the machine's GPUs and what is used",
            )?,
        })
    }

    /// `cpu_milli` is in thousandths of a core.
    pub(super) fn offered(&self, memory: Amount, cpu_milli: Amount, gpus: Amount) {
        for (gauges, amount, unit) in [
            (&self.memory, memory, 1.0),
            (&self.cpu, cpu_milli, 1000.0),
            (&self.gpu, gpus, 1.0),
        ] {
            for (kind, value) in [
                ("total", amount.total),
                ("reserved", amount.reserved),
                ("free", amount.free),
            ] {
                gauges.with_label_values(&[kind]).set(value as f64 / unit);
            }
        }
    }

    pub(super) fn machine(&self, machine: &Machine) {
        let set = |gauges: &GaugeVec, kind, value| gauges.with_label_values(&[kind]).set(value);
        set(&self.machine_memory, "total", machine.memory_total as f64);
        set(&self.machine_memory, "used", machine.memory_used as f64);
        set(&self.machine_disk, "total", machine.disk_total as f64);
        set(&self.machine_disk, "free", machine.disk_free as f64);
        // Counters of a processor that went offline may be gone.
        let more = machine.cpu_busy.as_secs_f64() - self.machine_cpu.get();
        self.machine_cpu.inc_by(more.max(0.0));
        let busy = machine.gpus.iter().map(|gpu| 1000 - gpu.free_milli.min(1000));
        set(&self.machine_gpu, "total", machine.gpus.len() as f64);
        set(&self.machine_gpu, "used", f64::from(busy.sum::<u32>()) / 1000.0);
        let total: u64 = machine.gpus.iter().map(|gpu| gpu.memory_total).sum();
        let free: u64 = machine.gpus.iter().map(|gpu| gpu.memory_free).sum();
        set(&self.machine_gpu_memory, "total", total as f64);
        set(
            &self.machine_gpu_memory,
            "used",
            total.saturating_sub(free) as f64,
        );
    }
}

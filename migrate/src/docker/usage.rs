//! What a container uses: memory, processor, disk.

use std::time::{Duration, Instant};

use bollard::query_parameters::{InspectContainerOptions, StatsOptions};
use futures::StreamExt;

use super::error::{call, found};
use super::{Docker, EngineError};
use crate::resources::cgroup;

/// Time over which processor use is measured.
const USAGE_SPAN: Duration = Duration::from_millis(100);

/// What a container uses at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub memory: u64,
    /// Thousandths of a core.
    pub cpu_milli: u64,
}

/// What a container takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Its own writable layer, bytes.
    pub writable: u64,
    /// Image and writable layer, bytes.
    pub total: u64,
}

impl Docker {
    /// What a running container uses: from its control group where that can be read, else from the
    /// engine, which takes a second or two.
    ///
    /// # Errors
    /// No such container, or the engine does not answer.
    pub async fn usage(&self, id: &str) -> Result<Usage, EngineError> {
        let Some(pid) = self.expect(id, "usage").await?.pid else {
            return Ok(Usage::default());
        };
        let Some(before) = cgroup::usage_of(pid) else {
            return self.engine_usage(id).await;
        };
        let began = Instant::now();
        tokio::time::sleep(USAGE_SPAN).await;
        let Some(after) = cgroup::usage_of(pid) else {
            return Ok(Usage::default());
        };
        let span = u64::try_from(began.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let used = after.cpu_ns.saturating_sub(before.cpu_ns);
        Ok(Usage {
            memory: after.memory,
            cpu_milli: used.saturating_mul(1000) / span,
        })
    }

    async fn engine_usage(&self, id: &str) -> Result<Usage, EngineError> {
        let options = StatsOptions {
            stream: false,
            one_shot: false,
        };
        let mut stream = std::pin::pin!(self.client().stats(id, Some(options)));
        let stats = stream
            .next()
            .await
            .ok_or(EngineError::Answer {
                action: "usage",
                what: "any figures",
            })?
            .map_err(call("usage"))?;
        let memory = stats.memory_stats.and_then(|memory| memory.usage).unwrap_or(0);
        let totals = |cpu: Option<bollard::models::ContainerCpuStats>| {
            let cpu = cpu.unwrap_or_default();
            let used = cpu.cpu_usage.and_then(|usage| usage.total_usage).unwrap_or(0);
            (
                used,
                cpu.system_cpu_usage.unwrap_or(0),
                u64::from(cpu.online_cpus.unwrap_or(1)),
            )
        };
        let (used, system, cpus) = totals(stats.cpu_stats);
        let (used_before, system_before, _) = totals(stats.precpu_stats);
        let span = system.saturating_sub(system_before).max(1);
        let cpu_milli = used.saturating_sub(used_before).saturating_mul(1000 * cpus) / span;
        Ok(Usage { memory, cpu_milli })
    }

    /// What a container takes on disk; the engine walks its files for that.
    ///
    /// # Errors
    /// No such container, or the engine does not answer.
    pub async fn sizes(&self, id: &str) -> Result<Sizes, EngineError> {
        let options = InspectContainerOptions { size: true };
        let answer = self.bulk().inspect_container(id, Some(options)).await;
        let inspect = found("sizes", answer)?.ok_or_else(|| EngineError::NotFound {
            action: "sizes",
            what: id.to_owned(),
        })?;
        let size = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
        Ok(Sizes {
            writable: size(inspect.size_rw),
            total: size(inspect.size_root_fs),
        })
    }
}

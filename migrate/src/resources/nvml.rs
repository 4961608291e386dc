//! GPUs through NVML, where its library loads.

use nvml_wrapper::Nvml;

/// One GPU at the moment of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Name of the model.
    pub name: String,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_free: u64,
    /// Idle share, thousandths.
    pub free_milli: u32,
}

/// The GPUs of this machine. Without the library there are none.
#[derive(Debug)]
pub struct Devices {
    nvml: Option<Nvml>,
}

impl Devices {
    /// Loads the library, and says once in the log what came of it.
    #[must_use]
    pub fn open() -> Self {
        let nvml = match Nvml::init() {
            Ok(nvml) => {
                tracing::info!(gpus = nvml.device_count().unwrap_or(0), "NVML loaded");
                Some(nvml)
            }
            Err(error) => {
                tracing::info!(%error, "no GPU: NVML does not load");
                None
            }
        };
        Self { nvml }
    }

    /// A machine without any.
    #[must_use]
    pub fn none() -> Self {
        Self { nvml: None }
    }

    /// Looks at each GPU. One that does not answer is left out: nothing can be promised of it.
    #[must_use]
    pub fn read(&self) -> Vec<Gpu> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        (0..nvml.device_count().unwrap_or(0))
            .filter_map(|index| look(nvml, index).ok())
            .collect()
    }
}

fn look(nvml: &Nvml, index: u32) -> Result<Gpu, nvml_wrapper::error::NvmlError> {
    let device = nvml.device_by_index(index)?;
    let memory = device.memory_info()?;
    let busy_percent = device.utilization_rates()?.gpu.min(100);
    Ok(Gpu {
        name: device.name()?,
        memory_total: memory.total,
        memory_free: memory.free,
        free_milli: (100 - busy_percent) * 10,
    })
}

//! A session's container as it would be announced: measured at its source, now.

use blosm_ledger::Metadata;
use blosm_migrate::docker::Image;
use blosm_migrate::helper::HelperError;
use blosm_migrate::recreate;
use blosm_migrate::service::Service;

use super::launch::{self, LaunchError};
use crate::parts::Parts;

/// A running container and the image that it was created from.
#[derive(Debug)]
pub(super) struct Measured {
    /// As an announcement carries it.
    pub(super) metadata: Metadata,
    /// The image that runs.
    pub(super) image: Image,
    /// Paths of the volumes that move with it.
    pub(super) volumes: Vec<String>,
}

/// Measures the container of that name; the engine takes some time for it.
pub(super) async fn measure(
    parts: &Parts,
    service: &Service,
    container: &str,
) -> Result<Measured, LaunchError> {
    let base = launch::base(parts, service).await?;
    let (container_id, image) = running_image(parts, container).await?;
    let volumes = recreate::copied_volumes(service, &base.config);
    // Each takes its time: processor use is measured over a span, sizes by a walk through the files.
    let (usage, sizes, in_volumes) = tokio::join!(
        parts.engine.usage(container),
        parts.engine.sizes(container),
        weigh(parts, &container_id, &volumes)
    );
    let (usage, sizes) = (usage?, sizes?);
    let (gpu_usage, gpu_memory) = gpu(parts, service);
    let addresses = parts.config.net.advertise.iter().map(ToString::to_string);
    let metadata = Metadata {
        source: parts.me,
        addresses: addresses.collect(),
        container_id,
        service: service.name.clone(),
        declaration_hash: service.declaration_hash(),
        total_size: sizes.total.saturating_add(in_volumes),
        writable_size: sizes.writable.saturating_add(in_volumes),
        memory: usage.memory,
        cpu_usage: u32::try_from(usage.cpu_milli).unwrap_or(u32::MAX),
        gpu_usage,
        gpu_memory,
        architecture: base.architecture,
        config_digest: base.identity.config_digest.0,
    };
    Ok(Measured {
        metadata: metadata.rounded(),
        image,
        volumes,
    })
}

/// Bytes of the volumes that move with a container. Without a layer helper they do not move, so that they count as
/// nothing.
async fn weigh(parts: &Parts, container_id: &str, volumes: &[String]) -> u64 {
    if volumes.is_empty() {
        return 0;
    }
    let bytes = async { parts.engine.source(container_id).await?.weigh_volumes().await };
    bytes.await.unwrap_or_else(|error: HelperError| {
        tracing::info!(container_id, %error, "the size of its volumes is not known");
        0
    })
}

/// The container's id and the image that it was created from.
pub(super) async fn running_image(parts: &Parts, container: &str) -> Result<(String, Image), LaunchError> {
    let found = parts.engine.inspect(container).await?;
    let found = found.ok_or_else(|| LaunchError::Absent(container.to_owned()))?;
    let image = parts.engine.image(&found.image).await?;
    Ok((found.id, image.ok_or(LaunchError::Absent(found.image))?))
}

/// What the service uses of the GPUs, in thousandths of a device and bytes; nothing when it declares none.
///
/// Devices are shared without accounting per container, so a service that uses GPUs is announced with the devices'
/// own load: too much rather than too little.
fn gpu(parts: &Parts, service: &Service) -> (u32, u64) {
    if service.resources.gpu == 0 {
        return (0, 0);
    }
    let usage = match parts.readings() {
        Ok(readings) => readings
            .gpus
            .iter()
            .map(|gpu| 1000_u32.saturating_sub(gpu.free_milli))
            .sum(),
        Err(_) => 1000 * service.resources.gpu,
    };
    (usage, service.resources.gpu_memory)
}

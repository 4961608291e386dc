//! A session's container as it would be announced: measured at its source, now.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blosm_ledger::Metadata;
use blosm_migrate::docker::{EngineError, Image, Sizes};
use blosm_migrate::helper::HelperError;
use blosm_migrate::recreate;
use blosm_migrate::service::Service;
use tokio_util::task::AbortOnDropHandle;

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

/// What the container of a session takes on the disk, which only a walk through all of its files tells. A walk goes on when
/// nobody waits for it any more.
#[derive(Debug, Default)]
pub(super) struct Sizing {
    /// Of which container the rest is.
    container: String,
    walk: Option<Walk>,
    last: Option<Sizes>,
    /// Whether the last walk took longer than anybody waited.
    slow: bool,
}

type Walk = AbortOnDropHandle<(Result<Sizes, EngineError>, Duration)>;

impl Sizing {
    /// The container's sizes by a `walk` that is begun now if none goes on, or, if that takes longer than `patience`, as the
    /// walk before has found them. After one that took so long none is waited for.
    async fn look<Fut>(
        &mut self,
        container: &str,
        patience: Duration,
        walk: impl FnOnce() -> Fut,
    ) -> Result<Option<Sizes>, EngineError>
    where
        Fut: Future<Output = Result<Sizes, EngineError>> + Send + 'static,
    {
        if self.container != container {
            *self = Self {
                container: container.to_owned(),
                ..Self::default()
            };
        }
        if let Some(done) = self.walk.take_if(|walk| walk.is_finished()) {
            // A walk that failed beside is begun again.
            let _ = self.note(done.await, patience);
        }
        let going_on = self.walk.take().unwrap_or_else(|| {
            let (walk, begin) = (walk(), Instant::now());
            AbortOnDropHandle::new(tokio::spawn(async move { (walk.await, begin.elapsed()) }))
        });
        let walk = self.walk.insert(going_on);
        let wait = if self.slow { Duration::ZERO } else { patience };
        match tokio::time::timeout(wait, walk).await {
            Ok(done) => {
                self.walk = None;
                self.note(done, patience)?;
            }
            Err(_) => self.slow = true,
        }
        Ok(self.last)
    }

    fn note(
        &mut self,
        done: Result<(Result<Sizes, EngineError>, Duration), tokio::task::JoinError>,
        patience: Duration,
    ) -> Result<(), EngineError> {
        // One that panicked has found nothing.
        if let Ok((found, took)) = done {
            self.slow = took > patience;
            self.last = Some(found?);
        }
        Ok(())
    }
}

/// Measures the container of that name; the engine takes some time for it. Its sizes are waited for only so long: they are
/// then the last that are known, or those of its image.
pub(super) async fn measure(
    parts: &Arc<Parts>,
    service: &Service,
    container: &str,
    sizing: &mut Sizing,
    patience: Duration,
) -> Result<Measured, LaunchError> {
    let base = launch::base(parts, service).await?;
    let (container_id, image) = running_image(parts, container).await?;
    let volumes = recreate::copied_volumes(service, &base.config);
    // Each takes its time: processor use is measured over a span, sizes by a walk through the files.
    let walk = || sizes(parts.clone(), container_id.clone(), volumes.clone());
    let (usage, sizes) = tokio::join!(
        parts.engine.usage(container),
        sizing.look(&container_id, patience, walk)
    );
    let (usage, sizes) = (usage?, sizes?);
    let sizes = sizes.unwrap_or_else(|| {
        tracing::info!(
            container,
            "its size is not known yet; it is announced as large as its image"
        );
        Sizes {
            writable: 0,
            total: image.size,
        }
    });
    let (gpu_usage, gpu_memory) = gpu(parts, service);
    let addresses = parts.config.net.advertise.iter().map(ToString::to_string);
    let metadata = Metadata {
        source: parts.me,
        addresses: addresses.collect(),
        container_id,
        service: service.name.clone(),
        declaration_hash: service.declaration_hash(),
        total_size: sizes.total,
        writable_size: sizes.writable,
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

/// What a container and the volumes that move with it take.
async fn sizes(parts: Arc<Parts>, container_id: String, volumes: Vec<String>) -> Result<Sizes, EngineError> {
    let (own, in_volumes) = tokio::join!(
        parts.engine.sizes(&container_id),
        weigh(&parts, &container_id, &volumes)
    );
    let own = own?;
    Ok(Sizes {
        writable: own.writable.saturating_add(in_volumes),
        total: own.total.saturating_add(in_volumes),
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn bytes(writable: u64) -> Sizes {
        Sizes {
            writable,
            total: writable + 100,
        }
    }

    async fn found(writable: u64) -> Result<Sizes, EngineError> {
        Ok(bytes(writable))
    }

    /// Ends when it is told to.
    fn held(
        writable: u64,
    ) -> (
        oneshot::Sender<()>,
        impl Future<Output = Result<Sizes, EngineError>>,
    ) {
        let (end, told) = oneshot::channel();
        let walk = async move {
            let _ = told.await;
            Ok(bytes(writable))
        };
        (end, walk)
    }

    #[tokio::test]
    async fn a_walk_that_takes_too_long_goes_on_and_nobody_waits_for_it_again() {
        let mut sizing = Sizing::default();
        let (end, walk) = held(1);
        let none = sizing.look("a", Duration::ZERO, || walk).await;
        assert_eq!(none.unwrap(), None);
        // It goes on: no other is begun.
        let none = sizing.look("a", LONG, || found(2)).await;
        assert_eq!(none.unwrap(), None);
        end.send(()).unwrap();
        while !sizing.walk.as_ref().is_some_and(|walk| walk.is_finished()) {
            tokio::task::yield_now().await;
        }
        // What it has found is known from now on, and the next one is begun beside.
        let (end, walk) = held(3);
        let last = sizing.look("a", Duration::ZERO, || walk).await;
        assert_eq!(last.unwrap(), Some(bytes(1)));
        end.send(()).unwrap();
        while !sizing.walk.as_ref().is_some_and(|walk| walk.is_finished()) {
            tokio::task::yield_now().await;
        }
        // It was quick enough for somebody with more patience.
        let fresh = sizing.look("a", LONG, || found(4)).await;
        assert_eq!(fresh.unwrap(), Some(bytes(4)));
    }

    #[tokio::test]
    async fn what_is_known_of_another_container_is_forgotten() {
        let mut sizing = Sizing::default();
        assert_eq!(sizing.look("a", LONG, || found(1)).await.unwrap(), Some(bytes(1)));
        let (_end, walk) = held(2);
        let other = sizing.look("b", Duration::ZERO, || walk).await;
        assert_eq!(other.unwrap(), None);
    }

    #[tokio::test]
    async fn a_walk_that_fails_is_an_error_and_is_begun_again() {
        let mut sizing = Sizing::default();
        let fails = || async { Err(EngineError::NoImages { action: "sizes" }) };
        assert!(sizing.look("a", LONG, fails).await.is_err());
        assert_eq!(sizing.look("a", LONG, || found(1)).await.unwrap(), Some(bytes(1)));
    }
}

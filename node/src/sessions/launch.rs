//! Creating, starting and adopting the container of a session. What may be started is decided elsewhere.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use blosm_ledger::SessionId;
use blosm_migrate::docker::{EngineError, ImageError, Opened, watch_exit};
use blosm_migrate::image::ExportError;
use blosm_migrate::recreate::{self, Base, ContainerSpec, SpecError};
use blosm_migrate::service::Service;
use blosm_migrate::session::Attempt;
use blosm_migrate::transfer::ServeError;

use crate::parts::Parts;

/// So long after a start health is asked for more often than declared: a service that listens within milliseconds should
/// not wait for a whole interval.
const EAGER: Duration = Duration::from_secs(1);
/// Between two questions then.
const EAGER_LOOK: Duration = Duration::from_millis(5);

/// A container whose entrypoint runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// Its name in the engine.
    pub(crate) container: String,
    /// Its first process.
    pub(crate) pid: u32,
    /// The engine's id of it.
    pub(crate) id: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// Why a container does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The engine failed or does not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The service's image can't be used on this node.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The declaration and the image do not go together.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// An image can't be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An exported layer can't be read.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// It took longer than anybody waits.
    #[error("the engine took too long")]
    Late,
    /// The container is not in the engine any more.
    #[error("the container {0} is not in the engine any more")]
    Absent(String),
    /// The engine gave it no address.
    #[error("the container {0} has no address on the engine's bridge network")]
    NoAddress(String),
    /// It ended while its health was awaited.
    #[error("the container {0} ended right after its start; see `docker logs {0}`")]
    Ended(String),
    /// It never answered its health check.
    #[error(
        "the container {0} did not answer its health check within {1:?}; see `docker logs {0}` and health.path"
    )]
    Unhealthy(String, Duration),
}

impl LaunchError {
    /// Whether the engine has answered, so that what it said of the container holds.
    pub(crate) fn engine_answered(&self) -> bool {
        match self {
            Self::Engine(error) | Self::Image(ImageError::Engine(error)) => error.answered(),
            _ => true,
        }
    }
}

/// The pinned base of a service, as far as this engine holds it.
pub(crate) async fn base(parts: &Parts, service: &Service) -> Result<Base, ImageError> {
    Ok(parts.docker.pinned(&service.image).await?.base())
}

/// Creates the container of a session from `image` and this node's own declaration. It does not run yet.
pub(crate) async fn create(
    parts: &Parts,
    service: &Service,
    base: &Base,
    session: &SessionId,
    name: &str,
    image: &str,
) -> Result<(), LaunchError> {
    let labels = recreate::session_labels(&parts.network_label(), &session.0, &service.name);
    let spec = ContainerSpec::build(
        service,
        base,
        image,
        labels,
        name.to_owned(),
        recreate::short_id(&session.0),
    )?;
    parts.docker.create(&spec).await?;
    Ok(())
}

/// Starts a container, or adopts it if it runs, and waits until it is healthy.
///
/// The caller has made sure that this node owns the session and has written down that it starts.
pub(crate) async fn start(parts: &Parts, service: &Service, name: &str) -> Result<Running, LaunchError> {
    let container = parts
        .docker
        .inspect(name)
        .await?
        .ok_or_else(|| LaunchError::Absent(name.to_owned()))?;
    let (pid, address) = match (container.running, container.pid) {
        (true, Some(pid)) => (pid, container.address),
        _ => {
            let started = parts.docker.start(name).await?;
            (started.pid, started.address)
        }
    };
    let ip = address.ok_or_else(|| LaunchError::NoAddress(name.to_owned()))?;
    let running = Running {
        container: name.to_owned(),
        pid,
        id: container.id,
        address: SocketAddr::new(ip, service.port),
    };
    healthy(service, &running).await?;
    Ok(running)
}

/// Waits for the first healthy answer.
async fn healthy(service: &Service, running: &Running) -> Result<(), LaunchError> {
    let url = format!("http://{}{}", running.address, service.health.path);
    let client = crate::gateway::container_client();
    let begin = Instant::now();
    let deadline = begin + service.health.start;
    let mut exit = exit(running);
    loop {
        let answer = client.get(&url).timeout(service.health.timeout).send();
        let answer = tokio::select! {
            answer = answer => answer,
            _ = &mut exit => return Err(LaunchError::Ended(running.container.clone())),
        };
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(LaunchError::Unhealthy(
                running.container.clone(),
                service.health.start,
            ));
        }
        let pause = if begin.elapsed() < EAGER {
            EAGER_LOOK.min(service.health.interval)
        } else {
            service.health.interval
        };
        tokio::time::sleep(pause).await;
    }
}

/// Ends when the container's first process has.
pub(crate) fn exit(running: &Running) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (pid, id) = (running.pid, running.id.clone());
    Box::pin(async move {
        match watch_exit(pid, &id) {
            Ok(Opened::Watching(watch)) => {
                if let Err(error) = watch.exited().await {
                    tracing::error!(pid, %error, "a container's process can't be watched any more");
                }
            }
            // Gone already.
            Ok(Opened::NotThere) => {}
            Err(error) => {
                tracing::error!(pid, %error, "a container's process can't be watched; it is not restarted if it ends");
                std::future::pending().await
            }
        }
    })
}

/// A name for a new container of a session.
pub(crate) fn name(session: &SessionId, epoch: u64, attempt: &Attempt) -> String {
    recreate::container_name(&session.0, epoch, attempt)
}

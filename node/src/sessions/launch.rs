//! Creating, starting and adopting the container of a session. What may be started is decided elsewhere.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use blosm_ledger::SessionId;
use blosm_migrate::docker::{EngineError, ImageError, Opened, Started};
use blosm_migrate::engine::{Engine, Runtime};
use blosm_migrate::gate::{GateError, GateFolder};
use blosm_migrate::helper::HelperError;
use blosm_migrate::image::ExportError;
use blosm_migrate::recreate::{self, Base, ContainerSpec, SpecError};
use blosm_migrate::service::{Service, StopSignal, Volumes};
use blosm_migrate::session::Attempt;
use blosm_migrate::transfer::ServeError;

use super::rounds::RoundError;
use super::taken;
use crate::config::Config;
use crate::parts::Parts;

/// So long after a start health is asked for more often than declared: a service that listens within milliseconds should
/// not wait for a whole interval.
const EAGER: Duration = Duration::from_secs(1);
/// Between two questions then: a connection that is refused at once costs next to nothing.
const EAGER_LOOK: Duration = Duration::from_millis(1);

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
    /// The writable layer can't be read.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// The layer helper refused, failed or is gone.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The gate can't be made or opened.
    #[error(transparent)]
    Gate(#[from] GateError),
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
        "the container {container} at {address} did not answer its health check within {within:?} ({last}); see `docker logs {container}` and health.path"
    )]
    Unhealthy {
        /// Its name.
        container: String,
        /// Where it was asked.
        address: SocketAddr,
        /// For how long.
        within: Duration,
        /// What the last question came to.
        last: String,
    },
    /// It listens, and connections to its address are refused.
    #[error("the container {container} listens, and something else answers at its address {address}")]
    AddressTaken {
        /// Its name.
        container: String,
        /// The engine's address for it.
        address: SocketAddr,
    },
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
    Ok(parts.engine.pinned(&service.image).await?.base())
}

/// The volumes that move with a container of the service.
pub(crate) async fn copied_volumes(parts: &Parts, service: &Service) -> Result<Vec<String>, ImageError> {
    match service.volumes {
        Volumes::Copy => Ok(recreate::copied_volumes(
            service,
            &base(parts, service).await?.config,
        )),
        // The engine need not be asked.
        Volumes::Refuse | Volumes::Ignore => Ok(Vec::new()),
    }
}

/// The pinned base of a service, and the engine's name for its image: for containers that never pass their gate.
pub(super) async fn waiting_image(parts: &Parts, service: &Service) -> Result<(Base, String), LaunchError> {
    let base = base(parts, service).await?;
    let image = base.identity.config_digest.to_string();
    let image = parts.engine.image(&image).await?.map_or(image, |image| image.id);
    Ok((base, image))
}

/// Creates the container of a session from `image` and this node's own declaration, and gives the engine's id of it. It
/// does not run yet; with a gate it will wait there once it is started.
pub(crate) async fn create(
    parts: &Parts,
    service: &Service,
    base: &Base,
    session: &SessionId,
    name: &str,
    image: &str,
    gate: Option<&GateFolder>,
) -> Result<String, LaunchError> {
    let labels = recreate::session_labels(&parts.network_label(), &session.0, &service.name);
    let mut spec = ContainerSpec::build(
        service,
        base,
        image,
        labels,
        name.to_owned(),
        recreate::short_id(&session.0),
    )?;
    spec.gate = gate.map(|gate| gate.path().to_owned());
    Ok(parts.engine.create(&spec).await?)
}

/// The gate of a container, whether it has one or not.
pub(crate) fn gate(parts: &Parts, name: &str) -> Result<GateFolder, LaunchError> {
    Ok(GateFolder::of(&gates(parts), name)?)
}

/// Makes the closed gate of a container that is yet to be created.
pub(crate) fn new_gate(parts: &Parts, name: &str) -> Result<GateFolder, LaunchError> {
    Ok(GateFolder::prepare(&gates(parts), name)?)
}

fn gates(parts: &Parts) -> PathBuf {
    gates_of(&parts.config)
}

fn gates_of(config: &Config) -> PathBuf {
    config.data_dir.join("gates")
}

/// Removes a container, and its gate with it.
pub(crate) async fn remove(parts: &Parts, name: &str, force: bool) -> Result<(), EngineError> {
    remove_of(&parts.engine, &parts.config, name, force).await
}

/// The same, for a task that may not hold on to all parts.
pub(super) async fn remove_of(
    engine: &Engine,
    config: &Config,
    name: &str,
    force: bool,
) -> Result<(), EngineError> {
    engine.remove(name, force).await?;
    match GateFolder::of(&gates_of(config), name).and_then(|gate| gate.remove()) {
        Ok(()) => {}
        Err(error) => tracing::warn!(container = name, %error, "its gate is left"),
    }
    Ok(())
}

/// Starts a container, or adopts it if it runs, and waits until it is healthy. Where something else answers at its address
/// it is started anew at another one.
///
/// The caller has made sure that this node owns the session and has written down that it starts.
pub(crate) async fn start(parts: &Parts, service: &Service, name: &str) -> Result<Running, LaunchError> {
    match start_once(parts, service, name).await {
        Err(error @ LaunchError::AddressTaken { address, .. }) => {
            tracing::warn!(container = name, %error, "starting it at another address");
            let signal = service.stop.signal.unwrap_or(StopSignal::SigTerm);
            parts.engine.stop(name, signal, service.stop.grace).await?;
            parts.engine.settled(name).await?;
            taken::occupy(parts, service, address.ip()).await?;
            start_once(parts, service, name).await
        }
        started => started,
    }
}

async fn start_once(parts: &Parts, service: &Service, name: &str) -> Result<Running, LaunchError> {
    open(parts, name)?;
    let container = parts
        .engine
        .inspect(name)
        .await?
        .ok_or_else(|| LaunchError::Absent(name.to_owned()))?;
    let started = match (container.running, container.pid) {
        (true, Some(pid)) => Started {
            pid,
            address: container.address,
            port: container.port,
        },
        _ => parts.engine.start(name).await?,
    };
    let running = running(service, name, container.id, started)?;
    healthy(&parts.engine, service, &running).await?;
    Ok(running)
}

/// Starts a container that waits at its gate. Its own program does not run yet.
pub(crate) async fn start_gated(
    parts: &Parts,
    service: &Service,
    name: &str,
    id: String,
) -> Result<Running, LaunchError> {
    let started = parts.engine.start(name).await?;
    running(service, name, id, started)
}

/// Lets a container that waits at its gate go on, and waits until it is healthy. As [`start`], without the engine.
pub(crate) async fn pass(parts: &Parts, service: &Service, running: &Running) -> Result<(), LaunchError> {
    open(parts, &running.container)?;
    healthy(&parts.engine, service, running).await
}

/// Opens the container's gate, if it has one.
fn open(parts: &Parts, name: &str) -> Result<(), LaunchError> {
    let gate = gate(parts, name)?;
    if gate.exists() {
        gate.open()?;
    }
    Ok(())
}

fn running(service: &Service, name: &str, id: String, started: Started) -> Result<Running, LaunchError> {
    let ip = started
        .address
        .ok_or_else(|| LaunchError::NoAddress(name.to_owned()))?;
    Ok(Running {
        container: name.to_owned(),
        pid: started.pid,
        id,
        address: SocketAddr::new(ip, started.port.unwrap_or(service.port)),
    })
}

/// Waits for the first healthy answer.
async fn healthy(engine: &Engine, service: &Service, running: &Running) -> Result<(), LaunchError> {
    let url = format!("http://{}{}", running.address, service.health.path);
    let client = crate::gateway::container_client();
    let begin = Instant::now();
    let deadline = begin + service.health.start;
    let mut exit = exit(engine, running);
    let mut listened = false;
    loop {
        let answer = client.get(&url).timeout(service.health.timeout).send();
        let answer = tokio::select! {
            answer = answer => answer,
            _ = &mut exit => return Err(LaunchError::Ended(running.container.clone())),
        };
        let eager = begin.elapsed() < EAGER;
        let last = match answer {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => format!("status {}", answer.status()),
            Err(error) => {
                // Asked before: what listens now has refused nothing yet.
                let refused = listened && error.is_connect();
                // A simulated container has neither a process nor an address of its own.
                let real = engine.runtime() == Runtime::Docker;
                listened = real && !eager && taken::listens(running);
                if refused && listened {
                    return Err(LaunchError::AddressTaken {
                        container: running.container.clone(),
                        address: running.address,
                    });
                }
                innermost(&error).to_string()
            }
        };
        if Instant::now() >= deadline {
            return Err(LaunchError::Unhealthy {
                container: running.container.clone(),
                address: running.address,
                within: service.health.start,
                last,
            });
        }
        let pause = if eager {
            EAGER_LOOK.min(service.health.interval)
        } else {
            service.health.interval
        };
        tokio::time::sleep(pause).await;
    }
}

/// The cause below all others: it says what the network did.
fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .unwrap_or(error)
}

/// Ends when the container's first process has.
pub(crate) fn exit(engine: &Engine, running: &Running) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (engine, pid, id) = (engine.clone(), running.pid, running.id.clone());
    Box::pin(async move {
        match engine.watch(pid, &id) {
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

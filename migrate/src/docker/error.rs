//! What can go wrong between us and an engine.

use std::time::Duration;

use crate::image::{Digest, ExportError};

/// An engine that cannot be reached, does not answer, or says no.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configured address is no Unix socket.
    #[error("engine.socket {socket:?}: write unix:///path/to/docker.sock")]
    BadSocket {
        /// As configured.
        socket: String,
    },
    /// No file there.
    #[error("no container engine at {socket}: start it, or set engine.socket to where it listens")]
    SocketAbsent {
        /// Path.
        socket: String,
    },
    /// A file, but no socket.
    #[error("{socket} is not a socket: set engine.socket to where the engine listens")]
    NotASocket {
        /// Path.
        socket: String,
    },
    /// Not ours to open.
    #[error(
        "no permission to use the engine at {socket}: add this user to the socket's group, or run as root"
    )]
    Permission {
        /// Path.
        socket: String,
    },
    /// Nobody answers there.
    #[error("the engine at {socket} does not answer: is it running? Look at its log")]
    NotAnswering {
        /// Path.
        socket: String,
    },
    /// The API is older than what is spoken here.
    #[error("the engine speaks API {api}, at least {}.{} is needed: update it", least.0, least.1)]
    TooOld {
        /// What it speaks.
        api: String,
        /// What is needed.
        least: (u32, u32),
    },
    /// The engine does not know that container or image.
    #[error("{action}: the engine knows no {what}")]
    NotFound {
        /// What was wanted.
        action: &'static str,
        /// Id or name.
        what: String,
    },
    /// The engine answered with an error, or the call broke.
    #[error("{action}: {source}")]
    Call {
        /// What was wanted.
        action: &'static str,
        /// What came instead.
        #[source]
        source: bollard::errors::Error,
    },
    /// The engine's answer lacks what it must hold.
    #[error("{action}: the engine's answer lacks {what}")]
    Answer {
        /// What was wanted.
        action: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// The process outlived SIGKILL.
    #[error("container {container} still runs {} s after SIGKILL", after.as_secs())]
    StillRunning {
        /// Id.
        container: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The engine's process ids are not ours, so an exit cannot be seen.
    #[error(
        "container {container}: its process {pid} is not visible here; run blosm in the engine's own pid namespace"
    )]
    ForeignProcess {
        /// Id.
        container: String,
        /// As the engine names it.
        pid: u32,
    },
    /// The kernel refused to let us watch a process.
    #[error("cannot watch process {pid}: {source}")]
    Watch {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What it has written can't be made durable.
    #[error("making durable what the engine has written: {source}")]
    Sync {
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A simulated container's files.
    #[error("{action}, a simulated container: {source}")]
    Simulated {
        /// What was wanted.
        action: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The simulated runtime has no image bytes.
    #[error("{action}: the sim runtime has no images to make or to move")]
    NoImages {
        /// What was wanted.
        action: &'static str,
    },
    /// An image could not be read to learn what it is.
    #[error("cannot read image {image}: {source}")]
    Identify {
        /// Id or name.
        image: String,
        /// Why.
        #[source]
        source: Box<ExportError>,
    },
}

impl EngineError {
    /// Whether the engine answered and refused, as against not answering: only the former says
    /// anything about the state it is in.
    #[must_use]
    pub fn answered(&self) -> bool {
        use bollard::errors::Error;
        match self {
            Self::NotFound { .. } | Self::Answer { .. } | Self::TooOld { .. } | Self::NoImages { .. } => true,
            Self::Call { source, .. } => {
                matches!(
                    source,
                    Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. }
                )
            }
            Self::BadSocket { .. }
            | Self::SocketAbsent { .. }
            | Self::NotASocket { .. }
            | Self::Permission { .. }
            | Self::NotAnswering { .. }
            | Self::StillRunning { .. }
            | Self::ForeignProcess { .. }
            | Self::Watch { .. }
            | Self::Sync { .. }
            | Self::Simulated { .. }
            | Self::Identify { .. } => false,
        }
    }
}

/// Why a pinned image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither the digest nor the name is known.
    #[error("image {reference}@{pinned} is not on this engine: load or pull it")]
    Absent {
        /// Name.
        reference: String,
        /// Pinned digest.
        pinned: Digest,
    },
    /// The name is known, but for another image.
    #[error(
        "image {reference} is {found} on this engine, but {pinned} is pinned: load the pinned one, or change the pin"
    )]
    OtherDigest {
        /// Name.
        reference: String,
        /// Pinned digest.
        pinned: Digest,
        /// What the engine has under that name.
        found: Digest,
    },
    /// For another kind of machine.
    #[error("image {reference} is for {image}, this engine runs {engine}: pin an image for {engine}")]
    WrongArchitecture {
        /// Name.
        reference: String,
        /// What it is for.
        image: String,
        /// What we are.
        engine: String,
    },
    /// The engine's fault.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Adds what was wanted to a bollard error; for `map_err`.
pub(crate) fn call(action: &'static str) -> impl Fn(bollard::errors::Error) -> EngineError {
    move |source| EngineError::Call { action, source }
}

/// The HTTP status of a refusal.
pub(crate) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Makes a 404 into `None`.
pub(crate) fn found<T>(
    action: &'static str,
    result: Result<T, bollard::errors::Error>,
) -> Result<Option<T>, EngineError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(call(action)(error)),
    }
}

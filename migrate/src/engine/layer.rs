//! The layers of running containers, as a node reads and writes them, whatever runs the containers.

use std::os::fd::OwnedFd;

use crate::helper::{self, ApplyFigures, HelperError, Marker, Round};
use crate::service::StopSignal;
use crate::sim::{DirRoot, DirSource};

/// The writable layer of a running container, which is read round by round. Dropping it lets go.
#[derive(Debug)]
pub enum SourceLayer {
    /// The layer helper holds it.
    Helper(helper::SourceLayer),
    /// It is a directory.
    Directory(DirSource),
}

impl SourceLayer {
    /// The container's first process, as [`super::Engine::start`] has given it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Helper(layer) => layer.pid(),
            Self::Directory(layer) => layer.number(),
        }
    }

    /// See [`helper::SourceLayer::take_volumes`]. A simulated container has none.
    ///
    /// # Errors
    /// The container has other volumes.
    pub async fn take_volumes(&self, paths: &[String]) -> Result<(), HelperError> {
        match self {
            Self::Helper(layer) => layer.take_volumes(paths).await,
            Self::Directory(_) => no_volumes(paths),
        }
    }

    /// See [`helper::SourceLayer::weigh_volumes`].
    ///
    /// # Errors
    /// They cannot be found or read.
    pub async fn weigh_volumes(&self) -> Result<u64, HelperError> {
        match self {
            Self::Helper(layer) => layer.weigh_volumes().await,
            Self::Directory(_) => Ok(0),
        }
    }

    /// What changed since the last round. After an error it is of no use for further rounds.
    ///
    /// # Errors
    /// The layer cannot be read, or cannot move this way.
    pub async fn round(&self) -> Result<Round, HelperError> {
        match self {
            Self::Helper(layer) => layer.round().await,
            Self::Directory(layer) => layer.round().await,
        }
    }

    /// Sends the first process a signal; one that has exited is fine.
    ///
    /// # Errors
    /// The helper is gone or the kernel refuses.
    pub async fn signal(&self, signal: StopSignal) -> Result<(), HelperError> {
        match self {
            Self::Helper(layer) => layer.signal(signal).await,
            Self::Directory(layer) => {
                layer.signal(signal);
                Ok(())
            }
        }
    }

    /// What changed since the last round, once the first process has exited.
    ///
    /// # Errors
    /// As [`round`](Self::round), or it still runs.
    pub async fn last(&self) -> Result<Round, HelperError> {
        match self {
            Self::Helper(layer) => layer.last().await,
            Self::Directory(layer) => layer.last().await,
        }
    }
}

/// The root of a container that waits at its gate. Dropping it lets go, as it must before the gate opens.
#[derive(Debug)]
pub enum GatedRoot {
    /// The layer helper holds it.
    Helper(helper::GatedRoot),
    /// It is a directory.
    Directory(DirRoot),
}

impl GatedRoot {
    /// See [`helper::GatedRoot::take_volumes`]. A simulated container has none.
    ///
    /// # Errors
    /// The container has other volumes.
    pub async fn take_volumes(&self, paths: &[String]) -> Result<(), HelperError> {
        match self {
            Self::Helper(root) => root.take_volumes(paths).await,
            Self::Directory(_) => no_volumes(paths),
        }
    }

    /// Applies a stream of a peer's, as it comes out of a file or a pipe.
    ///
    /// # Errors
    /// The stream is refused, or the machine fails; either way the container is of no use.
    pub async fn apply(&self, stream: OwnedFd) -> Result<ApplyFigures, HelperError> {
        match self {
            Self::Helper(root) => root.apply(stream).await,
            Self::Directory(root) => root.apply(stream).await,
        }
    }

    /// Makes durable what was applied.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn sync(&self) -> Result<(), HelperError> {
        match self {
            Self::Helper(root) => root.sync().await,
            Self::Directory(root) => root.sync().await,
        }
    }

    /// Whether a file of this name lies at the top of the container's own writable layer.
    ///
    /// # Errors
    /// That layer cannot be found or read.
    pub async fn prove(&self, marker: Marker) -> Result<bool, HelperError> {
        match self {
            Self::Helper(root) => root.prove(marker).await,
            Self::Directory(root) => root.prove(marker),
        }
    }
}

fn no_volumes(paths: &[String]) -> Result<(), HelperError> {
    if paths.is_empty() {
        return Ok(());
    }
    Err(HelperError::OtherVolumes {
        theirs: Vec::new(),
        ours: paths.to_vec(),
    })
}

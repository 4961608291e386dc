//! What can go wrong, at the source and at the destination.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use super::path::RelPath;

/// Why a layer could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The upper directory or a volume cannot be read.
    #[error("cannot {doing} {path} of the container: {errno}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The path, as the container sees it.
        path: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A device node, which no layer may carry to another machine.
    #[error("{0} is a device node: remove it, or move this service as an image")]
    Device(String),
    /// Something that this method cannot carry; another one can.
    #[error("{path} cannot move live: {what}")]
    Unsupported {
        /// The path, as the container sees it.
        path: String,
        /// What is special about it.
        what: &'static str,
    },
    /// Something still changes although the container's first process has exited.
    #[error("{0} still changes after the container's exit: another process writes there")]
    Changing(String),
    /// The stream cannot be written.
    #[error("cannot write the layer's stream: {0}")]
    Write(#[from] io::Error),
}

impl LayerError {
    /// The same of a path within the volume at `at`.
    pub(super) fn within(mut self, at: &RelPath) -> LayerError {
        match &mut self {
            LayerError::Io { path, .. }
            | LayerError::Unsupported { path, .. }
            | LayerError::Device(path)
            | LayerError::Changing(path) => prefix(path, at),
            LayerError::Write(_) => {}
        }
        self
    }
}

fn prefix(path: &mut String, at: &RelPath) {
    path.insert_str(0, &at.to_string());
}

/// Why a stream could not be applied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The peer's stream makes no sense.
    #[error("the peer's layer stream is malformed: {0}")]
    Malformed(&'static str),
    /// The stream ends before its end.
    #[error("the layer stream ends too early")]
    Truncated,
    /// The peer's path leaves the container's root, through a symbolic link for instance.
    #[error(
        "the peer's path {0} leads out of the container's root or through something that is no directory"
    )]
    Escape(String),
    /// The peer's path leads to something that is mounted into the container.
    #[error("the peer's path {0} leads to a mount")]
    Mount(String),
    /// The peer changes something that is not here: the two roots are not what the peer believes.
    #[error("the peer changes {0}, which is not here or is something else")]
    Missing(String),
    /// No room.
    #[error(
        "no room for {0}: free space or inodes where the engine keeps its containers, or raise the quota"
    )]
    NoSpace(String),
    /// The root cannot be written.
    #[error("cannot {doing} {path} in the container's root: {errno}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The path, as the container sees it.
        path: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The stream cannot be read.
    #[error("cannot read the layer's stream: {0}")]
    Read(io::Error),
}

impl ApplyError {
    /// The same of a path within the volume at `at`.
    pub(super) fn within(mut self, at: &RelPath) -> ApplyError {
        match &mut self {
            ApplyError::Escape(path)
            | ApplyError::Mount(path)
            | ApplyError::Missing(path)
            | ApplyError::NoSpace(path)
            | ApplyError::Io { path, .. } => prefix(path, at),
            ApplyError::Malformed(_) | ApplyError::Truncated | ApplyError::Read(_) => {}
        }
        self
    }

    /// Whether the peer sent what an honest one would not: to try again with it makes no sense.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            ApplyError::Malformed(_)
            | ApplyError::Escape(_)
            | ApplyError::Mount(_)
            | ApplyError::Missing(_) => true,
            ApplyError::Truncated | ApplyError::NoSpace(_) | ApplyError::Io { .. } | ApplyError::Read(_) => {
                false
            }
        }
    }
}

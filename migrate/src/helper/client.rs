//! The node's side: a connection per container, and errors that say what they mean for a migration.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::{self, Frame};
use super::protocol::{
    ApplyFigures, ContainerId, Facts, Gated, Marker, NotAnId, Refusal, Reply, Request, RoundFigures,
    SourceFacts, VERSION,
};
use crate::image::Digest;
use crate::service::StopSignal;

/// Where the helper is. Connects anew for each container. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Helper {
    socket: Arc<Path>,
}

/// Why the helper did not do what it was asked. None of these ends the node; a migration goes another way.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// Nobody listens on the socket, or it is not ours to open.
    #[error(
        "no layer helper at {}: {source}; run `blosm layer-helper` as root, or set helper.socket",
        socket.display()
    )]
    NotThere {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It will not.
    #[error("the layer helper refused: {0}")]
    Refused(#[from] Refusal),
    /// It tried; the machine failed.
    #[error("the layer helper failed: {0}")]
    Failed(String),
    /// It closed the connection: it has ended, and what it held is lost.
    #[error("the layer helper closed the connection")]
    Died,
    /// It is of another version than this node.
    #[error("the layer helper speaks version {theirs}, this node {VERSION}: install both from one release")]
    OtherVersion {
        /// The helper's.
        theirs: u16,
    },
    /// A simulated container's layer, which needs no helper, cannot be read or written.
    #[error("a simulated container's layer: {0}")]
    Directory(String),
    /// The container has other volumes than its service's image declares.
    #[error(
        "the container has the volumes {theirs:?}, but its service's image declares {ours:?}: it was created from another image"
    )]
    OtherVolumes {
        /// What the engine has mounted, by path.
        theirs: Vec<String>,
        /// What should be there.
        ours: Vec<String>,
    },
    /// It answered something else than it was asked.
    #[error("the layer helper gave an answer that does not fit")]
    Unfit,
    /// The text is no engine's id.
    #[error(transparent)]
    Id(#[from] NotAnId),
    /// The connection failed.
    #[error("the connection to the layer helper failed: {0}")]
    Io(#[source] io::Error),
}

/// One pass over a writable layer.
#[derive(Debug)]
pub struct Round {
    /// What it did.
    pub figures: RoundFigures,
    /// The stream, from its start; a file without a name, gone when it is closed.
    pub stream: File,
}

impl Helper {
    /// Names the socket. Connects to nothing.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: Arc::from(socket),
        }
    }

    /// Asks who is there.
    ///
    /// # Errors
    /// Nobody, or one of another version.
    pub async fn hello(&self) -> Result<Facts, HelperError> {
        match self.link().await?.ask(Request::Hello, None).await? {
            (Reply::Hello(facts), None) if facts.version == VERSION => Ok(facts),
            (Reply::Hello(facts), _) => Err(HelperError::OtherVersion {
                theirs: facts.version,
            }),
            _ => Err(HelperError::Unfit),
        }
    }

    /// Takes hold of the writable layer of a running container, by its full id.
    ///
    /// # Errors
    /// [`HelperError::Refused`] when it is no container of a session, or its layer cannot be read.
    pub async fn source(&self, container: &str) -> Result<SourceLayer, HelperError> {
        let id: ContainerId = container.parse()?;
        let link = self.link().await?;
        match link.ask(Request::Source(id), None).await? {
            (Reply::Source(facts), None) => Ok(SourceLayer { link, facts }),
            _ => Err(HelperError::Unfit),
        }
    }

    /// Takes hold of the root of a container that waits at its gate, by its full id.
    ///
    /// # Errors
    /// [`HelperError::Refused`] when it is no container of a session, or does not wait.
    pub async fn gated(&self, container: &str) -> Result<GatedRoot, HelperError> {
        let id: ContainerId = container.parse()?;
        let link = self.link().await?;
        match link.ask(Request::Gated(id), None).await? {
            (Reply::Gated(facts), None) => Ok(GatedRoot { link, facts }),
            _ => Err(HelperError::Unfit),
        }
    }

    /// The uncompressed tar of layer `which` of an image with these layers, lowest first: a pipe, which may end early.
    /// Whoever reads it hashes it; only the digest tells that it is whole.
    ///
    /// # Errors
    /// [`Refusal::Store`] when the engine's store does not hold it in a form that can be read.
    pub async fn layer(&self, chain: &[Digest], which: u16) -> Result<File, HelperError> {
        let request = Request::Layer {
            chain: chain.to_vec(),
            which,
        };
        match self.link().await?.ask(request, None).await? {
            (Reply::Descriptor, Some(pipe)) => Ok(pipe.into()),
            _ => Err(HelperError::Unfit),
        }
    }

    /// The bytes of an image's config. Whoever reads them hashes them.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    pub async fn config(&self, digest: Digest) -> Result<File, HelperError> {
        match self.link().await?.ask(Request::Config(digest), None).await? {
            (Reply::Descriptor, Some(file)) => Ok(file.into()),
            _ => Err(HelperError::Unfit),
        }
    }

    async fn link(&self) -> Result<Link, HelperError> {
        let socket = self.socket.clone();
        blocking(move || match UnixStream::connect(&socket) {
            Ok(stream) => Ok(Link(Arc::new(Mutex::new(stream)))),
            Err(source) => Err(HelperError::NotThere {
                socket: socket.to_path_buf(),
                source,
            }),
        })
        .await
    }
}

/// The writable layer of a running container. Dropping it lets go.
///
/// The container's root stays in use until then: an engine should not start that container again before.
#[derive(Debug)]
pub struct SourceLayer {
    link: Link,
    facts: SourceFacts,
}

impl SourceLayer {
    /// The container's first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.facts.pid
    }

    /// Has rounds tell of the volumes at these paths, too; before the first round. They have to be all that the image
    /// declares, in order; see [`copied_volumes`](crate::recreate::copied_volumes).
    ///
    /// # Errors
    /// [`Refusal::Volumes`] when one cannot be carried, [`HelperError::OtherVolumes`] when there are others.
    pub async fn take_volumes(&self, paths: &[String]) -> Result<(), HelperError> {
        self.link.take_volumes(paths).await
    }

    /// What all volumes that the container's image declares take on the disk, bytes.
    ///
    /// # Errors
    /// As [`take_volumes`](Self::take_volumes).
    pub async fn weigh_volumes(&self) -> Result<u64, HelperError> {
        match self.link.ask(Request::Weigh, None).await? {
            (Reply::Weight(bytes), None) => Ok(bytes),
            _ => Err(HelperError::Unfit),
        }
    }

    /// What changed since the last round. After an error the handle is of no use for further rounds.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] when the layer cannot move this way.
    pub async fn round(&self) -> Result<Round, HelperError> {
        self.link.pass(Request::Round).await
    }

    /// Sends the first process a signal; one that has exited is fine.
    ///
    /// # Errors
    /// The helper is gone or the kernel refuses.
    pub async fn signal(&self, signal: StopSignal) -> Result<(), HelperError> {
        self.link.done(Request::Signal(signal)).await
    }

    /// A pidfd of the first process: readable when it has exited, and with it all of the container.
    ///
    /// # Errors
    /// The helper is gone.
    pub async fn exit(&self) -> Result<OwnedFd, HelperError> {
        match self.link.ask(Request::Exit, None).await? {
            (Reply::Descriptor, Some(pidfd)) => Ok(pidfd),
            _ => Err(HelperError::Unfit),
        }
    }

    /// What changed until the exit: with it the streams give exactly the layer.
    ///
    /// # Errors
    /// [`Refusal::StillRuns`] before the exit.
    pub async fn last(&self) -> Result<Round, HelperError> {
        self.link.pass(Request::Last).await
    }

    /// Whether a file of this name lies at the top of the writable layer.
    ///
    /// # Errors
    /// The helper is gone.
    pub async fn prove(&self, marker: Marker) -> Result<bool, HelperError> {
        self.link.prove(marker).await
    }
}

/// The root of a container that waits at its gate. Dropping it lets go; that comes before the gate is opened.
#[derive(Debug)]
pub struct GatedRoot {
    link: Link,
    facts: Gated,
}

impl GatedRoot {
    /// The gate's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.facts.pid
    }

    /// Has streams go to the volumes at these paths, too; before the first stream. As
    /// [`SourceLayer::take_volumes`].
    ///
    /// # Errors
    /// As there.
    pub async fn take_volumes(&self, paths: &[String]) -> Result<(), HelperError> {
        self.link.take_volumes(paths).await
    }

    /// Applies a stream out of a file or a pipe, as it comes.
    ///
    /// # Errors
    /// [`Refusal::Stream`] when no honest peer sends it, [`Refusal::NotGated`] when the container passed its gate; after
    /// either the container is of no use.
    pub async fn apply(&self, stream: OwnedFd) -> Result<ApplyFigures, HelperError> {
        match self.link.ask(Request::Apply, Some(stream)).await? {
            (Reply::Applied(figures), None) => Ok(figures),
            _ => Err(HelperError::Unfit),
        }
    }

    /// Makes durable what was applied.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn sync(&self) -> Result<(), HelperError> {
        self.link.done(Request::Sync).await
    }

    /// Whether a file of this name lies at the top of the container's own writable layer.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] when that layer cannot be found.
    pub async fn prove(&self, marker: Marker) -> Result<bool, HelperError> {
        self.link.prove(marker).await
    }
}

/// One connection; a question waits for the answer to the one before.
#[derive(Debug)]
struct Link(Arc<Mutex<UnixStream>>);

impl Link {
    async fn ask(
        &self,
        request: Request,
        descriptor: Option<OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), HelperError> {
        let stream = self.0.clone();
        blocking(move || {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            frame::send(&stream, &request, descriptor.as_ref().map(AsFd::as_fd)).map_err(io_error)?;
            match frame::receive(&stream).map_err(io_error)? {
                Frame::Closed => Err(HelperError::Died),
                Frame::Malformed | Frame::Descriptors => Err(HelperError::Unfit),
                Frame::Value { value, descriptor } => match value {
                    Reply::Refused(refusal) => Err(refusal.into()),
                    Reply::Failed(why) => Err(HelperError::Failed(why)),
                    reply => Ok((reply, descriptor)),
                },
            }
        })
        .await
    }

    async fn pass(&self, request: Request) -> Result<Round, HelperError> {
        match self.ask(request, None).await? {
            (Reply::Round(figures), Some(stream)) => Ok(Round {
                figures,
                stream: stream.into(),
            }),
            _ => Err(HelperError::Unfit),
        }
    }

    async fn done(&self, request: Request) -> Result<(), HelperError> {
        match self.ask(request, None).await? {
            (Reply::Done, None) => Ok(()),
            _ => Err(HelperError::Unfit),
        }
    }

    async fn take_volumes(&self, paths: &[String]) -> Result<(), HelperError> {
        if paths.is_empty() {
            return Ok(());
        }
        match self.ask(Request::Volumes, None).await? {
            (Reply::Volumes(theirs), None) if theirs == paths => Ok(()),
            (Reply::Volumes(theirs), None) => Err(HelperError::OtherVolumes {
                theirs,
                ours: paths.to_vec(),
            }),
            _ => Err(HelperError::Unfit),
        }
    }

    async fn prove(&self, marker: Marker) -> Result<bool, HelperError> {
        match self.ask(Request::Prove(marker), None).await? {
            (Reply::Proved(there), None) => Ok(there),
            _ => Err(HelperError::Unfit),
        }
    }
}

fn io_error(error: io::Error) -> HelperError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => HelperError::Died,
        _ => HelperError::Io(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HelperError> + Send + 'static,
) -> Result<T, HelperError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(HelperError::Io(io::Error::other(error))),
    }
}

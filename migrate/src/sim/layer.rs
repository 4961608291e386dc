//! The writable layer of a simulated container: read round by round, or written to while the container waits at its
//! gate. The same code as in the layer helper, on a directory that is this process's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, open, openat};

use super::run::Handle;
use crate::gate::GateFolder;
use crate::helper::{ApplyFigures, HelperError, Marker, Refusal, Round};
use crate::layer::{self, ApplyError, LayerError, RoundFigures, Stamp, Touched, Tracker};
use crate::service::StopSignal;

/// Bytes that are gathered before they are written to the spool.
const BUFFER: usize = 256 << 10;

/// The writable layer of a running container.
#[derive(Debug)]
pub struct DirSource {
    run: Handle,
    reader: Arc<Mutex<Reader>>,
}

struct Reader {
    /// Gone after the last pass or a failed one: what the other end has is then not known.
    tracker: Option<Tracker>,
    spool: PathBuf,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}

/// Takes hold of the layer `upper` of that run. `spool` is where rounds are written.
pub(super) async fn source(run: Handle, upper: PathBuf, spool: PathBuf) -> Result<DirSource, HelperError> {
    let upper = blocking(move || directory(&upper)).await?;
    let reader = Reader {
        tracker: Some(Tracker::new(upper, Stamp::clock())),
        spool,
    };
    Ok(DirSource {
        run,
        reader: Arc::new(Mutex::new(reader)),
    })
}

impl DirSource {
    /// The number of the run.
    pub(crate) fn number(&self) -> u32 {
        self.run.number()
    }

    /// What changed since the last round.
    pub(crate) async fn round(&self) -> Result<Round, HelperError> {
        self.pass(Tracker::round).await
    }

    /// Sends the container a signal; one that has ended is fine.
    pub(crate) fn signal(&self, signal: StopSignal) {
        self.run.signal(signal);
    }

    /// What changed since the last round, once the container has ended.
    pub(crate) async fn last(&self) -> Result<Round, HelperError> {
        if !self.run.has_ended() {
            return Err(Refusal::StillRuns.into());
        }
        let round = self.pass(Tracker::last).await;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.tracker = None;
        round
    }

    async fn pass(
        &self,
        pass: impl FnOnce(&mut Tracker, &BTreeSet<Vec<u8>>, &mut dyn Write) -> Result<RoundFigures, LayerError>
        + Send
        + 'static,
    ) -> Result<Round, HelperError> {
        let reader = self.reader.clone();
        blocking(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tracker = reader.tracker.take().ok_or(Refusal::OutOfPlace)?;
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = openat(CWD, &reader.spool, flags, Mode::RUSR).map_err(disk)?;
            let mut out = BufWriter::with_capacity(BUFFER, File::from(file));
            // The built-in service maps nothing.
            let figures = pass(&mut tracker, &BTreeSet::new(), &mut out).map_err(unread)?;
            let file = out.into_inner().map_err(disk)?;
            // From its start, whatever was written through the other end.
            let stream = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(disk)?;
            reader.tracker = Some(tracker);
            Ok(Round {
                figures: figures.into(),
                stream,
            })
        })
        .await
    }
}

/// The root of a container that waits at its gate, to be written to.
#[derive(Debug)]
pub struct DirRoot {
    run: Handle,
    gate: GateFolder,
    writer: Arc<Writer>,
}

#[derive(Debug)]
struct Writer {
    upper: OwnedFd,
    /// What no sync has made durable yet.
    touched: Mutex<Vec<Touched>>,
}

/// Takes hold of the root `upper` of that run, which waits at `gate`.
pub(super) async fn root(run: Handle, gate: GateFolder, upper: PathBuf) -> Result<DirRoot, HelperError> {
    let upper = blocking(move || directory(&upper)).await?;
    let root = DirRoot {
        run,
        gate,
        writer: Arc::new(Writer {
            upper,
            touched: Mutex::default(),
        }),
    };
    root.check()?;
    Ok(root)
}

impl DirRoot {
    /// Only as long as the container waits.
    fn check(&self) -> Result<(), HelperError> {
        if self.gate.is_open() || self.run.has_ended() {
            return Err(Refusal::NotGated.into());
        }
        Ok(())
    }

    /// Applies a stream, a pipe or a file, as it comes.
    pub(crate) async fn apply(&self, stream: OwnedFd) -> Result<ApplyFigures, HelperError> {
        self.check()?;
        let writer = self.writer.clone();
        let figures = blocking(move || {
            let figures =
                layer::apply(writer.upper.as_fd(), &[], &mut File::from(stream)).map_err(unapplied)?;
            let told = ApplyFigures::from(&figures);
            let mut touched = writer.touched.lock().unwrap_or_else(PoisonError::into_inner);
            touched.push(figures.touched);
            Ok(told)
        })
        .await?;
        self.check()?;
        Ok(figures)
    }

    /// Makes durable what was applied.
    pub(crate) async fn sync(&self) -> Result<(), HelperError> {
        self.check()?;
        let writer = self.writer.clone();
        blocking(move || {
            let mut touched = writer.touched.lock().unwrap_or_else(PoisonError::into_inner);
            for touched in touched.iter() {
                layer::sync(writer.upper.as_fd(), &[], touched).map_err(unapplied)?;
            }
            touched.clear();
            Ok(())
        })
        .await
    }

    /// Whether a file of this name lies at the top of the layer.
    pub(crate) fn prove(&self, marker: Marker) -> Result<bool, HelperError> {
        let name = marker.to_string();
        match rustix::fs::statat(&self.writer.upper, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(disk(error)),
        }
    }
}

fn directory(path: &Path) -> Result<OwnedFd, HelperError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(disk)
}

fn unread(error: LayerError) -> HelperError {
    match error {
        LayerError::Device(_) | LayerError::Unsupported { .. } => {
            Refusal::Unsupported(error.to_string()).into()
        }
        error => HelperError::Directory(error.to_string()),
    }
}

fn unapplied(error: ApplyError) -> HelperError {
    if error.is_peer_fault() || matches!(error, ApplyError::Truncated) {
        Refusal::Stream(error.to_string()).into()
    } else {
        HelperError::Directory(error.to_string())
    }
}

fn disk(error: impl Into<io::Error>) -> HelperError {
    HelperError::Directory(error.into().to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HelperError> + Send + 'static,
) -> Result<T, HelperError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(disk(io::Error::other(error))),
    }
}

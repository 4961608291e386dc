//! Making durable what was applied.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{FileType, OFlags, fsync, syncfs};
use rustix::io::Errno;

use super::beneath;
use super::error::ApplyError;
use super::path::RelPath;
use super::volume::Volume;

/// Up to this many entries are synced one by one.
const ONE_BY_ONE: usize = 256;
/// That many at a time: a journal commit serves all that wait for it.
const AT_A_TIME: usize = 8;

/// What streams changed: a few paths, or everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// With the number of their root.
    paths: BTreeSet<(u8, RelPath)>,
    everything: bool,
}

/// How it was made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFigures {
    /// So many files and directories, one by one.
    Entries(usize),
    /// The filesystems as a whole.
    Filesystem,
}

impl Touched {
    pub(super) fn add(&mut self, root: u8, path: &RelPath) {
        if self.everything {
            return;
        }
        self.paths.insert((root, path.clone()));
        if self.paths.len() > ONE_BY_ONE {
            *self = Touched {
                paths: BTreeSet::new(),
                everything: true,
            };
        }
    }
}

/// Makes durable what was applied below `root` and the volumes: a small delta entry by entry, more
/// with the whole filesystems. Give it what all streams since the last sync touched.
///
/// # Errors
///
/// Local faults only.
pub fn sync(root: BorrowedFd<'_>, volumes: &[Volume], touched: &Touched) -> Result<SyncFigures, ApplyError> {
    let roots: Vec<BorrowedFd<'_>> = std::iter::once(root)
        .chain(volumes.iter().map(AsFd::as_fd))
        .collect();
    if touched.everything {
        let path = RelPath::default();
        for root in roots {
            beneath::open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|root| syncfs(&root))
                .map_err(failed(&path))?;
        }
        return Ok(SyncFigures::Filesystem);
    }
    let paths: Vec<&(u8, RelPath)> = touched.paths.iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((number, path)) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Streams name no root that was not there.
            if let Some(root) = roots.get(usize::from(*number)) {
                one(*root, path).map_err(failed(path))?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME.min(paths.len()))
            .map(|_| scope.spawn(work))
            .collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(SyncFigures::Entries(paths.len()))
}

/// Links, pipes and sockets have nothing of their own: their directory's sync covers them.
fn one(root: BorrowedFd<'_>, path: &RelPath) -> rustix::io::Result<()> {
    let place = match beneath::open(root, path, OFlags::PATH) {
        // Deleted again, or replaced, by a later operation.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        place => place?,
    };
    let stat = rustix::fs::fstat(&place)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => {
            fsync(beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?)
        }
        _ => Ok(()),
    }
}

fn failed(path: &RelPath) -> impl FnOnce(Errno) -> ApplyError {
    let path = path.to_string();
    move |errno| match errno {
        Errno::NOSPC | Errno::DQUOT => ApplyError::NoSpace(path),
        errno => ApplyError::Io {
            doing: "make durable",
            path,
            errno,
        },
    }
}

//! Removing what a peer deletes or replaces.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, unlinkat};
use rustix::io::Errno;

use super::failed;
use crate::layer::beneath;
use crate::layer::error::ApplyError;
use crate::layer::path::{MAX_DEPTH, RelPath};

/// Removes `name` in `dir` and all that is in it; nothing there is fine. `path` is for errors.
///
/// Each entry is opened first, without entering mounts: the kernel would let a process of another
/// mount namespace, as the helper is, remove a name that is a mount point in the container, and take
/// the mount away with it.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &[u8], path: &RelPath) -> Result<(), ApplyError> {
    below(dir, name, path, MAX_DEPTH, Mounts::Refused).map(drop)
}

/// Removes all that is in a volume. What is mounted somewhere in it stays, with the directories on the way there: the
/// other end has these, too.
pub(super) fn empty(volume: BorrowedFd<'_>) -> Result<(), ApplyError> {
    let path = RelPath::default();
    let dir =
        beneath::open(volume, &path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", &path))?;
    for name in beneath::names(dir.as_fd()).map_err(failed("list", &path))? {
        below(dir.as_fd(), &name, &path, MAX_DEPTH, Mounts::Kept)?;
    }
    Ok(())
}

/// What becomes of a mount on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mounts {
    Refused,
    Kept,
}

/// Whether it is gone.
fn below(
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: &RelPath,
    depth: usize,
    mounts: Mounts,
) -> Result<bool, ApplyError> {
    let there = match beneath::open_name(dir, name, OFlags::PATH, Mode::empty()) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(true),
        Err(Errno::XDEV) if mounts == Mounts::Kept => return Ok(false),
        Err(errno) => return Err(failed("look at", path)(errno)),
    };
    let stat = fstat(&there).map_err(failed("look at", path))?;
    drop(there);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        unlinkat(dir, name, AtFlags::empty()).map_err(failed("remove", path))?;
        return Ok(true);
    }
    if depth == 0 {
        return Err(failed("remove", path)(Errno::NAMETOOLONG));
    }
    let folder = beneath::open_name(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(failed("open", path))?;
    let mut is_empty = true;
    for name in beneath::names(folder.as_fd()).map_err(failed("list", path))? {
        is_empty &= below(folder.as_fd(), &name, path, depth - 1, mounts)?;
    }
    drop(folder);
    if is_empty {
        unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed("remove", path))?;
    }
    Ok(is_empty)
}

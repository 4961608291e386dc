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
    below(dir, name, path, MAX_DEPTH)
}

fn below(dir: BorrowedFd<'_>, name: &[u8], path: &RelPath, depth: usize) -> Result<(), ApplyError> {
    let there = match beneath::open_name(dir, name, OFlags::PATH, Mode::empty()) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("look at", path)(errno)),
    };
    let stat = fstat(&there).map_err(failed("look at", path))?;
    drop(there);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return unlinkat(dir, name, AtFlags::empty()).map_err(failed("remove", path));
    }
    if depth == 0 {
        return Err(failed("remove", path)(Errno::NAMETOOLONG));
    }
    let folder = beneath::open_name(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(failed("open", path))?;
    for name in beneath::names(folder.as_fd()).map_err(failed("list", path))? {
        below(folder.as_fd(), &name, path, depth - 1)?;
    }
    drop(folder);
    unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed("remove", path))
}

//! Opening below a directory that somebody else may change: never out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

use super::path::RelPath;

/// Room for one read of a directory.
const LISTING: usize = 32 * 1024;

/// Opens `path` below `root`; no symbolic link is followed, no mount entered.
pub(super) fn open(root: BorrowedFd<'_>, path: &RelPath, flags: OFlags) -> Result<OwnedFd> {
    let bytes = if path.is_root() { b"." } else { path.bytes() };
    open_name(root, bytes, flags, Mode::empty())
}

/// Opens or creates `name` in `dir` with the same care.
pub(super) fn open_name(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        // A rename elsewhere in the tree makes the kernel unsure of BENEATH: it says so with EAGAIN.
        match openat2(
            dir,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            mode,
            resolve,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The names in a directory, sorted, without `.` and `..`. Reads from where the descriptor stands.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(LISTING);
    let mut listing = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(Box::from(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Keeps the directory that was opened last: entries come directory by directory.
pub(super) struct Parents<'a> {
    root: BorrowedFd<'a>,
    flags: OFlags,
    last: Option<(RelPath, OwnedFd)>,
}

impl<'a> Parents<'a> {
    /// `flags`: how directories are opened.
    pub(super) fn new(root: BorrowedFd<'a>, flags: OFlags) -> Parents<'a> {
        Parents {
            root,
            flags,
            last: None,
        }
    }

    /// The directory at `path`.
    pub(super) fn dir(&mut self, path: &RelPath) -> Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let fd = open(self.root, path, self.flags | OFlags::DIRECTORY)?;
            self.last = Some((path.clone(), fd));
        }
        let (_, fd) = self.last.as_ref().expect("it was put there above");
        Ok(fd.as_fd())
    }

    /// Forgets what is at `path` and below: it is about to be removed or replaced.
    pub(super) fn forget(&mut self, path: &RelPath) {
        let below = |known: &RelPath| {
            known
                .bytes()
                .strip_prefix(path.bytes())
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        };
        if self.last.as_ref().is_some_and(|(known, _)| below(known)) {
            self.last = None;
        }
    }
}

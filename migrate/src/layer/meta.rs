//! What an entry is like: read from an upper directory, set through a merged root.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use super::error::LayerError;
use super::op::{MAX_XATTRS, Meta, Time, crosses};
use super::path::RelPath;

/// Most names of extended attributes fit in this.
const USUAL: usize = 1024;

/// A descriptor of an entry: opened, or a place only (`O_PATH`), whose attributes go through `/proc`.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    Open(BorrowedFd<'a>),
    Place(BorrowedFd<'a>),
}

impl Handle<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Handle::Open(fd) | Handle::Place(fd) => *fd,
        }
    }

    fn through_proc(&self) -> String {
        format!("/proc/self/fd/{}", self.fd().as_raw_fd())
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Handle::Open(fd) => fs::flistxattr(fd, buffer),
            Handle::Place(_) => fs::listxattr(self.through_proc(), buffer),
        }
    }

    fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; USUAL];
        let len = match self.list(&mut buffer) {
            Err(Errno::RANGE) => {
                buffer.resize(MAX_XATTRS, 0);
                self.list(&mut buffer)?
            }
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let names = buffer[..len]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = vec![0; MAX_XATTRS];
        let len = match self {
            Handle::Open(fd) => fs::fgetxattr(fd, name, &mut value[..])?,
            Handle::Place(_) => fs::getxattr(self.through_proc(), name, &mut value[..])?,
        };
        value.truncate(len);
        Ok(value)
    }

    fn set(&self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Handle::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Handle::Place(_) => fs::setxattr(self.through_proc(), name, value, XattrFlags::empty()),
        }
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        match self {
            Handle::Open(fd) => fs::fremovexattr(fd, name),
            Handle::Place(_) => fs::removexattr(self.through_proc(), name),
        }
    }
}

/// What `stat` alone says.
pub(super) fn plain(stat: &Stat) -> Meta {
    Meta {
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        atime: Time {
            secs: stat.st_atime,
            nanos: stat.st_atime_nsec as u32,
        },
        xattrs: BTreeMap::new(),
    }
}

/// All of it, and whether the entry is an opaque directory.
///
/// # Errors
///
/// Attributes of the overlay that only its own driver understands.
pub(super) fn read(
    handle: Handle<'_>,
    stat: &Stat,
    path: &RelPath,
) -> std::result::Result<(Meta, bool), LayerError> {
    let failed = |errno| LayerError::Io {
        doing: "read the attributes of",
        path: path.to_string(),
        errno,
    };
    let unsupported = |what| LayerError::Unsupported {
        path: path.to_string(),
        what,
    };
    let mut meta = plain(stat);
    let mut opaque = false;
    let mut bytes = 0;
    for name in handle.names().map_err(failed)? {
        match name.as_slice() {
            b"trusted.overlay.opaque" => match handle.get(&name).map_err(failed)?.as_slice() {
                b"y" => opaque = true,
                _ => return Err(unsupported("a directory hides others in a way of its own")),
            },
            b"trusted.overlay.redirect" => return Err(unsupported("a directory was renamed by redirect")),
            b"trusted.overlay.metacopy" => return Err(unsupported("its content is still in a lower layer")),
            b"trusted.overlay.whiteout" => return Err(unsupported("a deletion is marked by an attribute")),
            other if other.starts_with(b"user.overlay.") => {
                return Err(unsupported("the overlay keeps its marks in user attributes"));
            }
            other if crosses(other) => {
                let value = match handle.get(other) {
                    Err(Errno::NODATA) => continue,
                    Err(Errno::RANGE) => return Err(unsupported("its extended attributes are too large")),
                    value => value.map_err(failed)?,
                };
                bytes += other.len() + value.len();
                if bytes > MAX_XATTRS {
                    return Err(unsupported("its extended attributes are too large"));
                }
                meta.xattrs.insert(name, value);
            }
            _ => {}
        }
    }
    Ok((meta, opaque))
}

/// Makes an entry be like `meta`. The owner goes first, since a new owner clears set-id bits and
/// capabilities; the times go last.
pub(super) fn set(handle: Handle<'_>, meta: &Meta) -> Result<()> {
    let fd = handle.fd();
    let stat = fs::fstat(fd)?;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    if !is_link {
        set_xattrs(handle, &meta.xattrs)?;
        let mode = Mode::from_raw_mode(u32::from(meta.mode));
        match handle {
            Handle::Open(fd) => fs::fchmod(fd, mode)?,
            Handle::Place(_) => fs::chmod(handle.through_proc(), mode)?,
        }
    }
    let time = |time: Time| Timespec {
        tv_sec: time.secs,
        tv_nsec: time.nanos.into(),
    };
    let times = Timestamps {
        last_access: time(meta.atime),
        last_modification: time(meta.mtime),
    };
    match handle {
        Handle::Open(fd) => fs::futimens(fd, &times),
        Handle::Place(fd) => fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH),
    }
}

fn set_xattrs(handle: Handle<'_>, wanted: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    let present = handle.names()?;
    for name in present
        .iter()
        .filter(|name| crosses(name) && !wanted.contains_key(*name))
    {
        match handle.remove(name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    wanted
        .iter()
        .try_for_each(|(name, value)| handle.set(name, value))
}

//! A peer's stream into the root of a container that waits, and into its volumes.
//!
//! Every path is opened below the root's descriptor; no symbolic link is followed and no mount is
//! entered, so that nothing outside the container's own layer is written whatever the peer sends. A
//! volume is a mount; it is a root of its own, to which the same applies.

mod remove;

use std::fmt;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, fallocate, fstat, ftruncate, linkat, mkdirat, mknodat,
    openat, statat, symlinkat,
};
use rustix::io::{Errno, pwrite};

use super::beneath::{self, Parents};
use super::error::ApplyError;
use super::meta::{self, Handle};
use super::op::{Base, Meta, Op};
use super::path::RelPath;
use super::stream::Source;
use super::sync::Touched;
use super::volume::Volume;
use remove::{empty, remove};

/// What a stream did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyFigures {
    /// Operations.
    pub operations: u64,
    /// Length of the stream, bytes.
    pub bytes: u64,
    /// File data written, bytes.
    pub data: u64,
    /// Directories of the peer's that are mounts here: they are as they are here.
    pub skipped: u64,
    /// What [`sync`](super::sync()) makes durable.
    pub touched: Touched,
}

/// Applies one stream below `root`, the merged root of a container that waits at its gate, and below
/// its volumes, which are in the order of their paths. Acts on each operation as it arrives and makes
/// nothing durable.
///
/// # Errors
///
/// See [`ApplyError::is_peer_fault`]. What came before the error has been done; the root is of no
/// use any more unless the whole layer is sent once more.
pub fn apply(
    root: BorrowedFd<'_>,
    volumes: &[Volume],
    from: &mut dyn Read,
) -> Result<ApplyFigures, ApplyError> {
    let mut source = Source::new(from)?;
    let mut apply = Apply {
        own: root,
        volumes,
        number: 0,
        root,
        parents: Parents::new(root, OFlags::PATH),
        large: None,
        figures: ApplyFigures::default(),
    };
    while let Some(op) = source.next()? {
        if let Err(error) = apply.one(op) {
            return Err(match apply.volume() {
                Some(volume) => error.within(volume.at()),
                None => error,
            });
        }
        apply.figures.operations += 1;
    }
    if apply.large.is_some() {
        return Err(ApplyError::Malformed("a file is never complete"));
    }
    apply.figures.bytes = source.bytes;
    Ok(apply.figures)
}

struct Apply<'a> {
    /// The container's own root.
    own: BorrowedFd<'a>,
    volumes: &'a [Volume],
    /// Which root operations are for: 0 the own one.
    number: u8,
    /// That one.
    root: BorrowedFd<'a>,
    parents: Parents<'a>,
    large: Option<Large>,
    figures: ApplyFigures,
}

/// The larger file that is being written.
struct Large {
    path: RelPath,
    file: OwnedFd,
    size: u64,
}

impl<'a> Apply<'a> {
    fn one(&mut self, op: Op) -> Result<(), ApplyError> {
        match op {
            Op::Data { offset, data } => self.data(offset, &data),
            Op::Hole { offset, len } => self.hole(offset, len),
            Op::Done { meta } => self.done(&meta),
            _ if self.large.is_some() => Err(ApplyError::Malformed("a file is not complete")),
            Op::End => Ok(()),
            Op::Root { number, fresh } => self.turn(number, fresh),
            Op::Delete { path } => self.delete(&path),
            Op::Dir { path, fresh } => self.folder(&path, fresh),
            Op::DirMeta { path, meta } => self.folder_meta(&path, &meta),
            Op::Small {
                path,
                base,
                meta,
                data,
            } => self.small(&path, base, &meta, &data),
            Op::Large { path, base, size } => self.begin(path, base, size),
            Op::Symlink { path, target, meta } => {
                self.fresh(&path, "create the link", |dir, name| {
                    symlinkat(target.as_slice(), dir, name)
                })?;
                self.place_meta(&path, &meta)
            }
            Op::Link { path, of } => self.link(&path, &of),
            Op::Fifo { path, meta } => self.node(&path, FileType::Fifo, &meta),
            Op::Socket { path, meta } => self.node(&path, FileType::Socket, &meta),
            Op::Meta { path, meta } => {
                self.touch(&path);
                self.place_meta(&path, &meta)
            }
        }
    }

    fn turn(&mut self, number: u8, fresh: bool) -> Result<(), ApplyError> {
        self.number = number;
        self.root = match (number, self.volume()) {
            (0, _) => self.own,
            (_, Some(volume)) => volume.as_fd(),
            (_, None) => return Err(ApplyError::Malformed("the container has no such volume")),
        };
        self.parents = Parents::new(self.root, OFlags::PATH);
        if fresh {
            self.touch(&RelPath::default());
            empty(self.root)?;
        }
        Ok(())
    }

    /// The volume that operations are for.
    fn volume(&self) -> Option<&'a Volume> {
        self.volumes.get(usize::from(self.number).checked_sub(1)?)
    }

    fn touch(&mut self, path: &RelPath) {
        self.figures.touched.add(self.number, path);
    }

    fn delete(&mut self, path: &RelPath) -> Result<(), ApplyError> {
        self.parents.forget(path);
        let (parent, name) = path.split();
        match self.parents.dir(&parent) {
            // The lower layers may not even have the directory of something that hides nothing.
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("open the directory of", path)(errno)),
            Ok(dir) => {
                remove(dir, name, path)?;
                self.touch(&parent);
                Ok(())
            }
        }
    }

    fn folder(&mut self, path: &RelPath, fresh: bool) -> Result<(), ApplyError> {
        let create = |dir: BorrowedFd<'_>, name: &[u8]| mkdirat(dir, name, Mode::RWXU);
        if !fresh {
            let (parent, name) = path.split();
            let dir = self
                .parents
                .dir(&parent)
                .map_err(failed("open the directory of", path))?;
            match beneath::open_name(dir, name, OFlags::PATH, Mode::empty()) {
                Ok(there) => {
                    let stat = fstat(&there).map_err(failed("look at", path))?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        return Ok(());
                    }
                }
                Err(Errno::NOENT) => {}
                Err(Errno::XDEV) => {
                    self.figures.skipped += 1;
                    return Ok(());
                }
                Err(errno) => return Err(failed("open", path)(errno)),
            }
        }
        self.fresh(path, "create the directory", create)
    }

    fn folder_meta(&mut self, path: &RelPath, meta: &Meta) -> Result<(), ApplyError> {
        let dir = match beneath::open(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            Err(Errno::XDEV) => {
                self.figures.skipped += 1;
                return Ok(());
            }
            Err(errno) => return Err(failed("open", path)(errno)),
        };
        self.touch(path);
        meta::set(Handle::Open(dir.as_fd()), meta).map_err(failed("set the attributes of", path))
    }

    fn small(&mut self, path: &RelPath, base: Base, meta: &Meta, data: &[u8]) -> Result<(), ApplyError> {
        let file = self.file(path, base)?;
        write(file.as_fd(), 0, data).map_err(failed("write", path))?;
        if base != Base::Fresh {
            ftruncate(&file, data.len() as u64).map_err(failed("resize", path))?;
        }
        self.figures.data += data.len() as u64;
        meta::set(Handle::Open(file.as_fd()), meta).map_err(failed("set the attributes of", path))
    }

    fn begin(&mut self, path: RelPath, base: Base, size: u64) -> Result<(), ApplyError> {
        if i64::try_from(size).is_err() {
            return Err(ApplyError::Malformed("a file is too large"));
        }
        let file = self.file(&path, base)?;
        if base == Base::Emptied {
            ftruncate(&file, 0).map_err(failed("empty", &path))?;
        }
        ftruncate(&file, size).map_err(failed("resize", &path))?;
        self.large = Some(Large { path, file, size });
        Ok(())
    }

    /// Opens the file to be written: a new one, or the one that is there as it is. To empty a small one
    /// first would cost milliseconds: filesystems flush what was emptied and written again on close.
    fn file(&mut self, path: &RelPath, base: Base) -> Result<OwnedFd, ApplyError> {
        if base == Base::Fresh {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let create = |dir: BorrowedFd<'_>, name: &[u8]| openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
            let file = self.fresh(path, "create", create)?;
            self.touch(path);
            return Ok(file);
        }
        let (parent, name) = path.split();
        let dir = self
            .parents
            .dir(&parent)
            .map_err(failed("open the directory of", path))?;
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| ApplyError::Missing(path.to_string()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ApplyError::Missing(path.to_string()));
        }
        let file = beneath::open_name(dir, name, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())
            .map_err(failed("open", path))?;
        self.touch(path);
        Ok(file)
    }

    fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), ApplyError> {
        let large = self
            .large
            .as_ref()
            .ok_or(ApplyError::Malformed("data belongs to no file"))?;
        large.holds(offset, data.len() as u64)?;
        write(large.file.as_fd(), offset, data).map_err(failed("write", &large.path))?;
        self.figures.data += data.len() as u64;
        Ok(())
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<(), ApplyError> {
        let large = self
            .large
            .as_ref()
            .ok_or(ApplyError::Malformed("a hole belongs to no file"))?;
        large.holds(offset, len)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&large.file, flags, offset, len).map_err(failed("punch a hole into", &large.path))
    }

    fn done(&mut self, meta: &Meta) -> Result<(), ApplyError> {
        let large = self
            .large
            .take()
            .ok_or(ApplyError::Malformed("no file is to be completed"))?;
        meta::set(Handle::Open(large.file.as_fd()), meta)
            .map_err(failed("set the attributes of", &large.path))
    }

    fn link(&mut self, path: &RelPath, of: &RelPath) -> Result<(), ApplyError> {
        let below = |whole: &RelPath, part: &RelPath| {
            whole
                .bytes()
                .strip_prefix(part.bytes())
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        };
        if below(of, path) || below(path, of) {
            return Err(ApplyError::Malformed(
                "a file is linked to itself or below itself",
            ));
        }
        let (parent, name) = of.split();
        let from = beneath::open(self.root, &parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed("open the directory of", of))?;
        let there = beneath::open_name(from.as_fd(), name, OFlags::PATH, Mode::empty())
            .map_err(failed("open", of))?;
        let stat = fstat(&there).map_err(failed("look at", of))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink | FileType::Fifo | FileType::Socket => {}
            _ => return Err(ApplyError::Missing(of.to_string())),
        }
        self.fresh(path, "link", |dir, new| {
            linkat(&from, name, dir, new, AtFlags::empty())
        })
    }

    fn node(&mut self, path: &RelPath, kind: FileType, meta: &Meta) -> Result<(), ApplyError> {
        self.fresh(path, "create", |dir, name| {
            mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, 0)
        })?;
        self.place_meta(path, meta)
    }

    /// Sets what anything but a directory is like, without opening it.
    fn place_meta(&mut self, path: &RelPath, meta: &Meta) -> Result<(), ApplyError> {
        let (parent, name) = path.split();
        let dir = self
            .parents
            .dir(&parent)
            .map_err(failed("open the directory of", path))?;
        let there =
            beneath::open_name(dir, name, OFlags::PATH, Mode::empty()).map_err(failed("open", path))?;
        meta::set(Handle::Place(there.as_fd()), meta).map_err(failed("set the attributes of", path))
    }

    /// Creates something in the place of whatever is there.
    fn fresh<T>(
        &mut self,
        path: &RelPath,
        doing: &'static str,
        create: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, ApplyError> {
        let (parent, name) = path.split();
        self.touch(&parent);
        let dir = self
            .parents
            .dir(&parent)
            .map_err(failed("open the directory of", path))?;
        match create(dir, name) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(failed(doing, path)),
        }
        remove(dir, name, path)?;
        let made = create(dir, name).map_err(failed(doing, path));
        self.parents.forget(path);
        made
    }
}

impl Large {
    fn holds(&self, offset: u64, len: u64) -> Result<(), ApplyError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size && len > 0 => Ok(()),
            _ => Err(ApplyError::Malformed("data lies outside of its file")),
        }
    }
}

fn write(file: BorrowedFd<'_>, mut offset: u64, mut data: &[u8]) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match pwrite(file, data, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(done) => {
                data = &data[done..];
                offset += done as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Whose fault an answer of the kernel is.
fn failed(doing: &'static str, path: &(impl fmt::Display + ?Sized)) -> impl FnOnce(Errno) -> ApplyError {
    let path = path.to_string();
    move |errno| match errno {
        Errno::LOOP | Errno::NOTDIR => ApplyError::Escape(path),
        Errno::XDEV | Errno::BUSY => ApplyError::Mount(path),
        Errno::NOENT => ApplyError::Missing(path),
        Errno::NOSPC | Errno::DQUOT => ApplyError::NoSpace(path),
        errno => ApplyError::Io { doing, path, errno },
    }
}

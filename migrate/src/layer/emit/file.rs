//! Files, links, pipes and sockets as operations.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, readlinkat};
use rustix::io::Errno;

use super::Emit;
use crate::layer::beneath;
use crate::layer::content::{Blocks, Content, Difference, Failed};
use crate::layer::error::LayerError;
use crate::layer::meta::{self, Handle};
use crate::layer::model::{FileRecord, Key, Seen};
use crate::layer::op::{Base, Meta, Op, SMALL};
use crate::layer::path::RelPath;
use crate::layer::scan::{self, Found, is_change};
use crate::layer::stream::Sink;

impl Emit<'_, '_> {
    pub(super) fn file(&mut self, found: &Found, kind: FileType) -> Result<(), LayerError> {
        let (path, ino) = (&found.path, found.stat.st_ino);
        if self.model.file(ino).is_some_and(|record| record.kind != kind) {
            self.model.disown(ino);
        }
        if let Some(record) = self.model.file(ino)
            && !record.has_name(path)
            && let Some(of) = record.name()
        {
            let op = Op::Link {
                path: path.clone(),
                of: of.clone(),
            };
            self.put(&op)?;
            self.model.put_link(path, ino);
            self.touch_parent(path);
        }
        if self.compared.contains(&ino) {
            return Ok(());
        }
        match kind {
            FileType::RegularFile => self.regular(path, ino),
            _ => self.node(path, ino, kind),
        }
    }

    fn regular(&mut self, path: &RelPath, ino: u64) -> Result<(), LayerError> {
        // Non-blocking: a pipe may have taken its place.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let Some((file, before, read)) = self.open(path, flags, ino, FileType::RegularFile)? else {
            return Ok(());
        };
        self.read += 1;
        let (meta, _) = meta::read(Handle::Open(file.as_fd()), &before, path)?;
        let size = u64::try_from(before.st_size).unwrap_or_default();
        let content = match size <= SMALL {
            true => self.small(path, ino, &meta, file.as_fd(), size)?,
            false => self.large(path, ino, &meta, file.as_fd(), size)?,
        };
        let seen = self.seen(path, file.as_fd(), &before, read)?;
        self.record(path, ino, FileType::RegularFile, meta, content, seen);
        Ok(())
    }

    fn small(
        &mut self,
        path: &RelPath,
        ino: u64,
        meta: &Meta,
        file: BorrowedFd<'_>,
        size: u64,
    ) -> Result<Content, LayerError> {
        let known = self.model.file(ino);
        let (content, data) = self.reader.small(file, size).map_err(scan::io("read", path))?;
        if known.is_some_and(|record| record.content == content) {
            self.meta(path, ino, meta)?;
        } else {
            let base = if known.is_some() {
                Base::Emptied
            } else {
                Base::Fresh
            };
            let (meta, data) = (meta.clone(), data.to_vec());
            self.sink.put(&Op::Small {
                path: path.clone(),
                base,
                meta,
                data,
            })?;
        }
        Ok(content)
    }

    fn large(
        &mut self,
        path: &RelPath,
        ino: u64,
        meta: &Meta,
        file: BorrowedFd<'_>,
        size: u64,
    ) -> Result<Content, LayerError> {
        let nothing = Blocks::default();
        let (sent, base) = match self.model.file(ino).map(|record| &record.content) {
            Some(Content::Large(blocks)) => (blocks, Base::Kept),
            Some(_) => (&nothing, Base::Emptied),
            None => (&nothing, Base::Fresh),
        };
        let mut pieces = Pieces {
            sink: self.sink,
            path,
            base,
            size,
            is_begun: false,
        };
        if base != Base::Kept || sent.size() != size {
            pieces.begin()?;
        }
        let blocks = self
            .reader
            .large(file, size, sent, &mut pieces)
            .map_err(|failed| match failed {
                Failed::Read(errno) => scan::io("read", path)(errno),
                Failed::Write(error) => LayerError::Write(error),
            })?;
        if pieces.is_begun {
            self.put(&Op::Done { meta: meta.clone() })?;
        } else {
            self.meta(path, ino, meta)?;
        }
        Ok(Content::Large(blocks))
    }

    /// Of a file whose content is there already: what it is like, if that changed.
    fn meta(&mut self, path: &RelPath, ino: u64, meta: &Meta) -> Result<(), LayerError> {
        if self
            .model
            .file(ino)
            .is_some_and(|record| !record.meta.is_same(meta))
        {
            self.put(&Op::Meta {
                path: path.clone(),
                meta: meta.clone(),
            })?;
        }
        Ok(())
    }

    /// A symbolic link, pipe or socket.
    fn node(&mut self, path: &RelPath, ino: u64, kind: FileType) -> Result<(), LayerError> {
        let Some((file, before, read)) = self.open(path, OFlags::PATH, ino, kind)? else {
            return Ok(());
        };
        let path_of = || path.clone();
        let (meta, content, op) = match kind {
            FileType::Symlink => {
                let meta = meta::plain(&before);
                let target = readlinkat(&file, "", Vec::new())
                    .map_err(scan::io("read", path))?
                    .into_bytes();
                let content = self.reader.bytes(&target);
                (
                    meta.clone(),
                    content,
                    Op::Symlink {
                        path: path_of(),
                        target,
                        meta,
                    },
                )
            }
            _ => {
                let (meta, _) = meta::read(Handle::Place(file.as_fd()), &before, path)?;
                let op = match kind {
                    FileType::Fifo => Op::Fifo {
                        path: path_of(),
                        meta: meta.clone(),
                    },
                    _ => Op::Socket {
                        path: path_of(),
                        meta: meta.clone(),
                    },
                };
                (meta, Content::Unknown, op)
            }
        };
        // A link's target never changes; another one is another link that got the same number.
        if self
            .model
            .file(ino)
            .is_some_and(|record| record.content != content)
        {
            self.model.disown(ino);
        }
        match self.model.file(ino) {
            Some(record) if record.meta.is_same(&meta) => {}
            Some(_) => self.put(&Op::Meta {
                path: path_of(),
                meta: meta.clone(),
            })?,
            None => self.put(&op)?,
        }
        let seen = self.seen(path, file.as_fd(), &before, read)?;
        self.record(path, ino, kind, meta, content, seen);
        Ok(())
    }

    /// Opens what the walk found; `None` if it is something else by now.
    fn open(
        &mut self,
        path: &RelPath,
        flags: OFlags,
        ino: u64,
        kind: FileType,
    ) -> Result<Option<(OwnedFd, Stat, Duration)>, LayerError> {
        let (parent, name) = path.split();
        let opened = self
            .parents
            .dir(&parent)
            .and_then(|dir| beneath::open_name(dir, name, flags, Mode::empty()));
        let file = match opened {
            Ok(file) => file,
            Err(errno) if is_change(errno) || errno == Errno::NXIO => {
                self.again(path);
                return Ok(None);
            }
            Err(errno) => return Err(scan::io("open", path)(errno)),
        };
        let read = self.clock.read();
        let stat = fstat(&file).map_err(scan::io("look at", path))?;
        if stat.st_ino != ino || FileType::from_raw_mode(stat.st_mode) != kind {
            self.again(path);
            return Ok(None);
        }
        Ok(Some((file, stat, read)))
    }

    /// How a file looked, provided it looked the same all the while.
    pub(super) fn seen(
        &mut self,
        path: &RelPath,
        file: BorrowedFd<'_>,
        before: &Stat,
        read: Duration,
    ) -> Result<Seen, LayerError> {
        let key = Key::of(before);
        let after = Key::of(&fstat(file).map_err(scan::io("look at", path))?);
        if key != after {
            self.again(path);
        }
        Ok(Seen {
            key: (key == after).then_some(key),
            recent: self.clock.is_recent(key.ctime, read),
        })
    }

    fn record(&mut self, path: &RelPath, ino: u64, kind: FileType, meta: Meta, content: Content, seen: Seen) {
        self.compared.insert(ino);
        let mapped = self.mapped.contains(path, ino);
        if let Some(record) = self.model.file_mut(ino) {
            (record.meta, record.content, record.seen) = (meta, content, seen);
            record.mapped |= mapped;
        } else {
            self.model
                .put_file(path, ino, FileRecord::new(kind, meta, content, seen, mapped));
            self.touch_parent(path);
        }
    }
}

/// Differences of a larger file as operations; it begins with the first of them.
struct Pieces<'a, 'out> {
    sink: &'a mut Sink<'out>,
    path: &'a RelPath,
    base: Base,
    size: u64,
    is_begun: bool,
}

impl Pieces<'_, '_> {
    fn begin(&mut self) -> io::Result<()> {
        if !self.is_begun {
            self.is_begun = true;
            self.sink.put(&Op::Large {
                path: self.path.clone(),
                base: self.base,
                size: self.size,
            })?;
        }
        Ok(())
    }
}

impl Difference for Pieces<'_, '_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.begin()?;
        self.sink.put(&Op::Data {
            offset,
            data: data.to_vec(),
        })
    }

    fn hole(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.begin()?;
        self.sink.put(&Op::Hole { offset, len })
    }
}

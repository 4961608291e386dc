//! From what a walk found to operations, and into the model.

mod file;

use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use std::time::Duration;

use rustix::fs::{OFlags, fstat};

use super::beneath::{self, Parents};
use super::clock::{Clock, is_young};
use super::content::Reader;
use super::error::LayerError;
use super::meta::{self, Handle};
use super::model::{Folder, Model, Node, Seen};
use super::op::Op;
use super::path::RelPath;
use super::scan::{self, Findings, Found, What, is_change};
use super::stream::Sink;
use super::tracker::Mapped;

/// One pass over findings.
///
/// Deletions of what was sent go first. Then everything in the order of the walk: directories before
/// what is in them. What directories are like goes last, from the deepest up, since every new name
/// moves the time of its directory.
pub(super) struct Emit<'a, 'out> {
    upper: BorrowedFd<'a>,
    model: &'a mut Model,
    clock: &'a mut Clock,
    reader: &'a mut Reader,
    mapped: &'a Mapped,
    sink: &'a mut Sink<'out>,
    parents: Parents<'a>,
    /// Directories whose attributes the operations of this pass disturb at the other end.
    touched: BTreeSet<RelPath>,
    /// Inodes that this pass has compared, under whatever name.
    compared: HashSet<u64>,
    /// Files whose content was read.
    pub(super) read: u64,
    /// What changed while it was looked at.
    unsettled: Vec<RelPath>,
}

impl<'a, 'out> Emit<'a, 'out> {
    pub(super) fn new(
        upper: BorrowedFd<'a>,
        model: &'a mut Model,
        clock: &'a mut Clock,
        reader: &'a mut Reader,
        mapped: &'a Mapped,
        sink: &'a mut Sink<'out>,
    ) -> Emit<'a, 'out> {
        Emit {
            upper,
            model,
            clock,
            reader,
            mapped,
            sink,
            parents: Parents::new(upper, OFlags::PATH),
            touched: BTreeSet::new(),
            compared: HashSet::new(),
            read: 0,
            unsettled: Vec::new(),
        }
    }

    /// Gives something that has to be looked at once more, if there is any. `start`: the wall clock
    /// before the walk.
    pub(super) fn run(&mut self, findings: Findings, start: Duration) -> Result<Option<RelPath>, LayerError> {
        self.unsettled = findings.unsettled;
        for path in &findings.gone {
            let is_there = !matches!(self.model.node(path), None | Some(Node::Whiteout));
            self.model.remove(path);
            if is_there {
                self.delete(path)?;
            }
        }
        // Names that lead elsewhere now must not count as names of what they led to, wherever in the
        // order they come.
        findings.found.iter().for_each(|found| self.detach(found));
        let mut folders = BTreeSet::new();
        for found in findings.found {
            match found.what {
                What::KnownFolder => {
                    folders.insert(found.path);
                }
                _ if self.model.folder(&found.path.split().0).is_none() => self.again(&found.path),
                What::Folder { fresh, opaque } => {
                    self.put(&Op::Dir {
                        path: found.path.clone(),
                        fresh,
                    })?;
                    let folder = Folder {
                        ino: found.stat.st_ino,
                        opaque,
                        ..Folder::default()
                    };
                    self.model.put(&found.path, Node::Folder(Box::new(folder)));
                    self.touch_parent(&found.path);
                    self.touched.insert(found.path);
                }
                What::Whiteout => {
                    self.model.put(&found.path, Node::Whiteout);
                    self.delete(&found.path)?;
                }
                What::File(kind) => self.file(&found, kind)?,
            }
        }
        folders.extend(self.touched.iter().cloned());
        folders.iter().rev().try_for_each(|path| self.folder_meta(path))?;
        for (path, key) in findings.listed {
            if let Some(folder) = self.model.folder_mut(&path) {
                folder.listed = Seen {
                    key: Some(key),
                    recent: is_young(key.ctime, start),
                };
            }
        }
        // What the model does not know of must be found by a listing.
        for path in &self.unsettled {
            for path in [path, &path.split().0] {
                if let Some(folder) = self.model.folder_mut(path) {
                    folder.listed = Seen::default();
                }
            }
        }
        Ok(self.unsettled.pop())
    }

    fn detach(&mut self, found: &Found) {
        let path = &found.path;
        let is_stale = match (self.model.node(path), found.what) {
            (None | Some(Node::Whiteout | Node::Stale), _) | (_, What::KnownFolder | What::Whiteout) => false,
            (Some(Node::File(ino)), What::File(kind)) => {
                *ino != found.stat.st_ino || self.model.file(*ino).is_none_or(|record| record.kind != kind)
            }
            (Some(_), _) => true,
        };
        if is_stale {
            self.model.put(path, Node::Stale);
        }
    }

    fn folder_meta(&mut self, path: &RelPath) -> Result<(), LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
        let dir = match beneath::open(self.upper, path, flags) {
            Ok(dir) => dir,
            Err(errno) if is_change(errno) => {
                self.again(path);
                return Ok(());
            }
            Err(errno) => return Err(scan::io("open", path)(errno)),
        };
        let read = self.clock.read();
        let before = fstat(&dir).map_err(scan::io("look at", path))?;
        let (meta, opaque) = meta::read(Handle::Open(dir.as_fd()), &before, path)?;
        let seen = self.seen(path, dir.as_fd(), &before, read)?;
        let is_touched = self.touched.contains(path);
        let Some(folder) = self.model.folder_mut(path) else {
            return Ok(());
        };
        if !path.is_root() && (folder.ino != before.st_ino || folder.opaque != opaque) {
            folder.seen = Seen::default();
            self.again(path);
            return Ok(());
        }
        folder.seen = seen;
        if is_touched || !folder.meta.is_same(&meta) {
            folder.meta = meta.clone();
            self.sink.put(&Op::DirMeta {
                path: path.clone(),
                meta,
            })?;
        }
        Ok(())
    }

    fn delete(&mut self, path: &RelPath) -> Result<(), LayerError> {
        self.put(&Op::Delete { path: path.clone() })?;
        self.touch_parent(path);
        Ok(())
    }

    fn touch_parent(&mut self, path: &RelPath) {
        self.touched.insert(path.split().0);
    }

    fn again(&mut self, path: &RelPath) {
        self.unsettled.push(path.clone());
    }

    fn put(&mut self, op: &Op) -> Result<(), LayerError> {
        Ok(self.sink.put(op)?)
    }
}

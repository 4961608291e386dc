//! The walk of an upper directory or a volume: what looks different from what was sent.

mod quiet;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat, statat};
use rustix::io::Errno;

use super::beneath;
use super::clock::is_young;
use super::error::LayerError;
use super::meta::{self, Handle};
use super::model::{FileRecord, Folder, Key, Model, Node, Seen};
use super::path::RelPath;
use super::volume::Kind;
use quiet::Quiet;

/// What a walk found.
#[derive(Default)]
pub(super) struct Findings {
    /// Names that were sent and are not there any more; of a directory its own only.
    pub(super) gone: Vec<RelPath>,
    /// What is new or looks different, or cannot be told by its looks; directories before what is in
    /// them.
    pub(super) found: Vec<Found>,
    /// Names that were looked at.
    pub(super) looked: u64,
    /// Directories whose names were listed, and how they looked right before.
    pub(super) listed: Vec<(RelPath, Key)>,
    /// What vanished or turned into something else under the walk.
    pub(super) unsettled: Vec<RelPath>,
}

/// One of them.
pub(super) struct Found {
    pub(super) path: RelPath,
    pub(super) stat: Stat,
    pub(super) what: What,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A directory that the other end has.
    KnownFolder,
    /// A directory that it does not have. If `fresh`, nothing of a lower layer shows through.
    Folder { fresh: bool, opaque: bool },
    /// A deletion.
    Whiteout,
    /// A file, link, pipe or socket.
    File(FileType),
}

/// How far a walk trusts timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// As far as they are settled now; files that were read too shortly after their change are
    /// looked at again as soon as that settles them.
    Now(Duration),
    /// Only those that were settled when the file was read.
    Settled,
    /// Not at all.
    None,
}

impl Trust {
    fn is_same(self, seen: &Seen, stat: &Stat) -> bool {
        let key = Key::of(stat);
        if seen.key != Some(key) {
            return false;
        }
        match self {
            Trust::Now(now) => !seen.recent || is_young(key.ctime, now),
            Trust::Settled => !seen.recent,
            Trust::None => false,
        }
    }

    /// A listing is repeated until the directory was settled before it.
    fn is_same_listing(self, listed: &Seen, stat: &Stat) -> bool {
        self != Trust::None && !listed.recent && listed.key == Some(Key::of(stat))
    }

    fn is_same_file(self, record: &FileRecord, stat: &Stat) -> bool {
        !record.mapped && self.is_same(&record.seen, stat)
    }
}

/// Walks `upper`, which is a volume's directory if `kind` says so.
pub(super) fn scan(
    upper: BorrowedFd<'_>,
    kind: &Kind,
    model: &Model,
    trust: Trust,
) -> Result<Findings, LayerError> {
    let stat = fstat(upper).map_err(io("look at", &RelPath::default()))?;
    let quiet = quiet::folders(upper, model, trust);
    let findings = Findings {
        looked: quiet.looked,
        ..Findings::default()
    };
    let mut walk = Walk {
        upper,
        kind,
        model,
        trust,
        device: stat.st_dev,
        quiet,
        findings,
    };
    walk.folder(&RelPath::default(), Some(model.root()))?;
    Ok(walk.findings)
}

struct Walk<'a> {
    upper: BorrowedFd<'a>,
    kind: &'a Kind,
    model: &'a Model,
    trust: Trust,
    device: u64,
    quiet: Quiet,
    findings: Findings,
}

impl<'a> Walk<'a> {
    /// The directory at `path`; `known`: the one that was sent under this name.
    fn folder(&mut self, path: &RelPath, known: Option<&'a Folder>) -> Result<(), LayerError> {
        if let Some(folder) = known
            && let Some(different) = self.quiet.folders.remove(path)
        {
            return self.quiet_folder(path, folder, &different);
        }
        let opened = beneath::open(
            self.upper,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME,
        );
        let dir = match opened {
            Ok(dir) => dir,
            Err(errno) => return self.vanished(path, errno),
        };
        let stat = fstat(&dir).map_err(io("look at", path))?;
        if stat.st_dev != self.device {
            return Err(unsupported(
                path,
                "something is mounted over it on the engine's disk",
            ));
        }
        self.findings.listed.push((path.clone(), Key::of(&stat)));
        let known = self.judge_folder(path, dir.as_fd(), &stat, known)?;
        let names = match beneath::names(dir.as_fd()) {
            Ok(names) => names,
            Err(errno) => return self.vanished(path, errno),
        };
        let mut sent = known.into_iter().flat_map(|folder| &folder.children).peekable();
        for name in &names {
            while let Some((gone, _)) = sent.next_if(|(sent, _)| *sent < name) {
                self.gone(path, gone)?;
            }
            let node = sent.next_if(|(sent, _)| *sent == name).map(|(_, node)| node);
            if node.is_none() && self.is_engines(path, name, dir.as_fd())? {
                continue;
            }
            self.entry(path, name, dir.as_fd(), node)?;
        }
        for (gone, _) in sent {
            self.gone(path, gone)?;
        }
        Ok(())
    }

    /// A known directory that has the names it had.
    fn quiet_folder(
        &mut self,
        path: &RelPath,
        folder: &'a Folder,
        different: &[Box<[u8]>],
    ) -> Result<(), LayerError> {
        let dir = match beneath::open(self.upper, path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            Err(errno) => return self.vanished(path, errno),
        };
        for (name, node) in &folder.children {
            if let Node::Folder(below) = node {
                self.folder(&self.join(path, name)?, Some(below))?;
            } else if different.binary_search(name).is_ok() {
                self.entry(path, name, dir.as_fd(), Some(node))?;
            }
        }
        Ok(())
    }

    /// Tells of the directory itself, and whether its known children count.
    fn judge_folder(
        &mut self,
        path: &RelPath,
        dir: BorrowedFd<'_>,
        stat: &Stat,
        known: Option<&'a Folder>,
    ) -> Result<Option<&'a Folder>, LayerError> {
        let sent = known.filter(|folder| path.is_root() || folder.ino == stat.st_ino);
        if let Some(folder) = sent
            && self.trust.is_same(&folder.seen, stat)
        {
            return Ok(Some(folder));
        }
        let (_, opaque) = meta::read(Handle::Open(dir), stat, path)?;
        if opaque && *self.kind != Kind::Upper {
            return Err(unsupported(
                path,
                "an overlay inside of the volume hides others by it",
            ));
        }
        // An inode number is soon used again: another mark is another directory.
        let kept = sent.filter(|folder| opaque == folder.opaque || path.is_root());
        let what = match kept {
            Some(_) => What::KnownFolder,
            None => {
                let occupied = !matches!(self.model.node(path), None | Some(Node::Whiteout));
                What::Folder {
                    fresh: opaque || occupied,
                    opaque,
                }
            }
        };
        self.findings.found.push(Found {
            path: path.clone(),
            stat: *stat,
            what,
        });
        Ok(kept)
    }

    fn entry(
        &mut self,
        parent: &RelPath,
        name: &[u8],
        dir: BorrowedFd<'_>,
        node: Option<&'a Node>,
    ) -> Result<(), LayerError> {
        self.findings.looked += 1;
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) => {
                let path = self.join(parent, name)?;
                return self.vanished(&path, errno);
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if let Some(Node::File(ino)) = node
            && let Some(record) = self.model.file(*ino)
            && record.kind == kind
            && self.trust.is_same_file(record, &stat)
        {
            return Ok(());
        }
        let what = match kind {
            FileType::Directory => {
                let known = match node {
                    Some(Node::Folder(folder)) => Some(&**folder),
                    _ => None,
                };
                let path = self.join(parent, name)?;
                return self.folder(&path, known);
            }
            FileType::CharacterDevice if stat.st_rdev == 0 && *self.kind == Kind::Upper => match node {
                Some(Node::Whiteout) => return Ok(()),
                _ => What::Whiteout,
            },
            FileType::RegularFile | FileType::Symlink | FileType::Fifo | FileType::Socket => What::File(kind),
            _ => return Err(LayerError::Device(self.join(parent, name)?.to_string())),
        };
        let path = self.join(parent, name)?;
        self.findings.found.push(Found { path, stat, what });
        Ok(())
    }

    fn gone(&mut self, parent: &RelPath, name: &[u8]) -> Result<(), LayerError> {
        let path = self.join(parent, name)?;
        self.findings.gone.push(path);
        Ok(())
    }

    fn vanished(&mut self, path: &RelPath, errno: Errno) -> Result<(), LayerError> {
        if !is_change(errno) {
            return Err(io("open", path)(errno));
        }
        self.findings.unsettled.push(path.clone());
        Ok(())
    }

    /// Whether it is an empty file that the engine put where it mounts its own, or the gate's folder.
    fn is_engines(&self, parent: &RelPath, name: &[u8], dir: BorrowedFd<'_>) -> Result<bool, LayerError> {
        if Kind::is_gate(parent, name) {
            return match self.kind {
                Kind::Upper => Ok(true),
                Kind::Volume(_) => Err(unsupported(parent, "it has an entry of the gate's own name")),
            };
        }
        let is_empty_file = || {
            statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                stat.st_size == 0 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            })
        };
        Ok(self.kind.is_placeholder(parent, name) && is_empty_file())
    }

    fn join(&self, parent: &RelPath, name: &[u8]) -> Result<RelPath, LayerError> {
        let too_deep = "its paths are too long or too deep for a stream";
        parent.join(name).map_err(|_| unsupported(parent, too_deep))
    }
}

fn unsupported(path: &RelPath, what: &'static str) -> LayerError {
    LayerError::Unsupported {
        path: path.to_string(),
        what,
    }
}

/// Whether an error only says that something was renamed, replaced or deleted meanwhile.
pub(super) fn is_change(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

pub(super) fn io(doing: &'static str, path: &RelPath) -> impl FnOnce(Errno) -> LayerError {
    let path = path.to_string();
    move |errno| LayerError::Io { doing, path, errno }
}

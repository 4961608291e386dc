//! Directories in which no name changed: most of a layer, so this is what a walk costs.
//!
//! The kernel's own notifications would spare it, but they are not complete: a write through
//! `io_submit`, which databases use, raises none (tried on Linux 6.18; fanotify and inotify share
//! the hooks).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{AtFlags, OFlags, fstat, statat};

use super::Trust;
use crate::layer::beneath;
use crate::layer::model::{Folder, Model, Node};
use crate::layer::path::RelPath;

/// Threads that look; the container's own work has ended when it matters most.
const LOOKERS: usize = 2;
/// Fewer directories than this are not worth a second thread.
const FEW: usize = 16;

/// The outcome.
#[derive(Default)]
pub(super) struct Quiet {
    /// Directories that have the names they had, each with those of its files that look different.
    pub(super) folders: HashMap<RelPath, Vec<Box<[u8]>>>,
    /// Names looked at.
    pub(super) looked: u64,
}

/// Looks at every entry that was sent. A directory whose ctime is the same has the same names, so it
/// is not listed. What cannot be told is left to the walk.
pub(super) fn folders(upper: BorrowedFd<'_>, model: &Model, trust: Trust) -> Quiet {
    let mut known = Vec::new();
    gather(&RelPath::default(), model.root(), &mut known);
    let next = AtomicUsize::new(0);
    let look = || {
        let mut quiet = Quiet::default();
        while let Some((path, folder)) = known.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(names) = quiet.look(upper, model, trust, path, folder) {
                quiet.folders.insert(path.clone(), names);
            }
        }
        quiet
    };
    if known.len() < FEW {
        return look();
    }
    thread::scope(|scope| {
        let others: Vec<_> = (1..LOOKERS).map(|_| scope.spawn(look)).collect();
        others
            .into_iter()
            .fold(look(), |mut quiet, other| match other.join() {
                Ok(more) => {
                    quiet.looked += more.looked;
                    quiet.folders.extend(more.folders);
                    quiet
                }
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

fn gather<'a>(path: &RelPath, folder: &'a Folder, into: &mut Vec<(RelPath, &'a Folder)>) {
    for (name, node) in &folder.children {
        if let Node::Folder(below) = node
            && let Ok(path) = path.join(name)
        {
            gather(&path, below, into);
        }
    }
    // Names that the engine puts there do not count while they are empty, so they are not known here.
    if !path.is_root() && path.bytes() != b"etc" {
        into.push((path.clone(), folder));
    }
}

impl Quiet {
    /// Names that look different, if the directory has no others than it had.
    fn look(
        &mut self,
        upper: BorrowedFd<'_>,
        model: &Model,
        trust: Trust,
        path: &RelPath,
        folder: &Folder,
    ) -> Option<Vec<Box<[u8]>>> {
        let dir = beneath::open(upper, path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
        let stat = fstat(&dir).ok()?;
        if !trust.is_same(&folder.seen, &stat) || !trust.is_same_listing(&folder.listed, &stat) {
            return None;
        }
        let mut different = Vec::new();
        for (name, node) in &folder.children {
            let is_same = match node {
                Node::Folder(_) | Node::Whiteout => true,
                Node::Stale => false,
                Node::File(ino) => {
                    self.looked += 1;
                    let stat = statat(&dir, &**name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                    model
                        .file(*ino)
                        .is_some_and(|record| trust.is_same_file(record, &stat))
                }
            };
            if !is_same {
                different.push(name.clone());
            }
        }
        Some(different)
    }
}

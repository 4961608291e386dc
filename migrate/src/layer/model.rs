//! What the other end has, according to what was sent so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use rustix::fs::{FileType, Stat};

use super::content::Content;
use super::op::Meta;
use super::path::RelPath;

/// The tree of what was sent, and the files that its names lead to.
#[derive(Default)]
pub(super) struct Model {
    root: Folder,
    files: HashMap<u64, FileRecord, BuildHasherDefault<InodeHasher>>,
}

/// Spreads inode numbers, which no stranger chooses: a walk looks up each of them.
#[derive(Default)]
struct InodeHasher(u64);

impl Hasher for InodeHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A name in the tree.
pub(super) enum Node {
    Folder(Box<Folder>),
    /// A file, link, pipe or socket by its inode at the source.
    File(u64),
    /// Deleted, so that a lower layer's entry is hidden.
    Whiteout,
    /// Something is there that is no longer what the source has: it has to be replaced or deleted.
    Stale,
}

/// A directory.
#[derive(Default)]
pub(super) struct Folder {
    pub(super) ino: u64,
    pub(super) opaque: bool,
    /// What was sent of it.
    pub(super) meta: Meta,
    pub(super) seen: Seen,
    /// How it looked before its names were listed: as long as it looks like that, they are all in
    /// `children`.
    pub(super) listed: Seen,
    pub(super) children: BTreeMap<Box<[u8]>, Node>,
}

/// One inode that is no directory, with all the names under which it was sent: at the other end they
/// are names of one inode, too.
pub(super) struct FileRecord {
    pub(super) kind: FileType,
    pub(super) meta: Meta,
    pub(super) content: Content,
    pub(super) seen: Seen,
    /// It was mapped writable once: its timestamps prove nothing.
    pub(super) mapped: bool,
    names: BTreeSet<RelPath>,
}

/// How a thing looked when it was read.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// `None`: it changed while it was read.
    pub(super) key: Option<Key>,
    /// Its last change was so shortly before that another one may look the same.
    pub(super) recent: bool,
}

/// Equal ones mean an unchanged file, as far as timestamps tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    ino: u64,
    size: i64,
    pub(super) ctime: (i64, u64),
    mtime: (i64, u64),
}

impl Key {
    pub(super) fn of(stat: &Stat) -> Key {
        Key {
            ino: stat.st_ino,
            size: stat.st_size,
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

impl Model {
    pub(super) fn root(&self) -> &Folder {
        &self.root
    }

    pub(super) fn file(&self, ino: u64) -> Option<&FileRecord> {
        self.files.get(&ino)
    }

    pub(super) fn file_mut(&mut self, ino: u64) -> Option<&mut FileRecord> {
        self.files.get_mut(&ino)
    }

    pub(super) fn node(&self, path: &RelPath) -> Option<&Node> {
        let (parent, name) = path.split();
        self.folder(&parent)?.children.get(name)
    }

    pub(super) fn folder(&self, path: &RelPath) -> Option<&Folder> {
        path.names()
            .try_fold(&self.root, |folder, name| match folder.children.get(name) {
                Some(Node::Folder(below)) => Some(&**below),
                _ => None,
            })
    }

    pub(super) fn folder_mut(&mut self, path: &RelPath) -> Option<&mut Folder> {
        path.names().try_fold(&mut self.root, |folder, name| {
            match folder.children.get_mut(name) {
                Some(Node::Folder(below)) => Some(&mut **below),
                _ => None,
            }
        })
    }

    /// Puts `node` at `path`, whose directory is in the tree; what was there is let go.
    pub(super) fn put(&mut self, path: &RelPath, node: Node) {
        let (parent, name) = path.split();
        let Some(folder) = self.folder_mut(&parent) else {
            return;
        };
        let old = folder.children.insert(name.into(), node);
        self.release(path, old);
    }

    /// Nothing is at `path` any more.
    pub(super) fn remove(&mut self, path: &RelPath) {
        let (parent, name) = path.split();
        let Some(folder) = self.folder_mut(&parent) else {
            return;
        };
        let old = folder.children.remove(name);
        self.release(path, old);
    }

    /// A file was sent under its first name.
    pub(super) fn put_file(&mut self, path: &RelPath, ino: u64, mut record: FileRecord) {
        self.put(path, Node::Stale);
        record.names.insert(path.clone());
        self.files.insert(ino, record);
        self.put(path, Node::File(ino));
    }

    /// A file got another name.
    pub(super) fn put_link(&mut self, path: &RelPath, ino: u64) {
        self.put(path, Node::Stale);
        if let Some(record) = self.files.get_mut(&ino) {
            record.names.insert(path.clone());
            self.put(path, Node::File(ino));
        }
    }

    /// All names of this inode lead to something else by now.
    pub(super) fn disown(&mut self, ino: u64) {
        let Some(record) = self.files.remove(&ino) else {
            return;
        };
        record.names.iter().for_each(|name| self.put(name, Node::Stale));
    }

    fn release(&mut self, path: &RelPath, node: Option<Node>) {
        match node {
            Some(Node::File(ino)) => {
                if let Some(record) = self.files.get_mut(&ino) {
                    record.names.remove(path);
                    if record.names.is_empty() {
                        self.files.remove(&ino);
                    }
                }
            }
            Some(Node::Folder(folder)) => {
                for (name, child) in folder.children {
                    // A path that was in the tree can be joined again.
                    if let Ok(path) = path.join(&name) {
                        self.release(&path, Some(child));
                    }
                }
            }
            Some(Node::Whiteout | Node::Stale) | None => {}
        }
    }
}

impl FileRecord {
    pub(super) fn new(kind: FileType, meta: Meta, content: Content, seen: Seen, mapped: bool) -> FileRecord {
        FileRecord {
            kind,
            meta,
            content,
            seen,
            mapped,
            names: BTreeSet::new(),
        }
    }

    /// Some name of it.
    pub(super) fn name(&self) -> Option<&RelPath> {
        self.names.first()
    }

    pub(super) fn has_name(&self, path: &RelPath) -> bool {
        self.names.contains(path)
    }
}

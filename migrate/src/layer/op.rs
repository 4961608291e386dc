//! The operations of a stream.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};

use super::path::RelPath;

/// Largest piece of file data in one operation, bytes.
pub(super) const MAX_PIECE: usize = 128 * 1024;
/// Files up to this size travel in one operation and are compared as a whole, bytes.
pub(super) const SMALL: u64 = 64 * 1024;
/// Most bytes of extended attributes, names and values, of one entry.
pub(super) const MAX_XATTRS: usize = 64 * 1024;
/// Largest encoded operation, bytes.
pub(super) const MAX_OP: usize = MAX_PIECE + MAX_XATTRS + 16 * 1024;

/// One step that makes another root like the source's.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(super) enum Op {
    /// Nothing follows.
    End = 0,
    /// Removes whatever is there, with all that is in it; nothing there is fine.
    Delete { path: RelPath } = 1,
    /// A directory is there afterwards: an empty new one if `fresh`, else one that is there is kept.
    Dir { path: RelPath, fresh: bool } = 2,
    /// What a directory is like. Comes when nothing in it changes any more.
    DirMeta { path: RelPath, meta: Meta } = 3,
    /// A whole small file.
    Small {
        path: RelPath,
        base: Base,
        meta: Meta,
        data: Vec<u8>,
    } = 4,
    /// A larger file, up to its `Done`: `size` bytes, zero where nothing else is said or was.
    Large { path: RelPath, base: Base, size: u64 } = 5,
    /// Bytes of the larger file.
    Data { offset: u64, data: Vec<u8> } = 6,
    /// Zeros in the larger file.
    Hole { offset: u64, len: u64 } = 7,
    /// The larger file is complete.
    Done { meta: Meta } = 8,
    /// A symbolic link, in the place of whatever is there.
    Symlink {
        path: RelPath,
        target: Vec<u8>,
        meta: Meta,
    } = 9,
    /// Another name of a file that is there, in the place of whatever is at `path`.
    Link { path: RelPath, of: RelPath } = 10,
    /// A named pipe, in the place of whatever is there.
    Fifo { path: RelPath, meta: Meta } = 11,
    /// The node of a Unix socket, in the place of whatever is there.
    Socket { path: RelPath, meta: Meta } = 12,
    /// What a file, link or node that is there is like.
    Meta { path: RelPath, meta: Meta } = 13,
    /// What follows lies below this root: 0 is the container's own, with which a stream begins, *n* its *n*-th volume
    /// in the order of their paths. A `fresh` volume is emptied first, of what an engine has put into it.
    Root { number: u8, fresh: bool } = 14,
}

/// What a file is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(super) enum Base {
    /// Nothing: a new file, in the place of whatever is there.
    Fresh = 0,
    /// The file that is there, emptied; its other names see the new content.
    Emptied = 1,
    /// The file that is there.
    Kept = 2,
}

/// What an entry is like, apart from its content.
#[derive(Debug, Clone, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub(super) struct Meta {
    /// The lower 12 bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) atime: Time,
    /// Those that cross, by full name.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub(super) struct Time {
    pub(super) secs: i64,
    /// Below a thousand million.
    pub(super) nanos: u32,
}

impl Meta {
    /// Whether both are alike in all that counts: reading a file moves its atime.
    pub(super) fn is_same(&self, other: &Meta) -> bool {
        (self.mode, self.uid, self.gid, self.mtime) == (other.mode, other.uid, other.gid, other.mtime)
            && self.xattrs == other.xattrs
    }

    /// # Errors
    ///
    /// What is wrong with a peer's.
    fn check(&self) -> Result<(), &'static str> {
        if self.mode > 0o7777 {
            return Err("a mode has more than 12 bits");
        }
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err("an owner is the reserved id");
        }
        if self.mtime.nanos >= 1_000_000_000 || self.atime.nanos >= 1_000_000_000 {
            return Err("a time has more than a second of nanoseconds");
        }
        let bytes: usize = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > MAX_XATTRS || !self.xattrs.keys().all(|name| crosses(name)) {
            return Err("an extended attribute must not cross");
        }
        Ok(())
    }
}

/// Whether an extended attribute of this name belongs to what a container may carry along.
pub(super) fn crosses(name: &[u8]) -> bool {
    let known = matches!(
        name,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
    );
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name.len() > 5;
    (known || user) && name.len() <= 255 && !name.contains(&0)
}

impl Op {
    /// # Errors
    ///
    /// What is wrong with a peer's, as far as the operation alone tells.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            Op::Root {
                number: 0,
                fresh: true,
            } => Err("the container's own root cannot be emptied"),
            Op::End | Op::Hole { .. } | Op::Root { .. } => Ok(()),
            Op::Delete { path } | Op::Dir { path, .. } | Op::Large { path, .. } => named(path),
            Op::DirMeta { meta, .. } | Op::Done { meta } => meta.check(),
            Op::Small {
                path,
                meta,
                data,
                base,
            } => {
                if data.len() as u64 > SMALL {
                    return Err("a small file is not small");
                }
                if *base == Base::Kept {
                    return Err("a small file is kept and sent");
                }
                named(path).and(meta.check())
            }
            Op::Data { data, .. } if data.len() > MAX_PIECE => Err("a piece of data is too long"),
            Op::Data { .. } => Ok(()),
            Op::Symlink { path, target, meta } => {
                if target.is_empty() || target.len() > 4095 || target.contains(&0) {
                    return Err("a symbolic link has no possible target");
                }
                named(path).and(meta.check())
            }
            Op::Link { path, of } => named(path).and(named(of)),
            Op::Fifo { path, meta } | Op::Socket { path, meta } | Op::Meta { path, meta } => {
                named(path).and(meta.check())
            }
        }
    }
}

fn named(path: &RelPath) -> Result<(), &'static str> {
    if path.is_root() {
        Err("the root cannot be replaced")
    } else {
        Ok(())
    }
}

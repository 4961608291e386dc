//! Paths of a layer: bytes, relative to its root, checked.

use std::fmt;
use std::io::{self, Read, Write};

use borsh::{BorshDeserialize, BorshSerialize};

/// Longest path, bytes. One byte less than the kernel takes, which counts the NUL.
pub(super) const MAX_PATH: usize = 4095;
/// Longest name in it, bytes.
pub(super) const MAX_NAME: usize = 255;
/// Most names in it.
pub(super) const MAX_DEPTH: usize = 1024;
/// The gate's mount point in the root: nothing of it crosses.
pub(super) const OURS: &[u8] = b".blosm";

/// A path below a root: no leading slash, no empty name, no `.` or `..`. The root itself is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct RelPath(Vec<u8>);

impl RelPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn new(bytes: Vec<u8>) -> Result<RelPath, &'static str> {
        if bytes.is_empty() {
            return Ok(RelPath(bytes));
        }
        if bytes.len() > MAX_PATH {
            return Err("a path is too long");
        }
        let mut depth = 0;
        for name in bytes.split(|byte| *byte == b'/') {
            depth += 1;
            match name {
                b"" | b"." | b".." => return Err("a path has an empty name, `.` or `..`"),
                _ if name.len() > MAX_NAME => return Err("a name in a path is too long"),
                _ if name.contains(&0) => return Err("a path has a NUL"),
                _ if depth > MAX_DEPTH => return Err("a path is too deep"),
                _ => {}
            }
            if depth == 1 && name == OURS {
                return Err("a path leads to the gate's own folder");
            }
        }
        Ok(RelPath(bytes))
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    ///
    /// As [`RelPath::new`]; only length and depth can be wrong with a name that a directory listing gave.
    pub(super) fn join(&self, name: &[u8]) -> Result<RelPath, &'static str> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if bytes.len() > MAX_PATH || bytes.split(|byte| *byte == b'/').count() > MAX_DEPTH {
            return Err("a path is too long or too deep");
        }
        Ok(RelPath(bytes))
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// The directory it is in, and its name there; the root has no name.
    pub(super) fn split(&self) -> (RelPath, &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (RelPath(self.0[..at].to_vec()), &self.0[at + 1..]),
            None => (RelPath::default(), &self.0),
        }
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "/{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl BorshSerialize for RelPath {
    fn serialize<W: Write>(&self, out: &mut W) -> io::Result<()> {
        self.0.serialize(out)
    }
}

impl BorshDeserialize for RelPath {
    fn deserialize_reader<R: Read>(from: &mut R) -> io::Result<RelPath> {
        let bytes = Vec::<u8>::deserialize_reader(from)?;
        RelPath::new(bytes).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

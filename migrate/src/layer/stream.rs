//! Operations as bytes: a head, then each with its length, then the end.

use std::io::{self, ErrorKind, Read, Write};

use super::error::ApplyError;
use super::op::{MAX_OP, Op};

/// What every stream begins with; the last byte is the version.
const HEAD: &[u8; 8] = b"bLayer\0\x01";

/// Writes operations.
pub(super) struct Sink<'a> {
    out: &'a mut dyn Write,
    frame: Vec<u8>,
    /// The root that operations go to.
    root: u8,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) data: u64,
}

impl<'a> Sink<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> io::Result<Sink<'a>> {
        out.write_all(HEAD)?;
        Ok(Sink {
            out,
            frame: Vec::new(),
            root: 0,
            entries: 0,
            bytes: HEAD.len() as u64,
            data: 0,
        })
    }

    /// What is put from now on lies below the root of that number.
    pub(super) fn turn(&mut self, number: u8, fresh: bool) -> io::Result<()> {
        if self.root == number && !fresh {
            return Ok(());
        }
        self.root = number;
        self.put(&Op::Root { number, fresh })
    }

    pub(super) fn put(&mut self, op: &Op) -> io::Result<()> {
        self.frame.clear();
        self.frame.extend_from_slice(&[0; 4]);
        borsh::to_writer(&mut self.frame, op)?;
        let len = u32::try_from(self.frame.len() - 4).map_err(io::Error::other)?;
        self.frame[..4].copy_from_slice(&len.to_le_bytes());
        self.out.write_all(&self.frame)?;
        self.bytes += self.frame.len() as u64;
        match op {
            Op::Data { data, .. } => self.data += data.len() as u64,
            Op::Small { data, .. } => {
                self.data += data.len() as u64;
                self.entries += 1;
            }
            Op::Hole { .. } | Op::Done { .. } | Op::Root { .. } | Op::End => {}
            _ => self.entries += 1,
        }
        Ok(())
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        self.put(&Op::End)?;
        self.out.flush()
    }
}

/// Reads operations of a peer; each is checked on its own.
pub(super) struct Source<'a> {
    from: &'a mut dyn Read,
    frame: Vec<u8>,
    pub(super) bytes: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(from: &'a mut dyn Read) -> Result<Source<'a>, ApplyError> {
        let mut head = [0; HEAD.len()];
        read(from, &mut head)?;
        if head != *HEAD {
            return Err(ApplyError::Malformed("it is not a layer stream of this version"));
        }
        Ok(Source {
            from,
            frame: Vec::new(),
            bytes: HEAD.len() as u64,
        })
    }

    /// The next operation, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Op>, ApplyError> {
        let mut len = [0; 4];
        read(self.from, &mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_OP {
            return Err(ApplyError::Malformed("an operation is too long"));
        }
        self.frame.resize(len, 0);
        read(self.from, &mut self.frame)?;
        self.bytes += 4 + len as u64;
        let op: Op = borsh::from_slice(&self.frame)
            .map_err(|_| ApplyError::Malformed("an operation is unknown, incomplete or has a bad path"))?;
        op.check().map_err(ApplyError::Malformed)?;
        Ok(Some(op).filter(|op| *op != Op::End))
    }
}

fn read(from: &mut dyn Read, into: &mut [u8]) -> Result<(), ApplyError> {
    from.read_exact(into).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => ApplyError::Truncated,
        _ => ApplyError::Read(error),
    })
}

//! The content of files: what was sent of it, and what differs now.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::op::{MAX_PIECE, SMALL};

/// Larger files are compared in blocks of this size, bytes.
const BLOCK: usize = 4096;
/// One read of a larger file, bytes.
const READ: usize = 1024 * 1024;

/// What was sent of a file. The hash guards against nobody: only the container's own files are
/// compared, under a seed of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// No file, or one whose content at the other end is not known.
    Unknown,
    /// A small file, or the target of a link.
    Small(u128),
    /// A larger one.
    Large(Blocks),
}

/// The blocks of a larger file that are not all zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Blocks {
    size: u64,
    /// Index and hash (as two halves, so that an entry takes 24 bytes), in order.
    hashes: Vec<(u64, [u64; 2])>,
}

impl Blocks {
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Reads files and compares them.
pub(super) struct Reader {
    seed: u64,
    buffer: Vec<u8>,
}

/// Takes what differs, in order of the offset.
pub(super) trait Difference {
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn hole(&mut self, offset: u64, len: u64) -> io::Result<()>;
}

/// Why a comparison ended early.
pub(super) enum Failed {
    Read(Errno),
    Write(io::Error),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Failed {
        Failed::Read(errno)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Write(error)
    }
}

impl Reader {
    pub(super) fn new() -> Reader {
        use std::hash::{BuildHasher, RandomState};
        Reader {
            seed: RandomState::new().hash_one(BLOCK),
            buffer: vec![0; READ],
        }
    }

    /// The target of a symbolic link.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Content {
        Content::Small(xxh3_128_with_seed(bytes, self.seed))
    }

    /// A small file of `size` bytes. What is missing because it shrank meanwhile is zero.
    pub(super) fn small(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<(Content, &[u8]), Errno> {
        debug_assert!(size <= SMALL);
        let data = &mut self.buffer[..size as usize];
        let got = fill(file, data, 0)?;
        data[got..].fill(0);
        Ok((Content::Small(xxh3_128_with_seed(data, self.seed)), data))
    }

    /// A larger file of `size` bytes against what was sent of it: tells `into` what differs.
    pub(super) fn large(
        &mut self,
        file: BorrowedFd<'_>,
        size: u64,
        sent: &Blocks,
        into: &mut dyn Difference,
    ) -> Result<Blocks, Failed> {
        let mut now = Comparison {
            old: &sent.hashes,
            hashes: Vec::with_capacity(sent.hashes.len()),
            seed: self.seed,
            size,
            into,
            run: None,
            hole: None,
        };
        let mut at = 0;
        while let Some((from, to)) = next_data(file, at, size)? {
            at = from;
            while at < to {
                let want = ((to - at) as usize).min(READ);
                let data = &mut self.buffer[..want];
                let got = fill(file, data, at)?;
                data[got..].fill(0);
                now.blocks(at, data)?;
                at += want as u64;
            }
        }
        now.zero_up_to(size.div_ceil(BLOCK as u64))?;
        now.flush_hole()?;
        Ok(Blocks {
            size,
            hashes: now.hashes,
        })
    }
}

/// A pass over one file.
struct Comparison<'a> {
    /// What is left of the old blocks.
    old: &'a [(u64, [u64; 2])],
    hashes: Vec<(u64, [u64; 2])>,
    seed: u64,
    size: u64,
    into: &'a mut dyn Difference,
    /// Differing bytes of the buffer that are not told yet: offset in the buffer.
    run: Option<usize>,
    /// Zeros that are not told yet: first block and the one after the last.
    hole: Option<(u64, u64)>,
}

impl Comparison<'_> {
    /// `data` begins at the block boundary `at`.
    fn blocks(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        for (number, block) in data.chunks(BLOCK).enumerate() {
            let start = number * BLOCK;
            let index = at / BLOCK as u64 + number as u64;
            self.zero_up_to_within(index, at, data, start)?;
            let old = match self.old.split_first() {
                Some((first, rest)) if first.0 == index => {
                    self.old = rest;
                    Some(first.1)
                }
                _ => None,
            };
            if is_zero(block) {
                self.flush_run(at, data, start)?;
                if old.is_some() {
                    self.zero(index)?;
                }
                continue;
            }
            let hash = xxh3_128_with_seed(block, self.seed);
            let hash = [(hash >> 64) as u64, hash as u64];
            self.hashes.push((index, hash));
            if old == Some(hash) {
                self.flush_run(at, data, start)?;
            } else {
                self.flush_hole()?;
                self.run.get_or_insert(start);
            }
        }
        self.flush_run(at, data, data.len())
    }

    fn zero_up_to_within(&mut self, index: u64, at: u64, data: &[u8], start: usize) -> io::Result<()> {
        if self.old.first().is_some_and(|(old, _)| *old < index) {
            self.flush_run(at, data, start)?;
            self.zero_up_to(index)?;
        }
        Ok(())
    }

    /// Old blocks before `index` that were not met are zero now.
    fn zero_up_to(&mut self, index: u64) -> io::Result<()> {
        while let Some((first, rest)) = self.old.split_first()
            && first.0 < index
        {
            self.old = rest;
            self.zero(first.0)?;
        }
        Ok(())
    }

    fn zero(&mut self, index: u64) -> io::Result<()> {
        match &mut self.hole {
            Some((_, end)) if *end == index => *end += 1,
            _ => {
                self.flush_hole()?;
                self.hole = Some((index, index + 1));
            }
        }
        Ok(())
    }

    fn flush_hole(&mut self) -> io::Result<()> {
        let Some((first, end)) = self.hole.take() else {
            return Ok(());
        };
        let offset = first * BLOCK as u64;
        self.into
            .hole(offset, (end * BLOCK as u64).min(self.size) - offset)
    }

    fn flush_run(&mut self, at: u64, data: &[u8], end: usize) -> io::Result<()> {
        let Some(start) = self.run.take() else {
            return Ok(());
        };
        let mut offset = at + start as u64;
        for piece in data[start..end].chunks(MAX_PIECE) {
            self.into.data(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}

/// The next range that may hold data, from a block boundary to another or to the end of the file.
fn next_data(file: BorrowedFd<'_>, at: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    let block = BLOCK as u64;
    if at >= size {
        return Ok(None);
    }
    let from = match seek(file, SeekFrom::Data(at)) {
        Ok(from) => (from / block * block).max(at),
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let to = match seek(file, SeekFrom::Hole(from)) {
        Ok(to) => to.div_ceil(block) * block,
        // It shrank meanwhile.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok((from < size).then_some((from, to.min(size))))
}

/// Reads until the buffer is full or the file ends.
fn fill(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut got = 0;
    while got < buffer.len() {
        match pread(file, &mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(got)
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().take(16).all(|byte| *byte == 0) && block == &[0; BLOCK][..block.len()]
}

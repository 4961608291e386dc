//! Blobs cut by their content: what stays the same is found again, wherever it has moved to.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use fastcdc::v2020::{self, Normalization};

/// Shortest chunk, bytes; only a blob's last one may be shorter. Both ends share these three.
pub const MIN_CHUNK: usize = 16 * 1024;
/// What most chunks are near, bytes.
pub const AVG_CHUNK: usize = 64 * 1024;
/// Longest chunk, bytes.
pub const MAX_CHUNK: usize = 256 * 1024;
/// Largest blob, bytes.
pub const MAX_BLOB: u64 = 64 << 30;

/// Domain of a blob's root.
const ROOT_CONTEXT: &str = "blosm transfer: root of a list of chunks, version 1";
/// Bytes that are read at a time; a multiple of the longest chunk.
const BUFFER: usize = 8 * MAX_CHUNK;

/// A piece of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Chunk {
    /// BLAKE3 of its bytes, or 32 zeros for a chunk that is nothing but zeros.
    pub hash: [u8; 32],
    /// Its length, bytes.
    pub len: u32,
}

/// A blob in a file, and its chunks in order.
#[derive(Debug, Clone)]
pub struct Chunked {
    file: Arc<File>,
    chunks: Vec<Chunk>,
    /// Where each chunk begins.
    starts: Vec<u64>,
    size: u64,
}

/// Why a list of chunks cannot be that of a blob: always its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ChunkListError {
    #[error("a blob of more than {MAX_BLOB} bytes")]
    Size,
    #[error("a chunk is empty, too short or longer than {MAX_CHUNK} bytes")]
    Length,
    #[error("the chunks do not cover the blob's size")]
    Cover,
    #[error("the chunks do not have the root that was named")]
    Root,
}

impl Chunk {
    /// Encoded length, bytes.
    pub(super) const ENCODED: usize = 36;

    /// The description of these bytes.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a chunk is at most MAX_CHUNK long"
    )]
    pub fn of(bytes: &[u8]) -> Self {
        let hash = if bytes.iter().all(|byte| *byte == 0) {
            [0; 32]
        } else {
            *blake3::hash(bytes).as_bytes()
        };
        Self {
            hash,
            len: bytes.len() as u32,
        }
    }

    /// Whether it is nothing but zeros: such a chunk never travels.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.hash == [0; 32]
    }

    /// Whether it describes exactly these bytes.
    #[must_use]
    pub fn fits(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.len as usize && !self.is_zero() && *blake3::hash(bytes).as_bytes() == self.hash
    }
}

impl Chunked {
    /// Cuts and hashes a blob on a blocking thread.
    ///
    /// # Errors
    /// The file cannot be read, or holds more than [`MAX_BLOB`].
    pub async fn of(file: File) -> io::Result<Self> {
        tokio::task::spawn_blocking(move || Self::read(file))
            .await
            .map_err(io::Error::other)?
    }

    /// Cuts and hashes a blob from the file's first byte to its last, in one pass.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn read(file: File) -> io::Result<Self> {
        let mut chunks = Vec::new();
        let mut starts = Vec::new();
        let mut size = 0;
        let mut cutter = Cutter::new(At {
            file: &file,
            offset: 0,
        });
        while let Some(bytes) = cutter.next()? {
            let chunk = Chunk::of(bytes);
            chunks.push(chunk);
            starts.push(size);
            size += u64::from(chunk.len);
            if size > MAX_BLOB {
                return Err(io::Error::other(ChunkListError::Size));
            }
        }
        Ok(Self {
            file: Arc::new(file),
            chunks,
            starts,
            size,
        })
    }

    /// Its length, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its chunks, in order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// What stands for all of it: see [`root`].
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        root(&self.chunks)
    }

    /// The bytes of these chunks, one after the other; `None` when there is no such chunk or they are
    /// more than `limit` bytes.
    pub(super) fn bytes(&self, indices: &[u32], limit: usize) -> Option<io::Result<Vec<u8>>> {
        let places: Vec<_> = indices
            .iter()
            .map(|index| {
                let index = *index as usize;
                Some((*self.starts.get(index)?, self.chunks.get(index)?.len as usize))
            })
            .collect::<Option<_>>()?;
        let len: usize = places.iter().map(|(_, len)| len).sum();
        if len > limit {
            return None;
        }
        let mut bytes = vec![0; len];
        let mut filled = 0;
        for (start, len) in places {
            if let Err(error) = self.file.read_exact_at(&mut bytes[filled..filled + len], start) {
                return Some(Err(error));
            }
            filled += len;
        }
        Some(Ok(bytes))
    }
}

/// BLAKE3 over the ordered hashes and lengths, in a domain of its own: equal roots, equal blobs.
#[must_use]
pub fn root(chunks: &[Chunk]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(ROOT_CONTEXT);
    for chunk in chunks {
        hasher.update(&chunk.hash);
        hasher.update(&chunk.len.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Checks a list that came from a peer, or its beginning, against the size that goes with it.
///
/// # Errors
/// The first thing that is wrong. A beginning (`whole` false) need not cover the size.
pub fn check(size: u64, chunks: &[Chunk], whole: bool) -> Result<(), ChunkListError> {
    if size > MAX_BLOB {
        return Err(ChunkListError::Size);
    }
    let mut covered = 0;
    for chunk in chunks {
        let len = chunk.len as usize;
        if len == 0 || len > MAX_CHUNK {
            return Err(ChunkListError::Length);
        }
        covered += u64::from(chunk.len);
        if covered > size {
            return Err(ChunkListError::Cover);
        }
        // Short chunks in the middle would make endless lists.
        if len < MIN_CHUNK && covered < size {
            return Err(ChunkListError::Length);
        }
    }
    if whole && covered < size {
        return Err(ChunkListError::Cover);
    }
    Ok(())
}

/// Cuts what a reader gives into chunks.
pub(super) struct Cutter<R> {
    from: R,
    buffer: Vec<u8>,
    /// What of the buffer is filled and not given out yet.
    start: usize,
    end: usize,
    ended: bool,
    masks: (u64, u64),
}

impl<R: Read> Cutter<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            ended: false,
            masks: v2020::select_masks(AVG_CHUNK, Normalization::Level1),
        }
    }

    /// The next chunk's bytes; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.end - self.start < MAX_CHUNK && !self.ended {
            self.fill()?;
        }
        let rest = &self.buffer[self.start..self.end];
        if rest.is_empty() {
            return Ok(None);
        }
        let (short, long) = self.masks;
        let (_, len) = v2020::cut(
            rest,
            MIN_CHUNK,
            AVG_CHUNK,
            MAX_CHUNK,
            short,
            long,
            short << 1,
            long << 1,
        );
        let chunk = &rest[..len];
        self.start += len;
        Ok(Some(chunk))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.buffer.len() {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(len) => self.end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads a file without moving its position, which other holders of the descriptor share.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;

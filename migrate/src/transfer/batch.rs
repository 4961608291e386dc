//! Several chunks on their way, compressed jointly.

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use super::chunk::Chunk;

/// Compression effort: at this level one core compresses faster than any link here carries.
const ZSTD_LEVEL: i32 = 3;

/// The bytes of the chunks that were asked for, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Batch {
    /// Whether `bytes` are one zstd frame.
    pub zstd: bool,
    /// The chunks.
    pub bytes: Vec<u8>,
}

/// A batch is not what the chunk list says: its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It holds more or less than the chunks together, or cannot be unpacked.
    #[error("a batch holds other lengths than its chunks have")]
    Length,
    /// The chunk at this place of the batch has another hash.
    #[error("chunk {0} of a batch has another hash")]
    Hash(usize),
}

impl Batch {
    /// Encoded length, bytes.
    pub(super) fn wire_len(&self) -> usize {
        1 + 4 + self.bytes.len()
    }

    /// Packs plain bytes.
    pub(super) fn pack(plain: Vec<u8>) -> Self {
        match zstd::bulk::compress(&plain, ZSTD_LEVEL) {
            // What does not shrink by a sixteenth is not worth the other end's time.
            Ok(packed) if packed.len() < plain.len() - plain.len() / 16 => Self {
                zstd: true,
                bytes: packed,
            },
            _ => Self {
                zstd: false,
                bytes: plain,
            },
        }
    }

    /// The verified chunks. Never makes more room than these chunks need, whatever the frame claims.
    ///
    /// # Errors
    /// The bytes are not exactly those of `chunks`.
    pub fn open(self, chunks: &[Chunk]) -> Result<Vec<Bytes>, BatchError> {
        let len = chunks.iter().map(|chunk| chunk.len as usize).sum();
        let plain = if self.zstd {
            zstd::bulk::decompress(&self.bytes, len).map_err(|_| BatchError::Length)?
        } else {
            self.bytes
        };
        if plain.len() != len {
            return Err(BatchError::Length);
        }
        let mut plain = Bytes::from(plain);
        let mut opened = Vec::with_capacity(chunks.len());
        for (place, chunk) in chunks.iter().enumerate() {
            let bytes = plain.split_to(chunk.len as usize);
            if !chunk.fits(&bytes) {
                return Err(BatchError::Hash(place));
            }
            opened.push(bytes);
        }
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(plain: &[&[u8]]) -> Vec<Chunk> {
        plain.iter().map(|bytes| Chunk::of(bytes)).collect()
    }

    #[test]
    fn a_batch_gives_back_its_chunks() {
        for plain in [[&[7; 9000][..], &[8; 10]], [b"ab", b"c"]] {
            let batch = Batch::pack(plain.concat());
            assert_eq!(batch.zstd, plain[0].len() > 100);
            assert_eq!(batch.open(&chunks(&plain)).unwrap(), plain);
        }
    }

    #[test]
    fn what_is_not_exactly_the_chunks_is_refused() {
        let plain: [&[u8]; 2] = [&[7; 9000], &[8; 10]];
        let want = chunks(&plain);
        let packed = Batch::pack(plain.concat());
        assert_eq!(packed.clone().open(&want[..1]), Err(BatchError::Length));
        assert_eq!(
            packed.clone().open(&chunks(&[&[7; 9000], &[8; 11]])),
            Err(BatchError::Length)
        );
        assert_eq!(
            packed.clone().open(&chunks(&[&[7; 9000], &[9; 10]])),
            Err(BatchError::Hash(1))
        );
        let unsaid = Batch {
            zstd: false,
            ..packed.clone()
        };
        assert_eq!(unsaid.open(&want), Err(BatchError::Length));
        let mut flipped = Batch {
            zstd: false,
            bytes: plain.concat(),
        };
        flipped.bytes[0] ^= 1;
        assert_eq!(flipped.open(&want), Err(BatchError::Hash(0)));
    }

    #[test]
    fn a_bomb_gets_no_room() {
        let bomb = Batch {
            zstd: true,
            bytes: zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap(),
        };
        assert_eq!(bomb.open(&chunks(&[b"small"])), Err(BatchError::Length));
    }
}

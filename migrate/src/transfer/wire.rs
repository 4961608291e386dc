//! The messages, in borsh, and how large they may be.

use borsh::{BorshDeserialize, BorshSerialize};

use super::manifest::ImageManifest;
use crate::image::Digest;

/// Largest request, bytes.
pub const MAX_REQUEST: usize = 4 * 1024;
/// Largest response, bytes.
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// Most chunks that one request may name: their bytes fit in a response even uncompressed.
pub const MAX_CHUNKS_PER_REQUEST: usize = 8;
/// Most chunk hashes in one page.
pub const HASHES_PER_PAGE: u32 = 16 * 1024;

/// A question of a destination in the course of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TransferRequest {
    /// The attempt that the source agreed to; it decides who may ask.
    pub attempt: [u8; 16],
    /// What is asked.
    pub body: TransferBody,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum TransferBody {
    /// The description of one of the attempt's images.
    Manifest {
        /// Which of them.
        which: WhichImage,
    } = 0,
    /// A page of a layer's chunk hashes, for images whose hashes do not fit in the manifest.
    Hashes {
        /// The layer.
        layer: Digest,
        /// Index of the first hash.
        from: u32,
    } = 1,
    /// Chunks of one layer.
    Chunks {
        /// The layer.
        layer: Digest,
        /// Indices, at most [`MAX_CHUNKS_PER_REQUEST`].
        indices: Vec<u32>,
    } = 2,
}

/// The images of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum WhichImage {
    /// The pinned base of the service.
    Base = 0,
    /// The image committed after the stop.
    Final = 1,
    /// The image that the container was created from, when that is not the base.
    Running = 2,
}

/// An answer of the source.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum TransferResponse {
    /// Answers `Manifest`.
    Manifest(ImageManifest) = 0,
    /// Answers `Hashes`.
    Hashes(Vec<[u8; 32]>) = 1,
    /// Answers `Chunks`, in the order asked.
    Chunks(Vec<ChunkData>) = 2,
    /// No, and why.
    Refused(WireError) = 3,
}

/// One chunk on its way.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ChunkData {
    /// Whether `bytes` are zstd-compressed.
    pub zstd: bool,
    /// The chunk.
    pub bytes: Vec<u8>,
}

/// Why a source refuses; all that a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum WireError {
    /// Unknown attempt, or not of this peer.
    #[error("the source knows no such transfer")]
    UnknownAttempt = 0,
    /// That image is not exported yet.
    #[error("the source has not prepared that image yet")]
    NotReady = 1,
    /// Not a layer or chunk that it offered.
    #[error("the source offers no such layer or chunk")]
    UnknownLayer = 2,
    /// The request breaks a limit.
    #[error("the source refused the request as malformed")]
    BadRequest = 3,
    /// Its own trouble.
    #[error("the source failed to read the layer")]
    Internal = 4,
}

impl TransferResponse {
    /// Bytes of it on the wire before framing.
    #[must_use]
    pub fn wire_len(&self) -> u64 {
        let len = match self {
            Self::Manifest(manifest) => manifest.wire_len(),
            Self::Hashes(hashes) => 4 + 32 * hashes.len(),
            Self::Chunks(chunks) => 4 + chunks.iter().map(|chunk| 5 + chunk.bytes.len()).sum::<usize>(),
            Self::Refused(_) => 1,
        };
        1 + len as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::manifest::LayerManifest;

    #[test]
    fn wire_len_is_the_encoded_length() {
        let manifest = ImageManifest {
            config: vec![1; 77],
            diff_ids: vec![Digest([1; 32]), Digest([2; 32])],
            layers: vec![LayerManifest {
                diff_id: Digest([2; 32]),
                size: 9,
                chunks: vec![[7; 32]],
            }],
        };
        let chunks = vec![
            ChunkData {
                zstd: true,
                bytes: vec![0; 100],
            },
            ChunkData {
                zstd: false,
                bytes: vec![],
            },
        ];
        for response in [
            TransferResponse::Manifest(manifest),
            TransferResponse::Hashes(vec![[0; 32]; 3]),
            TransferResponse::Chunks(chunks),
            TransferResponse::Refused(WireError::Internal),
        ] {
            assert_eq!(
                response.wire_len(),
                borsh::to_vec(&response).unwrap().len() as u64
            );
        }
    }

    #[test]
    fn the_largest_answer_fits_its_limit() {
        let chunk = ChunkData {
            zstd: false,
            bytes: vec![0; crate::transfer::CHUNK_SIZE],
        };
        let response = TransferResponse::Chunks(vec![chunk; MAX_CHUNKS_PER_REQUEST]);
        assert!(response.wire_len() <= MAX_RESPONSE as u64);
        assert!(4 + 32 * u64::from(HASHES_PER_PAGE) < MAX_RESPONSE as u64);
        let request = TransferRequest {
            attempt: [0; 16],
            body: TransferBody::Chunks {
                layer: Digest([0; 32]),
                indices: vec![0; MAX_CHUNKS_PER_REQUEST],
            },
        };
        assert!(borsh::to_vec(&request).unwrap().len() <= MAX_REQUEST);
    }
}

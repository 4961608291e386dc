//! The messages, in borsh, and how large they may be.

use borsh::{BorshDeserialize, BorshSerialize};

use super::batch::Batch;
use super::chunk::Chunk;
use super::manifest::{ImageManifest, RoundManifest};
use crate::image::Digest;

/// Largest request, bytes.
pub const MAX_REQUEST: usize = 4 * 1024;
/// Largest response, bytes.
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// Most chunks that one request may name.
pub const MAX_CHUNKS_PER_REQUEST: usize = 64;
/// Most bytes that the chunks of one request may have together: they fit in a response uncompressed.
pub const MAX_BATCH: usize = MAX_RESPONSE - 1024;
/// Most chunks in one page of a list.
pub const CHUNKS_PER_PAGE: usize = 16 * 1024;
/// Most bytes of a round that may come along with its description.
pub const MAX_INLINE: usize = MAX_RESPONSE - 64 * 1024;

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
    /// A page of a blob's list of chunks, for blobs whose list does not fit in its description.
    Page {
        /// The blob.
        blob: BlobId,
        /// Index of the first chunk.
        from: u32,
    } = 1,
    /// Chunks of one blob.
    Chunks {
        /// The blob.
        blob: BlobId,
        /// Indices, at most [`MAX_CHUNKS_PER_REQUEST`] and of at most [`MAX_BATCH`] bytes.
        indices: Vec<u32>,
    } = 2,
    /// The description of a round of the live method.
    Round {
        /// Which of them.
        number: u32,
        /// Whether its bytes may come along, if they are few.
        inline: bool,
    } = 3,
    /// Bytes that mean nothing, to measure the link with. Belongs to no attempt.
    Sample {
        /// How many, at most [`MAX_ASK`](super::window::MAX_ASK).
        bytes: u32,
    } = 4,
}

/// What can be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum BlobId {
    /// The uncompressed tar of a layer.
    Layer(Digest) = 0,
    /// What a round of the live method has found changed.
    Round(u32) = 1,
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
    /// Answers `Page`.
    Page(Vec<Chunk>) = 1,
    /// Answers `Chunks`, in the order asked.
    Chunks(Batch) = 2,
    /// No, and why.
    Refused(WireError) = 3,
    /// Answers `Round`.
    Round(RoundManifest) = 4,
    /// Answers `Sample`.
    Sample(Vec<u8>) = 5,
}

/// Why a source refuses; all that a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum WireError {
    /// Unknown attempt, or not of this peer.
    #[error("the source knows no such transfer")]
    UnknownAttempt = 0,
    /// That image or round is not there yet.
    #[error("the source has not prepared that image or round yet")]
    NotReady = 1,
    /// Not a blob or chunk that it offers, or not any more.
    #[error("the source offers no such layer, round or chunk")]
    UnknownBlob = 2,
    /// The request breaks a limit.
    #[error("the source refused the request as malformed")]
    BadRequest = 3,
    /// Its own trouble.
    #[error("the source failed to read what it offers")]
    Internal = 4,
    /// It lets one node at a time measure its link.
    #[error("another node measures its link there; try again in a few seconds")]
    Busy = 5,
    /// The container's writable layer holds what rounds can't carry: it has to move in another way.
    #[error("the source's writable layer holds what the live method can't carry; see the log there")]
    Unsupported = 6,
}

impl TransferResponse {
    /// Bytes of it on the wire before framing.
    #[must_use]
    pub fn wire_len(&self) -> u64 {
        let len = match self {
            Self::Manifest(manifest) => manifest.wire_len(),
            Self::Page(chunks) => 4 + Chunk::ENCODED * chunks.len(),
            Self::Chunks(batch) => batch.wire_len(),
            Self::Refused(_) => 1,
            Self::Round(round) => round.wire_len(),
            Self::Sample(bytes) => 4 + bytes.len(),
        };
        1 + len as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::manifest::{INLINE_CHUNKS, LayerManifest, MAX_CONFIG};
    use crate::transfer::{MAX_BLOB, MAX_CHUNK};

    const CHUNK: Chunk = Chunk {
        hash: [7; 32],
        len: MAX_CHUNK as u32,
    };

    fn image(config: usize, chunks: usize) -> TransferResponse {
        TransferResponse::Manifest(ImageManifest {
            config: vec![1; config],
            diff_ids: vec![Digest([1; 32]); crate::recreate::MAX_LAYERS],
            layers: vec![LayerManifest {
                diff_id: Digest([2; 32]),
                size: 9,
                chunks: vec![CHUNK; chunks],
            }],
        })
    }

    fn batch(zstd: bool, len: usize) -> Batch {
        Batch {
            zstd,
            bytes: vec![0; len],
        }
    }

    fn round(chunks: usize, whole: Option<Batch>) -> TransferResponse {
        TransferResponse::Round(RoundManifest {
            number: 3,
            size: MAX_BLOB,
            root: [4; 32],
            chunks: vec![CHUNK; chunks],
            whole,
        })
    }

    #[test]
    fn wire_len_is_the_encoded_length() {
        for response in [
            image(77, 1),
            TransferResponse::Page(vec![CHUNK; 3]),
            TransferResponse::Chunks(batch(true, 100)),
            round(2, None),
            round(2, Some(batch(false, 100))),
            TransferResponse::Refused(WireError::Internal),
        ] {
            assert_eq!(
                response.wire_len(),
                borsh::to_vec(&response).unwrap().len() as u64
            );
        }
    }

    #[test]
    fn the_largest_messages_fit_their_limits() {
        for response in [
            image(MAX_CONFIG, INLINE_CHUNKS),
            TransferResponse::Page(vec![CHUNK; CHUNKS_PER_PAGE]),
            TransferResponse::Chunks(batch(false, MAX_BATCH)),
            round(CHUNKS_PER_PAGE, None),
            round(
                MAX_INLINE / crate::transfer::MIN_CHUNK + 1,
                Some(batch(false, MAX_INLINE)),
            ),
        ] {
            assert!(
                response.wire_len() <= MAX_RESPONSE as u64,
                "{}",
                response.wire_len()
            );
        }
        let request = TransferRequest {
            attempt: [0; 16],
            body: TransferBody::Chunks {
                blob: BlobId::Layer(Digest([0; 32])),
                indices: vec![0; MAX_CHUNKS_PER_REQUEST],
            },
        };
        assert!(borsh::to_vec(&request).unwrap().len() <= MAX_REQUEST);
    }
}

//! What an image or a round consists of, as a source describes it and a destination believes it.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};

use super::batch::Batch;
use super::chunk::{self, Chunk, ChunkListError, Chunked, MAX_BLOB};
use super::wire::{CHUNKS_PER_PAGE, MAX_INLINE};
use crate::image::{Digest, Identity};
use crate::recreate::MAX_LAYERS;

/// Largest image config, bytes: real ones have a few KiB.
pub const MAX_CONFIG: usize = 256 * 1024;
/// Chunks that are listed inside an image's manifest; those of an image with more are fetched page by
/// page. With the largest config this stays below the largest response.
pub const INLINE_CHUNKS: usize = 16 * 1024;

/// An image and those of its layers that the source offers.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ImageManifest {
    /// The config, byte for byte: its digest is the image's identity.
    pub config: Vec<u8>,
    /// All layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The layers that can be pulled from this source.
    pub layers: Vec<LayerManifest>,
}

/// One layer in chunks.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LayerManifest {
    /// SHA-256 of the uncompressed layer tar.
    pub diff_id: Digest,
    /// Its length, bytes.
    pub size: u64,
    /// Its chunks in order; empty when they are fetched page by page.
    pub chunks: Vec<Chunk>,
}

/// What one round of the live method found changed.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundManifest {
    /// Counted from the attempt's first.
    pub number: u32,
    /// Length of its stream, bytes.
    pub size: u64,
    /// The root of all its chunks.
    pub root: [u8; 32],
    /// Its chunks in order, or the first page of them.
    pub chunks: Vec<Chunk>,
    /// All of its chunks that are not zeros, when that was asked for and they are small together.
    pub whole: Option<Batch>,
}

/// Why a manifest is refused: always the source's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ManifestError {
    #[error("the image's config has more than {MAX_CONFIG} bytes or none")]
    ConfigSize,
    #[error("the image's config cannot be read")]
    Config,
    #[error("the image has no layer or more than {MAX_LAYERS}")]
    Depth,
    #[error("the image's layers are not those that its config names")]
    Layers,
    #[error("a layer is described that the image does not have, or twice")]
    ForeignLayer,
    #[error("a layer is empty or larger than {MAX_BLOB} bytes")]
    LayerSize,
    #[error(transparent)]
    Chunks(#[from] ChunkListError),
    #[error("too many chunks in one manifest")]
    TooManyChunks,
}

impl RoundManifest {
    /// Bytes that it brings at most: all but the zeros that are listed here.
    #[must_use]
    pub fn may_bring(&self) -> u64 {
        let zeros = self.chunks.iter().filter(|chunk| chunk.is_zero());
        self.size
            .saturating_sub(zeros.map(|chunk| u64::from(chunk.len)).sum())
    }

    /// The description of a round, with its bytes if they are at most `inline`, itself no more than [`MAX_INLINE`].
    ///
    /// # Errors
    /// The blob cannot be read.
    pub fn of(number: u32, blob: &Chunked, inline: usize) -> std::io::Result<Self> {
        let chunks = blob.chunks();
        let whole = if blob.size() <= inline.min(MAX_INLINE) as u64 {
            let indices: Vec<u32> = (0..)
                .zip(chunks)
                .filter(|(_, chunk)| !chunk.is_zero())
                .map(|(index, _)| index)
                .collect();
            blob.bytes(&indices, MAX_INLINE).transpose()?.map(Batch::pack)
        } else {
            None
        };
        Ok(Self {
            number,
            size: blob.size(),
            root: blob.root(),
            chunks: chunks[..chunks.len().min(CHUNKS_PER_PAGE)].to_vec(),
            whole,
        })
    }

    /// Checks what can be checked before the rest of the list is there.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.chunks.len() > CHUNKS_PER_PAGE {
            return Err(ManifestError::TooManyChunks);
        }
        chunk::check(self.size, &self.chunks, self.chunks.len() < CHUNKS_PER_PAGE)?;
        Ok(())
    }

    pub(super) fn wire_len(&self) -> usize {
        let whole = self.whole.as_ref().map_or(0, Batch::wire_len);
        4 + 8 + 32 + 4 + Chunk::ENCODED * self.chunks.len() + 1 + whole
    }
}

impl ImageManifest {
    /// Checks everything that can be checked before a layer is pulled, and gives the identity that
    /// follows from it. Run it on every manifest that came from a peer.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<Identity, ManifestError> {
        if self.config.is_empty() || self.config.len() > MAX_CONFIG {
            return Err(ManifestError::ConfigSize);
        }
        if self.diff_ids.is_empty() || self.diff_ids.len() > MAX_LAYERS {
            return Err(ManifestError::Depth);
        }
        let config = crate::recreate::ConfigFile::parse(&self.config).map_err(|_| ManifestError::Config)?;
        if config.diff_ids != self.diff_ids {
            return Err(ManifestError::Layers);
        }
        if self.layers.iter().map(|layer| layer.chunks.len()).sum::<usize>() > INLINE_CHUNKS {
            return Err(ManifestError::TooManyChunks);
        }
        let known: BTreeSet<_> = self.diff_ids.iter().collect();
        let mut seen = BTreeSet::new();
        for layer in &self.layers {
            if !known.contains(&layer.diff_id) || !seen.insert(layer.diff_id) {
                return Err(ManifestError::ForeignLayer);
            }
            if layer.size == 0 || layer.size > MAX_BLOB {
                return Err(ManifestError::LayerSize);
            }
            chunk::check(layer.size, &layer.chunks, !layer.chunks.is_empty())?;
        }
        Ok(self.identity())
    }

    /// Config digest and layers.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            config_digest: Digest::of(&self.config),
            diff_ids: self.diff_ids.clone(),
        }
    }

    /// The description of one layer, if it is offered.
    #[must_use]
    pub fn layer(&self, diff_id: &Digest) -> Option<&LayerManifest> {
        self.layers.iter().find(|layer| layer.diff_id == *diff_id)
    }

    pub(super) fn wire_len(&self) -> usize {
        let layers: usize = self
            .layers
            .iter()
            .map(|layer| 32 + 8 + 4 + Chunk::ENCODED * layer.chunks.len())
            .sum();
        4 + self.config.len() + 4 + 32 * self.diff_ids.len() + 4 + layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{MAX_CHUNK, MIN_CHUNK};

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn chunk(len: usize) -> Chunk {
        Chunk {
            hash: [1; 32],
            len: len as u32,
        }
    }

    fn manifest() -> ImageManifest {
        let diff_ids = vec![digest(1), digest(2)];
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
            diff_ids[0], diff_ids[1]
        );
        let layers = vec![LayerManifest {
            diff_id: digest(2),
            size: MIN_CHUNK as u64 + 1,
            chunks: vec![chunk(MIN_CHUNK), chunk(1)],
        }];
        ImageManifest {
            config: config.into_bytes(),
            diff_ids,
            layers,
        }
    }

    #[test]
    fn a_sound_manifest_gives_its_identity() {
        let manifest = manifest();
        let identity = manifest.validate().unwrap();
        assert_eq!(identity.config_digest, Digest::of(&manifest.config));
        assert_eq!(identity.diff_ids, manifest.diff_ids);
    }

    type Edit = fn(&mut ImageManifest);

    #[test]
    fn every_limit_and_contradiction_is_refused() {
        let change = |edit: Edit| {
            let mut manifest = manifest();
            edit(&mut manifest);
            manifest.validate()
        };
        let rows: [(Edit, ManifestError); 11] = [
            (|m| m.config.clear(), ManifestError::ConfigSize),
            (
                |m| m.config = vec![b' '; MAX_CONFIG + 1],
                ManifestError::ConfigSize,
            ),
            (|m| m.config = b"{}".to_vec(), ManifestError::Config),
            (|m| m.diff_ids.clear(), ManifestError::Depth),
            (
                |m| m.diff_ids = vec![digest(1); MAX_LAYERS + 1],
                ManifestError::Depth,
            ),
            (|m| m.diff_ids.reverse(), ManifestError::Layers),
            (|m| m.layers[0].diff_id = digest(3), ManifestError::ForeignLayer),
            (
                |m| m.layers.push(m.layers[0].clone()),
                ManifestError::ForeignLayer,
            ),
            (|m| m.layers[0].size = 0, ManifestError::LayerSize),
            (
                |m| m.layers[0].size -= 1,
                ManifestError::Chunks(ChunkListError::Cover),
            ),
            (
                |m| m.layers[0].chunks = vec![chunk(MIN_CHUNK); INLINE_CHUNKS + 1],
                ManifestError::TooManyChunks,
            ),
        ];
        for (row, (edit, expect)) in rows.into_iter().enumerate() {
            assert_eq!(change(edit), Err(expect), "row {row}");
        }
        let mut huge = manifest();
        huge.layers[0].size = MAX_BLOB + 1;
        assert_eq!(huge.validate(), Err(ManifestError::LayerSize));
    }

    #[test]
    fn a_round_must_fit_its_list() {
        let round = RoundManifest {
            number: 1,
            size: MIN_CHUNK as u64 + 1,
            root: [0; 32],
            chunks: vec![chunk(MIN_CHUNK), chunk(1)],
            whole: None,
        };
        assert_eq!(round.validate(), Ok(()));
        let cover = Err(ManifestError::Chunks(ChunkListError::Cover));
        let shorter = RoundManifest {
            size: round.size - 1,
            ..round.clone()
        };
        assert_eq!(shorter.validate(), cover);
        let first_page = RoundManifest {
            size: (CHUNKS_PER_PAGE * MAX_CHUNK) as u64 + 1,
            chunks: vec![chunk(MAX_CHUNK); CHUNKS_PER_PAGE],
            ..round.clone()
        };
        assert_eq!(first_page.validate(), Ok(()));
        let too_many = RoundManifest {
            size: MAX_BLOB,
            chunks: vec![chunk(MIN_CHUNK); CHUNKS_PER_PAGE + 1],
            ..round
        };
        assert_eq!(too_many.validate(), Err(ManifestError::TooManyChunks));
    }
}

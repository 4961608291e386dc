//! What an image consists of, as a source describes it and a destination believes it.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::image::{Digest, Identity};
use crate::recreate::MAX_LAYERS;

/// Bytes of a chunk; the last one of a layer may be shorter. Both ends share it.
pub const CHUNK_SIZE: usize = 64 * 1024;
/// Largest image config, bytes: real ones have a few KiB.
pub const MAX_CONFIG: usize = 256 * 1024;
/// Largest layer, bytes.
pub const MAX_LAYER: u64 = 64 << 30;
/// Chunk hashes that travel inside a manifest; an image with more has them fetched page by page.
/// With the largest config this stays below the largest response.
pub const INLINE_HASHES: usize = 16 * 1024;

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
    /// BLAKE3 of each chunk; empty when they are fetched page by page.
    pub chunks: Vec<[u8; 32]>,
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
    #[error("a layer is empty or larger than {MAX_LAYER} bytes")]
    LayerSize,
    #[error("a layer's chunk hashes do not cover its size")]
    Chunks,
    #[error("too many chunk hashes in one manifest")]
    TooManyHashes,
}

impl LayerManifest {
    /// How many chunks a layer of that size has.
    #[must_use]
    pub fn chunk_count(size: u64) -> u64 {
        size.div_ceil(CHUNK_SIZE as u64)
    }

    /// Length of chunk `index`, bytes; 0 past the end.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "at most CHUNK_SIZE")]
    pub fn chunk_len(size: u64, index: u64) -> usize {
        size.saturating_sub(index.saturating_mul(CHUNK_SIZE as u64))
            .min(CHUNK_SIZE as u64) as usize
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
        if self.layers.iter().map(|layer| layer.chunks.len()).sum::<usize>() > INLINE_HASHES {
            return Err(ManifestError::TooManyHashes);
        }
        let known: BTreeSet<_> = self.diff_ids.iter().collect();
        let mut seen = BTreeSet::new();
        for layer in &self.layers {
            if !known.contains(&layer.diff_id) || !seen.insert(layer.diff_id) {
                return Err(ManifestError::ForeignLayer);
            }
            if layer.size == 0 || layer.size > MAX_LAYER {
                return Err(ManifestError::LayerSize);
            }
            let expect = LayerManifest::chunk_count(layer.size);
            if !layer.chunks.is_empty() && layer.chunks.len() as u64 != expect {
                return Err(ManifestError::Chunks);
            }
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
            .map(|layer| 32 + 8 + 4 + 32 * layer.chunks.len())
            .sum();
        4 + self.config.len() + 4 + 32 * self.diff_ids.len() + 4 + layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn manifest() -> ImageManifest {
        let diff_ids = vec![digest(1), digest(2)];
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
            diff_ids[0], diff_ids[1]
        );
        let layers = vec![LayerManifest {
            diff_id: digest(2),
            size: CHUNK_SIZE as u64 + 1,
            chunks: vec![[0; 32]; 2],
        }];
        ImageManifest {
            config: config.into_bytes(),
            diff_ids,
            layers,
        }
    }

    #[test]
    fn chunk_lengths_cover_the_layer() {
        let chunk = CHUNK_SIZE as u64;
        for (size, count, last) in [
            (1, 1, 1),
            (chunk, 1, chunk),
            (chunk + 1, 2, 1),
            (3 * chunk, 3, chunk),
        ] {
            assert_eq!(LayerManifest::chunk_count(size), count);
            assert_eq!(LayerManifest::chunk_len(size, count - 1) as u64, last);
            assert_eq!(LayerManifest::chunk_len(size, count), 0);
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
            (|m| m.layers[0].size += CHUNK_SIZE as u64, ManifestError::Chunks),
            (
                |m| m.layers[0].chunks = vec![[0; 32]; INLINE_HASHES + 1],
                ManifestError::TooManyHashes,
            ),
        ];
        for (row, (edit, expect)) in rows.into_iter().enumerate() {
            assert_eq!(change(edit), Err(expect), "row {row}");
        }
        let mut huge = manifest();
        huge.layers[0].size = MAX_LAYER + 1;
        assert_eq!(huge.validate(), Err(ManifestError::LayerSize));
    }
}

//! The source's side: exported layers on disk, answered chunk by chunk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::manifest::{CHUNK_SIZE, INLINE_HASHES, ImageManifest, LayerManifest};
use super::wire::{
    ChunkData, HASHES_PER_PAGE, MAX_CHUNKS_PER_REQUEST, TransferBody, TransferResponse, WhichImage, WireError,
};
use crate::image::{Digest, Exported, LayerFile};

/// Compression effort: at this level one core compresses faster than any link here carries.
const ZSTD_LEVEL: i32 = 3;

/// One exported image, ready to be pulled. Keeps its files open, so the spool may be emptied.
#[derive(Debug)]
pub struct LayerStore {
    manifest: ImageManifest,
    layers: BTreeMap<Digest, Layer>,
}

#[derive(Debug)]
struct Layer {
    file: Arc<File>,
    size: u64,
    chunks: Vec<[u8; 32]>,
}

/// Why an exported image cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A layer file cannot be read.
    #[error("reading an exported layer: {0}")]
    Io(#[from] io::Error),
    /// The reading thread ended by itself.
    #[error("reading the exported layers was broken off")]
    BrokenOff,
}

impl LayerStore {
    /// Opens the exported layers and hashes their chunks.
    ///
    /// # Errors
    /// A layer file cannot be read.
    pub async fn open(exported: &Exported) -> Result<Self, ServeError> {
        let exported = exported.clone();
        tokio::task::spawn_blocking(move || Self::read(exported))
            .await
            .map_err(|_| ServeError::BrokenOff)?
    }

    fn read(exported: Exported) -> Result<Self, ServeError> {
        let mut layers = BTreeMap::new();
        for (diff_id, file) in exported.layers {
            layers.insert(diff_id, Layer::open(&file)?);
        }
        let inline = layers.values().map(|layer| layer.chunks.len()).sum::<usize>() <= INLINE_HASHES;
        let described = layers
            .iter()
            .map(|(diff_id, layer)| LayerManifest {
                diff_id: *diff_id,
                size: layer.size,
                chunks: if inline { layer.chunks.clone() } else { Vec::new() },
            })
            .collect();
        let manifest = ImageManifest {
            config: exported.config,
            diff_ids: exported.identity.diff_ids,
            layers: described,
        };
        Ok(Self { manifest, layers })
    }

    /// What is offered.
    #[must_use]
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    fn page(&self, layer: &Digest, from: u32) -> Option<Vec<[u8; 32]>> {
        let chunks = &self.layers.get(layer)?.chunks;
        let from = usize::try_from(from).ok().filter(|from| *from < chunks.len())?;
        let to = chunks.len().min(from + HASHES_PER_PAGE as usize);
        Some(chunks[from..to].to_vec())
    }
}

impl Layer {
    fn open(layer: &LayerFile) -> io::Result<Self> {
        let file = File::open(&layer.path)?;
        let mut buffer = vec![0; CHUNK_SIZE];
        let mut chunks = Vec::new();
        for index in 0..LayerManifest::chunk_count(layer.size) {
            let chunk = &mut buffer[..LayerManifest::chunk_len(layer.size, index)];
            file.read_exact_at(chunk, index * CHUNK_SIZE as u64)?;
            chunks.push(*blake3::hash(chunk).as_bytes());
        }
        Ok(Self {
            file: Arc::new(file),
            size: layer.size,
            chunks,
        })
    }
}

/// The stores of one attempt. The final one appears when the container has been committed.
#[derive(Debug, Clone, Default)]
pub struct AttemptStores {
    /// The pinned base.
    pub base: Option<Arc<LayerStore>>,
    /// The image that the container was created from.
    pub running: Option<Arc<LayerStore>>,
    /// The committed image.
    pub last: Option<Arc<LayerStore>>,
}

impl AttemptStores {
    /// Whether that image can be pulled already.
    #[must_use]
    pub fn has(&self, which: WhichImage) -> bool {
        match which {
            WhichImage::Base => self.base.is_some(),
            WhichImage::Running => self.running.is_some(),
            WhichImage::Final => self.last.is_some(),
        }
    }

    /// Answers one request. Whoever calls this has checked that the peer may ask.
    pub async fn answer(&self, body: TransferBody) -> TransferResponse {
        match body {
            TransferBody::Manifest { which } => {
                let store = match which {
                    WhichImage::Base => &self.base,
                    WhichImage::Running => &self.running,
                    WhichImage::Final => &self.last,
                };
                match store {
                    Some(store) => TransferResponse::Manifest(store.manifest.clone()),
                    None => TransferResponse::Refused(WireError::NotReady),
                }
            }
            TransferBody::Hashes { layer, from } => {
                match self.stores().find_map(|store| store.page(&layer, from)) {
                    Some(page) => TransferResponse::Hashes(page),
                    None => TransferResponse::Refused(WireError::UnknownLayer),
                }
            }
            TransferBody::Chunks { layer, indices } => self.chunks(&layer, indices).await,
        }
    }

    fn stores(&self) -> impl Iterator<Item = &LayerStore> {
        self.last
            .iter()
            .chain(&self.running)
            .chain(&self.base)
            .map(AsRef::as_ref)
    }

    async fn chunks(&self, layer: &Digest, indices: Vec<u32>) -> TransferResponse {
        if indices.is_empty() || indices.len() > MAX_CHUNKS_PER_REQUEST {
            return TransferResponse::Refused(WireError::BadRequest);
        }
        let Some(layer) = self.stores().find_map(|store| store.layers.get(layer)) else {
            return TransferResponse::Refused(WireError::UnknownLayer);
        };
        let count = LayerManifest::chunk_count(layer.size);
        if indices.iter().any(|index| u64::from(*index) >= count) {
            return TransferResponse::Refused(WireError::UnknownLayer);
        }
        let (file, size) = (Arc::clone(&layer.file), layer.size);
        let read = tokio::task::spawn_blocking(move || {
            indices
                .into_iter()
                .map(|index| read_chunk(&file, size, u64::from(index)))
                .collect::<io::Result<_>>()
        });
        match read.await {
            Ok(Ok(chunks)) => TransferResponse::Chunks(chunks),
            Ok(Err(error)) => {
                tracing::warn!(%error, "an exported layer cannot be read");
                TransferResponse::Refused(WireError::Internal)
            }
            Err(_) => TransferResponse::Refused(WireError::Internal),
        }
    }
}

fn read_chunk(file: &File, size: u64, index: u64) -> io::Result<ChunkData> {
    let mut bytes = vec![0; LayerManifest::chunk_len(size, index)];
    file.read_exact_at(&mut bytes, index * CHUNK_SIZE as u64)?;
    let packed = zstd::bulk::compress(&bytes, ZSTD_LEVEL)?;
    // What does not shrink by a sixteenth is not worth the other end's time.
    Ok(if packed.len() < bytes.len() - bytes.len() / 16 {
        ChunkData {
            zstd: true,
            bytes: packed,
        }
    } else {
        ChunkData { zstd: false, bytes }
    })
}

//! The source's side: blobs on disk, answered chunk by chunk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::batch::Batch;
use super::chunk::{Chunk, Chunked};
use super::manifest::{INLINE_CHUNKS, ImageManifest, LayerManifest, RoundManifest};
use super::wire::{
    BlobId, CHUNKS_PER_PAGE, MAX_BATCH, MAX_CHUNKS_PER_REQUEST, TransferBody, TransferResponse, WhichImage,
    WireError,
};
use crate::image::{Digest, Exported};

/// Bytes of a round that come along when they may: all else on the connection waits behind them.
const SMALL_ROUND: usize = 128 * 1024;
/// Most rounds that an attempt offers at a time.
pub const MAX_ROUNDS: usize = 16;

/// One exported image, ready to be pulled. Keeps its files open, so the spool may be emptied.
#[derive(Debug)]
pub struct LayerStore {
    manifest: ImageManifest,
    layers: BTreeMap<Digest, Arc<Chunked>>,
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
    /// Opens the exported layers and cuts them into chunks.
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
            let blob = Chunked::read(File::open(&file.path)?)?;
            layers.insert(diff_id, Arc::new(blob));
        }
        let inline = layers.values().map(|blob| blob.chunks().len()).sum::<usize>() <= INLINE_CHUNKS;
        let described = layers
            .iter()
            .map(|(diff_id, blob)| LayerManifest {
                diff_id: *diff_id,
                size: blob.size(),
                chunks: if inline {
                    blob.chunks().to_vec()
                } else {
                    Vec::new()
                },
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
}

/// What one attempt offers. It grows while the attempt goes on: the final image appears when the
/// container has been committed, rounds come and go.
#[derive(Debug, Clone, Default)]
pub struct AttemptStores {
    /// The pinned base.
    pub base: Option<Arc<LayerStore>>,
    /// The image that the container was created from.
    pub running: Option<Arc<LayerStore>>,
    /// The committed image.
    pub last: Option<Arc<LayerStore>>,
    /// Rounds of the live method, by number; see [`put_round`](Self::put_round).
    pub rounds: BTreeMap<u32, Arc<Chunked>>,
}

impl AttemptStores {
    /// Whether that image can be pulled already.
    #[must_use]
    pub fn has(&self, which: WhichImage) -> bool {
        self.image(which).is_some()
    }

    /// Offers a round. With more than [`MAX_ROUNDS`] the oldest goes.
    pub fn put_round(&mut self, number: u32, blob: Arc<Chunked>) {
        self.rounds.insert(number, blob);
        while self.rounds.len() > MAX_ROUNDS {
            self.rounds.pop_first();
        }
    }

    /// Takes back all rounds before `number`: the destination has them.
    pub fn drop_rounds(&mut self, number: u32) {
        self.rounds = self.rounds.split_off(&number);
    }

    /// Answers one request. Whoever calls this has checked that the peer may ask.
    pub async fn answer(&self, body: TransferBody) -> TransferResponse {
        let refused = TransferResponse::Refused;
        match body {
            TransferBody::Manifest { which } => match self.image(which) {
                Some(store) => TransferResponse::Manifest(store.manifest.clone()),
                None => refused(WireError::NotReady),
            },
            TransferBody::Page { blob, from } => match self.blob(&blob).and_then(|blob| page(&blob, from)) {
                Some(page) => TransferResponse::Page(page),
                None => refused(WireError::UnknownBlob),
            },
            TransferBody::Chunks { blob, indices } => {
                if indices.is_empty() || indices.len() > MAX_CHUNKS_PER_REQUEST {
                    return refused(WireError::BadRequest);
                }
                let Some(blob) = self.blob(&blob) else {
                    return refused(WireError::UnknownBlob);
                };
                working(move || chunks(&blob, &indices)).await
            }
            TransferBody::Round { number, inline } => {
                let Some(blob) = self.rounds.get(&number).cloned() else {
                    let passed = self
                        .rounds
                        .first_key_value()
                        .is_some_and(|(first, _)| number < *first);
                    return refused(if passed {
                        WireError::UnknownBlob
                    } else {
                        WireError::NotReady
                    });
                };
                let inline = if inline { SMALL_ROUND } else { 0 };
                working(move || RoundManifest::of(number, &blob, inline).map(TransferResponse::Round)).await
            }
            // Nothing of an attempt's: whoever serves it decides who may measure.
            TransferBody::Sample { .. } => refused(WireError::BadRequest),
        }
    }

    fn image(&self, which: WhichImage) -> Option<&Arc<LayerStore>> {
        match which {
            WhichImage::Base => self.base.as_ref(),
            WhichImage::Running => self.running.as_ref(),
            WhichImage::Final => self.last.as_ref(),
        }
    }

    fn blob(&self, blob: &BlobId) -> Option<Arc<Chunked>> {
        match blob {
            BlobId::Layer(diff_id) => [&self.last, &self.running, &self.base]
                .into_iter()
                .flatten()
                .find_map(|store| store.layers.get(diff_id).cloned()),
            BlobId::Round(number) => self.rounds.get(number).cloned(),
        }
    }
}

fn page(blob: &Chunked, from: u32) -> Option<Vec<Chunk>> {
    let rest = blob.chunks().get(from as usize..)?;
    (!rest.is_empty()).then(|| rest[..rest.len().min(CHUNKS_PER_PAGE)].to_vec())
}

fn chunks(blob: &Chunked, indices: &[u32]) -> io::Result<TransferResponse> {
    Ok(match blob.bytes(indices, MAX_BATCH) {
        Some(plain) => TransferResponse::Chunks(Batch::pack(plain?)),
        None => TransferResponse::Refused(WireError::UnknownBlob),
    })
}

/// Reads and compresses on a blocking thread.
async fn working(work: impl FnOnce() -> io::Result<TransferResponse> + Send + 'static) -> TransferResponse {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::warn!(%error, "what is offered to a destination can't be read");
            TransferResponse::Refused(WireError::Internal)
        }
        Err(_) => TransferResponse::Refused(WireError::Internal),
    }
}

//! The destination's side: a few requests in flight, every chunk verified before it is written.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt};

use super::manifest::{CHUNK_SIZE, ImageManifest, LayerManifest, ManifestError};
use super::wire::{ChunkData, TransferBody, TransferRequest, TransferResponse, WhichImage, WireError};
use crate::image::export::{hash_file, layer_path};
use crate::image::{Digest, Identity, LayerFile};

/// Chunks in one request.
const CHUNKS_PER_REQUEST: usize = 2;
/// Requests in flight: enough to fill a link of tens of milliseconds, few enough that relayed
/// requests and gossip on the same connection do not queue behind an image.
const IN_FLIGHT: usize = 3;

/// What came over the wire in a pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// The layers, verified, as files in the spool.
    pub layers: BTreeMap<Digest, LayerFile>,
    /// Bytes of the answers.
    pub wire_bytes: u64,
    /// Bytes of the layers themselves.
    pub layer_bytes: u64,
    /// Chunks that came.
    pub chunks: u64,
    /// Chunks that were here already, from an earlier attempt.
    pub chunks_reused: u64,
    /// Milliseconds it took.
    pub ms: u64,
}

/// Why a pull ended.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The request did not come back; the link or the peer.
    #[error("asking the source: {0}")]
    Fetch(#[source] Box<dyn StdError + Send + Sync>),
    /// The source says no.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// The source describes an impossible image. Its fault.
    #[error("the source's manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The source answers something else than was asked. Its fault.
    #[error("the source answered something else than was asked")]
    OtherAnswer,
    /// The source does not offer a layer that is lacking here.
    #[error("the source does not offer layer {0}, and it is not here")]
    NotOffered(Digest),
    /// A chunk is not what the manifest says. The source's fault.
    #[error("chunk {index} of layer {layer} is not what the source's manifest says")]
    WrongChunk {
        /// The layer.
        layer: Digest,
        /// The chunk.
        index: u32,
    },
    /// All chunks fit the manifest, but the layer is not the one that the config names. Its fault.
    #[error("layer {0} came whole and is not what its digest says")]
    WrongLayer(Digest),
    /// The spool.
    #[error("writing a layer into {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PullError {
    /// Whether the peer did what no honest one does.
    #[must_use]
    pub fn peer_fault(&self) -> bool {
        match self {
            Self::Manifest(_) | Self::OtherAnswer | Self::WrongChunk { .. } | Self::WrongLayer(_) => true,
            Self::Fetch(_) | Self::Refused(_) | Self::NotOffered(_) | Self::Io { .. } => false,
        }
    }
}

/// One attempt's pulls into one spool. `F` sends a request to the source and gives its answer.
pub struct Pull<'a, F> {
    attempt: [u8; 16],
    spool: &'a Path,
    fetch: F,
}

impl<'a, F, Fut, E> Pull<'a, F>
where
    F: Fn(TransferRequest) -> Fut + Sync,
    Fut: Future<Output = Result<TransferResponse, E>> + Send,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Pulls of that attempt, into a directory of its own.
    pub fn new(attempt: [u8; 16], spool: &'a Path, fetch: F) -> Self {
        Self {
            attempt,
            spool,
            fetch,
        }
    }

    /// Asks for an image's manifest and checks it. Gives its identity and the bytes it took.
    ///
    /// # Errors
    /// The source does not answer, refuses, or describes an impossible image.
    pub async fn manifest(&self, which: WhichImage) -> Result<(ImageManifest, Identity, u64), PullError> {
        let (answer, wire_bytes) = self.ask(TransferBody::Manifest { which }).await?;
        let TransferResponse::Manifest(manifest) = answer else {
            return Err(PullError::OtherAnswer);
        };
        let identity = manifest.validate()?;
        Ok((manifest, identity, wire_bytes))
    }

    /// Pulls those layers of a checked manifest that are lacking here. Dropping the future stops the
    /// pull; whole layers stay in the spool and are not asked for again.
    ///
    /// # Errors
    /// The first thing that goes wrong; [`PullError::peer_fault`] says whose fault it is.
    pub async fn layers(&self, manifest: &ImageManifest, lacking: &[Digest]) -> Result<Pulled, PullError> {
        let began = Instant::now();
        let mut pulled = Pulled::default();
        for diff_id in lacking {
            if !pulled.layers.contains_key(diff_id) {
                let layer = manifest.layer(diff_id).ok_or(PullError::NotOffered(*diff_id))?;
                let file = self.layer(layer, &mut pulled).await?;
                pulled.layer_bytes += file.size;
                pulled.layers.insert(*diff_id, file);
            }
        }
        pulled.ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(pulled)
    }

    async fn layer(&self, layer: &LayerManifest, pulled: &mut Pulled) -> Result<LayerFile, PullError> {
        let (diff_id, size) = (layer.diff_id, layer.size);
        let path = layer_path(self.spool, &diff_id);
        let count = LayerManifest::chunk_count(size);
        if self.is_here(&path, size, diff_id).await {
            pulled.chunks_reused += count;
            return Ok(LayerFile { path, size });
        }
        let hashes = Arc::new(self.hashes(layer, pulled).await?);
        let part = path.with_extension("part");
        let file = Arc::new(self.disk(&part, |part| {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(part)?;
            file.set_len(size).map(|()| file)
        })?);
        let count = u32::try_from(count).map_err(|_| ManifestError::LayerSize)?;
        let batches = (0..count).step_by(CHUNKS_PER_REQUEST).map(|from| {
            let to = count.min(from + CHUNKS_PER_REQUEST as u32);
            (from..to).collect::<Vec<_>>()
        });
        let mut answers = futures::stream::iter(batches)
            .map(|indices| async move {
                let body = TransferBody::Chunks {
                    layer: diff_id,
                    indices: indices.clone(),
                };
                self.ask(body).await.map(|answer| (indices, answer))
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((indices, (answer, wire_bytes))) = answers.try_next().await? {
            let TransferResponse::Chunks(chunks) = answer else {
                return Err(PullError::OtherAnswer);
            };
            if chunks.len() != indices.len() {
                return Err(PullError::OtherAnswer);
            }
            pulled.wire_bytes += wire_bytes;
            pulled.chunks += chunks.len() as u64;
            let (file, hashes) = (Arc::clone(&file), Arc::clone(&hashes));
            let written = blocking(move || {
                for (index, chunk) in indices.into_iter().zip(chunks) {
                    let wrong = PullError::WrongChunk {
                        layer: diff_id,
                        index,
                    };
                    let offset = u64::from(index) * CHUNK_SIZE as u64;
                    let len = LayerManifest::chunk_len(size, u64::from(index));
                    let bytes = open_chunk(chunk, len).ok_or(wrong)?;
                    if hashes.get(index as usize) != Some(blake3::hash(&bytes).as_bytes()) {
                        return Err(PullError::WrongChunk {
                            layer: diff_id,
                            index,
                        });
                    }
                    file.write_all_at(&bytes, offset).map_err(PullError::spool)?;
                }
                Ok(())
            });
            written.await.map_err(|error| error.at(&part))?;
        }
        drop(answers);
        let whole = part.clone();
        let found = blocking(move || hash_file(&whole).map_err(PullError::spool))
            .await
            .map_err(|error| error.at(&part))?;
        if found != diff_id {
            let _ = std::fs::remove_file(&part);
            return Err(PullError::WrongLayer(diff_id));
        }
        self.disk(&part, |part| std::fs::rename(part, &path))?;
        Ok(LayerFile { path, size })
    }

    /// A whole layer from an earlier attempt.
    async fn is_here(&self, path: &Path, size: u64, diff_id: Digest) -> bool {
        let path = path.to_owned();
        let same = blocking(move || {
            let here = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == size);
            Ok(here && hash_file(&path).is_ok_and(|found| found == diff_id))
        });
        same.await.unwrap_or(false)
    }

    /// The layer's chunk hashes: from the manifest, or page by page.
    async fn hashes(&self, layer: &LayerManifest, pulled: &mut Pulled) -> Result<Vec<[u8; 32]>, PullError> {
        let mut hashes = layer.chunks.clone();
        let count = LayerManifest::chunk_count(layer.size);
        while (hashes.len() as u64) < count {
            let from = u32::try_from(hashes.len()).map_err(|_| ManifestError::LayerSize)?;
            let (answer, wire_bytes) = self
                .ask(TransferBody::Hashes {
                    layer: layer.diff_id,
                    from,
                })
                .await?;
            let TransferResponse::Hashes(page) = answer else {
                return Err(PullError::OtherAnswer);
            };
            if page.is_empty() || (hashes.len() + page.len()) as u64 > count {
                return Err(ManifestError::Chunks.into());
            }
            pulled.wire_bytes += wire_bytes;
            hashes.extend(page);
        }
        Ok(hashes)
    }

    async fn ask(&self, body: TransferBody) -> Result<(TransferResponse, u64), PullError> {
        let request = TransferRequest {
            attempt: self.attempt,
            body,
        };
        let answer = (self.fetch)(request)
            .await
            .map_err(|error| PullError::Fetch(error.into()))?;
        let wire_bytes = answer.wire_len();
        match answer {
            TransferResponse::Refused(why) => Err(why.into()),
            answer => Ok((answer, wire_bytes)),
        }
    }

    fn disk<T>(&self, path: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, PullError> {
        work(path).map_err(|source| PullError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

impl PullError {
    fn spool(source: io::Error) -> Self {
        Self::Io {
            path: PathBuf::new(),
            source,
        }
    }

    /// Names the file where a thread could not.
    fn at(self, file: &Path) -> Self {
        match self {
            Self::Io { source, .. } => Self::Io {
                path: file.to_owned(),
                source,
            },
            other => other,
        }
    }
}

/// The chunk's plain bytes, if there are exactly as many as there must be. Never makes more room
/// than that, whatever the frame claims.
fn open_chunk(chunk: ChunkData, len: usize) -> Option<Vec<u8>> {
    let bytes = if chunk.zstd {
        zstd::bulk::decompress(&chunk.bytes, len).ok()?
    } else {
        chunk.bytes
    };
    (bytes.len() == len).then_some(bytes)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(PullError::spool(io::Error::other(
            "the writing thread was broken off",
        ))),
    }
}

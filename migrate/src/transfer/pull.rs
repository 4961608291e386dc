//! The destination's side: asks for what is not here, verifies each chunk, gives it on in order.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::chunk::{self, Chunk, ChunkListError};
use super::manifest::{ImageManifest, LayerManifest, ManifestError, RoundManifest};
use super::pack::Pack;
use super::window::Window;
use super::wire::{
    BlobId, CHUNKS_PER_PAGE, TransferBody, TransferRequest, TransferResponse, WhichImage, WireError,
};
use crate::image::export::{Part, Pieces, hash_file, hash_into, layer_path};
use crate::image::{Digest, Identity, LayerFile};

mod blob;
mod plan;

/// Pieces of a layer between the pull and its file; when full, the pull waits.
const PIECES: usize = 8;

/// So much of the seeds, in bytes, is looked through before anything is asked for, and the rest beside the
/// pull: most of what is to be found is in the first, and a link does not wait for a disk that holds
/// many images.
pub const SEEDS_FIRST: u64 = 64 << 20;

/// Gives readers of what is here anyway and may hold wanted chunks, the most promising first.
pub type Seeds = Box<dyn Iterator<Item = Box<dyn Read + Send>> + Send>;

/// What a pull took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of the blobs.
    pub bytes: u64,
    /// Bytes of the answers.
    pub wire_bytes: u64,
    /// Chunks that came.
    pub chunks: u64,
    /// Bytes of those chunks, uncompressed.
    pub chunk_bytes: u64,
    /// Chunks that were here already, from an earlier attempt, another blob or a seed.
    pub reused: u64,
    /// Chunks that were nothing but zeros.
    pub zero: u64,
    /// How long it took.
    pub time: Duration,
}

impl Figures {
    /// Bytes of blobs per second; `None` when there is no time to tell.
    #[must_use]
    pub fn goodput(&self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (seconds > 0.0).then(|| self.bytes as f64 / seconds)
    }

    /// Adds those of another pull.
    pub fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.wire_bytes += other.wire_bytes;
        self.chunks += other.chunks;
        self.chunk_bytes += other.chunk_bytes;
        self.reused += other.reused;
        self.zero += other.zero;
        self.time += other.time;
    }
}

/// The layers of a pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// The layers, verified, as files in the spool.
    pub layers: BTreeMap<Digest, LayerFile>,
    /// What they took.
    pub figures: Figures,
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
    /// The source describes an impossible image or round. Its fault.
    #[error("the source's manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The source answers something else than was asked. Its fault.
    #[error("the source answered something else than was asked")]
    OtherAnswer,
    /// The source does not offer a layer that is lacking here.
    #[error("the source does not offer layer {0}, and it is not here")]
    NotOffered(Digest),
    /// Chunks are not what the manifest says. The source's fault.
    #[error("chunk {index} of {blob:?} is not what the source's manifest says")]
    WrongChunk {
        /// The blob.
        blob: BlobId,
        /// The chunk, or the first of those that came together.
        index: u32,
    },
    /// All chunks fit the manifest, but the layer is not the one that the config names. Its fault.
    #[error("layer {0} came whole and is not what its digest says")]
    WrongLayer(Digest),
    /// Whoever takes the bytes has gone.
    #[error("what is pulled is not taken any more")]
    Sink,
    /// The spool.
    #[error("writing what is pulled into {}: {source}", path.display())]
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
            Self::Fetch(_) | Self::Refused(_) | Self::NotOffered(_) | Self::Sink | Self::Io { .. } => false,
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

impl From<ChunkListError> for PullError {
    fn from(error: ChunkListError) -> Self {
        Self::Manifest(error.into())
    }
}

/// One attempt's pulls from one source. `F` sends a request to it and gives its answer.
///
/// One blob at a time: a second one waits. What is known of the link is kept from blob to blob.
pub struct Pull<F> {
    attempt: [u8; 16],
    spool: PathBuf,
    pack: Arc<Pack>,
    window: Mutex<Window>,
    fetch: F,
}

impl<F, Fut, E> Pull<F>
where
    F: Fn(TransferRequest) -> Fut + Sync,
    Fut: Future<Output = Result<TransferResponse, E>> + Send,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Pulls of that attempt. Layers go into the folder `spool`; chunks are kept in `pack`, which may be
    /// that of an earlier attempt.
    pub fn new(attempt: [u8; 16], spool: &Path, pack: Arc<Pack>, fetch: F) -> Self {
        Self {
            attempt,
            spool: spool.to_owned(),
            pack,
            window: Mutex::new(Window::new(Instant::now(), None)),
            fetch,
        }
    }

    /// Takes no more than that many bytes per second off the link.
    #[must_use]
    pub fn capped(mut self, bytes_per_second: u64) -> Self {
        self.window = Mutex::new(Window::new(Instant::now(), Some(bytes_per_second)));
        self
    }

    /// What is known of the link's round trip from elsewhere: a question to a source that has work to do for it tells none.
    #[must_use]
    pub fn over(mut self, round_trip: Duration) -> Self {
        self.window.get_mut().small(round_trip, 0);
        self
    }

    /// Asks for an image's manifest and checks it. Gives its identity and the bytes it took.
    ///
    /// # Errors
    /// The source does not answer, refuses, or describes an impossible image.
    pub async fn manifest(&self, which: WhichImage) -> Result<(ImageManifest, Identity, u64), PullError> {
        let (answer, wire_bytes) = self.ask_small(TransferBody::Manifest { which }).await?;
        let TransferResponse::Manifest(manifest) = answer else {
            return Err(PullError::OtherAnswer);
        };
        let identity = manifest.validate()?;
        Ok((manifest, identity, wire_bytes))
    }

    /// Asks for a round's description and checks it; with `inline` its bytes come along if they are few.
    ///
    /// # Errors
    /// The source does not answer, refuses, or describes an impossible round.
    pub async fn round(&self, number: u32, inline: bool) -> Result<RoundManifest, PullError> {
        // The source looks through its files before it answers: that tells nothing of the link.
        let (answer, _) = self.ask(TransferBody::Round { number, inline }).await?;
        let TransferResponse::Round(round) = answer else {
            return Err(PullError::OtherAnswer);
        };
        if round.number != number {
            return Err(PullError::OtherAnswer);
        }
        round.validate()?;
        Ok(round)
    }

    /// Pulls a round's bytes into `sink`, in order, from the first to the last. The description may have
    /// come with another message as well; it is checked here. `sink` is closed at the end, and earlier
    /// when the pull fails: the stream must tell its own end.
    ///
    /// # Errors
    /// As [`blob`](Self::blob).
    pub async fn stream(
        &self,
        round: RoundManifest,
        sink: mpsc::Sender<Bytes>,
    ) -> Result<Figures, PullError> {
        let began = Instant::now();
        round.validate()?;
        let mut figures = Figures {
            wire_bytes: round.wire_len() as u64,
            ..Figures::default()
        };
        let blob = BlobId::Round(round.number);
        let (chunks, paged) = self.list(blob, round.size, round.chunks).await?;
        if chunk::root(&chunks) != round.root {
            return Err(ChunkListError::Root.into());
        }
        figures.wire_bytes += paged;
        let came = match round.whole {
            Some(batch) => {
                let indices = (0..).zip(&chunks).filter(|(_, chunk)| !chunk.is_zero());
                let indices: Vec<u32> = indices.map(|(index, _)| index).collect();
                blob::open(&self.pack, blob, &chunks, indices, batch).await?
            }
            None => Vec::new(),
        };
        figures.add(&self.run(blob, &chunks, came, sink).await?);
        figures.time = began.elapsed();
        Ok(figures)
    }

    /// Pulls a blob's chunks that are not here, and gives all its bytes to `sink` in order while they
    /// come. Dropping the future stops the pull; verified chunks stay in the pack.
    ///
    /// # Errors
    /// The first thing that goes wrong; [`PullError::peer_fault`] says whose fault it is.
    pub async fn blob(
        &self,
        blob: BlobId,
        chunks: &[Chunk],
        sink: mpsc::Sender<Bytes>,
    ) -> Result<Figures, PullError> {
        self.run(blob, chunks, Vec::new(), sink).await
    }

    /// Pulls those layers of a checked manifest that are lacking here. Dropping the future stops the
    /// pull; whole layers stay in the spool, and verified chunks in the pack. Their chunks are looked for in
    /// `seeds`, of which the first [`SEEDS_FIRST`] bytes are read before anything is asked for; that costs
    /// time, so there are none for what a cut waits for.
    ///
    /// # Errors
    /// The first thing that goes wrong; [`PullError::peer_fault`] says whose fault it is.
    pub async fn layers(
        &self,
        manifest: &ImageManifest,
        lacking: &[Digest],
        seeds: Option<Seeds>,
    ) -> Result<Pulled, PullError> {
        let began = Instant::now();
        let mut pulled = Pulled::default();
        let mut wanted: Vec<(&LayerManifest, Vec<Chunk>)> = Vec::new();
        for diff_id in lacking {
            let known = wanted.iter().any(|(layer, _)| layer.diff_id == *diff_id);
            if known || pulled.layers.contains_key(diff_id) {
                continue;
            }
            let layer = manifest.layer(diff_id).ok_or(PullError::NotOffered(*diff_id))?;
            if let Some(file) = self.here(layer).await {
                pulled.figures.reused += layer.chunks.len() as u64;
                pulled.figures.bytes += file.size;
                pulled.layers.insert(*diff_id, file);
                continue;
            }
            let blob = BlobId::Layer(*diff_id);
            let (chunks, paged) = self.list(blob, layer.size, layer.chunks.clone()).await?;
            pulled.figures.wire_bytes += paged;
            wanted.push((layer, chunks));
        }
        let _looking = match seeds {
            Some(seeds) => {
                let chunks = wanted.iter().flat_map(|(_, chunks)| chunks);
                Some(self.seed(chunks, seeds).await)
            }
            None => None,
        };
        for (layer, chunks) in wanted {
            let file = self.layer(layer.diff_id, &chunks, &mut pulled.figures).await?;
            pulled.layers.insert(layer.diff_id, file);
        }
        pulled.figures.time = began.elapsed();
        Ok(pulled)
    }

    async fn layer(
        &self,
        diff_id: Digest,
        chunks: &[Chunk],
        figures: &mut Figures,
    ) -> Result<LayerFile, PullError> {
        let (sink, pieces) = mpsc::channel(PIECES);
        let spool = self.spool.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut part = Part::create(&spool)?;
            let (found, size) = hash_into(Pieces::new(pieces), Some(&mut part.file))?;
            if found != diff_id {
                return Ok(None);
            }
            let path = part.persist(&layer_path(&spool, &diff_id))?;
            Ok(Some(LayerFile { path, size }))
        });
        let took = self.blob(BlobId::Layer(diff_id), chunks, sink).await;
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        // A full disk closes the sink: it is the reason then.
        let file = written.map_err(|source| PullError::io(&self.spool, source))?;
        figures.add(&took?);
        file.ok_or(PullError::WrongLayer(diff_id))
    }

    /// A whole layer from an earlier attempt.
    async fn here(&self, layer: &LayerManifest) -> Option<LayerFile> {
        let (path, size, diff_id) = (layer_path(&self.spool, &layer.diff_id), layer.size, layer.diff_id);
        let look = move || {
            let here = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == size);
            (here && hash_file(&path).is_ok_and(|found| found == diff_id)).then_some(LayerFile { path, size })
        };
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }

    /// Looks for chunks in the seeds, on a thread of its own, as long as what is returned is kept. Waits
    /// for the first of them.
    async fn seed(&self, wanted: impl Iterator<Item = &Chunk>, seeds: Seeds) -> Arc<()> {
        let wanted: Vec<Chunk> = wanted.copied().collect();
        let pack = Arc::clone(&self.pack);
        let kept = Arc::new(());
        let still = Arc::downgrade(&kept);
        let (tell, first) = oneshot::channel();
        let (mut tell, mut since) = (Some(tell), Instant::now());
        tokio::task::spawn_blocking(move || {
            let go_on = |looked| {
                if looked >= SEEDS_FIRST {
                    // Whoever waits for the first of them hears it by this end's going.
                    drop(tell.take());
                    // Half of the time is left to the pull, and to those who are served here.
                    rest(since.elapsed());
                }
                since = Instant::now();
                still.strong_count() > 0
            };
            match pack.seed(&wanted, seeds, go_on) {
                Ok(found) => tracing::debug!(found, "chunks found in what is here"),
                // The pull writes to the same place and says it.
                Err(error) => tracing::debug!(%error, "the seeds were not looked through"),
            }
        });
        let _: Result<(), _> = first.await;
        kept
    }

    /// A blob's list of chunks, whose beginning is known, and the bytes that the rest took.
    async fn list(
        &self,
        blob: BlobId,
        size: u64,
        mut chunks: Vec<Chunk>,
    ) -> Result<(Vec<Chunk>, u64), PullError> {
        let mut wire_bytes = 0;
        let mut covered: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        while covered < size {
            let from = u32::try_from(chunks.len()).map_err(|_| ChunkListError::Size)?;
            let (answer, wire) = self.ask(TransferBody::Page { blob, from }).await?;
            let TransferResponse::Page(page) = answer else {
                return Err(PullError::OtherAnswer);
            };
            if page.is_empty() || page.len() > CHUNKS_PER_PAGE {
                return Err(ChunkListError::Cover.into());
            }
            chunk::check(size - covered, &page, false)?;
            wire_bytes += wire;
            covered += page.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
            chunks.extend(page);
        }
        chunk::check(size, &chunks, true)?;
        Ok((chunks, wire_bytes))
    }

    /// Asks something whose answer tells the link's round trip.
    async fn ask_small(&self, body: TransferBody) -> Result<(TransferResponse, u64), PullError> {
        let asked = Instant::now();
        let answer = self.ask(body).await?;
        if let Ok(mut window) = self.window.try_lock() {
            window.small(asked.elapsed(), answer.1);
        }
        Ok(answer)
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
}

#[expect(
    clippy::disallowed_methods,
    reason = "a blocking thread that gives its processor to others; nothing will happen that it could wait for"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

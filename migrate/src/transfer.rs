//! Bytes over request-response: the destination pulls, chunk by verified chunk.
//!
//! ```text
//! destination                                         source
//!   Manifest{which} | Round{number}  ────────────▶    AttemptStores: layers and rounds on disk,
//!   chunks: (BLAKE3, length)         ◀────────────    each a blob cut by its content (Chunked)
//!   zeros, and what Pack or seeds hold: not asked for
//!   Chunks{blob, indices}            ────────────▶    read, compress together (Batch)
//!   Batch                            ◀────────────
//!   BLAKE3 of each ─▶ Pack ─▶ sink, in order          how much is on its way: Window
//! ```
//!
//! Image layers and the rounds of the live method move alike: both are blobs. What was verified once is
//! kept in the session's [`Pack`], so a cut, a restart of either node or another attempt costs no more
//! than what was on its way. A wrong chunk is the source's fault and ends the pull; a lost answer is
//! retried by whoever started the pull.

mod batch;
pub mod chunk;
pub mod manifest;
mod pack;
pub mod pull;
pub mod sample;
pub mod serve;
pub mod window;
pub mod wire;

pub use batch::{Batch, BatchError};
pub use chunk::{Chunk, ChunkListError, Chunked, MAX_BLOB, MAX_CHUNK, MIN_CHUNK};
pub use manifest::{ImageManifest, LayerManifest, ManifestError, RoundManifest};
pub use pack::Pack;
pub use pull::{Figures, Pull, PullError, Pulled, SEEDS_FIRST, Seeds};
pub use serve::{AttemptStores, LayerStore, ServeError};
pub use window::Window;
pub use wire::{BlobId, TransferBody, TransferRequest, TransferResponse, WhichImage, WireError};

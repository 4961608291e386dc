//! Image layers over request-response: the destination pulls, chunk by verified chunk.
//!
//! ```text
//! destination                                    source
//!   Manifest{which}           ───────────────▶   LayerStore (exported layers on disk)
//!   ImageManifest{config, diffIDs, chunks}  ◀──
//!   Chunks{layer, indices}    ───────────────▶   read, compress
//!   [ChunkData]               ◀───────────────
//!   BLAKE3 of each, SHA-256 of the whole layer == diffID
//! ```
//!
//! A wrong chunk is the source's fault and ends the pull; a lost answer is retried by whoever
//! started the pull. Only layers that the destination lacks are asked for.

pub mod manifest;
pub mod pull;
pub mod serve;
pub mod wire;

pub use manifest::{CHUNK_SIZE, ImageManifest, LayerManifest, ManifestError};
pub use pull::{Pull, PullError, Pulled};
pub use serve::{AttemptStores, LayerStore, ServeError};
pub use wire::{ChunkData, TransferBody, TransferRequest, TransferResponse, WhichImage, WireError};

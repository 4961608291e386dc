//! Image bytes in and out of an engine, and what makes two images the same.
//!
//! [`identity`] says what an image is; [`mod@export`] streams one out of an engine and keeps the layers
//! that are wanted, and [`store`] reads them from the engine's store where it can ([`tarsplit`] puts one
//! layer together from that store's files); [`tarball`] writes a tar with only the missing layers that
//! every engine takes; [`mod@load`] gives it to an engine and believes only what the engine shows
//! afterwards.

pub mod export;
pub mod identity;
pub mod load;
pub mod store;
pub mod tarball;
pub mod tarsplit;

pub use export::{ExportError, Exported, LayerFile, Wanted, export};
pub use identity::{Digest, Held, Identity, chain_ids, live_root, manifest_root};
pub use load::{LoadError, load};
pub use store::{LayerSource, export_layers};
pub use tarball::{SparseImage, SparseLayer};

//! Image bytes in and out of an engine, and what makes two images the same.
//!
//! [`identity`] says what an image is; [`mod@export`] streams one out of an engine and keeps the layers
//! that are wanted; [`tarball`] writes a tar with only the missing layers that every engine takes;
//! [`mod@load`] gives it to an engine and believes only what the engine shows afterwards.

pub mod export;
pub mod identity;
pub mod load;
pub mod tarball;

pub use export::{ExportError, Exported, LayerFile, Wanted, export};
pub use identity::{Digest, Held, Identity, manifest_root};
pub use load::{LoadError, load};
pub use tarball::{SparseImage, SparseLayer};

//! What changed in a container's writable layer, as a stream, and that stream applied elsewhere.
//!
//! The source reads the upper directory of the container's overlay ([`Tracker`]), the destination
//! writes through the merged root of a container that waits at its gate ([`apply`]), so that the
//! overlay there makes its own whiteouts. Both ends start from the same lower layers. Nothing in
//! here knows an engine, a network or a runtime.
//!
//! ```text
//!   upper directory ──scan──▶ what is found, what is gone ──┐
//!                                ▲ Model: what was sent     ├─▶ operations ─▶ stream ─▶ apply ─▶ merged root
//!                                └──────── updated ◀────────┘
//! ```
//!
//! A round may send what is out of date a moment later; it never claims more than it sent. A file
//! counts as unchanged only while (inode, size, ctime, mtime) equal what was seen before *and* after
//! its content was read. The last pass, after the container's first process has exited, also
//! compares what such a stamp cannot vouch for: files read within two seconds of their last change
//! (timestamps are coarse), files that were mapped writable (a store moves no timestamp), and
//! everything if the wall clock jumped.
//!
//! A container's volumes are roots of their own beside its layer: plain directories, in which an absence is a deletion.
//! A stream says which root its operations are for, and its first word to a volume empties what the engine there has
//! put into it.
//!
//! What does not cross: `/.blosm`, empty `/.dockerenv` and `/etc/{hosts,hostname,resolv.conf}`, extended
//! attributes other than `user.*`, `security.capability` and access control lists, and inode flags.

mod apply;
mod beneath;
mod clock;
mod content;
mod emit;
mod error;
mod meta;
mod model;
mod op;
mod path;
mod scan;
mod stream;
mod sync;
mod tracker;
mod volume;

#[cfg(test)]
mod tests;

pub use apply::{ApplyFigures, apply};
pub use clock::Stamp;
pub use error::{ApplyError, LayerError};
pub use sync::{SyncFigures, Touched, sync};
pub use tracker::{RoundFigures, Tracker};
pub use volume::{MAX_VOLUMES, Volume};

//! The layer helper: a small root process with a closed set of requests, so that the node needs no rights of its own.
//!
//! ```text
//!   node (no rights)                                     helper (root)
//!   Helper ──▶ SourceLayer ── Unix socket, one per ──▶ a thread: pidfd, upper directory, layer::Tracker
//!          └─▶ GatedRoot      container; closing it  ─▶ a thread: pidfd, root of the gated process, layer::apply
//!                             ends it
//! ```
//!
//! What the node may ask is exactly [`Request`]. A container has to carry the labels of a session, the kernel's own facts
//! decide about the rest: which process it is, where its writable layer lies, whether it still waits at its gate. Files
//! and directories never cross as paths, only as descriptors of what the helper itself opened. Which volumes it takes up
//! is not the node's to say either: those that the container's image declares, if the directory that the container sees
//! there is the one that the engine keeps for it alone.
//!
//! The helper takes no rights from the node's word: with the socket of a container engine a node could have everything
//! anyway, but a hole in the node's own code does not reach the host's files from here.

mod client;
mod frame;
mod protocol;
mod server;
mod store;

pub use client::{GatedRoot, Helper, HelperError, Round, SourceLayer};
pub use protocol::{
    ApplyFigures, ContainerId, Facts, Gated, MAX_FRAME, Marker, NotAnId, Refusal, Reply, Request,
    RoundFigures, SourceFacts, VERSION,
};
pub use server::{ServeError, Server, Settings, keep_needed_rights, keep_rights};

//! # blosm-migrate: how a container is judged, moved and run
//!
//! This crate owns everything between "a session should run here" and "its container answers":
//! what a service is ([`service`]), whether this node can take it ([`mod@evaluate`], [`placement`]),
//! what the machine has ([`resources`]), what runs containers ([`engine`], [`docker`]), what is built from a
//! declaration ([`recreate`]), image bytes in and out of the engine ([`image`]), a running container's
//! writable layer ([`layer`]) and the way of both over the wire ([`transfer`]).
//!
//! It does not own: connections and peers (it is handed a `fetch` function and answers typed
//! requests), the chain (it reads types of `blosm-ledger` and writes none), HTTP and tokens.
//! The node calls it; it calls nobody but the engine and the kernel.
//!
//! ```text
//!            Declaration ──validate──▶ Service ──┬─▶ evaluate(Metadata, Service, SystemView) ─▶ Verdict
//!                                                ├─▶ Bookings::book            (room here?)
//!                                                └─▶ ContainerSpec::build      (what to run)
//!
//!   source                                                        destination
//!   Docker::stop (exit seen) ─▶ commit ─▶ export ─▶ LayerStore    Pull ─▶ tarball ─▶ load ─▶ check
//!                                                      ▲ answer     │ fetch
//!                                                      └── wire ────┘
//! ```
//!
//! Invariants that hold everywhere in here:
//! * Nothing of a container's description is taken from a peer: both ends build it from their own
//!   declaration and the pinned base, and a committed image whose config says otherwise is refused.
//! * An image is told by (config digest, ordered diffIDs), never by the engine's id of it.
//! * A stop succeeds only when the exit of the container's first process was seen.
//! * What a peer sends is bounded before it is decoded, and each chunk is verified as it comes.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod docker;
pub mod engine;
pub mod evaluate;
pub mod gate;
pub mod helper;
pub mod image;
pub mod layer;
pub mod placement;
pub mod precopy;
pub mod recreate;
pub mod resources;
pub mod service;
pub mod session;
pub mod sim;
pub mod transfer;

pub use docker::Docker;
pub use engine::Engine;
pub use evaluate::{SystemView, evaluate};
pub use image::Digest;
pub use image::Identity;
pub use recreate::ContainerSpec;
pub use service::{Declaration, Service};

//! What cars talk to: finds the session of a request, and the container or the node that answers it.
//!
//! ```text
//!  HTTP ──http──> ServiceRequest ──serve──> Gate ──forward──> container on this engine's bridge
//!                      ^              │
//!  /relay/1 ───────────┘              └──relay──> the node that owns the session, or has room
//! ```
//! It decides nothing about who owns a session; it asks [`crate::sessions`] and obeys the gate.

mod forward;
mod gate;
mod http;
mod recent;
mod relay;
mod request;
mod reserved;
mod serve;

pub(crate) use forward::container_client;
pub(crate) use gate::{Gate, Route};
pub(crate) use http::serve_http;
pub(crate) use recent::Recent;
pub(crate) use request::Denied;
pub(crate) use serve::Gateway;

//! The harness itself: the demo's service as a plain process, hosts, links and what is left of them, and networks of plain
//! `blosm` processes. Needs root, as hosts do.

#![allow(clippy::unwrap_used)]

mod hosts;
mod local;
mod oracle;
mod scenario;
mod service;
mod usage;

//! The harness itself, without `blosm`: the demo's service as a plain process, hosts, links and what is left of them.
//! Needs root, as the harness does.

#![allow(clippy::unwrap_used)]

mod hosts;
mod service;

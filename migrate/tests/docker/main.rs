//! Tests against real, private engines. Where none can be started they fail with the reason.

#![allow(clippy::unwrap_used, missing_docs)]

mod containers;
mod engine;
mod frames;
mod gate;
mod helper;
mod images;
mod service;
mod volumes;

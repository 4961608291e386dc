//! Ten real nodes in network namespaces, without engines: what the ledger and the swarm do when links are cut.
//!
//! Needs root. The tests share the machine's two cores, so they run one after another (RUST_TEST_THREADS=1).

#![allow(clippy::unwrap_used)]

mod clocks;
mod page;
mod partitions;
mod road;

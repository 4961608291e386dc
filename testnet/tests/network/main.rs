//! Real nodes in network namespaces, without engines: what the ledger and the swarm do when links are cut, nodes move or
//! hide, and members are off.
//!
//! Needs root. The tests share the machine's two cores, so they run one after another (RUST_TEST_THREADS=1).

#![allow(clippy::unwrap_used)]

mod clocks;
mod found;
mod link;
mod page;
mod partitions;
mod ride;
mod road;
mod scenario;
mod tenths;
mod typed;
mod versions;

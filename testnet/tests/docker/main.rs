//! Real engines on hosts of a testnet: first the harness by itself, then real nodes and what happens when they die.
//!
//! Needs root, dockerd and containerd; without them a test fails and says so. The tests share the machine's two
//! cores, so they run one after another (RUST_TEST_THREADS=1).

#![allow(clippy::unwrap_used)]

mod client;
mod faults;
mod machine;
mod refusals;
mod restarts;
mod scenario;

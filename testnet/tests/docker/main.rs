//! Real engines on hosts of a testnet: first the harness by itself, then real nodes and what happens when they die.
//!
//! Needs root, dockerd and containerd; without them a test fails and says so. The tests share the machine's two
//! cores, so they run one after another (RUST_TEST_THREADS=1).

#![allow(clippy::unwrap_used)]

mod bench;
mod client;
mod confirmed;
mod disk;
mod drain;
mod fault_table;
mod faults;
mod interrupted;
mod links;
mod machine;
mod methods;
mod moves;
mod recreated;
mod refusals;
mod restarts;
mod scenario;
mod state;
mod tools;
mod volumes;

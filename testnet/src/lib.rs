#![cfg_attr(test, allow(clippy::unwrap_used))]
//! Networks of real `blosm` nodes on one machine, for the demo, the tests and anyone who wants to try.
//!
//! This crate owns the hosts (network namespaces, shaped links, a private engine each), the processes on them, the
//! cars that drive past them, and the demo's service and image. It does not own any of what it drives: nodes are the
//! `blosm` binary, started and spoken to as an operator would (its commands, its configuration file, its local API),
//! so this crate depends on no other room. Whatever it finds out about containers it asks the kernel or the engine,
//! never the ledger, whose word is what the tests are about.
//!
//! ```text
//! cli, demo, bench, ─> Testnet ──> hosts::Road     namespaces, veth, tbf; cut and heal; a relay for delay and loss
//! tests  │                │  ├───> Engine          containerd + dockerd of one host; kill -9, restart
//!        │                │  ├───> Node            blosm network new | init | admit | run
//!        │                │  ├───> image           the service (service/counter.rs) as an image; save, load
//!        │                │  └───> State           DIR/testnet.json: any command works from any process
//!        │                └──────> cleanup, sweep  takes everything away, by what the kernel shows
//!        ├──> fleet, car::Car      numbered requests, open loop, to the nearest node, along a route
//!        ├──> scenario, oracle     faults on a timeline; who answered whom, told to a process outside all nodes
//!        ├──> reports, events      what the nodes say of their migrations
//!        ├──> monitor              the system's Prometheus and Grafana beside it; dashboards asks what they would
//!        └──> instances,           which containers really run; what the service itself wrote
//!             service_log
//! ```
//! `drive` sends a fleet over a testnet that runs, `run` makes one for a scenario and takes it away again.
//! Called by `make demo`, by the fault scenarios in `tests/docker`, and by people.

pub mod api;
pub mod bench;
pub mod car;
pub mod cleanup;
pub mod cli;
pub mod client;
pub mod config;
pub mod dashboards;
pub mod demo;
pub mod drive;
pub mod engine;
pub mod events;
pub mod fleet;
pub mod goodput;
pub mod hosts;
pub mod image;
pub mod instances;
pub mod monitor;
pub mod node;
pub mod offers;
pub mod oracle;
pub mod ports;
pub mod process;
pub mod reports;
pub mod road;
pub mod route;
pub mod scenario;
pub mod service_log;
pub mod shell;
pub mod state;
pub mod status;
pub mod sweep;
mod teller;
pub mod testnet;
pub mod web;
pub mod witness;

pub use testnet::{HostSpec, Spec, Testnet};

//! One roadside node: the `blosm` command and the daemon behind it.
//!
//! This crate joins the other three. `blosm-net` moves bytes, `blosm-ledger` checks and stores blocks, `blosm-migrate`
//! judges, moves and starts containers; here is who may do what, and when.
//!
//! ```text
//!   cars ──HTTP──> gateway ──────────────> sessions ──> engine (containers)
//!                     ^                       │  ^
//!   operator ──> api ─┼───────────────────────┤  │ ChainView
//!                     │ relay, session,       v  │
//!   peers <──> net ─ router ─ ledger ─────> chain (ledger task, sealer or follower)
//! ```
//!
//! - [`config`]: what an operator writes, checked once. [`cli`]: the commands.
//! - [`chain`]: the ledger task. [`sessions`]: ownership, hand-overs, containers. `gateway`: requests of cars.
//! - [`admission`]: how a node becomes a member. [`api`], [`metrics`]: what operators see. [`run`]: start and end of all of it.
//!
//! Invariants that the rest relies on: only a session's own task starts, stops, gives or takes its container; nothing of a
//! `HandOver` leaves the process before the journal has it; the gateway never answers for a session while its gate is held.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
pub mod api;
pub mod chain;
pub mod cli;
mod code;
pub mod config;
mod durable;
mod gateway;
pub mod metrics;
mod parts;
mod router;
pub mod run;
pub mod sessions;

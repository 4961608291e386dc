//! Real swarms on loopback. Every wait is for an event, with a generous limit.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod crowds;
mod discovery;
mod exchange;
mod gossip;
mod harness;
mod hostile;
mod links;
mod members;
mod raw;
mod traps;

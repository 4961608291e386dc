//! Scenarios: a road, its cars and what goes wrong on it, in a file; and what has to hold in the end.
//!
//! ```text
//! road.toml --file--> Scenario --plan, seed--> Plan: a route for each car, events on a timeline
//!                                                |
//!      Testnet (a namespace for each node) <--run+--> Fleet of cars, Oracle (a process of its own)
//!                                                |
//!                                     OUT/: the oracle's records, plan, logs, summary
//! ```
//! The same seed gives the same plan. It does not give the same run: processes, links and disks are real.

mod file;
mod plan;
mod random;
mod run;
mod strike;
mod summary;

pub use run::{Run, run};

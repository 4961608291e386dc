//! Many nodes in virtual time: the pure cores of sessions and ledger, driven through crashes, cuts and lies by a seed.
//!
//! ```text
//!   seed ──> Plan: nodes, links, disks, engines, cars, faults
//!              │
//!   cars ──> gateway ──> Gate ──> Container ──────────────┐ starts, exits, answers
//!              │                     ^                    v
//!            Task ──> Keeper, Source, Record       Checks: knows all, tells nobody
//!              │  └─> journal bytes on a disk that forgets what was not synced
//!            Chain, State: sealed by the authority, imported by the rest
//! ```
//!
//! **The same code as in production**: [`blosm_migrate::session`] whole but for the file (`Keeper`, `Source`, `Record`,
//! `adopt`, `newest_owner`, `turn`, `facts`, `proven_owner`, `overtaken`, `fate`, the journal's bytes), and of
//! `blosm_ledger` `Chain`, `State`, tokens, transactions, blocks and all their signatures.
//!
//! **Modelled here**, after the files of `blosm-node` that the comments name: the order in which a session's task, an
//! attempt, the gateway and the submitter do what was decided; network, engine, disk, layers and their transfer. What
//! the simulation says of these is worth as much as the likeness, and the tests with real processes are there for it.
//! Not here: stateless services, required confirmations, rooms and budgets, the database of the chain.
//!
//! | file | what |
//! |---|---|
//! | `exec.rs` | tasks and time |
//! | `world.rs`, `plan.rs` | one run: what there is, what happens in it |
//! | `links.rs`, `disk.rs`, `engine.rs`, `ledger.rs` | what a node stands on |
//! | `node.rs`, `task.rs`, `task/`, `attempt.rs`, `gateway.rs` | a node |
//! | `car.rs`, `faults.rs`, `liar.rs`, `thief.rs` | who makes it hard |
//! | `checks.rs` | what must hold |
//! | `runs.rs` | many seeds, and the trace of the one that fails |

#![allow(clippy::unwrap_used, missing_docs)]

mod attempt;
mod car;
mod checks;
mod disk;
mod engine;
mod exec;
mod faults;
mod gateway;
mod ledger;
mod liar;
mod links;
mod node;
mod plan;
mod runs;
mod task;
mod thief;
mod watched;
mod wire;
mod world;

use plan::Broken;
use runs::{Sweep, sweep};

/// Runs in `make test`; `make soak` says how many by `SIM_RUNS`, and from which seed by `SIM_SEED`.
const RUNS: u64 = 600;
/// A broken rule has to be found within as many runs.
const BROKEN_RUNS: u64 = 400;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, found {value:?}")),
    )
}

#[test]
fn no_rule_is_broken_whatever_happens() {
    let (first, runs) = (
        number("SIM_SEED").unwrap_or(1),
        number("SIM_RUNS").unwrap_or(RUNS),
    );
    let Sweep { failed, figures } = sweep(first, runs, Broken::No);
    println!("{figures}");
    if let Some(failed) = failed {
        panic!("{failed}");
    }
    // A few runs that repeat one need not show everything.
    assert!(
        runs < RUNS || figures.shows_something(),
        "too little happened in {runs} runs: {figures}"
    );
}

/// What a broken rule does must be seen, and be what is to be expected of it: otherwise the simulation shows nothing.
#[track_caller]
fn is_found(broken: Broken, expected: &[&str]) {
    let sweep = sweep(1, BROKEN_RUNS, broken);
    let failed = sweep
        .failed
        .unwrap_or_else(|| panic!("{broken:?} was not found in {BROKEN_RUNS} runs"));
    println!("{broken:?}: found in run {} ({})", failed.run, failed.violation);
    let as_expected = expected.iter().any(|text| failed.violation.contains(text));
    assert!(as_expected, "none of {expected:?}, but {failed}");
}

const TWO_RUN: &str = "two containers of one session run";
const TWO_OWN: &str = "two nodes own one session";
const SIGNED_TWICE: &str = "was handed over twice";
const STATE_MISSING: &str = "starts without request";

#[test]
fn a_start_before_the_signed_hand_over_is_found() {
    is_found(Broken::StartsWhenApplied, &[TWO_RUN]);
}

#[test]
fn a_roll_back_after_the_signature_is_found() {
    // The other container may have been stopped for the next move by then.
    is_found(Broken::RollsBackWhenSigned, &[TWO_RUN, STATE_MISSING]);
}

#[test]
fn a_restart_that_adopts_by_the_chain_alone_is_found() {
    is_found(Broken::AdoptsByChain, &[TWO_RUN, STATE_MISSING]);
}

#[test]
fn a_journal_without_fsync_is_found() {
    is_found(Broken::NoFsync, &[TWO_RUN, TWO_OWN, SIGNED_TWICE]);
}

#[test]
fn a_journal_that_is_read_without_fsync_is_found() {
    is_found(Broken::NoFsyncAtStart, &[TWO_RUN, TWO_OWN, SIGNED_TWICE]);
}

#[test]
fn a_signature_before_the_exit_is_seen_is_found() {
    is_found(Broken::SignsWhileItRuns, &[TWO_RUN]);
}

#[test]
fn a_layer_that_is_not_synced_is_found() {
    is_found(Broken::NoLayerSync, &[STATE_MISSING]);
}

#[test]
fn a_session_taken_back_from_a_node_that_may_run_it_is_found() {
    is_found(Broken::ReclaimsFromTheLiving, &[TWO_RUN, TWO_OWN, STATE_MISSING]);
}

#[test]
fn a_seed_says_all() {
    let (first, second) = (runs::trace(7, Broken::No), runs::trace(7, Broken::No));
    assert!(first.len() > 100, "{first:?}");
    assert_eq!(first, second, "two runs of one seed differ");
}

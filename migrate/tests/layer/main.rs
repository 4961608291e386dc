//! Writable layers, on real overlays: whatever happened at the source, the target becomes the same.
//!
//! Needs root. `LAYER_HISTORIES` says how many random histories are tried (30), `LAYER_SEED` with
//! which seed the first of them begins.

#![allow(clippy::unwrap_used, missing_docs)]

mod cases;
mod escapes;
mod figures;
mod history;
mod mounts;
mod tree;
mod volumes;

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use blosm_migrate::layer::{Stamp, Tracker, apply};

use history::{Dice, Stores};
use mounts::Pair;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// One round, or the last pass, applied.
fn cross(pair: &Pair, tracker: &mut Tracker, mapped: &BTreeSet<Vec<u8>>, last: bool, what: &str) {
    let mut stream = Vec::new();
    let figures = match last {
        true => tracker.last(mapped, &mut stream),
        false => tracker.round(mapped, &mut stream),
    };
    let figures = figures.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(figures.bytes, stream.len() as u64);
    let target = history::open(&pair.target());
    let applied =
        apply(target.as_fd(), &[], &mut stream.as_slice()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(applied.data, figures.data);
}

fn assert_same(pair: &Pair, what: &str) {
    let (source, target) = (tree::read(&pair.source()), tree::read(&pair.target()));
    let differences = tree::differences(&source, &target);
    assert!(differences.is_empty(), "{what}: {}", differences.join("\n"));
}

fn tracker(pair: &Pair) -> Tracker {
    Tracker::new(pair.upper(), Stamp::clock())
}

#[test]
fn random_histories_arrive_exactly() {
    let first = number("LAYER_SEED", 1);
    let tools = tempfile::tempdir().unwrap();
    let program = history::build_stores(tools.path());
    let verbose = std::env::var_os("LAYER_VERBOSE").is_some();
    for seed in first..first + number("LAYER_HISTORIES", 30) {
        let what = format!("seed {seed}");
        let mut dice = Dice::new(seed);
        let pair = Pair::new(|lower| history::fill_lower(lower, &mut dice));
        let root = pair.source();
        let mut stores = Stores::new(&program);
        let mut tracker = tracker(&pair);
        let steps = 20 + dice.roll(80);
        for number in 0..steps {
            let done = history::step(&root, &mut dice, Some(&mut stores));
            if verbose {
                eprintln!("{seed}.{number}: {done:?}");
            }
            if dice.roll(10) == 0 {
                let mapped = stores.mapped(&root);
                cross(&pair, &mut tracker, &mapped, false, &what);
            }
        }
        let mapped = stores.mapped(&root);
        let _ = stores.store(&root, &mut dice);
        let late = stores.mapped(&root);
        drop(stores);
        let mapped = mapped.union(&late).cloned().collect();
        cross(&pair, &mut tracker, &mapped, true, &what);
        assert_same(&pair, &what);
    }
}

//! Figures for a layer of 20,000 files of 1.5 KB and one of 20 MB.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use blosm_migrate::layer::{Stamp, Touched, Tracker, apply, sync};

use crate::history::{self, Dice};
use crate::mounts::Pair;
use crate::{assert_same, number};

/// What this process has used of its processors, ns: figures of a machine that others use, too.
fn used() -> u64 {
    let used = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| used(task.unwrap()))
        .sum()
}

const FILES: u64 = 20_000;
const FOLDERS: u64 = 200;

#[test]
#[ignore = "prints figures: run it alone, optimized, with --nocapture"]
fn figures_of_a_large_layer() {
    let mut dice = Dice::new(number("LAYER_SEED", 1));
    let pair = Pair::new(|lower| {
        fs::create_dir(lower.join("data")).unwrap();
        fs::write(lower.join("data/lower"), "x").unwrap();
    });
    let root = pair.source();
    let path = |file: u64| root.join(format!("data/{:03}/{:05}", file % FOLDERS, file));
    for folder in 0..FOLDERS {
        fs::create_dir(root.join(format!("data/{folder:03}"))).unwrap();
    }
    for file in 0..FILES {
        fs::write(path(file), dice.bytes(1500)).unwrap();
    }
    let large = root.join("data/large");
    fs::write(&large, dice.bytes(20_000_000)).unwrap();
    let mut tracker = Tracker::new(pair.upper(), Stamp::clock());
    let target = history::open(&pair.target());
    let nothing = BTreeSet::new();
    let cross = |what: &str, tracker: &mut Tracker, last: bool| -> Touched {
        let mut stream = Vec::with_capacity(64 << 20);
        let (start, cpu) = (Instant::now(), used());
        let figures = if last {
            tracker.last(&nothing, &mut stream)
        } else {
            tracker.round(&nothing, &mut stream)
        }
        .unwrap();
        let (round, cpu) = (start.elapsed(), (used() - cpu) / 1000);
        let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
        packed.write_all(&stream).unwrap();
        let packed = packed.finish().unwrap().len();
        let (start, before) = (Instant::now(), used());
        let applied = apply(target.as_fd(), &[], &mut stream.as_slice()).unwrap();
        let (apply, work) = (start.elapsed(), (used() - before) / 1000);
        let start = Instant::now();
        let synced = sync(target.as_fd(), &[], &applied.touched).unwrap();
        println!(
            "{what}: {round:.1?} ({cpu} µs of processor) {figures:?}, {packed} bytes packed; applied in {apply:.1?} ({work} µs), {synced:?} in {:.1?}",
            start.elapsed()
        );
        applied.touched
    };
    cross("first round, right after the writes", &mut tracker, false);
    cross("second round", &mut tracker, false);
    // For comparison: the same amount of changes made durable with the whole filesystem.
    let stream_only = |tracker: &mut Tracker| {
        let mut stream = Vec::new();
        tracker.round(&nothing, &mut stream).unwrap();
        apply(target.as_fd(), &[], &mut stream.as_slice()).unwrap();
        let start = Instant::now();
        rustix::fs::syncfs(&target).unwrap();
        println!("the whole filesystem made durable in {:.1?}", start.elapsed());
    };
    let settled = Instant::now();
    while settled.elapsed().as_secs() < 4 {
        std::thread::park_timeout(std::time::Duration::from_secs(1));
    }
    cross("third round, settled", &mut tracker, false);
    cross("quiet round", &mut tracker, false);
    cross("quiet round", &mut tracker, false);
    let mut change = || {
        for _ in 0..100 {
            fs::write(path(dice.roll(FILES)), dice.bytes(1500)).unwrap();
        }
        let file = fs::OpenOptions::new().write(true).open(&large).unwrap();
        for _ in 0..30 {
            file.write_all_at(b"changed", dice.roll(19_000_000)).unwrap();
        }
        drop(file);
    };
    change();
    cross("a round of changes", &mut tracker, false);
    change();
    stream_only(&mut tracker);
    change();
    cross("last pass", &mut tracker, true);
    assert_same(&pair, "the large layer");
}

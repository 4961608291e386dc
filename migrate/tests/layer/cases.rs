//! What random histories meet too rarely.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blosm_migrate::layer::{LayerError, Stamp, Tracker};

use crate::history::{self, Dice, Stores};
use crate::mounts::Pair;
use crate::{assert_same, cross, tracker};

fn ino(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

/// Sets a file's times back, as a program that wants to hide a change would; ctime moves all the same.
fn set_mtime(path: &Path, to: std::time::SystemTime) {
    File::open(path).unwrap().set_modified(to).unwrap();
}

#[test]
fn a_store_through_memory_arrives_though_no_timestamp_moves() {
    let tools = tempfile::tempdir().unwrap();
    let program = history::build_stores(tools.path());
    let pair = Pair::new(|_| {});
    let root = pair.source();
    for (name, len) in [("small", 5_000), ("large", 500_000)] {
        fs::write(root.join(name), Dice::new(3).bytes(len)).unwrap();
    }
    let mut stores = Stores::new(&program);
    let mut tracker = tracker(&pair);
    for value in 1..6 {
        for name in ["small", "large"] {
            stores.store_at(&root.join(name), 4_500, value).unwrap();
        }
        let mapped = stores.mapped(&root);
        assert_eq!(mapped.len(), 2);
        cross(&pair, &mut tracker, &mapped, false, "a round");
    }
    // Over its name of now: the other one was known to be mapped.
    fs::rename(root.join("small"), root.join("renamed")).unwrap();
    cross(
        &pair,
        &mut tracker,
        &BTreeSet::new(),
        false,
        "a round that knows of no mapping",
    );
    stores.store_at(&root.join("renamed"), 1, 77).unwrap();
    stores.store_at(&root.join("large"), 1, 78).unwrap();
    drop(stores);
    cross(&pair, &mut tracker, &BTreeSet::new(), true, "the last pass");
    assert_same(&pair, "stores through memory");
}

#[test]
fn a_clock_set_back_hides_no_change() {
    let pair = Pair::new(|_| {});
    let root = pair.source();
    fs::write(root.join("file"), "before").unwrap();
    let real = Stamp::clock();
    // Files look old to this clock, so that nothing counts as read too early; then it is set back.
    let ahead = Arc::new(AtomicU64::new(3600));
    let shared = Arc::clone(&ahead);
    let clock = move || {
        let now = real();
        Stamp {
            realtime: now.realtime + Duration::from_secs(shared.load(Ordering::Relaxed)),
            ..now
        }
    };
    let tools = tempfile::tempdir().unwrap();
    let mut stores = Stores::new(&history::build_stores(tools.path()));
    let mut tracker = Tracker::new(pair.upper(), clock);
    stores.store_at(&root.join("file"), 0, b'x').unwrap();
    cross(&pair, &mut tracker, &BTreeSet::new(), false, "the first round");
    // The store moves no timestamp, as a change with the clock set back may move it to the same one.
    stores.store_at(&root.join("file"), 0, b'B').unwrap();
    ahead.store(3590, Ordering::Relaxed);
    cross(&pair, &mut tracker, &BTreeSet::new(), false, "a round");
    drop(stores);
    cross(&pair, &mut tracker, &BTreeSet::new(), true, "the last pass");
    assert_same(&pair, "a clock set back");
    assert_eq!(fs::read(pair.target().join("file")).unwrap(), b"Before");
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let pair = Pair::new(|lower| {
        fs::write(lower.join("low"), "low").unwrap();
        fs::hard_link(lower.join("low"), lower.join("low2")).unwrap();
    });
    let root = pair.source();
    let at = |name: &str| root.join(name);
    let mut tracker = tracker(&pair);
    let nothing = BTreeSet::new();
    let mut round = |what: &str| {
        cross(&pair, &mut tracker, &nothing, false, what);
        assert_same(&pair, what);
    };
    fs::write(at("b"), "one").unwrap();
    fs::hard_link(at("b"), at("d")).unwrap();
    round("two names");
    fs::hard_link(at("d"), at("a")).unwrap();
    fs::hard_link(at("d"), at("e")).unwrap();
    overwrite(&at("d"), 0, b"two");
    round("more names and new content");
    fs::remove_file(at("b")).unwrap();
    fs::write(at("b"), "other").unwrap();
    round("one name is another file");
    overwrite(&at("a"), 1, b"!");
    round("which sees no change of the others");
    fs::rename(at("a"), at("b")).unwrap();
    round("and is replaced by one of them");
    for name in ["d", "e"] {
        fs::remove_file(at(name)).unwrap();
    }
    fs::rename(at("b"), at("z")).unwrap();
    round("one name is left, a new one");
    fs::create_dir(at("dir")).unwrap();
    fs::hard_link(at("z"), at("dir/y")).unwrap();
    fs::rename(at("dir"), at("a")).unwrap();
    fs::hard_link(at("z"), at("0")).unwrap();
    round("a name in a directory that moved");
    overwrite(&at("low"), 0, b"LOW");
    round("a name in the lower layer is copied up");
    fs::hard_link(at("low"), at("low3")).unwrap();
    fs::remove_file(at("low2")).unwrap();
    round("and linked");
    fs::write(at("big"), Dice::new(1).bytes(300_000)).unwrap();
    fs::hard_link(at("big"), at("big2")).unwrap();
    round("a large one");
    overwrite(&at("big2"), 150_000, b"changed");
    fs::remove_file(at("big")).unwrap();
    fs::write(at("big"), Dice::new(1).bytes(300_000)).unwrap();
    round("is changed and parted");
    assert_ne!(ino(&pair.target().join("big")), ino(&pair.target().join("big2")));
    std::os::unix::fs::symlink("one", at("link")).unwrap();
    fs::hard_link(at("link"), at("link2")).unwrap();
    round("links have more than one name, too");
}

#[test]
fn deleted_entries_of_the_image_stay_deleted() {
    let pair = Pair::new(|lower| {
        fs::create_dir_all(lower.join("lib/sub")).unwrap();
        for name in ["lib/a", "lib/b", "lib/sub/c", "top"] {
            fs::write(lower.join(name), name).unwrap();
        }
    });
    let root = pair.source();
    let mut tracker = tracker(&pair);
    let nothing = BTreeSet::new();
    let mut round = |what: &str, last: bool| {
        cross(&pair, &mut tracker, &nothing, last, what);
        assert_same(&pair, what);
    };
    fs::remove_file(root.join("lib/a")).unwrap();
    fs::remove_file(root.join("top")).unwrap();
    round("files", false);
    fs::remove_dir_all(root.join("lib")).unwrap();
    fs::create_dir(root.join("lib")).unwrap();
    fs::write(root.join("lib/b"), "new").unwrap();
    fs::write(root.join("top"), "again").unwrap();
    round("a directory, made again", false);
    fs::remove_dir_all(root.join("lib")).unwrap();
    round("and deleted again", false);
    fs::write(root.join("lib"), "a file").unwrap();
    round("a file in its place", false);
    fs::remove_file(root.join("lib")).unwrap();
    fs::create_dir(root.join("lib")).unwrap();
    fs::write(root.join("lib/a"), "late").unwrap();
    set_mtime(&root.join("lib/a"), std::time::UNIX_EPOCH);
    round("a directory at last", true);
}

#[test]
fn a_file_that_is_written_all_the_while_arrives_as_it_was_left() {
    let pair = Pair::new(|lower| history::fill_lower(lower, &mut Dice::new(11)));
    let root = pair.source();
    let mut tracker = tracker(&pair);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, root) = (Arc::clone(&stop), root.clone());
        std::thread::spawn(move || {
            let mut dice = Dice::new(12);
            while !stop.load(Ordering::Relaxed) {
                let _ = history::step(&root, &mut dice, None);
            }
        })
    };
    for _ in 0..20 {
        cross(&pair, &mut tracker, &BTreeSet::new(), false, "a round");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    cross(&pair, &mut tracker, &BTreeSet::new(), true, "the last pass");
    assert_same(&pair, "a busy writer");
}

#[test]
fn what_no_layer_may_carry_is_refused_by_name() {
    let device = |kind, number| {
        let pair = Pair::new(|_| {});
        let path = pair.source().join("node");
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, 0o600.into(), number).unwrap();
        let round = tracker(&pair).round(&BTreeSet::new(), &mut Vec::new());
        assert!(matches!(round, Err(LayerError::Device(path)) if path == "/node"));
    };
    device(rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    device(rustix::fs::FileType::BlockDevice, rustix::fs::makedev(7, 200));
    for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        let pair = Pair::new(|_| {});
        let path = pair.dir.path().join("source/upper/dir");
        fs::create_dir(&path).unwrap();
        rustix::fs::setxattr(&path, name, b"/x", rustix::fs::XattrFlags::empty()).unwrap();
        let round = tracker(&pair).round(&BTreeSet::new(), &mut Vec::new());
        assert!(
            matches!(round, Err(LayerError::Unsupported { path, .. }) if path == "/dir"),
            "{name}"
        );
    }
}

#[test]
fn what_the_engine_and_the_gate_put_there_stays() {
    let pair = Pair::new(|_| {});
    let upper = pair.source();
    fs::create_dir_all(upper.join(".blosm")).unwrap();
    fs::create_dir(upper.join("etc")).unwrap();
    for name in [
        ".dockerenv",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/passwd",
    ] {
        fs::write(upper.join(name), "").unwrap();
    }
    cross(
        &pair,
        &mut tracker(&pair),
        &BTreeSet::new(),
        true,
        "the last pass",
    );
    let names = |dir: &str| -> Vec<_> {
        let entries = fs::read_dir(pair.target().join(dir)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(names(""), ["etc"]);
    assert_eq!(names("etc"), ["passwd"]);
}

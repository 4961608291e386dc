//! Volumes beside a layer: plain directories that are mounted into the container.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use blosm_migrate::layer::{ApplyError, LayerError, Stamp, Tracker, Volume, apply, sync};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use crate::escapes::{
    DIR_META, EMPTIED, FRESH, META, SYMLINK, bytes, delete, dir, large, link, meta, op, small, stream,
    with_meta,
};
use crate::history::{self, Dice, Stores};
use crate::mounts::Pair;
use crate::{number, tree};

const ROOT: u8 = 14;

/// Two containers with volumes at these paths. The engine has put files into those of the second.
struct Containers {
    pair: Pair,
    paths: Vec<&'static str>,
}

impl Containers {
    fn new(paths: &[&'static str], fill: impl FnOnce(&Path)) -> Containers {
        let mut pair = Pair::new(|lower| {
            for path in paths {
                fs::create_dir_all(lower.join(&path[1..])).unwrap();
            }
            fill(lower);
        });
        for (number, path) in paths.iter().enumerate() {
            for side in ["source", "target"] {
                fs::create_dir(pair.dir.path().join(format!("{side}/{number}"))).unwrap();
            }
            // The engine makes the mount points in both; the outer volume comes first.
            for (outer, at) in paths[..number].iter().enumerate() {
                if let Some(inside) = path.strip_prefix(at) {
                    for side in ["source", "target"] {
                        let point = pair.dir.path().join(format!("{side}/{outer}{inside}"));
                        fs::create_dir_all(point).unwrap();
                    }
                }
            }
            let (volume, at) = (
                pair.dir.path().join(format!("target/{number}")),
                pair.target().join(&path[1..]),
            );
            pair.bind(&volume, &at);
        }
        Containers {
            pair,
            paths: paths.to_vec(),
        }
    }

    fn volume(&self, side: &str, number: usize) -> PathBuf {
        self.pair.dir.path().join(format!("{side}/{number}"))
    }

    fn tracker(&self) -> Tracker {
        let volume = |(number, path): (usize, &&str)| {
            Volume::new(path, history::open(&self.volume("source", number)).into()).unwrap()
        };
        let volumes = self.paths.iter().enumerate().map(volume).collect();
        Tracker::new(self.pair.upper(), Stamp::clock()).with_volumes(volumes)
    }

    /// As the helper has them: through the mounts.
    fn targets(&self) -> Vec<Volume> {
        let volume = |path: &&str| {
            let at = self.pair.target().join(&path[1..]);
            Volume::new(path, history::open(&at).into()).unwrap()
        };
        self.paths.iter().map(volume).collect()
    }

    fn cross(&self, tracker: &mut Tracker, mapped: &BTreeSet<Vec<u8>>, last: bool, what: &str) {
        let mut stream = Vec::new();
        let figures = match last {
            true => tracker.last(mapped, &mut stream),
            false => tracker.round(mapped, &mut stream),
        };
        let figures = figures.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (root, volumes) = (history::open(&self.pair.target()), self.targets());
        let applied = apply(root.as_fd(), &volumes, &mut stream.as_slice())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((applied.data, applied.bytes), (figures.data, figures.bytes));
        sync(root.as_fd(), &volumes, &applied.touched).unwrap();
    }

    fn apply(&self, ops: &[Vec<u8>]) -> Result<(), ApplyError> {
        let root = history::open(&self.pair.target());
        apply(root.as_fd(), &self.targets(), &mut stream(ops).as_slice()).map(drop)
    }

    fn assert_volume(&self, number: usize, what: &str) {
        let (source, target) = (self.volume("source", number), self.volume("target", number));
        let differences = tree::differences(&tree::read(&source), &tree::read(&target));
        assert!(differences.is_empty(), "{what}: {}", differences.join("\n"));
    }

    fn failure(&self) -> LayerError {
        let round = self.tracker().round(&BTreeSet::new(), &mut Vec::new());
        round.unwrap_err()
    }
}

#[test]
fn random_histories_of_a_layer_and_its_volumes_arrive_exactly() {
    let first = number("LAYER_SEED", 1);
    let tools = tempfile::tempdir().unwrap();
    let program = history::build_stores(tools.path());
    for seed in first..first + number("LAYER_HISTORIES", 30) / 2 {
        let what = format!("seed {seed}");
        let mut dice = Dice::new(seed);
        let at = Containers::new(&["/var/one", "/var/two"], |_| {});
        for number in 0..2 {
            // What the image has there: the engine puts it into both, and the history goes on from it.
            let mut image = Dice::new(seed + 1000);
            history::fill_lower(&at.volume("source", number), &mut image);
            let mut image = Dice::new(seed + 1000 + dice.roll(2));
            history::fill_lower(&at.volume("target", number), &mut image);
        }
        let roots = [at.pair.source(), at.volume("source", 0), at.volume("source", 1)];
        fs::create_dir(roots[0].join("own")).unwrap();
        let mut stores = Stores::new(&program);
        let mut tracker = at.tracker();
        let mapped = |stores: &Stores| -> BTreeSet<Vec<u8>> {
            let inside = ["", "var/one/", "var/two/"];
            let of = |(root, inside): (&PathBuf, &str)| {
                let paths = stores.mapped(root).into_iter();
                paths
                    .map(|path| [inside.as_bytes(), &path].concat())
                    .collect::<Vec<_>>()
            };
            roots.iter().zip(inside).flat_map(of).collect()
        };
        for _ in 0..20 + dice.roll(120) {
            // The histories of the mount points themselves are nobody's.
            let root = &roots[dice.roll(3) as usize];
            if *root == roots[0] {
                let _ = history::step(&root.join("own"), &mut dice, Some(&mut stores));
            } else {
                let _ = history::step(root, &mut dice, Some(&mut stores));
            }
            if dice.roll(10) == 0 {
                at.cross(&mut tracker, &mapped(&stores), false, &what);
            }
        }
        let late = mapped(&stores);
        drop(stores);
        at.cross(&mut tracker, &late, true, &what);
        at.assert_volume(0, &what);
        at.assert_volume(1, &what);
        let own = |root: PathBuf| tree::read(&root.join("own"));
        let differences = tree::differences(&own(at.pair.source()), &own(at.pair.target()));
        assert!(differences.is_empty(), "{what}: {}", differences.join("\n"));
    }
}

#[test]
fn what_the_engine_put_there_and_the_source_deleted_stays_deleted() {
    let at = Containers::new(&["/data"], |_| {});
    let (source, target) = (at.volume("source", 0), at.volume("target", 0));
    for volume in [&source, &target] {
        fs::create_dir_all(volume.join("seed/deep")).unwrap();
        fs::write(volume.join("seed/deep/file"), "of the image").unwrap();
        fs::write(volume.join("kept"), "of the image").unwrap();
        fs::write(volume.join(".dockerenv"), "").unwrap();
    }
    fs::remove_dir_all(source.join("seed")).unwrap();
    std::os::unix::fs::chown(&source, Some(1000), Some(1001)).unwrap();
    let mut tracker = at.tracker();
    at.cross(&mut tracker, &BTreeSet::new(), false, "the first round");
    at.assert_volume(0, "the first round");
    assert!(!target.join("seed").exists() && target.join(".dockerenv").exists());
    // A later round deletes what is gone, and nothing else.
    fs::write(source.join("later"), "x").unwrap();
    fs::remove_file(source.join("kept")).unwrap();
    at.cross(&mut tracker, &BTreeSet::new(), false, "the second round");
    at.assert_volume(0, "the second round");
    fs::remove_file(source.join("later")).unwrap();
    fs::create_dir(source.join("later")).unwrap();
    at.cross(&mut tracker, &BTreeSet::new(), true, "the last pass");
    at.assert_volume(0, "the last pass");
    assert_nothing_below(&at);
}

/// Nothing of a volume's has come into the layer below it.
fn assert_nothing_below(at: &Containers) {
    for path in &at.paths {
        let below = at.pair.dir.path().join("target/upper").join(&path[1..]);
        assert!(!below.exists() || fs::read_dir(&below).unwrap().next().is_none());
    }
}

#[test]
fn a_round_without_volumes_is_the_stream_that_it_was() {
    let pair = Pair::new(|_| {});
    fs::write(pair.source().join("file"), "x").unwrap();
    let round = |mut tracker: Tracker| {
        let mut stream = Vec::new();
        tracker.round(&BTreeSet::new(), &mut stream).unwrap();
        stream
    };
    let plain = round(Tracker::new(pair.upper(), Stamp::clock()));
    let volume = tempfile::tempdir().unwrap();
    let volumes = vec![Volume::new("/v", history::open(volume.path()).into()).unwrap()];
    let with = round(Tracker::new(pair.upper(), Stamp::clock()).with_volumes(volumes));
    let end = op(0, &[]);
    let common = &plain[..plain.len() - end.len()];
    assert_eq!(&with[..common.len()], common);
    let turn = op(ROOT, &[&[1, 1]]);
    assert_eq!(with[common.len()..][..turn.len()], turn);
}

#[test]
fn a_volume_in_a_volume_arrives_and_is_a_mount_to_the_outer_one() {
    let at = Containers::new(&["/data", "/data/in/ner"], |_| {});
    fs::write(at.volume("source", 0).join("outer"), "outer").unwrap();
    fs::write(at.volume("source", 1).join("inner"), "inner").unwrap();
    fs::write(at.volume("target", 0).join("in/engine"), "x").unwrap();
    fs::write(at.volume("target", 1).join("engine"), "x").unwrap();
    let mut tracker = at.tracker();
    at.cross(&mut tracker, &BTreeSet::new(), false, "a round");
    at.cross(&mut tracker, &BTreeSet::new(), true, "the last pass");
    at.assert_volume(1, "the inner one");
    let seen = |path: &str| fs::read_to_string(at.pair.target().join("data").join(path)).ok();
    assert_eq!(seen("outer").as_deref(), Some("outer"));
    assert_eq!(seen("in/ner/inner").as_deref(), Some("inner"));
    assert_eq!((seen("in/engine"), seen("in/ner/engine")), (None, None));
    // What another would see of the outer one alone is an empty directory, as at the source.
    let hidden = fs::read_dir(at.volume("target", 0).join("in/ner")).unwrap();
    assert_eq!(hidden.count(), 0);
}

#[test]
fn a_layer_s_marks_mean_nothing_in_a_volume() {
    let at = Containers::new(&["/data"], |_| {});
    let volume = at.volume("source", 0);
    let node = volume.join("node");
    mknodat(
        CWD,
        &node,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let error = at.failure();
    assert!(
        matches!(&error, LayerError::Device(path) if path == "/data/node"),
        "{error}"
    );
    fs::remove_file(node).unwrap();
    let opaque = volume.join("opaque");
    fs::create_dir(&opaque).unwrap();
    rustix::fs::setxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    let error = at.failure();
    assert!(
        matches!(&error, LayerError::Unsupported { path, .. } if path == "/data/opaque"),
        "{error}"
    );
    fs::remove_dir(opaque).unwrap();
    fs::create_dir(volume.join(".blosm")).unwrap();
    let error = at.failure();
    assert!(
        matches!(&error, LayerError::Unsupported { path, .. } if path == "/data/"),
        "{error}"
    );
}

#[test]
fn files_that_the_engine_mounts_over_in_etc_stay_its_own() {
    let mut at = Containers::new(&["/etc"], |_| {});
    for side in ["source", "target"] {
        fs::write(at.volume(side, 0).join("hosts"), "").unwrap();
    }
    let (outside, hosts) = (
        at.pair.dir.path().join("hosts"),
        at.pair.target().join("etc/hosts"),
    );
    fs::write(&outside, "127.0.0.1").unwrap();
    at.pair.bind(&outside, &hosts);
    fs::write(at.volume("source", 0).join("passwd"), "me").unwrap();
    let mut tracker = at.tracker();
    at.cross(&mut tracker, &BTreeSet::new(), false, "a round");
    at.cross(&mut tracker, &BTreeSet::new(), true, "the last pass");
    assert_eq!(fs::read(&hosts).unwrap(), b"127.0.0.1");
    let volume = at.volume("target", 0);
    assert_eq!(fs::read(volume.join("passwd")).unwrap(), b"me");
    assert_eq!(fs::read(volume.join("hosts")).unwrap(), b"", "below the mount");
}

fn turn(number: u8, fresh: bool) -> Vec<u8> {
    op(ROOT, &[&[number, u8::from(fresh)]])
}

/// A volume with ways out, and what is outside.
fn hostile() -> Containers {
    let mut at = Containers::new(&["/data"], |lower| {
        fs::write(lower.join("file"), "of the layer").unwrap();
    });
    let outside = at.pair.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "not yours").unwrap();
    let volume = at.volume("target", 0);
    fs::create_dir(volume.join("mount")).unwrap();
    fs::create_dir(volume.join("dir")).unwrap();
    fs::write(volume.join("own"), "of the volume").unwrap();
    symlink("../../outside", volume.join("out")).unwrap();
    symlink("../../outside/secret", volume.join("secret")).unwrap();
    symlink("dir", volume.join("in")).unwrap();
    let mount = at.pair.target().join("data/mount");
    at.pair.bind(&outside, &mount);
    at
}

fn refused(what: &str, ops: &[Vec<u8>], is_right: impl Fn(&ApplyError) -> bool) {
    let at = hostile();
    let outside = at.pair.dir.path().join("outside");
    let before = tree::read(&outside);
    let error = at.apply(ops).expect_err(what);
    assert!(is_right(&error) && error.is_peer_fault(), "{what}: {error:?}");
    assert_eq!(tree::read(&outside), before, "{what}");
    let layer = fs::read(at.pair.target().join("file")).unwrap();
    assert_eq!(layer, b"of the layer", "{what}");
}

#[test]
fn a_peer_s_stream_stays_in_the_volume() {
    let into = |op: Vec<u8>| [turn(1, false), op];
    let escape = |error: &ApplyError| matches!(error, ApplyError::Escape(_));
    refused("a link out", &into(small("out/new", FRESH)), escape);
    refused("a link inside", &into(small("in/new", FRESH)), escape);
    refused("a deletion out", &into(delete("out/secret")), escape);
    refused("a name out", &into(link("out/new", "own")), escape);
    refused("attributes", &into(with_meta(DIR_META, "out")), escape);
    let way = op(SYMLINK, &[&bytes(b"way"), &bytes(b"/"), &meta(0o777)]);
    let through = [turn(1, false), way, small("way/new", FRESH)];
    refused("a link of its own", &through, escape);
    let mount = |error: &ApplyError| matches!(error, ApplyError::Mount(_));
    refused("into a mount", &into(small("mount/new", FRESH)), mount);
    refused("over a mount", &into(small("mount", FRESH)), mount);
    refused("a mount's deletion", &into(delete("mount")), mount);
    refused("in a mount", &into(delete("mount/secret")), mount);
    refused("a mount's replacement", &into(dir("mount", true)), mount);
    refused(
        "attributes in a mount",
        &into(with_meta(META, "mount/secret")),
        mount,
    );
    let missing = |error: &ApplyError| matches!(error, ApplyError::Missing(_));
    refused("through a link", &into(small("secret", EMPTIED)), missing);
    refused("the layer's file", &into(link("mine", "file")), missing);
    refused("the layer's path", &into(small("data/new", FRESH)), missing);
    let malformed = |error: &ApplyError| matches!(error, ApplyError::Malformed(_));
    for path in ["..", "../file", "dir/../../x", "/etc", ".blosm/gate"] {
        refused(path, &into(small(path, FRESH)), malformed);
    }
    // The volume as the layer sees it is a mount.
    refused("from the layer", &[small("data/new", FRESH)], mount);
    refused(
        "and back",
        &[turn(1, false), turn(0, false), delete("data")],
        mount,
    );
}

#[test]
fn a_peer_names_no_root_that_is_not_there() {
    let malformed = |error: &ApplyError| matches!(error, ApplyError::Malformed(_));
    for number in [2, 3, 255] {
        refused("another volume", &[turn(number, false)], malformed);
        refused("another volume, emptied", &[turn(number, true)], malformed);
    }
    refused("the own root, emptied", &[turn(0, true)], malformed);
    refused("no word", &[op(ROOT, &[&[1, 2]])], malformed);
    let begun = [turn(1, false), large("big", FRESH, 100_000), turn(0, false)];
    refused("in the midst of a file", &begun, malformed);
    let pair = Pair::new(|_| {});
    let root = history::open(&pair.target());
    let error = apply(root.as_fd(), &[], &mut stream(&[turn(1, true)]).as_slice()).unwrap_err();
    assert!(malformed(&error), "{error:?}");
    assert_eq!(fs::read_dir(pair.target()).unwrap().count(), 0);
}

#[test]
fn emptying_a_volume_leaves_mounts_and_what_links_lead_to() {
    let at = hostile();
    let outside = at.pair.dir.path().join("outside");
    let before = tree::read(&outside);
    at.apply(&[turn(1, true)]).unwrap();
    assert_eq!(tree::read(&outside), before);
    let left: Vec<_> = fs::read_dir(at.volume("target", 0))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["mount"]);
    assert_eq!(
        fs::read(at.pair.target().join("data/mount/secret")).unwrap(),
        b"not yours"
    );
}

//! Hostile streams, written byte by byte: each is refused, and nothing outside is touched.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use blosm_migrate::layer::{ApplyError, apply};

use crate::history;
use crate::mounts::Pair;
use crate::tree;

const HEAD: &[u8] = b"bLayer\0\x01";
const DELETE: u8 = 1;
const DIR: u8 = 2;
pub(crate) const DIR_META: u8 = 3;
const SMALL: u8 = 4;
const LARGE: u8 = 5;
pub(crate) const SYMLINK: u8 = 9;
const LINK: u8 = 10;
const FIFO: u8 = 11;
pub(crate) const META: u8 = 13;
pub(crate) const FRESH: &[u8] = &[0];
pub(crate) const EMPTIED: &[u8] = &[1];

pub(crate) fn bytes(of: &[u8]) -> Vec<u8> {
    [&(of.len() as u32).to_le_bytes(), of].concat()
}

pub(crate) fn meta(mode: u16) -> Vec<u8> {
    // Mode, owner, group, two times of twelve bytes, no attributes.
    [&mode.to_le_bytes()[..], &[0; 8], &[0; 24], &[0; 4]].concat()
}

pub(crate) fn op(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    bytes(&[&[tag], parts.concat().as_slice()].concat())
}

pub(crate) fn delete(path: &str) -> Vec<u8> {
    op(DELETE, &[&bytes(path.as_bytes())])
}

pub(crate) fn dir(path: &str, fresh: bool) -> Vec<u8> {
    op(DIR, &[&bytes(path.as_bytes()), &[u8::from(fresh)]])
}

pub(crate) fn small(path: &str, base: &[u8]) -> Vec<u8> {
    op(
        SMALL,
        &[&bytes(path.as_bytes()), base, &meta(0o4777), &bytes(b"evil")],
    )
}

pub(crate) fn large(path: &str, base: &[u8], size: u64) -> Vec<u8> {
    op(LARGE, &[&bytes(path.as_bytes()), base, &size.to_le_bytes()])
}

pub(crate) fn link(path: &str, of: &str) -> Vec<u8> {
    op(LINK, &[&bytes(path.as_bytes()), &bytes(of.as_bytes())])
}

pub(crate) fn with_meta(tag: u8, path: &str) -> Vec<u8> {
    op(tag, &[&bytes(path.as_bytes()), &meta(0o777)])
}

pub(crate) fn stream(ops: &[Vec<u8>]) -> Vec<u8> {
    [HEAD, &ops.concat(), &op(0, &[])].concat()
}

/// A root with ways out, and what is outside.
fn pair() -> Pair {
    let mut pair = Pair::new(|lower| {
        fs::create_dir_all(lower.join("dir/sub")).unwrap();
        fs::create_dir(lower.join("proc")).unwrap();
        fs::create_dir(lower.join("etc")).unwrap();
        fs::write(lower.join("etc/hosts"), "").unwrap();
        fs::write(lower.join("file"), "mine").unwrap();
        symlink("../../outside", lower.join("out")).unwrap();
        symlink("dir", lower.join("in")).unwrap();
        symlink("../../outside/secret", lower.join("secret")).unwrap();
    });
    let outside = pair.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "not yours").unwrap();
    fs::write(outside.join("hosts"), "127.0.0.1").unwrap();
    let (root, hosts) = (pair.target(), outside.join("hosts"));
    pair.bind(&outside, &root.join("proc"));
    pair.bind(&hosts, &root.join("etc/hosts"));
    pair
}

fn refused(what: &str, ops: &[Vec<u8>], is_right: impl Fn(&ApplyError) -> bool) {
    let pair = pair();
    let outside = tree::read(&pair.dir.path().join("outside"));
    let target = history::open(&pair.target());
    let error = apply(target.as_fd(), &[], &mut stream(ops).as_slice()).expect_err(what);
    assert!(is_right(&error), "{what}: {error:?}");
    assert!(error.is_peer_fault(), "{what}: {error:?}");
    assert_eq!(tree::read(&pair.dir.path().join("outside")), outside, "{what}");
}

#[test]
fn paths_that_are_no_paths_are_refused() {
    for path in [
        "..",
        "../x",
        "dir/../../x",
        "/etc",
        "dir//x",
        "./x",
        "dir/",
        "nul\0",
        ".blosm",
        ".blosm/gate",
        "",
    ] {
        let malformed = |error: &ApplyError| matches!(error, ApplyError::Malformed(_));
        refused(path, &[small(path, FRESH)], malformed);
        refused(path, &[delete(path)], malformed);
        refused(path, &[link("new", path)], malformed);
    }
    let deep = vec!["x"; 4096].join("/");
    let long = "x".repeat(256);
    for path in [deep, long] {
        refused("a long path", &[small(&path, FRESH)], |error| {
            matches!(error, ApplyError::Malformed(_))
        });
    }
}

#[test]
fn symbolic_links_lead_nowhere() {
    let escape = |error: &ApplyError| matches!(error, ApplyError::Escape(_));
    refused("a file", &[small("out/new", FRESH)], escape);
    refused("inside, too", &[small("in/new", FRESH)], escape);
    refused("a deletion", &[delete("out/secret")], escape);
    refused("a directory", &[dir("out/new", false)], escape);
    refused("a link's new name", &[link("out/new", "file")], escape);
    refused("a link's old name", &[link("new", "out/secret")], escape);
    refused("attributes", &[with_meta(DIR_META, "out")], escape);
    refused("attributes below", &[with_meta(META, "out/secret")], escape);
    refused("a pipe", &[with_meta(FIFO, "out/new")], escape);
    let missing = |error: &ApplyError| matches!(error, ApplyError::Missing(_));
    refused("emptied", &[small("secret", EMPTIED)], missing);
    refused("emptied, large", &[large("secret", EMPTIED, 10)], missing);
    let made = op(SYMLINK, &[&bytes(b"way"), &bytes(b"../../outside"), &meta(0o777)]);
    refused("a link of its own", &[made, small("way/new", FRESH)], escape);
}

#[test]
fn a_link_is_replaced_itself() {
    let pair = pair();
    let target = history::open(&pair.target());
    let ops = [
        small("secret", FRESH),
        dir("out", true),
        small("out/secret", FRESH),
        delete("in"),
    ];
    apply(target.as_fd(), &[], &mut stream(&ops).as_slice()).unwrap();
    assert_eq!(fs::read(pair.target().join("out/secret")).unwrap(), b"evil");
    assert_eq!(
        fs::read(pair.dir.path().join("outside/secret")).unwrap(),
        b"not yours"
    );
    assert!(pair.target().join("dir/sub").exists());
}

#[test]
fn mounts_are_not_entered_and_not_removed() {
    let mount = |error: &ApplyError| matches!(error, ApplyError::Mount(_));
    refused("a file in it", &[small("proc/new", FRESH)], mount);
    refused("its deletion", &[delete("proc")], mount);
    refused("a deletion in it", &[delete("proc/secret")], mount);
    refused("a new directory", &[dir("proc", true)], mount);
    refused("a file over it", &[small("proc", FRESH)], mount);
    refused("a file over a file", &[small("etc/hosts", FRESH)], mount);
    refused("into a file", &[small("etc/hosts", EMPTIED)], mount);
    refused(
        "into a file, large",
        &[large("etc/hosts", EMPTIED, 100_000)],
        mount,
    );
    refused("its attributes", &[with_meta(META, "etc/hosts")], mount);
    refused("a link to it", &[link("new", "etc/hosts")], mount);
    refused("a link into it", &[link("new", "proc/secret")], mount);
    refused("a link over it", &[link("etc/hosts", "file")], mount);
    refused("its parent's deletion", &[delete("etc")], mount);
    refused("its parent's replacement", &[dir("etc", true)], mount);
}

#[test]
fn a_mounted_directory_is_left_as_it_is() {
    let pair = pair();
    let outside = tree::read(&pair.dir.path().join("outside"));
    let target = history::open(&pair.target());
    let ops = [dir("proc", false), with_meta(DIR_META, "proc")];
    let figures = apply(target.as_fd(), &[], &mut stream(&ops).as_slice()).unwrap();
    assert_eq!(figures.skipped, 2);
    assert_eq!(tree::read(&pair.dir.path().join("outside")), outside);
}

#[test]
fn data_stays_within_its_file() {
    let data = |offset: u64, len: usize| op(6, &[&offset.to_le_bytes(), &bytes(&vec![1; len])]);
    let hole = |offset: u64, len: u64| op(7, &[&offset.to_le_bytes(), &len.to_le_bytes()]);
    let begin = || large("new", FRESH, 100_000);
    let malformed = |error: &ApplyError| matches!(error, ApplyError::Malformed(_));
    refused("beyond", &[begin(), data(99_999, 2)], malformed);
    refused("around", &[begin(), data(u64::MAX, 2)], malformed);
    refused("a hole beyond", &[begin(), hole(0, 100_001)], malformed);
    refused("a piece too long", &[begin(), data(0, 128 * 1024 + 1)], malformed);
    refused("no file", &[data(0, 1)], malformed);
    refused("never done", &[begin()], malformed);
    refused("another meanwhile", &[begin(), delete("file")], malformed);
    refused("a file of no size", &[large("new", FRESH, u64::MAX)], malformed);
    refused(
        "a mode too wide",
        &[op(FIFO, &[&bytes(b"new"), &meta(0o10777)])],
        malformed,
    );
    refused("a link to itself", &[link("file", "file")], malformed);
    refused("missing", &[small("none/new", FRESH)], |error| {
        matches!(error, ApplyError::Missing(_))
    });
}

#[test]
fn what_is_no_stream_is_refused() {
    let pair = pair();
    let target = history::open(&pair.target());
    let whole = stream(&[small("new", FRESH), delete("file")]);
    for len in 0..whole.len() {
        let error = apply(target.as_fd(), &[], &mut &whole[..len]).unwrap_err();
        assert!(matches!(error, ApplyError::Truncated), "{len}: {error:?}");
    }
    let odd = |ops: &[Vec<u8>]| apply(target.as_fd(), &[], &mut stream(ops).as_slice()).unwrap_err();
    let trailing = op(DELETE, &[&bytes(b"file"), b"x"]);
    for ops in [
        vec![op(15, &[])],
        vec![op(255, &[])],
        vec![trailing],
        vec![bytes(b"")],
    ] {
        assert!(matches!(odd(&ops), ApplyError::Malformed(_)));
    }
    let huge = [HEAD, &u32::MAX.to_le_bytes(), &[0; 100]].concat();
    let error = apply(target.as_fd(), &[], &mut huge.as_slice()).unwrap_err();
    assert!(matches!(error, ApplyError::Malformed(_)));
    let error = apply(target.as_fd(), &[], &mut &b"bLayer\0\x02"[..]).unwrap_err();
    assert!(matches!(error, ApplyError::Malformed(_)));
}

//! Everything that must be the same of two trees.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// By path: what an entry is like, as text, for readable differences.
pub(crate) type Tree = BTreeMap<String, String>;

pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .escape_ascii()
            .to_string();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            groups.entry(meta.ino()).or_default().push(name.clone());
        }
        tree.insert(name, describe(&path, &meta));
    }
    for mut names in groups.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            tree.get_mut(name)
                .unwrap()
                .push_str(&format!(" same file as {names:?}"));
        }
    }
    tree
}

fn describe(path: &Path, meta: &Metadata) -> String {
    let what = if meta.is_file() {
        content(path)
    } else if meta.is_symlink() {
        format!(
            "to {}",
            fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii()
        )
    } else {
        String::new()
    };
    let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
    let xattrs = if meta.is_symlink() {
        Vec::new()
    } else {
        xattrs(path)
    };
    format!(
        "{mode:o} {uid}:{gid} {}.{:09} {what} {xattrs:?}",
        meta.mtime(),
        meta.mtime_nsec()
    )
}

fn content(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let got = file.read(&mut buffer).unwrap();
        if got == 0 {
            break;
        }
        size += got;
        hasher.update(&buffer[..got]);
    }
    format!("{size} bytes {}", &hasher.finalize().to_hex()[..16])
}

fn xattrs(path: &Path) -> Vec<(String, String)> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut all: Vec<_> = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (
                name.escape_ascii().to_string(),
                value[..len].escape_ascii().to_string(),
            )
        })
        .collect();
    all.sort();
    all
}

/// What differs, a line each.
pub(crate) fn differences(source: &Tree, target: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, is) in source {
        match target.get(path) {
            None => lines.push(format!("/{path} is missing; it should be {is}")),
            Some(other) if other != is => {
                lines.push(format!("/{path}\n     is {other}\n should {is}"));
            }
            Some(_) => {}
        }
    }
    lines.extend(
        target
            .iter()
            .filter(|(path, _)| !source.contains_key(*path))
            .map(|(p, is)| format!("/{p} is too much: {is}")),
    );
    lines
}

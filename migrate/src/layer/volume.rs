//! Volumes: plain directories beside a container's own layer, each a root of its own.
//!
//! Nothing in a volume hides anything of a lower layer: what is deleted is absent, and there are neither whiteouts nor
//! opaque directories.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, statat};
use rustix::io::Errno;

use super::beneath;
use super::error::LayerError;
use super::path::{OURS, RelPath};
use super::scan::{self, is_change};

/// Most volumes of one container that can be carried.
pub const MAX_VOLUMES: usize = 32;

/// One volume of a container.
#[derive(Debug)]
pub struct Volume {
    at: RelPath,
    root: OwnedFd,
}

impl Volume {
    /// `path`: where the container sees it, absolute. `root`: the directory, opened for reading.
    ///
    /// # Errors
    ///
    /// What is wrong with the path.
    pub fn new(path: &str, root: OwnedFd) -> Result<Volume, &'static str> {
        let inside = path.strip_prefix('/').ok_or("a volume's path is not absolute")?;
        let at = RelPath::new(inside.into())?;
        if at.is_root() {
            return Err("a volume lies over the whole root");
        }
        Ok(Volume { at, root })
    }

    /// What its files take on the disk, bytes. What vanishes meanwhile does not count, nor what is mounted into it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn bytes(&self) -> Result<u64, LayerError> {
        weigh(self.as_fd()).map_err(|error| error.within(&self.at))
    }

    pub(super) fn at(&self) -> &RelPath {
        &self.at
    }
}

impl From<Volume> for OwnedFd {
    fn from(volume: Volume) -> OwnedFd {
        volume.root
    }
}

impl AsFd for Volume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// What a root at the source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// The upper directory of the container's overlay.
    Upper,
    /// A volume, at this path of the container.
    Volume(RelPath),
}

impl Kind {
    /// The path in this root of what the container sees at `path` (no leading slash), if it may lie here.
    pub(super) fn within<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Kind::Upper => Some(path),
            Kind::Volume(at) => path.strip_prefix(at.bytes())?.strip_prefix(b"/"),
        }
    }

    /// Whether the engine may have put an empty file of that name there, to mount its own over it.
    pub(super) fn is_placeholder(&self, parent: &RelPath, name: &[u8]) -> bool {
        let network = matches!(name, b"hosts" | b"hostname" | b"resolv.conf");
        match self {
            Kind::Upper if parent.is_root() => name == b".dockerenv",
            Kind::Upper => network && parent.bytes() == b"etc",
            Kind::Volume(at) => network && parent.is_root() && at.bytes() == b"etc",
        }
    }

    /// Whether it is the gate's mount point, which an upper directory has and no path of a stream may name.
    pub(super) fn is_gate(parent: &RelPath, name: &[u8]) -> bool {
        parent.is_root() && name == OURS
    }
}

fn weigh(root: BorrowedFd<'_>) -> Result<u64, LayerError> {
    let (mut bytes, mut counted) = (0_u64, HashSet::new());
    let mut folders = vec![RelPath::default()];
    while let Some(path) = folders.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
        let dir = match beneath::open(root, &path, flags) {
            Err(errno) if is_change(errno) || errno == Errno::XDEV => continue,
            dir => dir.map_err(scan::io("open", &path))?,
        };
        for name in beneath::names(dir.as_fd()).map_err(scan::io("list", &path))? {
            let stat = match statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(errno) if is_change(errno) => continue,
                stat => stat.map_err(scan::io("look into", &path))?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                folders.extend(path.join(&name));
            }
            // Each name of a file is met, and its blocks are there once.
            if stat.st_nlink == 1 || counted.insert(stat.st_ino) {
                bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.into()).unwrap()
    }

    #[test]
    fn a_volume_lies_below_the_root_and_not_at_the_gate() {
        let at = |path| Volume::new(path, tempfile::tempfile().unwrap().into()).map(|volume| volume.at);
        assert_eq!(at("/var/lib/x"), Ok(path("var/lib/x")));
        for wrong in ["", "/", "data", "/a/../b", "/a//b", "/a/", "/.blosm/x"] {
            assert!(at(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_of_the_container_are_found_in_their_volume() {
        let volume = Kind::Volume(path("var/x"));
        assert_eq!(volume.within(b"var/x/a/b"), Some(&b"a/b"[..]));
        for elsewhere in [&b"var/x"[..], b"var/xy/a", b"var", b"x/a", b"var/x2"] {
            assert_eq!(volume.within(elsewhere), None);
        }
        assert_eq!(Kind::Upper.within(b"var/x/a"), Some(&b"var/x/a"[..]));
    }

    #[test]
    fn an_engine_s_own_files_are_known_wherever_etc_lies() {
        let (root, etc) = (RelPath::default(), path("etc"));
        assert!(Kind::Upper.is_placeholder(&root, b".dockerenv"));
        assert!(Kind::Upper.is_placeholder(&etc, b"hosts"));
        assert!(Kind::Volume(etc.clone()).is_placeholder(&root, b"hosts"));
        for kind in [Kind::Volume(path("data")), Kind::Volume(etc.clone())] {
            assert!(!kind.is_placeholder(&root, b".dockerenv"));
            assert!(!kind.is_placeholder(&etc, b"hosts"));
        }
    }

    #[test]
    fn a_volume_weighs_what_is_in_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let weight = || {
            let root = std::fs::File::open(dir.path()).unwrap();
            Volume::new("/v", root.into()).unwrap().bytes().unwrap()
        };
        let empty = weight();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/file"), vec![1; 1 << 20]).unwrap();
        let one = weight();
        assert!((1 << 20..2 << 20).contains(&(one - empty)), "{empty} {one}");
        std::fs::hard_link(dir.path().join("a/file"), dir.path().join("again")).unwrap();
        assert_eq!(weight(), one);
    }
}

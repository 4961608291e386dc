//! The volumes of a held container that its image declares: the engine names them, the kernel proves them.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

use crate::docker::MountedVolume;
use crate::helper::protocol::{Refusal, text};
use crate::layer::{MAX_VOLUMES, Volume};
use crate::recreate::clean;

/// Longest path of one, bytes: an answer names all of them.
const MAX_PATH: usize = 1024;
/// Where a local volume's files lie in its folder.
const DATA: &str = "_data";

/// One volume, from both sides.
pub(super) struct Found {
    /// Where the container sees it.
    pub(super) path: String,
    /// As the container has it: another volume in it is a mount there, which is not entered.
    inside: OwnedFd,
    /// On the engine's disk: another volume in it is an empty directory there.
    outside: OwnedFd,
}

impl Found {
    /// To be written to.
    pub(super) fn for_writing(self) -> Result<Volume, Refusal> {
        Volume::new(&self.path, self.inside).map_err(|why| refused(&self.path, why))
    }

    /// To be read, also when the container is gone.
    pub(super) fn for_reading(self) -> Result<Volume, Refusal> {
        Volume::new(&self.path, self.outside).map_err(|why| refused(&self.path, why))
    }
}

/// Opens the volumes at the `declared` paths below a container's root, in their order. Each has to be an anonymous
/// local one, and the directory that the container sees has to be the one that the engine keeps of it.
pub(super) fn open(
    root: impl AsFd,
    declared: &[String],
    mounted: &[MountedVolume],
) -> Result<Vec<Found>, Refusal> {
    if declared.len() > MAX_VOLUMES {
        let why = format!("there are {}, at most {MAX_VOLUMES} are carried", declared.len());
        return Err(Refusal::Volumes(why));
    }
    let one = |path: &String| {
        let source = folder(path, mounted).map_err(|why| refused(path, why))?;
        let inside = open_inside(&root, path).map_err(|errno| {
            refused(
                path,
                format_args!("cannot open it in the container, through no link: {errno}"),
            )
        })?;
        let outside = open_outside(source)
            .map_err(|errno| refused(path, format_args!("cannot open {}: {errno}", source.display())))?;
        let same = || {
            let (inside, outside) = (fstat(&inside)?, fstat(&outside)?);
            rustix::io::Result::Ok((inside.st_dev, inside.st_ino) == (outside.st_dev, outside.st_ino))
        };
        if same() != Ok(true) {
            return Err(refused(path, "the container sees something else there"));
        }
        Ok(Found {
            path: path.clone(),
            inside,
            outside,
        })
    };
    declared.iter().map(one).collect()
}

/// The folder of the anonymous local volume that is mounted at `path`.
fn folder<'a>(path: &str, mounted: &'a [MountedVolume]) -> Result<&'a Path, &'static str> {
    if path.len() > MAX_PATH {
        return Err("its path is too long");
    }
    let volume = mounted
        .iter()
        .find(|volume| clean(&volume.destination) == path)
        .ok_or("no volume is mounted there")?;
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if volume.name.len() != 64 || !volume.name.bytes().all(hex) {
        return Err("it has a name of its own, so others may use it, too");
    }
    if volume.driver != "local" {
        return Err("the engine does not keep it as a directory");
    }
    if !volume.is_writable {
        return Err("it is read-only");
    }
    let parent = volume.source.parent().and_then(Path::file_name);
    let is_its_own = volume.source.is_absolute()
        && volume.source.file_name().is_some_and(|name| name == DATA)
        && parent.is_some_and(|name| name == volume.name.as_str());
    is_its_own
        .then_some(volume.source.as_path())
        .ok_or("the engine keeps it elsewhere than volumes of its own")
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Across the mount that the volume is.
fn open_inside(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    openat2(root, path, DIRECTORY, Mode::empty(), NO_LINKS)
}

/// Across no mount: a volume with something mounted over its directory is more than a directory.
fn open_outside(source: &Path) -> rustix::io::Result<OwnedFd> {
    let parent = source.parent().unwrap_or(source);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat(CWD, parent, flags, Mode::empty())?;
    openat2(
        parent,
        DATA,
        DIRECTORY,
        Mode::empty(),
        NO_LINKS | ResolveFlags::NO_XDEV,
    )
}

fn refused(path: &str, why: impl fmt::Display) -> Refusal {
    Refusal::Volumes(text(format_args!("{path}: {why}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAME: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A container's root in which `/_data` is the volume's own directory, as a mount would make it.
    fn root() -> (tempfile::TempDir, OwnedFd, MountedVolume) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("volumes").join(NAME);
        fs::create_dir_all(folder.join(DATA)).unwrap();
        fs::create_dir(folder.join("other")).unwrap();
        std::os::unix::fs::symlink(DATA, folder.join("link")).unwrap();
        let volume = MountedVolume {
            name: NAME.to_owned(),
            destination: "/_data/".to_owned(),
            source: folder.join(DATA),
            driver: "local".to_owned(),
            is_writable: true,
        };
        let root = fs::File::open(&folder).unwrap().into();
        (dir, root, volume)
    }

    fn why(change: impl FnOnce(&mut MountedVolume), path: &str) -> String {
        let (_dir, root, mut volume) = root();
        change(&mut volume);
        match open(&root, &[path.to_owned()], &[volume]) {
            Err(refusal) => refusal.to_string(),
            Ok(_) => "opened".to_owned(),
        }
    }

    #[test]
    fn only_an_own_anonymous_local_volume_is_opened() {
        assert_eq!(why(|_| {}, "/_data"), "opened");
        let refused = |change: fn(&mut MountedVolume), path, part: &str| {
            let why = why(change, path);
            assert!(why.contains(part) && why.contains(path), "{why}");
        };
        refused(|_| {}, "/data", "no volume is mounted");
        refused(|v| v.name = "shared".into(), "/_data", "a name of its own");
        refused(|v| v.name = NAME.to_uppercase(), "/_data", "a name of its own");
        refused(|v| v.driver = "nfs".into(), "/_data", "does not keep it");
        refused(|v| v.is_writable = false, "/_data", "read-only");
        refused(|v| v.source = "/etc".into(), "/_data", "elsewhere");
        refused(|v| v.source = "/etc/_data".into(), "/_data", "elsewhere");
        refused(
            |v| v.source = format!("{NAME}/_data").into(),
            "/_data",
            "elsewhere",
        );
        let gone = |v: &mut MountedVolume| v.source = format!("/none/{NAME}/_data").into();
        refused(gone, "/_data", "cannot open /none");
    }

    #[test]
    fn what_the_container_sees_has_to_be_that_directory() {
        let at = |path: &'static str| why(|v| v.destination = path.to_owned(), path);
        assert!(at("/other").contains("something else"), "{}", at("/other"));
        assert!(at("/link").contains("through no link"), "{}", at("/link"));
        assert!(at("/none").contains("cannot open it"), "{}", at("/none"));
    }

    #[test]
    fn the_number_of_volumes_is_bounded() {
        let (_dir, root, volume) = root();
        let many: Vec<String> = (0..=MAX_VOLUMES).map(|n| format!("/{n}")).collect();
        let refusal = open(&root, &many, &[volume]).err().unwrap();
        assert!(refusal.to_string().contains("at most"), "{refusal}");
    }
}

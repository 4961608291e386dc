//! Two overlays over the same lower directory, as two nodes with the same image have them.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Source and destination; unmounted when dropped.
pub(crate) struct Pair {
    pub(crate) dir: TempDir,
    mounted: Vec<PathBuf>,
}

impl Pair {
    /// `fill` makes the lower directory.
    pub(crate) fn new(fill: impl FnOnce(&Path)) -> Pair {
        // On the disk: an overlay's upper directory on tmpfs lacks much of what is tested.
        let dir = tempfile::Builder::new()
            .prefix("blosm-layer-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let lower = dir.path().join("lower");
        fs::create_dir(&lower).unwrap();
        fill(&lower);
        let mut pair = Pair {
            dir,
            mounted: Vec::new(),
        };
        for side in ["source", "target"] {
            for name in ["upper", "work", "root"] {
                fs::create_dir_all(pair.dir.path().join(side).join(name)).unwrap();
            }
            let path = |name: &str| pair.dir.path().join(side).join(name).display().to_string();
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                path("upper"),
                path("work")
            );
            let root = pair.dir.path().join(side).join("root");
            run(
                "mount",
                &[
                    "-t",
                    "overlay",
                    "overlay",
                    "-o",
                    &options,
                    &root.display().to_string(),
                ],
            );
            pair.mounted.push(root);
        }
        pair
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.path().join("source/root")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.dir.path().join("target/root")
    }

    pub(crate) fn upper(&self) -> OwnedFd {
        File::open(self.dir.path().join("source/upper")).unwrap().into()
    }

    /// Bind-mounts `what` over `at`, to be unmounted with the rest.
    pub(crate) fn bind(&mut self, what: &Path, at: &Path) {
        run(
            "mount",
            &["--bind", &what.display().to_string(), &at.display().to_string()],
        );
        self.mounted.push(at.to_owned());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for path in self.mounted.iter().rev() {
            // Lazily: a program that another test starts has our descriptors for a moment.
            let done = Command::new("umount").arg("--lazy").arg(path).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", path.display());
            }
        }
    }
}

pub(crate) fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

//! Data directories to play with, and the real `blosm`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own per test, gone at its end.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A network in `network.toml`, with its `authority.key`.
    pub(crate) fn network(&self) -> PathBuf {
        let out = self.path("network.toml");
        blosm(["network", "new", "--name", "road", "--out", text(&out)]).done();
        out
    }

    /// A data directory `name` of that network, with `flags`.
    pub(crate) fn init(&self, name: &str, flags: &[&str]) -> Ran {
        let (network, dir) = (self.path("network.toml"), self.path(name));
        let mut args = vec!["init", "--network", text(&network), "--data-dir", text(&dir)];
        args.extend(flags);
        blosm(args)
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// It must have succeeded.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stderr, "");
        self
    }

    /// It must have failed with one line that says all of `parts`.
    #[track_caller]
    pub(crate) fn failed(self, parts: &[&str]) {
        assert_eq!(self.status, 1, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {}", self.stderr);
        }
    }

    /// It must have failed with exactly this line.
    #[track_caller]
    pub(crate) fn failed_with(self, line: &str) {
        assert_eq!(self.stderr, format!("blosm: {line}\n"));
        self.failed(&[]);
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// Runs the real binary, without settings from the surroundings.
pub(crate) fn blosm<'a>(args: impl IntoIterator<Item = &'a str>) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blosm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BLOSM_")) {
        command.env_remove(name);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(args).output().unwrap();
    Ran {
        status: status.code().unwrap(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

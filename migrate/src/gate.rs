//! The gate of a container: our own first program in it, which waits until its host opens.
//!
//! ```text
//! host:       DIR/<container name>/{gate, fifo, open}     DIR and what is in it belong to the node
//! container:  /.blosm/{gate, fifo, open}                  the same folder, bind-mounted read-only
//! ```
//!
//! `open` is written durably before the FIFO is poked; the gate opens the FIFO before it looks for `open`. Once opened,
//! a container goes straight through at each further start. The program itself is `gate/gate.rs`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tokio::net::unix::pipe;

/// The gate's program: static, without any need of the image that it runs in.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gate"));
/// Where a container sees its gate's folder.
pub const MOUNT_POINT: &str = "/.blosm";
/// What a container runs first.
pub const ENTRYPOINT: &str = "/.blosm/gate";

/// Names inside the folder.
pub(crate) const GATE: &str = "gate";
const FIFO: &str = "fifo";
pub(crate) const OPEN: &str = "open";
/// Longest container name that is taken.
const MAX_NAME: usize = 128;
/// Between two looks after somebody else has poked the gate.
const POKED: Duration = Duration::from_millis(50);

/// The folder of one container's gate, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateFolder {
    path: PathBuf,
}

/// Why a gate cannot be made, opened or removed.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// No name of a container of ours.
    #[error("{0:?} is no container name: 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit")]
    Name(String),
    /// Engines take paths as text.
    #[error("the path {} is not UTF-8; use another data directory", .0.display())]
    NotText(PathBuf),
    /// There is one already: a container's name is used once.
    #[error("there is a gate at {} already; remove it with its container", .0.display())]
    Taken(PathBuf),
    /// The file system failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl GateFolder {
    /// Names the gate of the container `name` below `gates`. Touches nothing.
    ///
    /// # Errors
    /// [`GateError::Name`], [`GateError::NotText`].
    pub fn of(gates: &Path, name: &str) -> Result<Self, GateError> {
        if !is_container_name(name) {
            return Err(GateError::Name(name.to_owned()));
        }
        if gates.to_str().is_none() {
            return Err(GateError::NotText(gates.to_owned()));
        }
        Ok(Self {
            path: gates.join(name),
        })
    }

    /// Makes the gate of a container that is yet to be created: closed, whole and durable.
    ///
    /// # Errors
    /// [`GateError::Taken`] when there is one; a bad name; the file system.
    pub fn prepare(gates: &Path, name: &str) -> Result<Self, GateError> {
        let gate = Self::of(gates, name)?;
        make_folder(gates, 0o700)?;
        if gate.exists() {
            return Err(GateError::Taken(gate.path));
        }
        // Made aside and renamed: what has the right name is whole.
        let aside = gates.join(format!(".{name}"));
        remove(&aside)?;
        make_folder(&aside, 0o755)?;
        let program = aside.join(GATE);
        let made = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o700)
                .open(&program)?;
            file.write_all(PROGRAM)?;
            file.set_permissions(PermissionsExt::from_mode(0o755))?;
            file.sync_all()
        };
        made().map_err(io_error("cannot write", &program))?;
        let fifo = aside.join(FIFO);
        // Readable for whatever user the container has; only the owner can poke it.
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(|error| io_error("cannot make the FIFO", &fifo)(error.into()))?;
        std::fs::set_permissions(&fifo, PermissionsExt::from_mode(0o644))
            .map_err(io_error("cannot make the FIFO", &fifo))?;
        sync_folder(&aside)?;
        std::fs::rename(&aside, &gate.path).map_err(io_error("cannot make", &gate.path))?;
        sync_folder(gates)?;
        Ok(gate)
    }

    /// The folder that the container is given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the container through, now and at each later start. Opening twice is harmless.
    ///
    /// # Errors
    /// The file system; the gate may then be open or not.
    pub fn open(&self) -> Result<(), GateError> {
        let open = self.path.join(OPEN);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&open)
            .map_err(io_error("cannot write", &open))?;
        sync_folder(&self.path)?;
        self.poke()
    }

    /// Wakes the gate, if it waits. Nobody there, or a byte there already, is as good.
    fn poke(&self) -> Result<(), GateError> {
        use rustix::io::Errno;
        let fifo = self.path.join(FIFO);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let poked =
            rustix::fs::open(&fifo, flags, Mode::empty()).and_then(|end| rustix::io::write(&end, b"o"));
        match poked {
            Ok(_) | Err(Errno::NXIO | Errno::AGAIN | Errno::PIPE) => Ok(()),
            Err(error) => Err(io_error("cannot open", &fifo)(error.into())),
        }
    }

    /// The gate in this folder.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Waits as the gate's program does, until it is opened. A closed gate that is poked does not open.
    ///
    /// # Errors
    /// The FIFO is not there.
    pub(crate) async fn opened(&self) -> io::Result<()> {
        // Opened before `open` is looked for: what is poked in between is not missed.
        let fifo = pipe::OpenOptions::new().open_receiver(self.path.join(FIFO))?;
        while !self.is_open() {
            fifo.readable().await?;
            if !self.is_open() {
                tokio::time::sleep(POKED).await;
            }
        }
        Ok(())
    }

    /// Whether the container may go through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.path.join(OPEN).exists()
    }

    /// Whether there is such a gate.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Removes the folder; its container is gone. One that is not there is fine.
    ///
    /// # Errors
    /// The file system.
    pub fn remove(&self) -> Result<(), GateError> {
        remove(&self.path)
    }
}

/// Whether a container may have this name: it names nothing outside of a folder of containers.
pub(crate) fn is_container_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    first && name.len() <= MAX_NAME && name.bytes().all(allowed)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), GateError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => std::fs::set_permissions(path, PermissionsExt::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(io_error("cannot make", path))
}

fn sync_folder(path: &Path) -> Result<(), GateError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("cannot sync", path))
}

fn remove(path: &Path) -> Result<(), GateError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GateError {
    let path = path.to_owned();
    move |source| GateError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_closed_until_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let gates = dir.path().join("gates");
        let gate = GateFolder::prepare(&gates, "blosm-0011-0-aa").unwrap();
        assert!(gate.exists() && !gate.is_open());
        let mode = |name: &str| gate.path().join(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(GATE), mode(FIFO), mode("")), (0o755, 0o644, 0o755));
        assert!(matches!(
            GateFolder::prepare(&gates, "blosm-0011-0-aa"),
            Err(GateError::Taken(_))
        ));
        gate.open().unwrap();
        gate.open().unwrap();
        assert!(GateFolder::of(&gates, "blosm-0011-0-aa").unwrap().is_open());
        gate.remove().unwrap();
        gate.remove().unwrap();
        assert!(!gate.exists());
    }

    #[test]
    fn what_an_interrupted_preparation_left_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".a")).unwrap();
        std::fs::write(dir.path().join(".a/gate"), "half").unwrap();
        let gate = GateFolder::prepare(dir.path(), "a").unwrap();
        assert_eq!(std::fs::read(gate.path().join(GATE)).unwrap(), PROGRAM);
    }

    #[test]
    fn names_stay_inside_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/a",
            ".a",
            "a b",
            "a\0",
            &"a".repeat(129),
        ] {
            let refused = GateFolder::prepare(dir.path(), name);
            assert!(matches!(refused, Err(GateError::Name(_))), "{name:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

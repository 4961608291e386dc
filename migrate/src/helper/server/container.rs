//! A container that a connection holds: the engine names it, the kernel says what it is.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Settings;
use super::connection::{Undone, failed};
use super::mount::upper_directory;
use super::volumes::{self, Found};
use crate::docker::{Container, Docker, EngineError, MountedVolume, Store, exit};
use crate::helper::protocol::{ContainerId, Marker, Refusal};
use crate::recreate::{LABEL_NETWORK, LABEL_SESSION, volume_paths};

/// The container engine, asked anew each time: it may have been started again.
pub(super) struct Engine<'a>(pub(super) &'a Settings);

impl Engine<'_> {
    /// A running container of a session, as the engine shows it.
    fn session(&self, id: ContainerId) -> Result<Container, Undone> {
        let name = id.to_string();
        let container = self
            .ask(async |docker| docker.inspect(&name).await)?
            // Engines take names, too, and a name may look like an id.
            .filter(|container| container.id == name)
            .ok_or(Refusal::NoContainer)?;
        let network = container.labels.get(LABEL_NETWORK).ok_or(Refusal::NotLabelled)?;
        if !container.labels.contains_key(LABEL_SESSION) {
            return Err(Refusal::NotLabelled.into());
        }
        if self.0.network.as_ref().is_some_and(|ours| ours != network) {
            return Err(Refusal::OtherNetwork.into());
        }
        Ok(container)
    }

    /// Where the engine keeps its images, if as files that can be read.
    pub(super) fn image_store(&self) -> Result<PathBuf, Undone> {
        let info = self.ask(async |docker| Ok(docker.info().clone()))?;
        if info.store == Store::Classic && info.storage_driver == "overlay2" {
            Ok(info.root_dir)
        } else {
            let why = format!("it is none of overlay2 but {}", info.storage_driver);
            Err(Refusal::Store(why).into())
        }
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(&Docker) -> Result<T, EngineError>) -> Result<T, Undone> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed("cannot ask the engine"))?;
        runtime
            .block_on(async { question(&Docker::connect(&self.0.engine).await?).await })
            .map_err(failed("the engine"))
    }
}

/// A running container's first process and root. While the process lives, its number is its own.
pub(super) struct Held {
    id: String,
    pid: u32,
    process: OwnedFd,
    /// The root as the container sees it.
    pub(super) root: OwnedFd,
    /// Paths of the volumes that its image declares, in order.
    declared: Vec<String>,
    mounted: Vec<MountedVolume>,
}

impl Held {
    pub(super) fn open(engine: Engine<'_>, id: ContainerId) -> Result<Self, Undone> {
        let container = engine.session(id)?;
        let pid = container.pid.ok_or(Refusal::NotRunning)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = pidfd_open(raw.ok_or(Refusal::NotRunning)?, PidfdFlags::empty())
            .map_err(|_| Refusal::NotRunning)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty())
            .map_err(failed("cannot open the container's root"))?;
        let held = Self {
            id: container.id,
            pid,
            process,
            root,
            declared: volume_paths(&container.declared_volumes),
            mounted: container.volumes,
        };
        held.check()?;
        Ok(held)
    }

    /// What was read of `/proc/PID` before this is the container's own: the process is in it and still lives.
    pub(super) fn check(&self) -> Result<(), Undone> {
        if exit::belongs(self.pid, &self.id) && !self.has_exited()? {
            Ok(())
        } else {
            Err(Refusal::NotRunning.into())
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn process(&self) -> &OwnedFd {
        &self.process
    }

    pub(super) fn has_exited(&self) -> Result<bool, Undone> {
        let mut look = [PollFd::new(&self.process, PollFlags::IN)];
        poll(&mut look, Some(&Timespec::default()))
            .map(|ready| ready > 0)
            .map_err(failed("cannot tell whether the process has exited"))
    }

    /// The volumes that its image declares, in the order of their paths.
    pub(super) fn volumes(&self) -> Result<Vec<Found>, Undone> {
        let found = volumes::open(&self.root, &self.declared, &self.mounted)?;
        self.check()?;
        Ok(found)
    }

    /// The upper directory of its root.
    pub(super) fn upper(&self) -> Result<OwnedFd, Undone> {
        let mounts = std::fs::read(format!("/proc/{}/mountinfo", self.pid))
            .map_err(failed("cannot read the container's mounts"))?;
        self.check()?;
        let path = upper_directory(&mounts).map_err(|why| Refusal::Unreadable(why.to_string()))?;
        File::options()
            .read(true)
            .open(&path)
            .map(OwnedFd::from)
            .map_err(|error| Refusal::Unreadable(format!("cannot open {}: {error}", path.display())).into())
    }
}

/// Whether a file of that name lies at the top of `upper`.
pub(super) fn has_marker(upper: impl AsFd, marker: Marker) -> Result<bool, Undone> {
    use rustix::io::Errno;
    match statat(upper, marker.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(failed("cannot look into the writable layer")(error)),
    }
}

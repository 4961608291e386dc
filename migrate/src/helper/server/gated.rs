//! A destination: written to as long as its own gate waits in it, and never else.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fstat, openat2, statat};
use rustix::io::Errno;

use super::connection::{Undone, failed};
use super::container::{Held, has_marker};
use super::volumes::Found;
use crate::gate;
use crate::helper::protocol::{ApplyFigures, Gated, Marker, Refusal, text};
use crate::layer::{self, ApplyError, Touched, Volume};

pub(super) struct GatedContainer {
    held: Held,
    upper: Result<OwnedFd, Refusal>,
    volumes: Vec<Volume>,
    /// Whether something was written already, or the volumes are held.
    is_settled: bool,
    /// What no sync has made durable yet.
    touched: Vec<Touched>,
}

impl GatedContainer {
    pub(super) fn new(held: Held) -> Result<Self, Undone> {
        check_gate(&held)?;
        let upper = match held.upper() {
            Ok(upper) => Ok(upper),
            // Writing goes through the merged root: any driver will do.
            Err(Undone::Refused(refusal)) => Err(refusal),
            Err(failed) => return Err(failed),
        };
        Ok(Self {
            held,
            upper,
            volumes: Vec::new(),
            is_settled: false,
            touched: Vec::new(),
        })
    }

    pub(super) fn facts(&self) -> Gated {
        Gated {
            pid: self.held.pid(),
            layer_hidden: self.upper.as_ref().err().map(ToString::to_string),
        }
    }

    /// From now on streams may be for the volumes, too. Gives their paths.
    pub(super) fn take_volumes(&mut self) -> Result<Vec<String>, Undone> {
        if self.is_settled {
            return Err(Refusal::OutOfPlace.into());
        }
        check_gate(&self.held)?;
        let found = self.held.volumes()?;
        let paths = found.iter().map(|volume| volume.path.clone()).collect();
        self.volumes = found
            .into_iter()
            .map(Found::for_writing)
            .collect::<Result<Vec<_>, _>>()?;
        self.is_settled = true;
        Ok(paths)
    }

    /// Applies a stream as it comes. A container that passes its gate meanwhile is found out afterwards.
    pub(super) fn apply(&mut self, stream: OwnedFd) -> Result<ApplyFigures, Undone> {
        check_gate(&self.held)?;
        self.is_settled = true;
        let root = self.held.root.as_fd();
        let figures = layer::apply(root, &self.volumes, &mut File::from(stream)).map_err(undone)?;
        let report = ApplyFigures::from(&figures);
        self.touched.push(figures.touched);
        check_gate(&self.held)?;
        Ok(report)
    }

    pub(super) fn sync(&mut self) -> Result<(), Undone> {
        check_gate(&self.held)?;
        for touched in &self.touched {
            layer::sync(self.held.root.as_fd(), &self.volumes, touched).map_err(undone)?;
        }
        self.touched.clear();
        Ok(())
    }

    pub(super) fn has(&self, marker: Marker) -> Result<bool, Undone> {
        match &self.upper {
            Ok(upper) => has_marker(upper, marker),
            Err(refusal) => Err(refusal.clone().into()),
        }
    }
}

/// Whether the container's first process is our gate, run from the folder that is mounted for it, and not opened.
///
/// By content, so that nothing but our own program has run in it; by the mount, so that a copy of that program in a
/// container that was opened long ago does not count; by `open`, which is there before the gate lets anything through.
fn check_gate(held: &Held) -> Result<(), Undone> {
    let closed = || -> Result<bool, Errno> {
        let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Across the mount, but through no link.
        let folder = openat2(
            &held.root,
            gate::MOUNT_POINT.trim_start_matches('/'),
            folder_flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        if fstat(&folder)?.st_dev == fstat(&held.root)?.st_dev {
            return Ok(false);
        }
        let file = statat(&folder, gate::GATE, AtFlags::SYMLINK_NOFOLLOW)?;
        let Ok(mut running) = File::open(format!("/proc/{}/exe", held.pid())) else {
            return Ok(false);
        };
        let stat = fstat(&running)?;
        if (stat.st_dev, stat.st_ino) != (file.st_dev, file.st_ino) || !is_program(&mut running) {
            return Ok(false);
        }
        match statat(&folder, gate::OPEN, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    };
    let closed = match closed() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => false,
        other => other.map_err(failed("cannot look at the gate"))?,
    };
    // Last, so that all of the above was seen of a live process.
    held.check()?;
    if closed {
        Ok(())
    } else {
        Err(Refusal::NotGated.into())
    }
}

fn is_program(file: &mut File) -> bool {
    let mut bytes = Vec::with_capacity(gate::PROGRAM.len() + 1);
    let read = file.take(gate::PROGRAM.len() as u64 + 1).read_to_end(&mut bytes);
    read.is_ok() && bytes == gate::PROGRAM
}

fn undone(error: ApplyError) -> Undone {
    if error.is_peer_fault() || matches!(error, ApplyError::Truncated) {
        Refusal::Stream(text(error)).into()
    } else {
        Undone::Failed(text(error))
    }
}

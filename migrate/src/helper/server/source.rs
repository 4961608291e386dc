//! A source: its writable layer and its volumes are read while it runs, and once more after its exit.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Signal, pidfd_send_signal};

use super::connection::{Answer, Undone, failed};
use super::container::{Held, has_marker};
use super::mapped::mapped_files;
use super::volumes::Found;
use crate::helper::protocol::{Marker, Refusal, Reply, text};
use crate::layer::{LayerError, RoundFigures, Stamp, Tracker};
use crate::service::StopSignal;

/// Bytes that are gathered before they are written to the spool.
const BUFFER: usize = 256 << 10;

pub(super) struct SourceContainer {
    held: Held,
    /// For markers; the tracker has its own.
    upper: OwnedFd,
    /// Gone after the last pass or a failed one: what the other end has is then not known.
    tracker: Option<Tracker>,
    /// Whether something was read already, or the volumes are held.
    is_settled: bool,
    /// Files that some process had mapped at any look.
    mapped: BTreeSet<Vec<u8>>,
    spool: PathBuf,
}

impl SourceContainer {
    pub(super) fn new(held: Held, spool: &Path) -> Result<Self, Undone> {
        let upper = held.upper()?;
        let copy = upper.try_clone().map_err(failed("cannot copy a descriptor"))?;
        let tracker = Tracker::new(copy, Stamp::clock());
        Ok(Self {
            held,
            upper,
            tracker: Some(tracker),
            is_settled: false,
            mapped: BTreeSet::new(),
            spool: spool.to_owned(),
        })
    }

    /// From now on rounds tell of the volumes, too. Gives their paths.
    pub(super) fn take_volumes(&mut self) -> Result<Vec<String>, Undone> {
        if self.is_settled {
            return Err(Refusal::OutOfPlace.into());
        }
        let found = self.held.volumes()?;
        let paths = found.iter().map(|volume| volume.path.clone()).collect();
        let volumes = found
            .into_iter()
            .map(Found::for_reading)
            .collect::<Result<Vec<_>, _>>()?;
        let tracker = self.tracker.take().ok_or(Refusal::OutOfPlace)?;
        self.tracker = Some(tracker.with_volumes(volumes));
        self.is_settled = true;
        Ok(paths)
    }

    /// What the volumes take on the disk, bytes.
    pub(super) fn weigh(&self) -> Result<u64, Undone> {
        let mut bytes = 0;
        for found in self.held.volumes()? {
            bytes += found.for_reading()?.bytes().map_err(undone)?;
        }
        Ok(bytes)
    }

    /// What changed since the last round, in a file without a name.
    pub(super) fn round(&mut self) -> Result<Answer, Undone> {
        self.look_at_maps();
        let answer = self.pass(Tracker::round)?;
        // A file that was mapped only after the first look may have been read before it was stored to.
        self.look_at_maps();
        Ok(answer)
    }

    pub(super) fn last(&mut self) -> Result<Answer, Undone> {
        if !self.held.has_exited()? {
            return Err(Refusal::StillRuns.into());
        }
        let answer = self.pass(Tracker::last);
        // It may hold the container's root, which the engine now unmounts.
        self.tracker = None;
        answer
    }

    /// One that has exited meanwhile has got what it was asked for.
    pub(super) fn signal(&mut self, signal: StopSignal) -> Result<(), Undone> {
        match pidfd_send_signal(self.held.process(), number(signal)) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(failed("cannot send the signal")(error)),
        }
    }

    pub(super) fn exit(&self) -> Result<OwnedFd, Undone> {
        self.held
            .process()
            .try_clone()
            .map_err(failed("cannot copy a descriptor"))
    }

    pub(super) fn has(&self, marker: Marker) -> Result<bool, Undone> {
        has_marker(&self.upper, marker)
    }

    fn look_at_maps(&mut self) {
        self.mapped.extend(mapped_files(self.held.id()));
    }

    fn pass(
        &mut self,
        pass: impl FnOnce(&mut Tracker, &BTreeSet<Vec<u8>>, &mut dyn Write) -> Result<RoundFigures, LayerError>,
    ) -> Result<Answer, Undone> {
        let mut tracker = self.tracker.take().ok_or(Refusal::OutOfPlace)?;
        self.is_settled = true;
        let spooled = "cannot write to the spool";
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(CWD, &self.spool, flags, Mode::RUSR).map_err(failed(spooled))?;
        let mut out = BufWriter::with_capacity(BUFFER, File::from(file));
        let figures = pass(&mut tracker, &self.mapped, &mut out).map_err(undone)?;
        let file = out.into_inner().map_err(failed(spooled))?;
        // The node gets an end that can only be read, at its start.
        let read_only = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed(spooled))?;
        self.tracker = Some(tracker);
        Ok((Reply::Round(figures.into()), Some(read_only.into())))
    }
}

fn number(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::SigTerm => Signal::TERM,
        StopSignal::SigInt => Signal::INT,
        StopSignal::SigQuit => Signal::QUIT,
        StopSignal::SigHup => Signal::HUP,
        StopSignal::SigUsr1 => Signal::USR1,
        StopSignal::SigUsr2 => Signal::USR2,
        StopSignal::SigWinch => Signal::WINCH,
        StopSignal::SigKill => Signal::KILL,
    }
}

fn undone(error: LayerError) -> Undone {
    match error {
        LayerError::Device(_) | LayerError::Unsupported { .. } => Refusal::Unsupported(text(error)).into(),
        LayerError::Io { .. } | LayerError::Changing(_) | LayerError::Write(_) => Undone::Failed(text(error)),
    }
}

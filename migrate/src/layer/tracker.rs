//! One upper directory, round by round.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, statat};

use super::clock::{Clock, Stamp};
use super::content::Reader;
use super::emit::Emit;
use super::error::LayerError;
use super::model::Model;
use super::path::RelPath;
use super::scan::{Trust, scan};
use super::stream::Sink;

/// The last pass looks this often before it gives up on a layer that does not come to rest.
const LAST_TRIES: u32 = 3;

/// Finds what changed in one upper directory, round by round.
///
/// After an error it is of no use any more: what the other end has is not known.
pub struct Tracker {
    upper: OwnedFd,
    clock: Clock,
    model: Model,
    mapped: Mapped,
    reader: Reader,
}

/// Files that some process stored into through memory, or may have.
#[derive(Default)]
pub(super) struct Mapped {
    paths: BTreeSet<Vec<u8>>,
    inodes: HashSet<u64>,
}

impl Mapped {
    pub(super) fn contains(&self, path: &RelPath, ino: u64) -> bool {
        self.inodes.contains(&ino) || self.paths.contains(path.bytes())
    }
}

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundFigures {
    /// Entries told of: deletions, directories, files, links, attributes.
    pub entries: u64,
    /// Length of the stream, bytes.
    pub bytes: u64,
    /// File data in it, bytes.
    pub data: u64,
    /// Names looked at.
    pub looked: u64,
    /// Files whose content was read.
    pub read: u64,
    /// Time to find what looks different.
    pub walk: Duration,
    /// Time to read it, compare it and write the stream.
    pub reading: Duration,
}

impl Tracker {
    /// `upper`: the overlay's upper directory, opened for reading. The merged root is not watched: the
    /// kernel's notifications miss writes through `io_submit`. `clock`: see [`Stamp::clock`].
    pub fn new(upper: OwnedFd, clock: impl Fn() -> Stamp + Send + 'static) -> Tracker {
        Tracker {
            upper,
            clock: Clock::new(clock),
            model: Model::default(),
            mapped: Mapped::default(),
            reader: Reader::new(),
        }
    }

    /// One round while the container runs: writes what differs from what earlier rounds sent.
    /// `mapped`: paths in the container, without the leading slash, that some process has mapped
    /// writable and shared; look them up right before.
    ///
    /// # Errors
    ///
    /// Whatever another method has to be used for, a disk that fails, or `out` that does.
    pub fn round(
        &mut self,
        mapped: &BTreeSet<Vec<u8>>,
        out: &mut dyn Write,
    ) -> Result<RoundFigures, LayerError> {
        let now = self.clock.read();
        self.remember(mapped);
        let mut sink = Sink::new(out)?;
        let mut figures = RoundFigures::default();
        self.pass(Trust::Now(now), &mut sink, &mut figures)?;
        self.clock.read();
        finish(sink, figures)
    }

    /// The last pass, after the container's first process has exited: afterwards the streams so far
    /// give exactly the layer. `mapped`: what was mapped right before the exit.
    ///
    /// # Errors
    ///
    /// As [`Tracker::round`], and [`LayerError::Changing`] if something still writes.
    pub fn last(
        &mut self,
        mapped: &BTreeSet<Vec<u8>>,
        out: &mut dyn Write,
    ) -> Result<RoundFigures, LayerError> {
        self.clock.read();
        self.remember(mapped);
        let mut sink = Sink::new(out)?;
        let mut figures = RoundFigures::default();
        let mut tries = 0;
        loop {
            tries += 1;
            let trust = if self.clock.is_doubtful() {
                Trust::None
            } else {
                Trust::Settled
            };
            let unsettled = self.pass(trust, &mut sink, &mut figures)?;
            self.clock.read();
            match unsettled {
                Some(path) if tries == LAST_TRIES => return Err(LayerError::Changing(path.to_string())),
                None if trust == Trust::None || !self.clock.is_doubtful() => break,
                _ => {}
            }
        }
        finish(sink, figures)
    }

    fn remember(&mut self, mapped: &BTreeSet<Vec<u8>>) {
        for path in mapped {
            let known = RelPath::new(path.clone()).is_ok_and(|path| !path.is_root());
            if let Ok(stat) = statat(self.upper.as_fd(), path.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                && known
            {
                self.mapped.inodes.insert(stat.st_ino);
                if let Some(record) = self.model.file_mut(stat.st_ino) {
                    record.mapped = true;
                }
            }
            self.mapped.paths.insert(path.clone());
        }
    }

    /// Gives the path of something that has to be looked at once more.
    fn pass(
        &mut self,
        trust: Trust,
        sink: &mut Sink<'_>,
        figures: &mut RoundFigures,
    ) -> Result<Option<RelPath>, LayerError> {
        let start = Instant::now();
        let wall = self.clock.read();
        let findings = scan(self.upper.as_fd(), &self.model, trust)?;
        let scanned = Instant::now();
        figures.walk += scanned - start;
        figures.looked += findings.looked;
        let mut emit = Emit::new(
            self.upper.as_fd(),
            &mut self.model,
            &mut self.clock,
            &mut self.reader,
            &self.mapped,
            sink,
        );
        let unsettled = emit.run(findings, wall)?;
        figures.read += emit.read;
        figures.reading += scanned.elapsed();
        Ok(unsettled)
    }
}

fn finish(mut sink: Sink<'_>, mut figures: RoundFigures) -> Result<RoundFigures, LayerError> {
    sink.end()?;
    (figures.entries, figures.bytes, figures.data) = (sink.entries, sink.bytes, sink.data);
    Ok(figures)
}

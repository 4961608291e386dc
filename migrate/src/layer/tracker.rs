//! One container's upper directory and volumes, round by round.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
use super::volume::{Kind, MAX_VOLUMES, Volume};

/// The last pass looks this often before it gives up on a layer that does not come to rest.
const LAST_TRIES: u32 = 3;

/// Finds what changed in one upper directory and in the volumes that belong to it, round by round.
///
/// After an error it is of no use any more: what the other end has is not known.
pub struct Tracker {
    clock: Clock,
    reader: Reader,
    /// The upper directory, then the volumes.
    roots: Vec<Root>,
}

/// One of them.
struct Root {
    /// Its number in streams.
    number: u8,
    kind: Kind,
    dir: OwnedFd,
    model: Model,
    mapped: Mapped,
    /// Whether the other end has had anything of it.
    is_begun: bool,
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
            clock: Clock::new(clock),
            reader: Reader::new(),
            roots: vec![Root::new(0, Kind::Upper, upper)],
        }
    }

    /// From its first round on it also covers these volumes, in the order of their paths.
    ///
    /// # Panics
    ///
    /// There are more than [`MAX_VOLUMES`].
    #[must_use]
    pub fn with_volumes(mut self, volumes: Vec<Volume>) -> Tracker {
        assert!(volumes.len() <= MAX_VOLUMES, "more volumes than a stream numbers");
        self.roots.extend((1..).zip(volumes).map(|(number, volume)| {
            let kind = Kind::Volume(volume.at().clone());
            Root::new(number, kind, volume.into())
        }));
        self
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
                Some(path) if tries == LAST_TRIES => return Err(LayerError::Changing(path)),
                None if trust == Trust::None || !self.clock.is_doubtful() => break,
                _ => {}
            }
        }
        finish(sink, figures)
    }

    fn remember(&mut self, mapped: &BTreeSet<Vec<u8>>) {
        self.roots.iter_mut().for_each(|root| root.remember(mapped));
    }

    /// Gives the container's path of something that has to be looked at once more.
    fn pass(
        &mut self,
        trust: Trust,
        sink: &mut Sink<'_>,
        figures: &mut RoundFigures,
    ) -> Result<Option<String>, LayerError> {
        let (clock, reader) = (&mut self.clock, &mut self.reader);
        let mut unsettled = None;
        for root in &mut self.roots {
            // The engine has put the image's own files into a new volume: what was deleted of them stays deleted.
            let fresh = root.kind != Kind::Upper && !root.is_begun;
            root.is_begun = true;
            sink.turn(root.number, fresh)?;
            unsettled = unsettled.or(root.pass(trust, clock, reader, sink, figures)?);
        }
        Ok(unsettled)
    }
}

impl Root {
    fn new(number: u8, kind: Kind, dir: OwnedFd) -> Root {
        Root {
            number,
            kind,
            dir,
            model: Model::default(),
            mapped: Mapped::default(),
            is_begun: false,
        }
    }

    fn remember(&mut self, mapped: &BTreeSet<Vec<u8>>) {
        for path in mapped.iter().filter_map(|path| self.kind.within(path)) {
            let known = RelPath::new(path.to_vec()).is_ok_and(|path| !path.is_root());
            if let Ok(stat) = statat(self.dir.as_fd(), path, AtFlags::SYMLINK_NOFOLLOW)
                && known
            {
                self.mapped.inodes.insert(stat.st_ino);
                if let Some(record) = self.model.file_mut(stat.st_ino) {
                    record.mapped = true;
                }
            }
            self.mapped.paths.insert(path.to_vec());
        }
    }

    /// As [`Tracker::pass`].
    fn pass(
        &mut self,
        trust: Trust,
        clock: &mut Clock,
        reader: &mut Reader,
        sink: &mut Sink<'_>,
        figures: &mut RoundFigures,
    ) -> Result<Option<String>, LayerError> {
        let unsettled = self.look(trust, clock, reader, sink, figures);
        match &self.kind {
            Kind::Upper => Ok(unsettled?.map(|path| path.to_string())),
            Kind::Volume(at) => {
                let unsettled = unsettled.map_err(|error| error.within(at))?;
                Ok(unsettled.map(|path| format!("{at}{path}")))
            }
        }
    }

    fn look(
        &mut self,
        trust: Trust,
        clock: &mut Clock,
        reader: &mut Reader,
        sink: &mut Sink<'_>,
        figures: &mut RoundFigures,
    ) -> Result<Option<RelPath>, LayerError> {
        let start = Instant::now();
        let wall = clock.read();
        let dir: BorrowedFd<'_> = self.dir.as_fd();
        let findings = scan(dir, &self.kind, &self.model, trust)?;
        let scanned = Instant::now();
        figures.walk += scanned - start;
        figures.looked += findings.looked;
        let mut emit = Emit::new(dir, &mut self.model, clock, reader, &self.mapped, sink);
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

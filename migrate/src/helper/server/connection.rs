//! One connection: requests in, answers out, in order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Settings;
use super::container::{Engine, Held};
use super::gated::GatedContainer;
use super::source::SourceContainer;
use crate::helper::frame::{self, Frame};
use crate::helper::protocol::{Facts, Refusal, Reply, Request, SourceFacts, VERSION, text};
use crate::image::Digest;
use crate::image::tarsplit::{self, Archive, TarSplitError};

/// How an answer goes out.
pub(super) type Answer = (Reply, Option<OwnedFd>);

/// Why a request was not done.
pub(super) enum Undone {
    /// See there.
    Refused(Refusal),
    /// This machine failed.
    Failed(String),
}

impl From<Refusal> for Undone {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// This machine's failure, for [`Result::map_err`].
pub(super) fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Undone {
    move |error| Undone::Failed(text(format_args!("{what}: {error}")))
}

/// What a connection holds.
enum Holds {
    Nothing,
    Source(Box<SourceContainer>),
    Gated(GatedContainer),
}

pub(super) struct Connection {
    stream: UnixStream,
    settings: Arc<Settings>,
    holds: Holds,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, settings: Arc<Settings>) -> Self {
        Self {
            stream,
            settings,
            holds: Holds::Nothing,
        }
    }

    /// Serves until the other end closes.
    ///
    /// # Errors
    /// The socket, or a frame that leaves no way to find the next one.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let answer = match frame::receive(&self.stream)? {
                Frame::Closed => return Ok(()),
                Frame::Malformed => Err(Refusal::Malformed.into()),
                Frame::Descriptors => Err(Refusal::Descriptor.into()),
                Frame::Value {
                    value: Request::Layer { chain, which },
                    descriptor: None,
                } => match self.layer(&chain, which)? {
                    Some(undone) => Err(undone),
                    // The pipe was the answer, and it has ended.
                    None => continue,
                },
                Frame::Value { value, descriptor } => self.answer(value, descriptor),
            };
            let (reply, descriptor) = answer.unwrap_or_else(|undone| match undone {
                Undone::Refused(refusal) => (Reply::Refused(refusal), None),
                Undone::Failed(why) => (Reply::Failed(why), None),
            });
            frame::send(&self.stream, &reply, descriptor.as_ref().map(AsFd::as_fd))?;
        }
    }

    fn answer(&mut self, request: Request, descriptor: Option<OwnedFd>) -> Result<Answer, Undone> {
        match (request, descriptor) {
            (Request::Apply, Some(stream)) => {
                is_readable(&stream)?;
                Ok((Reply::Applied(self.gated()?.apply(stream)?), None))
            }
            (Request::Apply, None) | (_, Some(_)) => Err(Refusal::Descriptor.into()),
            (Request::Hello, None) => Ok((Reply::Hello(facts()), None)),
            (Request::Source(id), None) => {
                let held = Held::open(self.engine()?, id)?;
                let facts = SourceFacts { pid: held.pid() };
                self.holds = Holds::Source(Box::new(SourceContainer::new(held, &self.settings.spool)?));
                Ok((Reply::Source(facts), None))
            }
            (Request::Gated(id), None) => {
                let gated = GatedContainer::new(Held::open(self.engine()?, id)?)?;
                let facts = gated.facts();
                self.holds = Holds::Gated(gated);
                Ok((Reply::Gated(facts), None))
            }
            (Request::Volumes, None) => {
                let paths = match &mut self.holds {
                    Holds::Source(source) => source.take_volumes()?,
                    Holds::Gated(gated) => gated.take_volumes()?,
                    Holds::Nothing => return Err(Refusal::OutOfPlace.into()),
                };
                Ok((Reply::Volumes(paths), None))
            }
            (Request::Weigh, None) => Ok((Reply::Weight(self.source()?.weigh()?), None)),
            (Request::Round, None) => self.source()?.round(),
            (Request::Last, None) => self.source()?.last(),
            (Request::Signal(signal), None) => {
                self.source()?.signal(signal)?;
                Ok((Reply::Done, None))
            }
            (Request::Exit, None) => Ok((Reply::Descriptor, Some(self.source()?.exit()?))),
            (Request::Sync, None) => {
                self.gated()?.sync()?;
                Ok((Reply::Done, None))
            }
            (Request::Prove(marker), None) => {
                let there = match &mut self.holds {
                    Holds::Source(source) => source.has(marker)?,
                    Holds::Gated(gated) => gated.has(marker)?,
                    Holds::Nothing => return Err(Refusal::OutOfPlace.into()),
                };
                Ok((Reply::Proved(there), None))
            }
            (Request::Config(digest), None) => {
                let root = self.engine()?.image_store()?;
                let file = tarsplit::config(&root, &digest)
                    .map_err(|error| Undone::from(Refusal::Store(text(error))))?;
                Ok((Reply::Descriptor, Some(file.into())))
            }
            // Served by `layer`, which streams.
            (Request::Layer { .. }, None) => Err(Refusal::OutOfPlace.into()),
        }
    }

    /// The engine, for a connection that holds nothing yet.
    fn engine(&self) -> Result<Engine<'_>, Undone> {
        match self.holds {
            Holds::Nothing => Ok(Engine(&self.settings)),
            _ => Err(Refusal::OutOfPlace.into()),
        }
    }

    fn source(&mut self) -> Result<&mut SourceContainer, Undone> {
        match &mut self.holds {
            Holds::Source(source) => Ok(source),
            _ => Err(Refusal::OutOfPlace.into()),
        }
    }

    fn gated(&mut self) -> Result<&mut GatedContainer, Undone> {
        match &mut self.holds {
            Holds::Gated(gated) => Ok(gated),
            _ => Err(Refusal::OutOfPlace.into()),
        }
    }

    /// Streams a layer through a pipe. `None`: the pipe went out, and whether all went through it is for its reader to
    /// see, who knows the layer's digest.
    fn layer(&self, chain: &[Digest], which: u16) -> io::Result<Option<Undone>> {
        let archive = match Engine(&self.settings).image_store() {
            Ok(root) => Archive::open(&root, chain, which.into()),
            Err(undone) => return Ok(Some(undone)),
        };
        let archive = match archive {
            Ok(archive) => archive,
            Err(error @ TarSplitError::Write(_)) => return Ok(Some(Undone::Failed(text(error)))),
            Err(error) => return Ok(Some(Refusal::Store(text(error)).into())),
        };
        let (reader, mut writer) = io::pipe()?;
        frame::send(&self.stream, &Reply::Descriptor, Some(reader.as_fd()))?;
        drop(reader);
        if let Err(error) = archive.write_to(&mut writer) {
            tracing::warn!(%error, "a layer was not streamed to its end");
        }
        Ok(None)
    }
}

fn facts() -> Facts {
    let all = rustix::thread::CapabilitySet::SYS_ADMIN
        | rustix::thread::CapabilitySet::SYS_PTRACE
        | rustix::thread::CapabilitySet::DAC_OVERRIDE;
    Facts {
        version: VERSION,
        // For people: a kernel that hides it is no hindrance.
        kernel: text(
            std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim(),
        ),
        privileged: rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(all)),
    }
}

/// A stream comes out of a file or a pipe; whatever else could be waited for for ever or is no stream.
fn is_readable(descriptor: &OwnedFd) -> Result<(), Undone> {
    let stat = rustix::fs::fstat(descriptor).map_err(|_| Refusal::Descriptor)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let flags = rustix::fs::fcntl_getfl(descriptor).map_err(|_| Refusal::Descriptor)?;
    let reads = !flags.contains(rustix::fs::OFlags::WRONLY) && !flags.contains(rustix::fs::OFlags::PATH);
    if reads && matches!(kind, FileType::RegularFile | FileType::Fifo) {
        Ok(())
    } else {
        Err(Refusal::Descriptor.into())
    }
}

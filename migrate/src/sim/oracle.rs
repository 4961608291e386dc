//! Telling an oracle what a run does: a process outside all nodes, which so knows who answered whom, and when, whatever
//! nodes and ledger say of it.
//!
//! ```text
//! run --Unix socket--> oracle      one JSON object a line, one connection a run; nothing comes back
//! {"what":"start","session","epoch","instance","container","count","time_ns","numbers":[[first,last],...]}
//! {"what":"answer","session","epoch","instance","count","number","time_ns"}
//! {"what":"stop","session","epoch","instance","count","time_ns"}
//! ```
//! `count` is how many numbers the state holds, `numbers` which. `time_ns` is the kernel's monotonic clock, one for all
//! processes of the machine, whatever their node believes the time is; at a start it is taken before the state is read.
//! The epoch is that for which the container was made: one that is handed back keeps it.
//!
//! A socket in the file system and no address, because it has to be reached from a node whose links are cut: what such a
//! node does is what the oracle is for. For the same reason a run that could not tell it something answers nothing any more.
//! Reads change nothing and are not told.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::spec::Spec;
use crate::recreate::{LABEL_SESSION, epoch_of};

/// The variable of a service's environment that names the oracle's socket.
pub(super) const VARIABLE: &str = "ORACLE";
/// How long an oracle may leave what it is told unread once the socket is full.
const PATIENCE: Duration = Duration::from_secs(2);

/// The oracle, as one run knows it.
pub(super) struct Oracle {
    stream: UnixStream,
    session: String,
    epoch: u64,
    container: String,
    instance: String,
}

#[derive(Serialize)]
#[serde(tag = "what", rename_all = "lowercase")]
enum Report<'a> {
    Start {
        session: &'a str,
        epoch: u64,
        instance: &'a str,
        container: &'a str,
        count: u64,
        time_ns: u64,
        numbers: &'a [(u64, u64)],
    },
    Answer {
        session: &'a str,
        epoch: u64,
        instance: &'a str,
        count: u64,
        number: u64,
        time_ns: u64,
    },
    Stop {
        session: &'a str,
        epoch: u64,
        instance: &'a str,
        count: u64,
        time_ns: u64,
    },
}

impl Oracle {
    /// The oracle that the container's environment names, if it names one and the container is a session's.
    pub(super) fn of(spec: &Spec, instance: &str) -> io::Result<Option<Self>> {
        let (Some(socket), Some(session)) = (&spec.oracle, spec.labels.get(LABEL_SESSION)) else {
            return Ok(None);
        };
        let epoch = epoch_of(&spec.name)
            .ok_or_else(|| io::Error::other(format!("{:?} is no session's container", spec.name)))?;
        let stream = connect(socket)?;
        Ok(Some(Self {
            stream,
            session: session.clone(),
            epoch,
            container: spec.name.clone(),
            instance: instance.to_owned(),
        }))
    }

    /// The run has read its state, which it began to do at `time_ns`.
    pub(super) fn started(&mut self, time_ns: u64, numbers: &[u64]) -> io::Result<()> {
        let line = line(&Report::Start {
            session: &self.session,
            epoch: self.epoch,
            instance: &self.instance,
            container: &self.container,
            count: numbers.len() as u64,
            time_ns,
            numbers: &spans(numbers),
        })?;
        self.stream.write_all(&line)
    }

    /// The state holds the number; nobody has been told so yet.
    pub(super) fn answers(&mut self, count: u64, number: u64) -> io::Result<()> {
        let line = line(&Report::Answer {
            session: &self.session,
            epoch: self.epoch,
            instance: &self.instance,
            count,
            number,
            time_ns: now_ns(),
        })?;
        self.stream.write_all(&line)
    }

    /// Nothing is answered any more.
    pub(super) fn stopped(&mut self, count: u64) -> io::Result<()> {
        let line = line(&Report::Stop {
            session: &self.session,
            epoch: self.epoch,
            instance: &self.instance,
            count,
            time_ns: now_ns(),
        })?;
        self.stream.write_all(&line)
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).map_err(|error| {
        let why = format!("the oracle at {} (env.{VARIABLE}): {error}", socket.display());
        io::Error::new(error.kind(), why)
    })?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn line(report: &Report<'_>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    Ok(line)
}

/// Numbers as spans of neighbours, both ends included; each number once.
fn spans(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for number in sorted {
        match spans.last_mut() {
            Some((_, last)) if number <= last.saturating_add(1) => *last = number,
            _ => spans.push((number, number)),
        }
    }
    spans
}

/// The kernel's monotonic clock, nanoseconds.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the machine's start and never falls below zero.
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_spans_whatever_their_order() {
        assert_eq!(spans(&[]), []);
        assert_eq!(spans(&[3, 1, 2, 7, 9, 8, 2]), [(1, 3), (7, 9)]);
        assert_eq!(spans(&[u64::MAX, 0]), [(0, 0), (u64::MAX, u64::MAX)]);
    }
}

//! The oracle's process: a thread for whoever is connected, one file.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::net::sockopt::socket_peercred;
use rustix::time::{ClockId, clock_gettime};

use super::record::{Entry, Report};

/// Longest line that is read: a start tells the spans of all numbers.
const LONGEST: u64 = 1 << 20;

/// Listens at `socket` and writes to `records` whatever is told there, until the process is ended.
///
/// # Errors
/// The socket cannot be listened on, or the file not be written.
pub fn serve(socket: &Path, records: &Path) -> Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(records)
        .with_context(|| format!("{}", records.display()))?;
    let book = Arc::new(Book(Mutex::new(file)));
    let listener = UnixListener::bind(socket).with_context(|| format!("{}", socket.display()))?;
    for stream in listener.incoming() {
        let (stream, book) = (stream?, Arc::clone(&book));
        let pid = socket_peercred(&stream)?.pid.as_raw_nonzero().get();
        std::thread::Builder::new()
            .name(format!("teller-{pid}"))
            .spawn(move || book.listen(stream, pid))?;
    }
    Ok(())
}

/// The kernel's monotonic clock, nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the machine's start and never falls below zero.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The records.
struct Book(Mutex<File>);

impl Book {
    /// Writes down what one connection tells, and that it has ended.
    fn listen(&self, stream: UnixStream, pid: i32) {
        let mut reader = BufReader::new(stream);
        let mut instance = None;
        loop {
            let mut line = String::new();
            let read = (&mut reader).take(LONGEST).read_line(&mut line);
            // A process that was killed may leave half a line, which nobody has been told anything by.
            if read.is_err() || !line.ends_with('\n') {
                break;
            }
            let report = Report::read(&line);
            if let Some(by) = report.by() {
                instance = Some(by.to_owned());
            }
            let unreadable = matches!(report, Report::Unreadable { .. });
            self.write(pid, report);
            if unreadable {
                break;
            }
        }
        if let Some(instance) = instance {
            self.write(pid, Report::Gone { instance });
        }
    }

    fn write(&self, pid: i32, report: Report) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            at_ns: now_ns(),
            pid,
            report,
        };
        let line = serde_json::to_vec(&entry).map_err(anyhow::Error::from);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            Ok(file.write_all(&line)?)
        });
        if let Err(error) = written {
            // An oracle that forgets is worse than none: without it nobody answers.
            eprintln!("the records cannot be written: {error:#}");
            std::process::exit(1);
        }
    }
}

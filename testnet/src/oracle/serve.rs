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
/// Of a line that cannot be read so many bytes are kept.
const SHOWN: usize = 200;

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

/// What is told next; none once the connection has ended. A process that was killed may leave half a line, which nobody has
/// been told anything by: it has no end, and nothing comes after it. Whatever else is no report is one that is unreadable.
fn next(reader: &mut impl BufRead) -> Option<Report> {
    let mut line = Vec::new();
    let read = reader.take(LONGEST).read_until(b'\n', &mut line);
    let unreadable = |line: String| Some(Report::Unreadable { line });
    let begin = |line: &[u8]| {
        let begin = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
        begin.trim_end().to_owned()
    };
    if let Err(error) = read {
        return unreadable(error.to_string());
    }
    if !line.ends_with(b"\n") {
        let too_long = line.len() as u64 == LONGEST;
        return too_long.then(|| begin(&line)).and_then(unreadable);
    }
    match std::str::from_utf8(&line) {
        Ok(line) => Some(Report::read(line)),
        Err(_) => unreadable(begin(&line)),
    }
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
        while let Some(report) = next(&mut reader) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut text: &[u8]) -> Vec<Option<String>> {
        let mut found = Vec::new();
        while let Some(report) = next(&mut text) {
            found.push(match report {
                Report::Unreadable { line } => Some(line),
                _ => None,
            });
        }
        found
    }

    #[test]
    fn half_a_line_is_a_kill_and_anything_else_that_is_no_report_is_told() {
        let told = r#"{"what":"stop","session":"s","epoch":2,"instance":"i","count":3,"time_ns":5}"#;
        assert_eq!(all(b""), []);
        assert_eq!(all(format!("{told}\n{told}\n").as_bytes()), [None, None]);
        assert_eq!(all(format!("{told}\n{}", &told[..30]).as_bytes()), [None]);
        let mut odd = b"\xff\xfe\n".to_vec();
        odd.extend(format!("{told}\n").as_bytes());
        assert_eq!(all(&odd), [Some("\u{fffd}\u{fffd}".to_owned()), None]);
        let longest = usize::try_from(LONGEST).unwrap();
        let long = all(&vec![b'x'; longest + 1]);
        assert_eq!(long, [Some("x".repeat(SHOWN))]);
    }
}

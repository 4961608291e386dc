//! Processes that outlive the command which started them, told apart from later ones with the same id.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::cleanup;
use crate::hosts::{Namespace, Seat};
use crate::shell;

/// A process started by this or by another command of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot: an id alone may belong to another process by now.
    pub started: u64,
}

impl Process {
    /// Starts `program` inside a namespace, in a session of its own, with its output appended to `log`.
    ///
    /// # Errors
    /// It cannot be started, or the log cannot be opened.
    pub fn spawn(namespace: &Namespace, program: &Path, arguments: &[String], log: &Path) -> Result<Process> {
        Self::spawn_at(&Seat::Host(namespace.clone()), program, arguments, log)
    }

    /// [`Process::spawn`] wherever a node may run.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_at(seat: &Seat, program: &Path, arguments: &[String], log: &Path) -> Result<Process> {
        if cleanup::interrupted() {
            bail!("interrupted");
        }
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{}", log.display()))?;
        // Both replace themselves by what they start, so the id that spawn returns is the program's own. A session of
        // its own keeps a Ctrl-C on the terminal, which is meant for the harness, away from it.
        let seated = seat.command(program)?;
        let mut command = Command::new(shell::find("setsid").context("setsid is not on the PATH")?);
        command
            .arg(seated.get_program())
            .args(seated.get_args())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = command
            .spawn()
            .with_context(|| format!("{} did not start", program.display()))?;
        let pid = i32::try_from(child.id()).context("process ids are positive i32")?;
        // Before anything can reap the child: until then its entry in /proc is certain to be there.
        let started = Status::read(pid).map_or(0, |status| status.started);
        // A dead child that nobody waits for keeps its entry in /proc, and engines then believe in their old pid file.
        std::thread::Builder::new()
            .name(format!("wait-{pid}"))
            .spawn(move || child.wait())?;
        Ok(Process { pid, started })
    }

    /// Whether it still runs. One that is dead and not reaped yet does not.
    pub fn alive(&self) -> bool {
        Status::read(self.pid).is_some_and(|status| status.started == self.started && !status.dead())
    }

    /// Sends a signal, unless the process is gone already.
    pub fn signal(&self, signal: Signal) {
        if self.alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may end between the look and the signal: that is what the signal is for.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it is gone with all of its threads, and its files are closed. False if it is still there after
    /// `patience`.
    pub fn wait_gone(&self, patience: Duration) -> bool {
        // Opened first and looked at afterwards, so that it is this process that the handle stands for.
        let handle = Pid::from_raw(self.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let same = Status::read(self.pid).is_some_and(|status| status.started == self.started);
        let (true, Some(handle)) = (same, handle) else {
            return true;
        };
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Readable when the last thread has gone; /proc shows as dead one whose first thread has.
            match poll(
                &mut [PollFd::new(&handle, PollFlags::IN)],
                Timespec::try_from(left).ok().as_ref(),
            ) {
                Ok(ready) => return ready > 0,
                Err(_) if left.is_zero() => return false,
                // Interrupted: look again.
                Err(_) => {}
            }
        }
    }

    /// Sends `signal`, waits, and kills what is still there after `patience`.
    pub fn end(&self, signal: Signal, patience: Duration) {
        self.signal(signal);
        if !self.wait_gone(patience) {
            self.signal(Signal::KILL);
            self.wait_gone(Duration::from_secs(10));
        }
    }
}

/// What `/proc/PID/stat` says.
pub(crate) struct Status {
    state: u8,
    pub(crate) started: u64,
}

impl Status {
    pub(crate) fn read(pid: i32) -> Option<Status> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field, the program's name in brackets, may hold spaces and brackets itself.
    fn parse(text: &str) -> Option<Status> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let started = fields.nth(18)?.parse().ok()?;
        Some(Status { state, started })
    }

    fn dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    const WINDOW: u64 = 16 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_survives_odd_program_names() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.started, status.dead()), (123_456, false));
        assert!(Status::parse("42 (x) Z 1 ").is_none());
    }

    #[test]
    fn own_process_is_alive_and_another_start_time_is_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = Status::read(pid).unwrap().started;
        assert!(Process { pid, started }.alive());
        assert!(
            !Process {
                pid,
                started: started + 1
            }
            .alive()
        );
    }
}

//! Seeing a process exit, whatever the engine says.
//!
//! A pidfd names one process for as long as it is open, so a reused number cannot be mistaken for
//! it; it becomes readable when the process (and with the first process of a pid namespace, all of
//! that namespace) is gone. Kernels without pidfds are served by its start time in `/proc`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Pause between two looks at `/proc` where there are no pidfds.
const LOOK: Duration = Duration::from_millis(5);

/// A watch on the exit of one process.
#[derive(Debug)]
pub struct ExitWatch {
    pid: u32,
    how: How,
}

#[derive(Debug)]
enum How {
    PidFd(AsyncFd<OwnedFd>),
    Proc {
        started: u64,
    },
    /// A run of a simulated container: its task tells.
    Told(watch::Receiver<bool>),
}

/// What became of opening a watch.
#[derive(Debug)]
pub enum Opened {
    /// The process runs and is watched.
    Watching(ExitWatch),
    /// There is no such process, or not in that container: it is gone, or its number means nothing
    /// here (another pid namespace). Only the engine can tell which.
    NotThere,
}

/// Watches the process `pid` of that container.
///
/// # Errors
/// When the kernel refuses for another reason than that there is no such process.
pub fn watch_exit(pid: u32, container_id: &str) -> io::Result<Opened> {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(Opened::NotThere);
    };
    let how = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(fd) => How::PidFd(register(fd)?),
        Err(rustix::io::Errno::SRCH) => return Ok(Opened::NotThere),
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => match start_time(pid) {
            Some(started) => How::Proc { started },
            None => return Ok(Opened::NotThere),
        },
        Err(error) => return Err(error.into()),
    };
    let watch = ExitWatch { pid, how };
    // Read after opening: what /proc shows is the watched process as long as that has not exited,
    // and if it has, the watch says so at once.
    Ok(if belongs(pid, container_id) {
        Opened::Watching(watch)
    } else {
        Opened::NotThere
    })
}

#[expect(
    deprecated,
    reason = "the newer constructor is unsafe; an OwnedFd keeps the promise that it asks for"
)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

impl ExitWatch {
    /// A watch on the run of that number, which has ended when `ended` says so or nobody can say it any more.
    pub(crate) fn told(number: u32, ended: watch::Receiver<bool>) -> Self {
        Self {
            pid: number,
            how: How::Told(ended),
        }
    }

    /// The watched process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the process has exited. Cancel-safe.
    ///
    /// # Errors
    /// When the kernel fails to tell; nothing is known then.
    pub async fn exited(&self) -> io::Result<()> {
        match &self.how {
            How::PidFd(fd) => fd.readable().await.map(|_| ()),
            How::Proc { started } => {
                while start_time(self.pid) == Some(*started) {
                    tokio::time::sleep(LOOK).await;
                }
                Ok(())
            }
            How::Told(ended) => {
                let _ = ended.clone().wait_for(|ended| *ended).await;
                Ok(())
            }
        }
    }
}

/// Processes of a container, by their control groups. Also true while the engine is dead.
#[must_use]
pub fn processes_of(container_id: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| belongs(*pid, container_id) && start_time(*pid).is_some())
        .collect()
}

/// Whether the process is in a control group of that container: engines name them by its full id.
pub(crate) fn belongs(pid: u32, container_id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|groups| container_id.len() >= 12 && groups.contains(container_id))
}

/// Start time of a process in clock ticks since boot; `None` when it is gone or a zombie, which has
/// exited and only waits for its parent to look.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything but ends with the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // Field 22 of the line; the state is field 3.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exit_is_seen_in_both_ways() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("1000")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        let started = start_time(pid).unwrap();
        let raw = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let fd = pidfd_open(raw, PidfdFlags::empty()).unwrap();
        let by_fd = ExitWatch {
            pid,
            how: How::PidFd(register(fd).unwrap()),
        };
        let by_proc = ExitWatch {
            pid,
            how: How::Proc { started },
        };
        let soon = Duration::from_millis(30);
        assert!(tokio::time::timeout(soon, by_fd.exited()).await.is_err());
        assert!(tokio::time::timeout(soon, by_proc.exited()).await.is_err());
        child.start_kill().unwrap();
        by_fd.exited().await.unwrap();
        by_proc.exited().await.unwrap();
        // A second look says the same.
        by_fd.exited().await.unwrap();
        child.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_process_of_another_group_is_not_taken_for_the_container() {
        let pid = std::process::id();
        assert!(matches!(
            watch_exit(pid, &"0".repeat(64)).unwrap(),
            Opened::NotThere
        ));
        assert!(matches!(
            watch_exit(u32::MAX, &"0".repeat(64)).unwrap(),
            Opened::NotThere
        ));
        // Nothing shorter than an engine's short id is one, and this would be in every path.
        assert!(!belongs(pid, "/"));
    }
}

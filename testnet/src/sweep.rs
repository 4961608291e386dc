//! Finding and removing what a testnet left on the machine, by what the kernel shows: never by asking an engine or a
//! node, which may be dead, hung or wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::monitor;
use crate::process::{Process, Status};
use crate::shell;

/// The programs that a testnet starts, directly or through its engines, as `/proc/PID/comm` shows them (15 bytes).
const PROGRAMS: [&str; 11] = [
    "blosm",
    "dockerd",
    "containerd",
    "containerd-shim",
    "docker-proxy",
    "runc",
    "docker-registry",
    "iperf3",
    "prometheus",
    "grafana",
    "grafana-server",
];
/// The commands of this program that run beside the nodes: what makes a link bad, what hears of every answer, and what lets
/// Prometheus through.
const BESIDE: [&str; 3] = ["link-relay", "oracle", monitor::BRIDGE];
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where containerd's shims put their sockets whatever the configuration says.
const SHIM_SOCKETS: &str = "/run/containerd/s/";

/// Processes whose command line names a file under `dir`, among the programs that a testnet starts.
pub fn programs(dir: &Path) -> Vec<Process> {
    let dir = folder(dir);
    pids()
        .filter(|pid| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let words = command_line(*pid);
            // Of the harness itself only these: whoever takes the testnet down names its folder too.
            let beside = words.get(1).is_some_and(|word| BESIDE.contains(&word.as_str()));
            let ours = PROGRAMS.contains(&comm.trim_end()) || beside;
            ours && words.iter().any(|word| word.contains(&dir))
        })
        .filter_map(identify)
        .collect()
}

/// Processes inside the containers of the engines under `dir`.
pub fn contained(dir: &Path) -> Vec<Process> {
    let Some(place) = Place::of(dir) else {
        return Vec::new();
    };
    pids()
        .filter(|pid| place.container_of(*pid).is_some())
        .filter_map(identify)
        .collect()
}

/// Where a folder lies: on which file system, and where in it. Mount tables of other namespaces speak of files so.
pub(crate) struct Place {
    device: String,
    path: String,
}

impl Place {
    pub(crate) fn of(dir: &Path) -> Option<Place> {
        let dir = dir.canonicalize().ok()?;
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounts = table
            .lines()
            .filter_map(Mount::parse)
            .filter(|mount| dir.starts_with(mount.point));
        // The longest mount point holds it, and of several at one place the last.
        let mount = mounts.max_by_key(|mount| mount.point.len())?;
        let inside = dir.strip_prefix(mount.point).ok()?;
        let path = folder(&Path::new(mount.root).join(inside));
        Some(Place {
            device: mount.device.to_owned(),
            path,
        })
    }

    /// The file under the folder that an engine has mounted as a process's `/etc/hostname`, relative to the folder.
    /// Every container has one, whatever its storage driver.
    pub(crate) fn container_of(&self, pid: i32) -> Option<String> {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
        let mut mounts = table.lines().filter_map(Mount::parse);
        let mount = mounts.find(|mount| mount.point == "/etc/hostname" && mount.device == self.device)?;
        mount.root.strip_prefix(&self.path).map(str::to_owned)
    }
}

/// One line of a mount table.
struct Mount<'a> {
    device: &'a str,
    root: &'a str,
    point: &'a str,
}

impl Mount<'_> {
    fn parse(line: &str) -> Option<Mount<'_>> {
        let mut fields = line.split(' ').skip(2);
        Some(Mount {
            device: fields.next()?,
            root: fields.next()?,
            point: fields.next()?,
        })
    }
}

/// The words of a process's command line.
pub fn command_line(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect()
}

/// Mount points under `dir`, those mounted last first.
pub fn mounts(dir: &Path) -> Vec<PathBuf> {
    let dir = folder(dir);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(&dir));
    points.map(PathBuf::from).rev().collect()
}

/// The control groups of the testnet `id`, in every hierarchy.
pub fn cgroups(id: &str) -> Vec<PathBuf> {
    let name = cgroup(id);
    let top = PathBuf::from(CGROUPS);
    let hierarchies = fs::read_dir(&top)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let all: BTreeSet<PathBuf> = hierarchies
        .chain([top.clone()])
        .map(|dir| dir.join(&name))
        .collect();
    // Some hierarchies have two names, one a link to the other.
    let real: BTreeSet<PathBuf> = all
        .into_iter()
        .filter_map(|dir| dir.canonicalize().ok())
        .collect();
    real.into_iter().collect()
}

/// The name of a testnet's control group.
pub fn cgroup(id: &str) -> String {
    format!("blosm-{id}")
}

/// Kills what still runs, unmounts what is mounted, and removes the control groups. What an orderly shutdown has
/// removed already is not there to be found.
///
/// # Errors
/// Something could not be removed; the text names it.
pub fn sweep(id: &str, dir: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Engines first: a live one would start a shim again, or clear up behind our back.
        let left: Vec<Process> = programs(dir).into_iter().chain(contained(dir)).collect();
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!(
                "processes that do not end: {:?}",
                left.iter().map(|p| p.pid).collect::<Vec<_>>()
            );
        }
        for process in left {
            process.signal(Signal::KILL);
            process.wait_gone(Duration::from_secs(2));
        }
    }
    remove_shim_sockets(dir);
    unmount(dir)?;
    cgroups(id)
        .iter()
        .try_for_each(|group| remove_cgroup(group, deadline))
}

fn unmount(dir: &Path) -> Result<()> {
    let mut errors = Vec::new();
    for point in mounts(dir) {
        let point = point.to_string_lossy();
        if let Err(error) = shell::run("umount", &[&point]).or_else(|_| shell::run("umount", &["-l", &point]))
        {
            errors.push(format!("{error:#}"));
        }
    }
    if mounts(dir).is_empty() {
        Ok(())
    } else {
        bail!("still mounted: {}", errors.join("; "))
    }
}

fn remove_cgroup(group: &Path, deadline: Instant) -> Result<()> {
    for entry in fs::read_dir(group)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path(), deadline)?;
        }
    }
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A group is busy until the kernel has let go of its last process.
            Err(_) if Instant::now() < deadline => pause(),
            Err(error) => bail!("the control group {}: {error}", group.display()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel does not tell when a control group is free to go"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// A killed shim leaves its socket behind; its task's folder holds the address.
fn remove_shim_sockets(dir: &Path) {
    let mut folders = vec![dir.to_owned()];
    // <dir>/<host>/engine/containerd/state/io.containerd.runtime.v2.task/moby/<container>/address
    for _ in 0..7 {
        let inner = folders
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .filter_map(Result::ok);
        let inner: Vec<PathBuf> = inner
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path())
            .collect();
        for address in inner
            .iter()
            .filter_map(|folder| fs::read_to_string(folder.join("address")).ok())
        {
            let socket = address.trim().trim_start_matches("unix://");
            if socket.starts_with(SHIM_SOCKETS) {
                let _ = fs::remove_file(socket);
            }
        }
        folders = inner
            .into_iter()
            .filter(|folder| !folder.ends_with("data"))
            .collect();
    }
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn identify(pid: i32) -> Option<Process> {
    let process = Process {
        pid,
        started: Status::read(pid)?.started,
    };
    process.alive().then_some(process)
}

/// With a slash at its end, so that one folder's name is never the beginning of another's.
fn folder(dir: &Path) -> String {
    format!("{}/", dir.display().to_string().trim_end_matches('/'))
}

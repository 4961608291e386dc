//! Control groups, versions 1 and 2: limits of the machine we are in, and what a container uses.
//!
//! The limits that matter for R_tot are those of process 1: they bind all that runs here, when
//! "here" is a container or a small virtual host. A limit on blosm's own unit does not bind the
//! engine's containers and is not looked at.

use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";
/// Version 1 writes "unlimited" as a number near 2^63; no machine has this much.
const UNLIMITED: u64 = 1 << 60;

/// Limits on all that runs on this machine; absent means none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes in use under that limit, page cache that can be dropped left out.
    pub memory_used: Option<u64>,
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
}

/// Counters of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupUsage {
    /// Bytes in use, page cache that can be dropped left out.
    pub memory: u64,
    /// Processor time since its start, nanoseconds.
    pub cpu_ns: u64,
}

/// The limits of process 1's groups.
#[must_use]
pub fn machine_limits() -> Limits {
    let groups = std::fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    limits_in(Path::new(MOUNT), &groups)
}

/// What the container with this first process uses; `None` where its groups cannot be read.
#[must_use]
pub fn usage_of(pid: u32) -> Option<GroupUsage> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    usage_in(Path::new(MOUNT), &groups)
}

fn limits_in(mount: &Path, groups: &str) -> Limits {
    if let Some(path) = unified(groups) {
        let dir = visible(mount, path);
        let memory = number(&dir, "memory.max");
        return Limits {
            memory,
            memory_used: memory.and_then(|_| used(&dir, "memory.current", "inactive_file")),
            cpu_milli: text(&dir, "cpu.max").and_then(|line| {
                let (quota, period) = line.split_once(' ')?;
                share(quota.parse().ok()?, period.trim().parse().ok()?)
            }),
        };
    }
    let memory_dir = controller(mount, groups, "memory");
    let cpu_dir = controller(mount, groups, "cpu");
    let memory = memory_dir
        .as_ref()
        .and_then(|dir| number(dir, "memory.limit_in_bytes"))
        .filter(|limit| *limit < UNLIMITED);
    Limits {
        memory,
        memory_used: memory
            .and(memory_dir.as_ref())
            .and_then(|dir| used(dir, "memory.usage_in_bytes", "total_inactive_file")),
        // A quota of -1 is none.
        cpu_milli: cpu_dir.as_ref().and_then(|dir| {
            share(
                number(dir, "cpu.cfs_quota_us")?,
                number(dir, "cpu.cfs_period_us")?,
            )
        }),
    }
}

fn usage_in(mount: &Path, groups: &str) -> Option<GroupUsage> {
    if let Some(path) = unified(groups) {
        let dir = mount.join(path);
        let cpu_us = field(&text(&dir, "cpu.stat")?, "usage_usec")?;
        return Some(GroupUsage {
            memory: used(&dir, "memory.current", "inactive_file")?,
            cpu_ns: cpu_us.saturating_mul(1000),
        });
    }
    let exact = |name| Some(mount.join(mounted(mount, name)?).join(v1_path(groups, name)?));
    Some(GroupUsage {
        memory: used(&exact("memory")?, "memory.usage_in_bytes", "total_inactive_file")?,
        cpu_ns: number(&exact("cpuacct")?, "cpuacct.usage")?,
    })
}

/// Path of the only group where version 2 alone is in use. With both mounted (hybrid) the
/// controllers hang on version 1.
fn unified(groups: &str) -> Option<&str> {
    let only = groups.lines().count() == 1;
    groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .filter(|_| only)
}

fn v1_path<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let named = parts.next()?.split(',').any(|name| name == controller);
        parts.next()?.strip_prefix('/').filter(|_| named)
    })
}

/// Directory that a version 1 controller is mounted on; some are mounted together.
fn mounted(mount: &Path, controller: &str) -> Option<&'static str> {
    let candidates: &[&'static str] = match controller {
        "memory" => &["memory"],
        "cpu" => &["cpu", "cpu,cpuacct"],
        "cpuacct" => &["cpuacct", "cpu,cpuacct"],
        _ => &[],
    };
    candidates.iter().copied().find(|name| mount.join(name).is_dir())
}

fn controller(mount: &Path, groups: &str, name: &str) -> Option<PathBuf> {
    let dir = mount.join(mounted(mount, name)?);
    Some(visible(&dir, v1_path(groups, name)?))
}

/// Inside a container the path that `/proc` shows may not exist here; the mount itself is our group
/// then.
fn visible(mount: &Path, path: &str) -> PathBuf {
    let dir = mount.join(path);
    if dir.is_dir() { dir } else { mount.to_owned() }
}

fn text(dir: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(file)).ok()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file)?.trim().parse().ok()
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn used(dir: &Path, file: &str, cache: &str) -> Option<u64> {
    let cache = text(dir, "memory.stat")
        .and_then(|stat| field(&stat, cache))
        .unwrap_or(0);
    Some(number(dir, file)?.saturating_sub(cache))
}

fn share(quota_us: u64, period_us: u64) -> Option<u64> {
    quota_us.saturating_mul(1000).checked_div(period_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn version_2_is_read() {
        let dir = tree(&[
            ("a/memory.max", "1000\n"),
            ("a/memory.current", "300\n"),
            ("a/memory.stat", "anon 5\ninactive_file 100\n"),
            ("a/cpu.max", "150000 100000\n"),
            ("a/cpu.stat", "usage_usec 7\nuser_usec 3\n"),
        ]);
        let limits = limits_in(dir.path(), "0::/a\n");
        assert_eq!(
            limits,
            Limits {
                memory: Some(1000),
                memory_used: Some(200),
                cpu_milli: Some(1500)
            }
        );
        assert_eq!(
            usage_in(dir.path(), "0::/a\n"),
            Some(GroupUsage {
                memory: 200,
                cpu_ns: 7000
            })
        );
        let free = tree(&[("memory.max", "max\n"), ("cpu.max", "max 100000\n")]);
        assert_eq!(limits_in(free.path(), "0::/not/visible\n"), Limits::default());
    }

    #[test]
    fn version_1_is_read() {
        let dir = tree(&[
            ("memory/m/memory.limit_in_bytes", "2000\n"),
            ("memory/m/memory.usage_in_bytes", "900\n"),
            ("memory/m/memory.stat", "total_inactive_file 400\n"),
            ("cpu,cpuacct/c/cpu.cfs_quota_us", "50000\n"),
            ("cpu,cpuacct/c/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/c/cpuacct.usage", "12345\n"),
        ]);
        let groups = "3:cpu,cpuacct:/c\n2:memory:/m\n1:name=systemd:/\n";
        let limits = limits_in(dir.path(), groups);
        assert_eq!(
            limits,
            Limits {
                memory: Some(2000),
                memory_used: Some(500),
                cpu_milli: Some(500)
            }
        );
        assert_eq!(
            usage_in(dir.path(), groups),
            Some(GroupUsage {
                memory: 500,
                cpu_ns: 12_345
            })
        );

        let free = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits_in(free.path(), "2:memory:/\n1:cpu:/\n"), Limits::default());
        assert_eq!(limits_in(free.path(), ""), Limits::default());
    }
}

//! What `blosm join` looks at, and how it says what it found. A warning says what to do about it, and does not end the join.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use blosm_migrate::docker::{Docker, Store};
use blosm_migrate::engine::Runtime;
use blosm_migrate::helper::Helper;
use serde_json::{Value, json};

use super::super::Output;
use crate::admission::{Found, Invite, LineError, Reached};
use crate::api;
use crate::config::Config;

/// A clock that is off by more is told of.
const CLOCK_WARN_MS: i64 = 5_000;
/// A disk with a smaller share free is told of: with less than 10 % nothing is fetched for a session by default.
const DISK_WARN: f64 = 0.15;
/// Columns of the words in front.
const WIDTH: usize = 10;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    what: &'static str,
    found: String,
    /// What to do about it, if it is not well.
    cure: Option<String>,
}

impl Check {
    pub(super) fn ok(what: &'static str, found: impl Into<String>) -> Check {
        Check {
            what,
            found: found.into(),
            cure: None,
        }
    }

    fn warn(what: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Check {
        Check {
            what,
            found: found.into(),
            cure: Some(cure.into()),
        }
    }

    fn line(&self) -> String {
        match &self.cure {
            None => format!("ok    {:WIDTH$}  {}", self.what, self.found),
            Some(cure) => format!("warn  {:WIDTH$}  {}: {cure}", self.what, self.found),
        }
    }
}

/// Says each check as it is made, or all of them as one document at the end.
#[derive(Debug)]
pub(super) struct Report {
    output: Output,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(output: Output) -> Report {
        Report {
            output,
            checks: Vec::new(),
        }
    }

    pub(super) fn say(&mut self, check: Check) {
        if !self.output.json {
            // A reader that has gone away is no failure of the command.
            let _ = writeln!(std::io::stdout(), "{}", check.line());
        }
        self.checks.push(check);
    }

    pub(super) fn finish(self, mut value: Value, next: &str) {
        let checks = self.checks.iter().map(|check| {
            json!({ "check": check.what, "ok": check.cure.is_none(), "found": check.found, "cure": check.cure })
        });
        value["checks"] = checks.collect();
        self.output
            .print(&value, || format!("next  {:WIDTH$}  {next}\n", "run"));
    }
}

pub(super) fn invite(invite: &Invite, now: u64) -> Check {
    let left = Duration::from_secs(invite.expires_unix_ms.saturating_sub(now) / 1000);
    let network = format!("network {}", invite.chain_id.short(8));
    if left.is_zero() {
        return Check::warn(
            "invite",
            format!("{network}, expired by this machine's clock"),
            "the authority's clock decides; if it says so too, ask for a new one (`blosm invite`)",
        );
    }
    Check::ok(
        "invite",
        format!("{network}, expires in {}", humantime::format_duration(left)),
    )
}

pub(super) fn authority(found: &Found) -> Check {
    let ms = found.took.as_secs_f64() * 1000.0 / 2.0;
    Check::ok(
        "authority",
        format!("answers at {}, round trip {ms:.1} ms", found.address),
    )
}

/// The authority's clock as it was half a round trip before its answer came, beside this one.
pub(super) fn clock(answered_unix_ms: u64, rtt: Duration, theirs_unix_ms: u64) -> Check {
    let way = i128::try_from(rtt.as_millis() / 2).unwrap_or(0);
    let ahead = i128::from(answered_unix_ms) - way - i128::from(theirs_unix_ms);
    let ahead = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
    let off = format!(
        "{:.1} s {} the authority's",
        ahead.unsigned_abs() as f64 / 1000.0,
        if ahead < 0 { "behind" } else { "ahead of" }
    );
    if ahead.unsigned_abs() > CLOCK_WARN_MS.unsigned_abs() {
        return Check::warn(
            "clock",
            format!("this machine's clock is {off}"),
            "set it (`timedatectl set-ntp true`), or times in reports are wrong",
        );
    }
    Check::ok("clock", off)
}

/// Ports that `blosm run` will need. The swarm's own is looked at before the admission.
///
/// # Errors
/// One is taken.
pub(super) async fn ports(config: &Config) -> Result<(), api::BindError> {
    // Closed again at once: nothing has connected to them.
    drop(api::bind(config).await?);
    drop(api::listen(config.gateway.listen, "gateway").await?);
    Ok(())
}

/// The engine, the methods that will work with it, and its disk.
pub(super) async fn machine(config: &Config) -> Vec<Check> {
    if config.engine.runtime == Runtime::Sim {
        return vec![
            Check::ok("engine", "SIMULATED: no real container runs here"),
            Check::ok("methods", "live, stateless"),
            disk(&config.data_dir),
        ];
    }
    let docker = match Docker::connect(&config.engine.socket).await {
        Ok(docker) => docker,
        Err(error) => {
            let cure =
                "`blosm run` needs one: install Docker and start it, or set [engine] socket in blosm.toml";
            return vec![
                Check::warn("engine", error.to_string(), cure),
                disk(&config.data_dir),
            ];
        }
    };
    let info = docker.info();
    let store = match info.store {
        Store::Classic => "classic image store",
        Store::Containerd => "containerd image store",
    };
    let engine = format!(
        "Docker {}, {store}, {} on {}",
        info.version, info.storage_driver, info.architecture
    );
    vec![
        Check::ok("engine", engine),
        methods(config).await,
        disk(&info.root_dir),
    ]
}

async fn methods(config: &Config) -> Check {
    let root = rustix::process::geteuid().is_root();
    let helper = Helper::new(&config.helper.socket).hello().await;
    match (helper, root) {
        (Ok(_), _) => Check::ok("methods", "live, stateless, image; a layer helper answers"),
        (Err(_), true) => Check::ok(
            "methods",
            "live, stateless, image; run as root, blosm starts its layer helper",
        ),
        (Err(error), false) => Check::warn(
            "methods",
            format!("stateless and image, not live ({error})"),
            "start `blosm run` as root, or `blosm layer-helper` as root beside it",
        ),
    }
}

fn disk(root: &Path) -> Check {
    // The engine may make its folder later.
    let there = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => free(
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_blocks.saturating_mul(stat.f_frsize),
            there,
        ),
        Err(errno) => Check::warn(
            "disk",
            format!("{} cannot be looked at ({errno})", there.display()),
            "see that this user may read it",
        ),
    }
}

fn free(free: u64, total: u64, root: &Path) -> Check {
    let found = format!(
        "{} of {} free under {}",
        bytesize::ByteSize::b(free),
        bytesize::ByteSize::b(total),
        root.display()
    );
    if (free as f64) < total as f64 * DISK_WARN {
        return Check::warn(
            "disk",
            found,
            "make room: with less than 10 % free no container comes here",
        );
    }
    Check::ok("disk", found)
}

pub(super) fn admitted(config: &Config, height: u64, as_sent: bool) -> Check {
    let found = format!("since block {height} as {}", config.node.label);
    if as_sent {
        return Check::ok("admitted", found);
    }
    Check::warn(
        "admitted",
        format!("{found}, by another record than blosm.toml says"),
        format!("the authority changes it: {}", config.admit_command()),
    )
}

pub(super) fn reached(config: &Config, reached: &[Reached]) -> Check {
    let listen: Vec<_> = config.net.listen.iter().map(ToString::to_string).collect();
    if reached.is_empty() {
        return Check::warn(
            "dialled",
            "nobody can dial this node: it names no address",
            "set [net] advertise in blosm.toml to an address of this machine that the others reach",
        );
    }
    let failed: Vec<_> = reached
        .iter()
        .filter_map(|one| Some(format!("{} ({})", one.address, one.error.as_ref()?)))
        .collect();
    let well: Vec<_> = reached
        .iter()
        .filter(|one| one.error.is_none())
        .map(|one| one.address.as_str())
        .collect();
    match (well.is_empty(), failed.is_empty()) {
        (false, true) => Check::ok(
            "dialled",
            format!("the authority connects to {}", well.join(", ")),
        ),
        (false, false) => Check::warn(
            "dialled",
            format!(
                "the authority connects to {}, not to {}",
                well.join(", "),
                failed.join(", ")
            ),
            "take those out of [net] advertise, or open their ports",
        ),
        (true, _) => Check::warn(
            "dialled",
            format!("the authority cannot connect to {}", failed.join(", ")),
            format!(
                "open the port in the firewall (this node listens on {}), or set [net] advertise to what leads here; until \
                 then only this node dials",
                listen.join(", ")
            ),
        ),
    }
}

/// The authority did not say whether it can connect.
pub(super) fn not_reached(error: &LineError) -> Check {
    Check::warn(
        "dialled",
        format!("the authority did not say whether it can connect ({error})"),
        "`blosm members -v` on the authority shows whether it is connected to this node",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_of_with_its_cure() {
        let rtt = Duration::from_millis(100);
        let base = 1_700_000_000_000;
        let answered = base + 100;
        assert_eq!(
            clock(answered, rtt, base + 50),
            Check::ok("clock", "0.0 s ahead of the authority's")
        );
        assert_eq!(
            clock(answered, rtt, base + 50 + 5_000),
            Check::ok("clock", "5.0 s behind the authority's")
        );
        assert_eq!(
            clock(answered, rtt, base + 50 + 52_000).line(),
            "warn  clock       this machine's clock is 52.0 s behind the authority's: set it (`timedatectl set-ntp \
             true`), or times in reports are wrong"
        );
        let ahead = clock(answered + 5_001, rtt, base + 50);
        assert!(
            ahead
                .line()
                .starts_with("warn  clock       this machine's clock is 5.0 s ahead"),
            "{ahead:?}"
        );
        // What a peer says may be anything.
        assert!(clock(0, rtt, u64::MAX).cure.is_some() && clock(u64::MAX, rtt, 0).cure.is_some());
    }

    #[test]
    fn a_full_disk_is_told_of() {
        let root = Path::new("/var/lib/docker");
        assert_eq!(free(20, 100, root).cure, None);
        assert!(free(14, 100, root).cure.is_some());
        // A file system that tells no size has no share of it free.
        assert_eq!(free(0, 0, root).cure, None);
    }
}

//! Programs of the system that the harness calls: `ip`, `tc`, `umount`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What hosts need on the PATH, and the Debian package that brings it.
const NEEDED: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("iptables", "iptables"),
];
/// What their engines need beside that.
const ENGINES: [(&str, &str); 2] = [("containerd", "containerd"), ("dockerd", "docker.io")];

/// Refuses to begin hosts, with or without engines, on a machine that cannot finish.
///
/// # Errors
/// Not root, or a program is missing; the text says what to do.
pub fn preflight(engines: bool) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces and private engines need root: run this with sudo");
    }
    let engines = ENGINES.into_iter().filter(|_| engines);
    for (program, package) in NEEDED.into_iter().chain(engines) {
        if find(program).is_none() {
            bail!("{program} is not on the PATH: install the package {package}");
        }
    }
    Ok(())
}

/// A program of this project that was built together with this one.
pub fn beside(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    // Tests run from a folder below that of the binaries.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The first executable of that name on the PATH, or in the folders of system programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// It could not be started or failed; the text holds the command line and what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let path = find(program).with_context(|| format!("{program} is not on the PATH"))?;
    let output = Command::new(path).args(arguments).output().with_context(line)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", line(), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// [`run`] for a command line without quoting, split at white space.
///
/// # Errors
/// As [`run`].
pub fn sh(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    run(program, &words.collect::<Vec<_>>())
}

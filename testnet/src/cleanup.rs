//! Taking a testnet away: whatever happened to it, whoever started it, and also when the harness is interrupted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::engine::Engine;
use crate::node::Node;
use crate::process::Process;
use crate::state::{Ground, State};
use crate::sweep;

/// Testnets of this process that go when it is interrupted.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Two threads must not take one testnet down at once: the one that ends first would end the process.
static TEARDOWN: Mutex<()> = Mutex::new(());
/// Set by the first signal: from then on nothing new is started.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static LISTENER: Once = Once::new();

/// From now on a Ctrl-C, SIGTERM or SIGHUP removes the testnet in `dir` and ends the process.
pub fn watch(dir: &Path) {
    live().insert(dir.to_owned());
    LISTENER.call_once(|| {
        let spawned = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(listen);
        if let Err(error) = spawned {
            tracing::warn!(%error, "an interrupted testnet will have to be removed by hand");
        }
    });
}

/// The testnet in `dir` outlives this process, or is gone.
pub fn release(dir: &Path) {
    live().remove(dir);
}

/// Whether a signal has come, so that nothing new may be started.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    // The set is whole at any time: its methods do not panic half-way.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen() {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!(%error, "signals are not handled"),
    };
    let code = runtime.block_on(async {
        let listen = |kind| signal(kind);
        let signals = (
            listen(SignalKind::interrupt()),
            listen(SignalKind::terminate()),
            listen(SignalKind::hangup()),
        );
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = signals else {
            return 1;
        };
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            _ = hangup.recv() => 129,
        }
    });
    INTERRUPTED.store(true, Ordering::SeqCst);
    let dirs: Vec<PathBuf> = live().iter().cloned().collect();
    for dir in dirs {
        eprintln!("interrupted: removing the testnet in {}", dir.display());
        if let Err(error) = teardown(&dir) {
            eprintln!("{error:#}");
        }
    }
    std::process::exit(code);
}

/// Removes everything of the testnet in `dir`: processes, containers, mounts, control groups, namespaces, files.
///
/// # Errors
/// Something could not be removed. The folder then stays, so that the command can be given again.
pub fn teardown(dir: &Path) -> Result<()> {
    let _one = TEARDOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if !dir.exists() {
        release(dir);
        return Ok(());
    }
    let state = State::load(dir)?;
    stop(&state);
    let swept = sweep::sweep(&state.id, dir);
    let removed = match state.ground {
        Ground::Road => state.road().remove(),
        Ground::Loopback => Ok(()),
    };
    swept
        .and(removed)
        .with_context(|| format!("the testnet in {} is not wholly removed", dir.display()))?;
    keep_logs(&state);
    fs::remove_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    release(dir);
    Ok(())
}

/// What is left of a testnet on the machine, in words; empty when nothing is.
pub fn leftovers(id: &str, dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let name = |process: &Process| {
        format!(
            "process {} {}",
            process.pid,
            sweep::command_line(process.pid).join(" ")
        )
    };
    left.extend(
        sweep::programs(dir)
            .iter()
            .chain(&sweep::contained(dir))
            .map(name),
    );
    left.extend(
        crate::hosts::Road::of(id)
            .existing()
            .iter()
            .map(|n| format!("namespace {n}")),
    );
    left.extend(
        sweep::mounts(dir)
            .iter()
            .map(|m| format!("mount {}", m.display())),
    );
    left.extend(
        sweep::cgroups(id)
            .iter()
            .map(|c| format!("control group {}", c.display())),
    );
    left.extend(dir.exists().then(|| format!("folder {}", dir.display())));
    left
}

/// [`leftovers`] as a check.
///
/// # Errors
/// Something is left.
pub fn check_gone(id: &str, dir: &Path) -> Result<()> {
    let left = leftovers(id, dir);
    if left.is_empty() {
        Ok(())
    } else {
        bail!("left on the machine: {}", left.join("; "))
    }
}

/// In good order and all at once; what does not follow is swept afterwards.
fn stop(state: &State) {
    // They have nothing that must be written down.
    for process in state.monitor.processes() {
        process.end(Signal::TERM, Duration::from_secs(10));
    }
    for relay in state.hosts.iter().filter_map(|host| host.relay) {
        relay.end(Signal::TERM, Duration::from_secs(5));
    }
    let nodes: Vec<Process> = state.hosts.iter().filter_map(|host| host.node).collect();
    nodes.iter().for_each(|node| node.signal(Signal::TERM));
    nodes
        .iter()
        .for_each(|node| node.end(Signal::TERM, Duration::from_secs(5)));
    if state.ground == Ground::Loopback {
        return;
    }
    std::thread::scope(|scope| {
        for host in &state.hosts {
            let engine = Engine::of(state, host.number);
            scope.spawn(move || engine.stop(&host.engine));
        }
    });
}

/// With `BLOSM_TESTNET_LOGS` set to a folder, the logs outlive the testnet there.
fn keep_logs(state: &State) {
    let Some(to) = std::env::var_os("BLOSM_TESTNET_LOGS").map(|to| PathBuf::from(to).join(&state.id)) else {
        return;
    };
    for host in &state.hosts {
        let node = Node::of(state, host.number)
            .ok()
            .map(|node| node.log().to_owned());
        for log in [node, Some(Engine::of(state, host.number).log())]
            .into_iter()
            .flatten()
        {
            keep(&to, &host.label, &log);
        }
    }
    let watched = fs::read_dir(state.dir.join("monitor")).into_iter().flatten();
    for log in watched.filter_map(|entry| Some(entry.ok()?.path())) {
        if log.extension().is_some_and(|extension| extension == "log") {
            keep(&to, "monitor", &log);
        }
    }
}

fn keep(to: &Path, of: &str, log: &Path) {
    // Not every testnet has engines.
    if !log.is_file() {
        return;
    }
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let kept = fs::create_dir_all(to).and_then(|()| fs::copy(log, to.join(format!("{of}-{name}"))).map(drop));
    if let Err(error) = kept {
        tracing::warn!(%error, log = %log.display(), "not kept");
    }
}

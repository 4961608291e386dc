//! Taking a testnet away: whatever happened to it, whoever started it, and also when the harness is interrupted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, Once, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::node::Node;
use crate::process::Process;
use crate::state::{Ground, State};
use crate::sweep;

/// Testnets of this process that go when it is interrupted.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Two threads must not take one testnet down at once: the one that ends first would end the process.
static TEARDOWN: Mutex<()> = Mutex::new(());
/// Held while something is begun in a testnet, so that the signal's thread sees it whole or not at all.
static BEGINNING: Mutex<()> = Mutex::new(());
/// Set by the first signal, which ends this process sooner or later.
static SIGNALLED: AtomicBool = AtomicBool::new(false);
/// Set when testnets are about to be removed: from then on nothing new is started.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static LISTENER: Once = Once::new();
static WORD: LazyLock<watch::Sender<Word>> = LazyLock::new(|| watch::Sender::new(Word::None));

/// So often a folder is removed that something still writes to.
const REMOVALS: usize = 3;

/// From now on a Ctrl-C, SIGTERM or SIGHUP removes this process's testnets and ends it.
pub fn attend() {
    LISTENER.call_once(|| {
        let (heard, listening) = mpsc::sync_channel(1);
        let spawned = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || listen(&heard));
        if let Err(error) = spawned {
            return tracing::warn!(%error, "an interrupted testnet will have to be removed by hand");
        }
        // Until then a signal just ends the process. An error is one of the thread, which has told it.
        let _ = listening.recv();
    });
}

/// The testnet in `dir` goes when this process is interrupted.
pub fn watch(dir: &Path) {
    live().insert(dir.to_owned());
    attend();
}

/// The testnet in `dir` outlives this process, or is gone.
pub fn release(dir: &Path) {
    live().remove(dir);
}

/// Whether testnets are being removed after a signal, so that nothing new may be started.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Does what starts a process or writes a file of a testnet, in a moment, unless a signal has come: what was begun before
/// it is found, and nothing is begun after it.
///
/// # Errors
/// A signal has come, or `begin` fails.
pub fn begin<T>(begin: impl FnOnce() -> Result<T>) -> Result<T> {
    let _one = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
    if interrupted() {
        bail!("interrupted");
    }
    begin()
}

/// After a signal the process is ended by the signal's thread, when all testnets are gone: waits for that. Returns at once
/// without one.
pub fn leave_to_signal() {
    while SIGNALLED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Somebody who sums up before the testnets go. As long as this value lives, a first signal only tells it, and a second one
/// removes them at once.
#[derive(Debug)]
pub struct LastWord(());

/// Whether it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nobody has any.
    None,
    /// Somebody will have one.
    Kept,
    /// A signal has come.
    Asked,
}

impl LastWord {
    /// Wants to have it.
    pub fn keep() -> LastWord {
        WORD.send_replace(Word::Kept);
        LastWord(())
    }

    /// Waits for a signal.
    pub async fn asked(&self) {
        // The sender is never dropped.
        let _ = WORD.subscribe().wait_for(|word| *word == Word::Asked).await;
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        WORD.send_replace(Word::None);
    }
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    // The set is whole at any time: its methods do not panic half-way.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says at `heard` when signals are heard.
fn listen(heard: &mpsc::SyncSender<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!(%error, "signals are not handled"),
    };
    let code = runtime.block_on(async {
        let kinds = [
            (SignalKind::interrupt(), 130),
            (SignalKind::terminate(), 143),
            (SignalKind::hangup(), 129),
        ];
        let signals = kinds.map(|(kind, code)| Some((signal(kind).ok()?, code)));
        let [Some(mut interrupt), Some(mut terminate), Some(mut hangup)] = signals else {
            return None;
        };
        let mut next = async || {
            tokio::select! {
                () = come(&mut interrupt.0) => interrupt.1,
                () = come(&mut terminate.0) => terminate.1,
                () = come(&mut hangup.0) => hangup.1,
            }
        };
        let _ = heard.send(());
        let code = next().await;
        SIGNALLED.store(true, Ordering::SeqCst);
        let asked = WORD.send_if_modified(|word| {
            let kept = *word == Word::Kept;
            if kept {
                *word = Word::Asked;
            }
            kept
        });
        if asked {
            eprintln!("interrupted: what has been is summed up first; once more, and it is left out");
            let mut word = WORD.subscribe();
            tokio::select! {
                _ = word.wait_for(|word| *word == Word::None) => {}
                _ = next() => {}
            }
        }
        Some(code)
    });
    let Some(code) = code else {
        return tracing::warn!("signals are not handled");
    };
    {
        let _one = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
        INTERRUPTED.store(true, Ordering::SeqCst);
    }
    let dirs: Vec<PathBuf> = live().iter().cloned().collect();
    for dir in dirs {
        eprintln!("interrupted: removing the testnet in {}", dir.display());
        if let Err(error) = teardown(&dir) {
            eprintln!("{error:#}");
        }
    }
    std::process::exit(code);
}

async fn come(signals: &mut Signals) {
    if signals.recv().await.is_none() {
        std::future::pending().await
    }
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
    remove(&state.id, dir)?;
    release(dir);
    Ok(())
}

/// Removes the folder. A command that had just been started writes there until it is swept away, and may have made the
/// folder anew.
fn remove(id: &str, dir: &Path) -> Result<()> {
    let mut removed = fs::remove_dir_all(dir);
    for _ in 1..REMOVALS {
        sweep::sweep(id, dir)?;
        if !dir.exists() {
            return Ok(());
        }
        removed = fs::remove_dir_all(dir);
    }
    removed.with_context(|| format!("{}", dir.display()))
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

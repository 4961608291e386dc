//! `blosm layer-helper`: the root process beside a node. Started as root, `blosm run` has one of its own.
//!
//! ```text
//! blosm run (root) ──spawn──▶ blosm layer-helper --until-stdin-ends ──"listens"──▶ blosm run gives up its rights
//!                 └── holds the other end of its stdin: however the node ends, its helper ends
//! ```

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, bail};
use blosm_migrate::engine::Runtime;
use blosm_migrate::helper::{Server, Settings, keep_needed_rights, keep_rights};
use clap::Args;
use rustix::thread::CapabilitySet;

use super::daemon::log_to_stderr;
use crate::config::Config;

/// What a helper says on its stdout once it listens.
const LISTENS: &str = "listens";

#[derive(Debug, Args)]
pub(super) struct LayerHelper {
    /// Where to listen (the node's helper.socket)
    #[arg(long, env = "BLOSM_HELPER_SOCKET", value_name = "PATH")]
    socket: PathBuf,
    /// The container engine's API
    #[arg(
        long,
        env = "BLOSM_ENGINE_SOCKET",
        value_name = "unix:///PATH",
        default_value = "unix:///var/run/docker.sock"
    )]
    engine: String,
    /// Folder for what changed in a layer until the node has it; the socket's folder unless set
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// User id of the node, which alone may connect beside root; root unless set
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// Serve the containers of this network only: the value of their label io.blosm.network
    #[arg(long, value_name = "LABEL")]
    network: Option<String>,
    /// What to log: a level or a filter
    #[arg(long, env = "BLOSM_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// Say on stdout when it listens, and end with stdin
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

pub(super) fn run(command: LayerHelper) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "only root reads and writes the layers of others' containers; run it as root, with --user for its node"
        );
    }
    log_to_stderr(&command.log)?;
    let spool = match command.spool {
        Some(spool) => spool,
        None => folder(&command.socket).to_owned(),
    };
    let settings = Settings {
        socket: command.socket.clone(),
        engine: command.engine,
        spool,
        user: command.user.unwrap_or(0),
        network: command.network,
    };
    let server = Server::bind(settings)?;
    keep_needed_rights().context("cannot give up the rights that a helper does not need")?;
    if command.until_stdin_ends {
        let socket = command.socket;
        std::thread::Builder::new()
            .name("parent".to_owned())
            .spawn(move || end_with_stdin(&socket))?;
        println!("{LISTENS}");
    }
    server.run()?;
    Ok(())
}

/// Nothing ever comes: the other end closes when the node has gone.
fn end_with_stdin(socket: &Path) {
    let mut byte = [0];
    while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
    // The next helper makes way for itself if this fails.
    let _ = std::fs::remove_file(socket);
    std::process::exit(0);
}

fn folder(socket: &Path) -> &Path {
    match socket.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The helper of a node that was started as root.
pub(super) struct OwnHelper;

impl OwnHelper {
    /// Started as root: starts a helper, then gives up what rights this process has, but for low ports. As any other
    /// user: does nothing. To be called while this is the only thread.
    ///
    /// # Errors
    /// The rights cannot be given up. A helper that does not start is only reported.
    pub(super) fn start(config: &Config, log: &str) -> anyhow::Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        // An operator's own unit, for example.
        let is_there = UnixStream::connect(&config.helper.socket).is_ok();
        // Simulated containers need none.
        let wanted = !is_there && config.engine.runtime == Runtime::Docker;
        let started = wanted.then(|| start(config, log));
        if let Some(path) = belongs_to_another(config) {
            tracing::warn!(
                path = %path.display(),
                "this process keeps root's rights, as the path belongs to another user: run blosm as that user"
            );
        } else {
            // But the one to listen on low ports.
            keep_rights(CapabilitySet::NET_BIND_SERVICE).context("cannot give up root's rights")?;
        }
        match started {
            None => Ok(()),
            Some(Ok((child, stdin))) => watch(child, stdin).context("cannot watch the layer helper"),
            Some(Err(error)) => {
                tracing::warn!(error = %format!("{error:#}"), "the layer helper did not start");
                Ok(())
            }
        }
    }
}

fn start(config: &Config, log: &str) -> anyhow::Result<(Child, ChildStdin)> {
    let network = config.network.chain_id.short(16);
    let mut child = Command::new(std::env::current_exe().context("cannot find this program's own file")?)
        .arg("layer-helper")
        .arg("--socket")
        .arg(&config.helper.socket)
        .args(["--engine", &config.engine.socket, "--network", &network])
        .args(["--log", log, "--until-stdin-ends"])
        .arg("--spool")
        .arg(&config.data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A terminal's interrupt is for the node, which ends its helper.
        .process_group(0)
        .spawn()
        .context("cannot start it")?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
        bail!("it has no stdin or stdout");
    };
    let mut said = String::new();
    // Its end when it fails, which it has said on stderr.
    BufReader::new(stdout)
        .read_line(&mut said)
        .context("cannot hear it")?;
    if said.trim_end() != LISTENS {
        bail!("it ended: {}", child.wait().context("cannot wait for it")?);
    }
    Ok((child, stdin))
}

/// What root may open only by the rights that it is about to give up.
fn belongs_to_another(config: &Config) -> Option<PathBuf> {
    let engine = match config.engine.runtime {
        Runtime::Docker => Some(Path::new(config.engine.socket.trim_start_matches("unix://"))),
        Runtime::Sim => None,
    };
    std::iter::once(config.data_dir.as_path())
        .chain(engine)
        .find(|path| path.metadata().is_ok_and(|meta| meta.uid() != 0))
        .map(Path::to_owned)
}

/// Says when it ends. The node goes on; containers then move as images.
fn watch(mut child: Child, stdin: ChildStdin) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("layer-helper".to_owned())
        .spawn(move || {
            let ended = child.wait();
            // Open until here: its end is what ends the helper.
            drop(stdin);
            match ended {
                Ok(status) => {
                    tracing::warn!(%status, "the layer helper ended; start the node again to have one")
                }
                Err(error) => tracing::warn!(%error, "the layer helper can't be watched"),
            }
        })
        .map(drop)
}

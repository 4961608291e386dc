//! `blosm layer-helper`: the root process beside a node. Started as root, `blosm run` has one of its own.
//!
//! ```text
//! blosm run (root) ──spawn──▶ layer-helper --keep ──spawn, again when it dies──▶ layer-helper --until-stdin-ends
//!    │  ▲                          │ "ended"                                        │ "listens"
//!    │  └──────── stdout ──────────┴────────────────────────────────────────────────┘
//!    └── holds the other end of their stdin: however the node ends, both end
//! ```
//! The node gives up its rights once the first helper listens; only the keeper could start another one.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use blosm_migrate::engine::Runtime;
use blosm_migrate::helper::{Server, Settings, keep_needed_rights, keep_rights};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::CapabilitySet;
use tokio::sync::watch;

use super::log::{self, LogFile};
use crate::config::Config;

/// What a helper says on its stdout once it listens.
const LISTENS: &str = "listens";
/// What a keeper says before the reason why its helper ended.
const ENDED: &str = "ended: ";
/// Between a helper's end and the next one's start; twice as long each time, while they end soon.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause. A helper that ran for longer did not end soon.
const LONG_PAUSE: Duration = Duration::from_secs(60);

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
    /// Serve nobody, but run a helper that does, and another one when it dies
    #[arg(long, hide = true)]
    keep: bool,
}

pub(super) fn run(command: LayerHelper) -> anyhow::Result<()> {
    if command.keep {
        return keep();
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "only root reads and writes the layers of others' containers; run it as root, with --user for its node"
        );
    }
    log::begin(&command.log, &LogFile::default())?;
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

/// Runs helpers, one after the other, as this process was told to run one, until stdin ends.
fn keep() -> anyhow::Result<()> {
    // What a helper needs is all that it can pass on.
    keep_needed_rights().context("cannot give up the rights that a helper does not need")?;
    let program = own_file()?;
    let arguments: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|argument| {
            if argument == "--keep" {
                "--until-stdin-ends".into()
            } else {
                argument
            }
        })
        .collect();
    let mut pause = PAUSE;
    loop {
        let begin = Instant::now();
        let ended = match Command::new(&program).args(&arguments).status() {
            Ok(status) => status.to_string(),
            Err(error) => format!("it did not start: {error}"),
        };
        if begin.elapsed() > LONG_PAUSE {
            pause = PAUSE;
        }
        if stdin_ends_within(Duration::ZERO)? {
            return Ok(());
        }
        // A node that can't hear it any more has ended.
        writeln!(std::io::stdout(), "{ENDED}{ended}")?;
        if stdin_ends_within(pause)? {
            return Ok(());
        }
        pause = (pause * 2).min(LONG_PAUSE);
    }
}

/// Waits for so long at most. Nothing is ever written into it.
fn stdin_ends_within(pause: Duration) -> std::io::Result<bool> {
    let begin = Instant::now();
    let stdin = std::io::stdin();
    loop {
        let left = Timespec::try_from(pause.saturating_sub(begin.elapsed())).ok();
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn own_file() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
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
    /// Gives how often that helper has ended, if there is one, with news also when another one listens.
    ///
    /// # Errors
    /// The rights cannot be given up. A helper that does not start is only reported.
    pub(super) fn start(config: &Config, log: &str) -> anyhow::Result<Option<watch::Receiver<u64>>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        // An operator's own unit, for example.
        let is_there = UnixStream::connect(&config.helper.socket).is_ok();
        // Simulated containers need none.
        let wanted = !is_there && config.engine.runtime == Runtime::Docker;
        let started = wanted.then(|| Own::start(config, log));
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
            None => Ok(None),
            Some(Ok(own)) => own.listen().context("cannot watch the layer helper").map(Some),
            Some(Err(error)) => {
                tracing::warn!(error = %format!("{error:#}"), "the layer helper did not start");
                Ok(None)
            }
        }
    }
}

/// A keeper whose helper listens.
struct Own {
    keeper: Child,
    /// Its end is what ends both.
    stdin: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Own {
    fn start(config: &Config, log: &str) -> anyhow::Result<Own> {
        let network = config.network.chain_id.short(16);
        let mut keeper = Command::new(own_file()?)
            .arg("layer-helper")
            .arg("--socket")
            .arg(&config.helper.socket)
            .args(["--engine", &config.engine.socket, "--network", &network])
            .args(["--log", log, "--keep"])
            .arg("--spool")
            .arg(&config.data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A terminal's interrupt is for the node, which ends its helper.
            .process_group(0)
            .spawn()
            .context("cannot start it")?;
        let (stdin, stdout) = (keeper.stdin.take(), keeper.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            bail!("it has no stdin or stdout");
        };
        let mut said = BufReader::new(stdout);
        let mut line = String::new();
        // It has said on stderr why it failed.
        said.read_line(&mut line).context("cannot hear it")?;
        if line.trim_end() != LISTENS {
            drop(stdin);
            keeper.wait().context("cannot wait for it")?;
            bail!("{}", line.trim_end());
        }
        Ok(Own { keeper, stdin, said })
    }

    /// Passes on what is said of it. The node goes on without it; containers then move as images.
    fn listen(self) -> std::io::Result<watch::Receiver<u64>> {
        let Own {
            mut keeper,
            stdin,
            said,
        } = self;
        let (ended, news) = watch::channel(0);
        std::thread::Builder::new()
            .name("layer-helper".to_owned())
            .spawn(move || {
                for line in said.lines().map_while(Result::ok) {
                    match line.strip_prefix(ENDED) {
                        Some(why) => {
                            tracing::warn!(why, "the layer helper ended; another one is started");
                            ended.send_modify(|times| *times += 1);
                        }
                        None => {
                            tracing::info!("a layer helper is there again");
                            ended.send_modify(|_| ());
                        }
                    }
                }
                drop(stdin);
                match keeper.wait() {
                    Ok(status) => {
                        tracing::warn!(%status, "no layer helper is started any more; start the node again to have one")
                    }
                    Err(error) => tracing::warn!(%error, "the layer helper can't be watched"),
                }
            })?;
        Ok(news)
    }
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

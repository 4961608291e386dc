//! A real `blosm` process in a host's namespace, driven through its own commands as an operator would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::api::NodeClient;
use crate::cleanup;
use crate::config::Ports;
use crate::hosts::Seat;
use crate::process::{Process, tail};
use crate::shell;
use crate::state::{HostState, State};

/// A node that starts opens its store, finds its peers and syncs first.
const START: Duration = Duration::from_secs(60);
/// An orderly stop parks migrations and flushes the store.
const STOP: Duration = Duration::from_secs(20);

/// The node of one host.
#[derive(Clone, Debug)]
pub struct Node {
    /// The `blosm` that it runs; none: the one of all.
    program: Option<PathBuf>,
    number: usize,
    seat: Seat,
    ports: Ports,
    data_dir: PathBuf,
    log: PathBuf,
    /// What the process itself prints: why it ended, if it did.
    out: PathBuf,
    clock: Option<String>,
}

impl Node {
    /// The node of the host `number`, whether it runs or not.
    ///
    /// # Errors
    /// There is no such host.
    pub fn of(state: &State, number: usize) -> Result<Node> {
        let host = state.host(number)?;
        Ok(Node {
            program: host.program.clone(),
            number,
            seat: state.seat(number),
            ports: host.ports,
            data_dir: state.data_dir(number),
            log: state.host_dir(number).join("blosm.log"),
            out: state.host_dir(number).join("blosm.out"),
            clock: host.clock.clone(),
        })
    }

    /// Makes a network with one authority: `network.toml` and, beside it, the authority's key. With `required` no
    /// container moves before 90 % of the members have confirmed its announcement.
    ///
    /// # Errors
    /// The command failed.
    pub fn new_network(state: &State, required: bool) -> Result<PathBuf> {
        let node = Node::of(state, 1)?;
        let file = state.dir.join("network.toml");
        let bootstrap = peer_address(state.host(1)?);
        let out = file.display().to_string();
        let name = format!("testnet-{}", state.id);
        let confirmation = if required { "required" } else { "advisory" };
        node.command(&[
            "network",
            "new",
            "--confirmation",
            confirmation,
            "--name",
            &name,
            "--out",
            &out,
            "--bootstrap",
            &bootstrap,
            "--json",
        ])?;
        Ok(file)
    }

    /// `blosm init`; gives the node's key.
    ///
    /// # Errors
    /// The command failed.
    pub fn init(&self, network: &Path, key: Option<&Path>) -> Result<String> {
        let (network, data_dir) = (network.display().to_string(), self.data_dir.display().to_string());
        let mut arguments = vec!["init", "--network", &network, "--data-dir", &data_dir, "--json"];
        let key = key.map(|key| key.display().to_string());
        if let Some(key) = &key {
            arguments.extend(["--key", key]);
        }
        let answer: Value =
            serde_json::from_str(&self.command(&arguments)?).context("`blosm init --json`")?;
        let key = answer["key"]
            .as_str()
            .context("`blosm init --json` names no key")?;
        Ok(key.to_owned())
    }

    /// `blosm admit`, on the authority, which this node must be; gives the transaction's hash.
    ///
    /// # Errors
    /// The command failed.
    pub fn admit(&self, host: &HostState) -> Result<String> {
        let key = host
            .key
            .as_deref()
            .with_context(|| format!("{} has no key yet", host.label))?;
        let (latitude, longitude) = host.location;
        let location = format!("--location={latitude:.6},{longitude:.6}");
        let (radius, gateway) = (
            host.radius.to_string(),
            format!("http://{}:{}", host.address, host.ports.gateway),
        );
        let metrics = metrics_url(host);
        let address = peer_address(host);
        let data_dir = self.data_dir.display().to_string();
        let answer = self.command(&[
            "admit",
            key,
            "--address",
            &address,
            "--gateway",
            &gateway,
            &location,
            "--radius",
            &radius,
            "--label",
            &host.label,
            "--metrics",
            &metrics,
            "--data-dir",
            &data_dir,
            "--json",
        ])?;
        let answer: Value = serde_json::from_str(&answer).context("`blosm admit --json`")?;
        let hash = answer["hash"]
            .as_str()
            .context("`blosm admit --json` names no hash")?;
        Ok(hash.to_owned())
    }

    /// Runs a `blosm` command on this host to its end and gives what it printed.
    ///
    /// # Errors
    /// There is no `blosm`, a signal has come, or the command failed; the text holds what it said.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.seat.command(&self.binary()?)?;
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BLOSM_"))
        {
            command.env_remove(name);
        }
        let started = cleanup::begin(|| command.spawn().context("blosm did not start"))?;
        let output = started.wait_with_output().context("blosm")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`blosm {}` on host {} failed: {}",
                arguments.join(" "),
                self.number,
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts `blosm run` and returns at once.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self) -> Result<Process> {
        let arguments = [
            "run".to_owned(),
            "--data-dir".to_owned(),
            self.data_dir.display().to_string(),
            "--log-file".to_owned(),
            self.log.display().to_string(),
        ];
        // Through env, so that settings of the person who calls the harness do not reach its nodes.
        let mut words: Vec<String> = std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| name.starts_with("BLOSM_") && name != "BLOSM_LOG")
            .flat_map(|name| ["-u".to_owned(), name])
            .collect();
        if let Some(clock) = &self.clock {
            let library = libfaketime().context("libfaketime is not installed (package libfaketime)")?;
            // Only what the wall says is wrong: a machine without a battery still knows how long a second is.
            words.push("FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned());
            words.push(format!("FAKETIME={clock}"));
            words.push(format!("LD_PRELOAD={}", library.display()));
        }
        words.push(self.binary()?.display().to_string());
        words.extend(arguments);
        let env = shell::find("env").context("env is not on the PATH")?;
        cleanup::begin(|| Process::spawn_at(&self.seat, &env, &words, &self.out))
    }

    /// Waits until the node's gateway serves.
    ///
    /// # Errors
    /// The process ended, or is not ready in time; the text holds the end of its log.
    pub async fn wait_ready(&self, process: Process) -> Result<()> {
        let client = self.client();
        let deadline = Instant::now() + START;
        while !client.ready().await {
            if !process.alive() {
                let (log, out) = (tail(&self.log, 10), tail(&self.out, 10));
                bail!("blosm on host {} ended:\n{log}\n{out}", self.number);
            }
            if Instant::now() > deadline {
                bail!(
                    "blosm on host {} is not ready after {START:?}:\n{}",
                    self.number,
                    tail(&self.log, 10)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// SIGKILL, as a power cut would.
    pub fn kill(known: Process) {
        known.end(Signal::KILL, Duration::ZERO);
    }

    /// SIGTERM; SIGKILL if that is not enough.
    pub fn stop(known: Process) {
        known.end(Signal::TERM, STOP);
    }

    fn binary(&self) -> Result<PathBuf> {
        self.program.clone().map_or_else(binary, Ok)
    }

    /// A client of its local API.
    pub fn client(&self) -> NodeClient {
        NodeClient::new(self.seat.clone(), self.ports, &self.data_dir)
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// The library that tells one program another time, where Debian and Ubuntu put it.
fn libfaketime() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").into_iter().flatten();
    places
        .filter_map(Result::ok)
        .map(|place| place.path().join("faketime/libfaketime.so.1"))
        .find(|file| file.is_file())
}

/// Where others read its metrics.
pub(crate) fn metrics_url(host: &HostState) -> String {
    format!("http://{}:{}/metrics", host.address, host.ports.metrics)
}

/// Where other nodes dial this one.
fn peer_address(host: &HostState) -> String {
    format!("/ip4/{}/tcp/{}", host.address, host.ports.peer)
}

/// The node's binary: `$BLOSM_BIN`, else beside this program, else on the PATH.
///
/// # Errors
/// It is in none of these places.
pub fn binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("BLOSM_BIN").map(PathBuf::from) {
        return given
            .canonicalize()
            .with_context(|| format!("BLOSM_BIN={}", given.display()));
    }
    shell::beside("blosm")
        .or_else(|| shell::find("blosm"))
        .context("there is no blosm beside this program: build it (cargo build --release) or set BLOSM_BIN")
}

/// The same of a later version, beside this program: only tests build it (the feature `next`).
///
/// # Errors
/// It was not built.
pub fn next_binary() -> Result<PathBuf> {
    shell::beside("blosm-next").context(
        "there is no blosm-next beside this program: build it (cargo build --release --workspace --features blosm-node/next --bin blosm-next)",
    )
}

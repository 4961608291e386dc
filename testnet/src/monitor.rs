//! Prometheus, and Grafana where there is one, beside a testnet: the system's own programs, with the project's dashboards
//! and rules. Their files lie in `DIR/monitor`, and they go with the testnet.
//!
//! ```text
//!   grafana-server ──> prometheus ──> /v1/prometheus/targets, /metrics of the nodes
//!                           └──(hosts of their own)──> bridge (in the cars' network) ──> the same
//! ```

mod bridge;
pub(crate) mod files;

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::hosts::Seat;
use crate::ports;
use crate::process::{Process, tail};
use crate::shell;
use crate::state::{Ground, State};
use crate::testnet::Testnet;
use files::Watch;

pub(crate) use bridge::{COMMAND as BRIDGE, run as run_bridge};

/// How long each of the programs may take to be ready.
const START: Duration = Duration::from_secs(60);
/// Nodes that are asked who the members are: when the first is down the others still tell.
const SOURCES: usize = 3;
/// Where packages put Grafana's own files.
const GRAFANA_HOME: &str = "/usr/share/grafana";
/// What lies in every folder of Grafana's own files.
const GRAFANA_DEFAULTS: &str = "conf/defaults.ini";
/// Nodes up to which every one is read each 2 s; more of them each 5 s.
const FEW: usize = 20;

/// What watches a testnet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Monitor {
    /// Prometheus.
    pub prometheus: Option<Program>,
    /// Grafana.
    pub grafana: Option<Program>,
    /// The way into the hosts' network, last known.
    pub bridge: Option<Process>,
    /// Why Grafana does not run though it is there.
    #[serde(default)]
    pub grafana_failed: Option<String>,
}

/// How a testnet is to be watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Seconds between two readings of a node; left out it follows from the number of nodes.
    pub every_s: Option<u32>,
    /// Grafana too, where there is one.
    pub with_grafana: bool,
    /// Alerts fire as soon as their condition holds.
    pub alerts_at_once: bool,
}

/// One of the programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Its process, last known.
    pub process: Process,
    /// Where a browser finds it.
    pub url: String,
}

impl Monitor {
    /// All of its processes.
    pub fn processes(&self) -> impl Iterator<Item = Process> {
        let programs = [&self.grafana, &self.prometheus].into_iter().flatten();
        programs.map(|program| program.process).chain(self.bridge)
    }

    /// Where a browser finds Prometheus and Grafana, of those that run.
    pub fn urls(&self) -> [Option<&str>; 2] {
        [&self.prometheus, &self.grafana].map(|program| {
            let program = program.as_ref().filter(|program| program.process.alive());
            program.map(|program| program.url.as_str())
        })
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [prometheus, grafana] = self.urls();
        writeln!(f, "Prometheus  {}", prometheus.unwrap_or("does not run"))?;
        match (grafana, &self.grafana_failed) {
            (Some(url), _) => write!(f, "Grafana     {url}/dashboards (folder BloSM)"),
            (None, Some(why)) => write!(f, "Grafana     does not run: {why}"),
            (None, None) if self.grafana.is_some() => write!(f, "Grafana     has ended"),
            (None, None) => write!(
                f,
                "Grafana     does not run: install it (https://grafana.com/grafana/download), or import grafana/dashboards into \
                 one that you have, with that Prometheus as its data source"
            ),
        }
    }
}

/// The system's Prometheus.
///
/// # Errors
/// There is none; the text says what to install.
pub fn prometheus() -> Result<PathBuf> {
    shell::find("prometheus").context(
        "prometheus is not on the PATH: apt-get install --no-install-recommends prometheus (its service need not run), \
         or unpack a release of prometheus.io and put it there",
    )
}

/// Starts what is there, beside a testnet that runs. A Grafana that does not start is left out, and said to be.
///
/// # Errors
/// There is no Prometheus, or it does not start.
pub async fn start(testnet: &mut Testnet, wish: &Wish) -> Result<Monitor> {
    let program = prometheus()?;
    let state = testnet.state().clone();
    let dir = state.dir.join("monitor");
    std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    let proxy = match state.ground {
        Ground::Loopback => None,
        Ground::Road => {
            let port = ports::find(1)?;
            let process = bridge::spawn(port, &dir)?;
            testnet.monitored(|monitor| monitor.bridge = Some(process))?;
            bridge::listens(process, port, &dir).await?;
            Some(port)
        }
    };
    let few = state.hosts.len() <= FEW;
    let watch = Watch {
        sources: sources(&state),
        every_s: wish.every_s.unwrap_or(if few { 2 } else { 5 }),
        alerts_at_once: wish.alerts_at_once,
        proxy,
    };
    // Each is noted before it is waited for: whatever comes between, `down` ends it.
    let prometheus = spawn_prometheus(&program, &dir, &watch)?;
    let (process, url) = (prometheus.process, prometheus.url.clone());
    testnet.monitored(|monitor| monitor.prometheus = Some(prometheus))?;
    wait(
        process,
        &format!("{url}/-/ready"),
        "Prometheus",
        &dir.join("prometheus.log"),
    )
    .await?;
    if let Some(program) = grafana_program().filter(|_| wish.with_grafana)
        && let Err(error) = start_grafana(testnet, &program, &dir, &url, watch.every_s).await
    {
        testnet.monitored(|monitor| {
            if let Some(grafana) = monitor.grafana.take() {
                grafana.process.signal(Signal::KILL);
            }
            monitor.grafana_failed = Some(format!("{error:#}"));
        })?;
    }
    Ok(testnet.state().monitor.clone())
}

/// Where Prometheus asks who the members are.
fn sources(state: &State) -> Vec<String> {
    let hosts = state.hosts.iter().take(SOURCES);
    hosts
        .map(|host| {
            format!(
                "http://{}:{}/v1/prometheus/targets",
                host.address, host.ports.metrics
            )
        })
        .collect()
}

fn spawn_prometheus(program: &Path, dir: &Path, watch: &Watch) -> Result<Program> {
    let config = files::write_prometheus(dir, watch)?;
    let (log, address) = (dir.join("prometheus.log"), free(9090)?);
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", dir.join("prometheus").display()),
        format!("--web.listen-address={address}"),
        "--log.level=warn".to_owned(),
    ];
    let process = Process::spawn_at(&Seat::Here, program, &arguments, &log)?;
    Ok(Program {
        process,
        url: format!("http://{address}"),
    })
}

/// The system's Grafana, if there is one.
fn grafana_program() -> Option<PathBuf> {
    shell::find("grafana").or_else(|| shell::find("grafana-server"))
}

/// Grafana's own files: above the folder of the program, where a release was unpacked, or where packages put them.
fn grafana_home(program: &Path) -> Result<PathBuf> {
    let resolved = program
        .canonicalize()
        .with_context(|| format!("{}", program.display()))?;
    let unpacked = resolved.parent().and_then(Path::parent).map(Path::to_owned);
    let mut homes = unpacked.into_iter().chain([PathBuf::from(GRAFANA_HOME)]);
    homes
        .find(|home| home.join(GRAFANA_DEFAULTS).is_file())
        .with_context(|| {
            format!(
                "there is no {GRAFANA_DEFAULTS} in {GRAFANA_HOME}, nor beside {}",
                resolved.display()
            )
        })
}

async fn start_grafana(
    testnet: &mut Testnet,
    program: &Path,
    dir: &Path,
    prometheus_url: &str,
    every_s: u32,
) -> Result<()> {
    let own = dir.join("grafana");
    let home = grafana_home(program)?;
    let provisioning = files::write_grafana(&own, prometheus_url, every_s)?;
    let (log, address) = (dir.join("grafana.log"), free(3000)?);
    let (host, port) = address.split_once(':').context("an address has a port")?;
    let settings = [
        ("SERVER_HTTP_ADDR", host.to_owned()),
        ("SERVER_HTTP_PORT", port.to_owned()),
        ("PATHS_DATA", own.join("data").display().to_string()),
        ("PATHS_LOGS", own.join("logs").display().to_string()),
        ("PATHS_PLUGINS", own.join("plugins").display().to_string()),
        ("PATHS_PROVISIONING", provisioning.display().to_string()),
        // It listens on loopback only; whoever is there may look.
        ("AUTH_ANONYMOUS_ENABLED", "true".to_owned()),
        ("AUTH_ANONYMOUS_ORG_ROLE", "Viewer".to_owned()),
        ("ANALYTICS_REPORTING_ENABLED", "false".to_owned()),
        ("ANALYTICS_CHECK_FOR_UPDATES", "false".to_owned()),
        ("ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false".to_owned()),
        ("PLUGINS_PREINSTALL_DISABLED", "true".to_owned()),
    ];
    // The older program is a server and nothing else.
    let server = program.file_name().is_some_and(|name| name == "grafana");
    let arguments: Vec<String> = settings
        .into_iter()
        .map(|(name, value)| format!("GF_{name}={value}"))
        .chain([program.display().to_string()])
        .chain(server.then(|| "server".to_owned()))
        .chain([
            format!("--homepath={}", home.display()),
            format!("--pidfile={}", own.join("grafana.pid").display()),
        ])
        .collect();
    let env = shell::find("env").context("env is not on the PATH")?;
    let process = Process::spawn_at(&Seat::Here, &env, &arguments, &log)?;
    let url = format!("http://{address}");
    let health = format!("{url}/api/health");
    testnet.monitored(|monitor| monitor.grafana = Some(Program { process, url }))?;
    wait(process, &health, "Grafana", &log).await
}

/// An address of loopback that is free now: with the usual port, or with another.
fn free(usual: u16) -> Result<String> {
    let port = match TcpListener::bind((Ipv4Addr::LOCALHOST, usual)) {
        Ok(_) => usual,
        Err(_) => ports::find(1)?,
    };
    Ok(format!("{}:{port}", Ipv4Addr::LOCALHOST))
}

/// Waits until a program answers at `url`.
async fn wait(process: Process, url: &str, name: &str, log: &Path) -> Result<()> {
    let client = crate::api::fresh()?;
    let client = &client;
    let answers = until(|| async move {
        let answer = client.get(url).send().await;
        answer.is_ok_and(|answer| answer.status().is_success()) || !process.alive()
    })
    .await;
    if !process.alive() {
        bail!("{name} ended:\n{}", tail(log, 10));
    }
    if !answers {
        bail!("{name} is not ready after {START:?}:\n{}", tail(log, 10));
    }
    Ok(())
}

async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) -> bool {
    let deadline = Instant::now() + START;
    loop {
        if holds().await {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

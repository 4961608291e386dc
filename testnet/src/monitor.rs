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
        match grafana {
            Some(url) => write!(f, "Grafana     {url}/dashboards (folder BloSM)"),
            None => write!(
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

/// Starts what is there, beside a testnet that runs. `every_s` is the time between two readings of a node in seconds; left
/// out it follows from the number of nodes.
///
/// # Errors
/// There is no Prometheus, or one of the programs does not start.
pub async fn start(testnet: &mut Testnet, every_s: Option<u32>, with_grafana: bool) -> Result<Monitor> {
    let program = prometheus()?;
    let state = testnet.state().clone();
    let dir = state.dir.join("monitor");
    std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    let proxy = match state.ground {
        Ground::Loopback => None,
        Ground::Road => {
            let port = ports::find(1)?;
            let process = bridge::start(port, &dir).await?;
            testnet.monitored(|monitor| monitor.bridge = Some(process))?;
            Some(port)
        }
    };
    let few = state.hosts.len() <= FEW;
    let watch = Watch {
        sources: sources(&state),
        every_s: every_s.unwrap_or(if few { 2 } else { 5 }),
        proxy,
    };
    let prometheus = start_prometheus(&program, &dir, &watch).await?;
    let url = prometheus.url.clone();
    testnet.monitored(|monitor| monitor.prometheus = Some(prometheus))?;
    if let Some(words) = grafana().filter(|_| with_grafana) {
        let grafana = start_grafana(&words, &dir, &url).await?;
        testnet.monitored(|monitor| monitor.grafana = Some(grafana))?;
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

async fn start_prometheus(program: &Path, dir: &Path, watch: &Watch) -> Result<Program> {
    let config = files::write_prometheus(dir, watch)?;
    let (log, address) = (dir.join("prometheus.log"), free(9090)?);
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", dir.join("prometheus").display()),
        format!("--web.listen-address={address}"),
        "--log.level=warn".to_owned(),
    ];
    let process = Process::spawn_at(&Seat::Here, program, &arguments, &log)?;
    let url = format!("http://{address}");
    wait(process, &format!("{url}/-/ready"), "Prometheus", &log).await?;
    Ok(Program { process, url })
}

/// The words that start the system's Grafana, if there is one.
fn grafana() -> Option<Vec<String>> {
    let word = |path: PathBuf| path.display().to_string();
    match (shell::find("grafana"), shell::find("grafana-server")) {
        (Some(program), _) => Some(vec![word(program), "server".to_owned()]),
        (None, Some(program)) => Some(vec![word(program)]),
        (None, None) => None,
    }
}

async fn start_grafana(words: &[String], dir: &Path, prometheus_url: &str) -> Result<Program> {
    let own = dir.join("grafana");
    let provisioning = files::write_grafana(&own, prometheus_url)?;
    let (log, address) = (dir.join("grafana.log"), free(3000)?);
    let (host, port) = address.split_once(':').context("an address has a port")?;
    let settings = [
        ("SERVER_HTTP_ADDR", host.to_owned()),
        ("SERVER_HTTP_PORT", port.to_owned()),
        ("PATHS_DATA", own.join("data").display().to_string()),
        ("PATHS_LOGS", own.join("logs").display().to_string()),
        ("PATHS_PLUGINS", own.join("plugins").display().to_string()),
        ("PATHS_PROVISIONING", provisioning.display().to_string()),
        // It listens on loopback only, and shows nothing that the nodes' own pages do not.
        ("AUTH_ANONYMOUS_ENABLED", "true".to_owned()),
        ("AUTH_ANONYMOUS_ORG_ROLE", "Admin".to_owned()),
        ("ANALYTICS_REPORTING_ENABLED", "false".to_owned()),
        ("ANALYTICS_CHECK_FOR_UPDATES", "false".to_owned()),
        ("ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false".to_owned()),
    ];
    let arguments: Vec<String> = settings
        .into_iter()
        .map(|(name, value)| format!("GF_{name}={value}"))
        .chain(words.iter().cloned())
        .chain([
            format!("--homepath={GRAFANA_HOME}"),
            format!("--pidfile={}", own.join("grafana.pid").display()),
        ])
        .collect();
    let env = shell::find("env").context("env is not on the PATH")?;
    let process = Process::spawn_at(&Seat::Here, &env, &arguments, &log)?;
    let url = format!("http://{address}");
    wait(process, &format!("{url}/api/health"), "Grafana", &log).await?;
    Ok(Program { process, url })
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

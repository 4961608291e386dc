//! What a testnet is made of, in `DIR/testnet.json`: any command of the harness works from it, in any process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::{Ports, Runtime};
use crate::hosts::{LinkQuality, Namespace, Rate, Road, Seat, address};
use crate::monitor::Monitor;
use crate::process::Process;
use crate::road;

const FILE: &str = "testnet.json";
const LOCK: &str = "testnet.lock";

/// A testnet as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Names its namespaces and control groups.
    pub id: String,
    /// Everything that it writes lies below.
    pub dir: PathBuf,
    /// The capacity of each host's link.
    pub rate: Rate,
    /// The pinned image of the demo's service, once it is built.
    pub image: Option<String>,
    /// Where its nodes stand.
    pub ground: Ground,
    /// What runs the containers.
    pub runtime: Runtime,
    /// In order, the first one's node being the authority.
    pub hosts: Vec<HostState>,
    /// What watches it.
    #[serde(default)]
    pub monitor: Monitor,
}

/// Where the nodes of a testnet stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ground {
    /// Each on a host of its own, beside a road of links.
    #[default]
    Road,
    /// All on this machine's loopback, each with ports of its own.
    Loopback,
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostState {
    /// Counted from 1.
    pub number: usize,
    /// What its node calls itself.
    pub label: String,
    /// On the road.
    pub address: Ipv4Addr,
    /// Latitude and longitude in degrees (WGS84).
    pub location: (f64, f64),
    /// What its node covers, in metres.
    pub radius: f64,
    /// The private engine's processes.
    pub engine: EngineState,
    /// The node's key in hex, once it has one.
    pub key: Option<String>,
    /// The `blosm` process, last known.
    pub node: Option<Process>,
    /// Its link is down.
    pub cut: bool,
    /// Where its node listens.
    pub ports: Ports,
    /// `high` or `low`: what its node offers to containers, where nodes differ in that.
    pub class: Option<String>,
    /// What makes its link worse, last known.
    #[serde(default)]
    pub relay: Option<Process>,
    /// How bad it is.
    #[serde(default)]
    pub link: LinkQuality,
    /// What it believes that the time is when its node starts, in the words of libfaketime's `FAKETIME`.
    #[serde(default)]
    pub clock: Option<String>,
    /// The `blosm` that its node runs; none: the one of all.
    #[serde(default)]
    pub program: Option<PathBuf>,
}

/// An engine is two processes: one that owns the containers, one that owns the API.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EngineState {
    /// `containerd`, last known.
    pub containerd: Option<Process>,
    /// `dockerd`, last known.
    pub dockerd: Option<Process>,
}

impl HostState {
    /// The host `number`, counted from 1, before anything runs there: on the road, or on this machine's loopback with ports
    /// from `base`.
    pub fn of(number: usize, base: Option<u16>, class: Option<&str>) -> HostState {
        let (name, address, ports) = match base {
            None => ("host", address(number), Ports::HOST),
            Some(base) => ("node", Ipv4Addr::LOCALHOST, Ports::shared(base, number)),
        };
        HostState {
            number,
            label: format!("{name}{number}"),
            address,
            location: road::location(road::stand(number)),
            radius: road::RADIUS_M,
            engine: EngineState::default(),
            key: None,
            node: None,
            cut: false,
            ports,
            class: class.map(str::to_owned),
            relay: None,
            link: LinkQuality::default(),
            clock: None,
            program: None,
        }
    }
}

impl State {
    /// Reads `DIR/testnet.json`.
    ///
    /// # Errors
    /// There is no testnet in that folder, or the file is not one of this version.
    pub fn load(dir: &Path) -> Result<State> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "there is no testnet in {}: start one with `blosm-testnet up --dir {0}`",
                dir.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{}", path.display()))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        let new = path.with_extension("json.new");
        let mut file = File::create(&new).with_context(|| format!("{}", new.display()))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, &path).with_context(|| format!("{}", path.display()))
    }

    /// The network that its hosts stand on.
    pub fn road(&self) -> Road {
        Road::of(&self.id)
    }

    /// A host by its number.
    ///
    /// # Errors
    /// There is none of that number.
    pub fn host(&self, number: usize) -> Result<&HostState> {
        self.hosts
            .iter()
            .find(|host| host.number == number)
            .with_context(|| self.no_such_host(number))
    }

    /// A host by its number, to change it.
    ///
    /// # Errors
    /// There is none of that number.
    pub fn host_mut(&mut self, number: usize) -> Result<&mut HostState> {
        let error = self.no_such_host(number);
        self.hosts
            .iter_mut()
            .find(|host| host.number == number)
            .context(error)
    }

    fn no_such_host(&self, number: usize) -> String {
        format!(
            "there is no host {number}: this testnet has 1 to {}",
            self.hosts.len()
        )
    }

    /// A host's namespace.
    pub fn namespace(&self, number: usize) -> Namespace {
        self.road().host(number)
    }

    /// Where a host's node runs.
    pub fn seat(&self, number: usize) -> Seat {
        match self.ground {
            Ground::Road => Seat::Host(self.namespace(number)),
            Ground::Loopback => Seat::Here,
        }
    }

    /// Where cars drive.
    pub fn cars(&self) -> Seat {
        match self.ground {
            Ground::Road => Seat::Host(self.road().cars()),
            Ground::Loopback => Seat::Here,
        }
    }

    /// Where a host's files lie.
    pub fn host_dir(&self, number: usize) -> PathBuf {
        self.dir.join(format!("h{number}"))
    }

    /// The data directory of a host's node.
    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.host_dir(number).join("node")
    }

    /// The host that a report means: by label, key, key prefix of 8 digits or more, or number.
    pub fn find(&self, name: &str) -> Option<&HostState> {
        let by_key =
            |host: &&HostState| name.len() >= 8 && host.key.as_ref().is_some_and(|key| key.starts_with(name));
        self.hosts
            .iter()
            .find(|host| host.label == name || by_key(host) || host.number.to_string() == name)
    }
}

/// Held while a command changes a testnet, so that two commands do not overwrite each other's state.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock of the testnet in `dir`.
    ///
    /// # Errors
    /// The folder does not exist or cannot be written.
    pub fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.with_context(|| format!("there is no testnet in {}", dir.display()))?;
        flock(file.as_fd(), FlockOperation::LockExclusive).with_context(|| format!("{}", path.display()))?;
        Ok(Lock { _file: file })
    }
}

/// A new testnet's folder: the given one, which must be empty or absent, or one named after `id`.
///
/// # Errors
/// It holds something, its path is unfit for sockets or mount tables, or it cannot be made.
pub fn new_dir(wanted: Option<&Path>, id: &str) -> Result<PathBuf> {
    /// Unix sockets have at most 107 bytes of path, of which the longest name below takes about 40.
    const LONGEST: usize = 60;
    let dir = wanted.map_or_else(
        || std::env::temp_dir().join(format!("blosm-{id}")),
        Path::to_owned,
    );
    fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let text = dir
        .to_str()
        .with_context(|| format!("{} is not text", dir.display()))?;
    if text.len() > LONGEST || text.contains(|c: char| c.is_whitespace() || c == '\\' || c == ':' || c == ',')
    {
        bail!("{text} is unfit: choose a path of at most {LONGEST} bytes without spaces, colons and commas");
    }
    if dir.join(FILE).exists() {
        bail!("there is a testnet in {text}: remove it with `blosm-testnet down --dir {text}`");
    }
    if fs::read_dir(&dir)?.next().is_some() {
        bail!("{text} is not empty: a testnet wants a folder of its own");
    }
    Ok(dir)
}

/// The folder of the only testnet below the folder for temporary files.
///
/// # Errors
/// There is none, or there are several.
pub fn the_only_dir() -> Result<PathBuf> {
    let parent = std::env::temp_dir();
    let entries = fs::read_dir(&parent).with_context(|| format!("{}", parent.display()))?;
    let mut dirs = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|dir| dir.join(FILE).is_file());
    match (dirs.next(), dirs.next()) {
        (Some(dir), None) => Ok(dir),
        (None, _) => bail!(
            "there is no testnet in {}: name its folder with --dir",
            parent.display()
        ),
        (Some(one), Some(other)) => bail!(
            "there are several testnets ({}, {}): name one with --dir",
            one.display(),
            other.display()
        ),
    }
}

/// A fresh name of six hexadecimal digits.
///
/// # Errors
/// The system has no randomness to give.
pub fn new_id() -> Result<String> {
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(hex::encode(bytes))
}

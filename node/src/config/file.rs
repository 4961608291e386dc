//! `blosm.toml` as it is written: one struct per table, with the default of every key.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io};

use blosm_migrate::engine::Runtime;
use blosm_migrate::service::Declaration;
use blosm_net::Multiaddr;
use borsh::{BorshDeserialize, BorshSerialize};
use bytesize::ByteSize;
use serde::Deserialize;

use super::error::ConfigError;
use super::location::Coordinates;
use super::overrides::Overrides;
use super::source::Source;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// Path of the network file, relative to this file's folder.
    pub(super) network: PathBuf,
    pub(super) node: NodeTable,
    pub(super) net: NetTable,
    pub(super) gateway: GatewayTable,
    pub(super) api: ApiTable,
    pub(super) metrics: MetricsTable,
    pub(super) engine: EngineTable,
    pub(super) helper: HelperTable,
    pub(super) resources: ResourcesTable,
    pub(super) migration: MigrationTable,
    /// What this node is ready to run. A member without a service's table relays its requests.
    #[serde(rename = "service")]
    pub(super) services: Vec<Declaration>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            network: PathBuf::from(super::NETWORK_FILE),
            node: NodeTable::default(),
            net: NetTable::default(),
            gateway: GatewayTable::default(),
            api: ApiTable::default(),
            metrics: MetricsTable::default(),
            engine: EngineTable::default(),
            helper: HelperTable::default(),
            resources: ResourcesTable::default(),
            migration: MigrationTable::default(),
            services: Vec::new(),
        }
    }
}

/// `[node]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NodeTable {
    /// Name for people, 1 to 64 of `A-Za-z0-9._-`. Default: the first 8 digits of the node's key.
    pub(super) label: Option<String>,
    /// WGS84 position. It has no default: a wrong place would draw cars to the wrong node.
    pub(super) location: Option<Coordinates>,
    /// Coverage in metres, 1 to 100,000. Default [`DEFAULT_RADIUS_M`].
    pub(super) radius: Option<f64>,
    /// Threads that do the node's work, 1 to 64. Default: one per core, [`MOST_THREADS`] at most.
    pub(super) threads: Option<usize>,
}

/// More threads than this only wake each other up: what takes long has threads of its own.
pub(super) const MOST_THREADS: usize = 4;

/// Metres of coverage of a roadside unit that says nothing else; the order of an 802.11p radio's reach.
pub(super) const DEFAULT_RADIUS_M: f64 = 300.0;

/// `[net]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NetTable {
    /// libp2p addresses to listen on.
    pub(super) listen: Vec<Multiaddr>,
    /// libp2p addresses that the admission carries and that other members dial.
    pub(super) advertise: Vec<Multiaddr>,
    /// Finds members on the local network.
    pub(super) mdns: bool,
    /// Asks other members for one that is out of reach, and answers them.
    pub(super) kad: bool,
    /// Connections of peers that are no members, 0 to 256. Only an authority takes any.
    pub(super) strangers: u32,
    /// Handshakes and connections of strangers from one IP address, 1 to 256. Members do not count.
    pub(super) per_address: u32,
}

/// Where a node listens unless it is told otherwise.
pub(crate) fn default_listen() -> Multiaddr {
    let any: Multiaddr = Ipv4Addr::UNSPECIFIED.into();
    any.with(libp2p::multiaddr::Protocol::Tcp(4401))
}

impl Default for NetTable {
    fn default() -> Self {
        Self {
            listen: vec![default_listen()],
            advertise: Vec::new(),
            mdns: true,
            kad: true,
            strangers: 32,
            per_address: 64,
        }
    }
}

/// `[gateway]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GatewayTable {
    /// Address that cars connect to.
    pub(super) listen: SocketAddr,
    /// URL of the gateway as others reach it. Default: from `net.advertise`, else from `listen`.
    pub(super) url: Option<String>,
    /// Requests held per session while it is cut, 1 to 65,536: each may hold a whole body in memory.
    pub(super) hold_max: u32,
    /// How long a request is held, at most 10 minutes.
    #[serde(with = "humantime_serde")]
    pub(super) hold_time: Duration,
}

impl Default for GatewayTable {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            url: None,
            hold_max: 256,
            hold_time: Duration::from_secs(60),
        }
    }
}

/// `[api]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApiTable {
    /// Address of the local API. What it shows is open to all who reach it; what changes state needs the token.
    pub(super) listen: SocketAddr,
}

impl Default for ApiTable {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4480)),
        }
    }
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MetricsTable {
    /// Address of the Prometheus listener. Default: none.
    pub(super) listen: Option<SocketAddr>,
    /// URL of `/metrics` that the admission carries. Default: not advertised.
    pub(super) url: Option<String>,
}

/// `[engine]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EngineTable {
    /// What runs the containers: `docker`, or `sim` for testnets.
    pub(super) runtime: Runtime,
    /// `unix:///path` of the container engine's API.
    pub(super) socket: String,
}

impl Default for EngineTable {
    fn default() -> Self {
        Self {
            runtime: Runtime::default(),
            socket: "unix:///var/run/docker.sock".to_owned(),
        }
    }
}

/// `[helper]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HelperTable {
    /// Socket of the layer helper, relative to this file's folder.
    pub(super) socket: PathBuf,
}

impl Default for HelperTable {
    fn default() -> Self {
        Self {
            socket: PathBuf::from(super::HELPER_SOCKET),
        }
    }
}

/// `[resources]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ResourcesTable {
    /// Memory offered to containers. Default: all that the machine has.
    pub(super) memory: Option<ByteSize>,
    /// Cores offered to containers, more than 0. Default: all that the machine has.
    pub(super) cpu: Option<f64>,
}

/// `[migration]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MigrationTable {
    /// How a container moves unless a command says otherwise.
    pub(super) method: Method,
    /// How long the source keeps the stopped container after a hand-over, up to a day.
    #[serde(with = "humantime_serde")]
    pub(super) keep_source: Duration,
    /// How long a migration waits for confirmations beside the transfer, up to a minute.
    #[serde(with = "humantime_serde")]
    pub(super) confirm_wait: Duration,
    /// A session stays at least this long where it has just arrived, up to an hour: no ping-pong at a border.
    #[serde(with = "humantime_serde")]
    pub(super) min_stay: Duration,
    /// Metres by which a client must be nearer to another node, 0 to 100,000: no ping-pong between two equals.
    pub(super) margin: f64,
    /// Resources that may be short in the self-evaluation (Algorithm 2), 0 to 3.
    pub(super) tolerance: u8,
    /// A live migration whose last delta would take longer than this is given up, at most a minute.
    #[serde(with = "humantime_serde")]
    pub(super) max_downtime: Duration,
    /// Most bytes per second that a migration fetches. Default: what the link carries.
    pub(super) max_rate: Option<ByteSize>,
    /// Sessions that leave this node at once, 1 to 64: more only share the link, and each takes longer.
    pub(super) max_out: u32,
    /// Sessions that come to this node at once, 1 to 64.
    pub(super) max_in: u32,
    /// Share of the disk under the engine that stays free of what is fetched for sessions, 0 to 1.
    pub(super) stage_free: f64,
    /// Share of that disk below which this node claims no session, 0 to `stage_free`.
    pub(super) claim_free: f64,
}

impl Default for MigrationTable {
    fn default() -> Self {
        Self {
            method: Method::Live,
            keep_source: Duration::from_secs(60),
            confirm_wait: Duration::from_secs(2),
            min_stay: Duration::from_secs(10),
            margin: 50.0,
            tolerance: 1,
            max_downtime: Duration::from_millis(1500),
            max_rate: None,
            max_out: 2,
            max_in: 2,
            stage_free: 0.10,
            claim_free: 0.05,
        }
    }
}

/// A way to move a container.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Deserialize,
    serde::Serialize,
    clap::ValueEnum,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(rename_all = "lowercase")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Method {
    /// Stop, commit, send the missing layers, load, start: the paper's method.
    Image = 0,
    /// Copy the writable layer while the source runs, then only the rest of it while it is stopped.
    #[default]
    Live = 1,
    /// Start at the destination first, then stop the source. Only for stateless services.
    Stateless = 2,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Live, Self::Stateless, Self::Image];

    /// The word for it in files, commands, reports and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Live => "live",
            Self::Stateless => "stateless",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl File {
    /// Reads and parses the file at `path`; also gives its text, for errors found later.
    pub(super) fn read(path: &Path) -> Result<(Self, String), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing {
                path: path.to_owned(),
            },
            _ => ConfigError::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        let file = Source { path, text: &text }.parse()?;
        Ok((file, text))
    }

    /// Puts flags and environment in the place of what the file says.
    pub(super) fn apply(&mut self, with: &Overrides) {
        let Overrides {
            label,
            location,
            radius,
            listen,
            advertise,
            gateway_listen,
            gateway_url,
            api_listen,
            metrics_listen,
            metrics_url,
            runtime,
            engine_socket,
            helper_socket,
        } = with.clone();
        self.node.label = label.or(self.node.label.take());
        self.node.location = location.or(self.node.location);
        self.node.radius = radius.or(self.node.radius);
        if !listen.is_empty() {
            self.net.listen = listen;
        }
        if !advertise.is_empty() {
            self.net.advertise = advertise;
        }
        self.gateway.listen = gateway_listen.unwrap_or(self.gateway.listen);
        self.gateway.url = gateway_url.or(self.gateway.url.take());
        self.api.listen = api_listen.unwrap_or(self.api.listen);
        self.metrics.listen = metrics_listen.or(self.metrics.listen);
        self.metrics.url = metrics_url.or(self.metrics.url.take());
        self.engine.runtime = runtime.unwrap_or(self.engine.runtime);
        if let Some(socket) = engine_socket {
            self.engine.socket = socket;
        }
        if let Some(socket) = helper_socket {
            self.helper.socket = socket;
        }
    }
}

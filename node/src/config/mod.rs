//! The configuration of one node: `D/blosm.toml` and the files that it names.
//!
//! ```text
//! blosm.toml ──parse──> File ──Overrides (flags, BLOSM_*)──> File ──resolve──> Config
//!                        │                                                      │
//!                 unknown keys refused,                         absolute paths, the key loaded,
//!                 line and key in the error                     network.toml read, services validated
//! ```
//!
//! Order of precedence: flag, environment `BLOSM_*`, file, default. What comes out of [`Config::load`]
//! needs no further check by those who take it; nothing here talks to an engine or opens a socket.

mod error;
mod file;
mod keyfile;
mod location;
mod network;
mod overrides;
mod resolve;
mod source;
mod template;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Genesis, Hash, PublicKey, SecretKey};
use blosm_migrate::engine::Runtime;
use blosm_migrate::service::Service;
use blosm_net::{Multiaddr, PeerId};

pub use error::{ConfigError, Place};
pub use file::Method;
pub use keyfile::{ApiToken, KeyFileError, read_secret_key, read_token, write_secret};
pub use location::{Coordinates, CoordinatesError};
pub use network::{NetworkError, NetworkFile};
pub use overrides::Overrides;
pub use template::default_toml;

pub(crate) use file::default_listen;
pub(crate) use resolve::{check_advertised, check_label, check_url, radius_m};

/// Name of the configuration file inside a data directory.
pub const CONFIG_FILE: &str = "blosm.toml";
/// Name of the node's key file inside a data directory.
pub const KEY_FILE: &str = "node.key";
/// Name of the local API's token file inside a data directory.
pub const TOKEN_FILE: &str = "api.token";
/// Name of the network file inside a data directory, as `blosm init` copies it.
pub const NETWORK_FILE: &str = "network.toml";
/// Name of the layer helper's socket inside a data directory.
pub const HELPER_SOCKET: &str = "layer-helper.sock";

/// Everything a node is told before it starts, checked and resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory: the folder that holds the configuration file. Absolute.
    pub data_dir: PathBuf,
    /// The configuration file itself. Absolute.
    pub path: PathBuf,
    /// The node's identity, from `node.key`: libp2p identity and signing key in one.
    pub key: Arc<SecretKey>,
    /// The network that the node belongs to.
    pub network: Network,
    /// `[node]`
    pub node: NodeConfig,
    /// `[net]`
    pub net: NetSettings,
    /// `[gateway]`
    pub gateway: GatewayConfig,
    /// `[api]`
    pub api: ApiConfig,
    /// `[metrics]`
    pub metrics: MetricsConfig,
    /// `[engine]`
    pub engine: EngineConfig,
    /// `[helper]`
    pub helper: HelperConfig,
    /// `[resources]`
    pub resources: ResourceCaps,
    /// `[migration]`
    pub migration: MigrationConfig,
    /// The `[[service]]` tables by name.
    pub services: BTreeMap<String, Arc<Service>>,
}

/// The network, from the file that `network = ` names.
#[derive(Debug, Clone)]
pub struct Network {
    /// The file it was read from. Absolute.
    pub path: PathBuf,
    /// What all members share.
    pub genesis: Genesis,
    /// Hash of the canonical genesis; the network's id.
    pub chain_id: Hash,
    /// Members to dial before the chain has told any address. Each ends in `/p2p/<PeerId>`.
    pub bootstrap: Vec<Multiaddr>,
}

/// `[node]`: who and where this node is.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name for people: tables, logs, `X-Blosm-Node`. 1 to 64 of `A-Za-z0-9._-`.
    pub label: String,
    /// WGS84 position.
    pub location: Coordinates,
    /// Coverage in metres, 1 to 100,000.
    pub radius_m: u32,
    /// Threads that do the node's work, at least 1.
    pub threads: usize,
}

/// `[net]`: the libp2p side.
#[derive(Debug, Clone)]
pub struct NetSettings {
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Addresses that the admission carries and that others dial. Never a wildcard address.
    pub advertise: Vec<Multiaddr>,
    /// Whether members on the local network find each other by themselves.
    pub mdns: bool,
    /// Whether members ask each other for one that is out of reach.
    pub kad: bool,
    /// Connections of peers that are no members, which may ask to be admitted. Only an authority takes any.
    pub strangers: usize,
    /// Handshakes and connections of strangers from one IP address, at least 1.
    pub per_address: usize,
}

/// `[gateway]`: what cars talk to.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// URL that other nodes and cars reach the gateway at, without a trailing slash.
    pub url: String,
    /// Requests held per session while it is cut; one more gets 503.
    pub hold_max: usize,
    /// How long a request is held before it gets 503.
    pub hold_time: Duration,
}

/// `[api]`: the local HTTP API.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Address to listen on; loopback unless the operator says otherwise.
    pub listen: SocketAddr,
    /// The bearer token of `api.token`, for requests that change state.
    pub token: ApiToken,
}

/// `[metrics]`: the Prometheus listener.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// Address to listen on; no listener without it.
    pub listen: Option<SocketAddr>,
    /// URL of `/metrics` as the admission carries it; `None` is not advertised.
    pub url: Option<String>,
}

/// `[engine]`: what runs the containers.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What runs the containers.
    pub runtime: Runtime,
    /// `unix:///path` of the engine's API; without meaning for simulated containers.
    pub socket: String,
}

/// `[helper]`: the layer helper, which has the rights that the node does not need itself.
#[derive(Debug, Clone)]
pub struct HelperConfig {
    /// Its socket. Absolute.
    pub socket: PathBuf,
}

/// `[resources]`: caps on what the node offers (R_tot). `None` is all that the machine has. With simulated containers they
/// are what the node has, whatever the machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceCaps {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
}

/// `[migration]`: how and when containers move.
#[derive(Debug, Clone)]
pub struct MigrationConfig {
    /// Method that is used unless a command names another one.
    pub method: Method,
    /// How long the source keeps the stopped container after a hand-over.
    pub keep_source: Duration,
    /// How long a migration waits for confirmations, beside the transfer.
    pub confirm_wait: Duration,
    /// A session that has just been handed over stays at least this long.
    pub min_stay: Duration,
    /// Hysteresis in metres: a client must be nearer by this much to bring its container after it.
    pub margin: f64,
    /// `tolerance` of the paper's Algorithm 2: how many resources may be short in the self-evaluation.
    pub tolerance: u8,
    /// A live migration whose last delta would take longer than this is given up, and tried again later.
    pub max_downtime: Duration,
    /// Cap on what a migration fetches, bytes per second; none: what the link carries.
    pub max_rate: Option<u64>,
    /// Sessions that leave this node at once, at least 1.
    pub max_out: usize,
    /// Sessions that come to this node at once, at least 1.
    pub max_in: usize,
    /// Share of the disk under the engine, 0 to 1: with less free nothing is fetched for a session.
    pub stage_free: f64,
    /// The same: with less free no session is claimed. At most `stage_free`.
    pub claim_free: f64,
}

impl Config {
    /// Reads and checks the configuration file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, &Overrides::default())
    }

    /// Like [`Config::load`], with the settings in `overrides` taking the place of those in the file.
    pub fn load_with(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        resolve::resolve(path, overrides)
    }

    /// The node's name on the chain.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// The node's name in the swarm.
    pub fn peer_id(&self) -> PeerId {
        blosm_net::peer_of_key(&self.key.public().0)
    }

    /// Whether this node's key may seal blocks of its network.
    pub fn is_authority(&self) -> bool {
        self.network.genesis.is_authority(&self.key.public())
    }

    /// The command that an authority's operator runs to admit this node.
    pub fn admit_command(&self) -> String {
        template::admit_command(self)
    }
}

/// Reads only where the local API of the node at `path` listens, for commands that talk to it.
///
/// Needs neither the node's key nor its network file.
pub fn api_listen(path: &Path) -> Result<SocketAddr, ConfigError> {
    Ok(file::File::read(path)?.0.api.listen)
}

//! The settings that flags and the environment may give in the place of the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use blosm_migrate::engine::Runtime;
use blosm_net::Multiaddr;

use super::location::Coordinates;

/// Settings by flag or `BLOSM_*`; each mirrors a key of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Overrides {
    /// Name of the node for people (node.label)
    #[arg(long, env = "BLOSM_LABEL", value_name = "LABEL")]
    pub label: Option<String>,
    /// Position in degrees (node.location)
    #[arg(
        long,
        env = "BLOSM_LOCATION",
        value_name = "LAT,LON",
        allow_hyphen_values = true
    )]
    pub location: Option<Coordinates>,
    /// Coverage in metres (node.radius)
    #[arg(long, env = "BLOSM_RADIUS", value_name = "METRES")]
    pub radius: Option<f64>,
    /// libp2p address to listen on, repeatable (net.listen)
    #[arg(long, env = "BLOSM_LISTEN", value_delimiter = ',', value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
    /// libp2p address that others dial, repeatable (net.advertise)
    #[arg(
        long,
        env = "BLOSM_ADVERTISE",
        value_delimiter = ',',
        value_name = "MULTIADDR"
    )]
    pub advertise: Vec<Multiaddr>,
    /// Address that cars connect to (gateway.listen)
    #[arg(long, env = "BLOSM_GATEWAY_LISTEN", value_name = "ADDR:PORT")]
    pub gateway_listen: Option<SocketAddr>,
    /// URL of the gateway as others reach it (gateway.url)
    #[arg(long, env = "BLOSM_GATEWAY_URL", value_name = "URL")]
    pub gateway_url: Option<String>,
    /// Address of the local API (api.listen)
    #[arg(long, env = "BLOSM_API_LISTEN", value_name = "ADDR:PORT")]
    pub api_listen: Option<SocketAddr>,
    /// Address of the Prometheus listener (metrics.listen)
    #[arg(long, env = "BLOSM_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// URL of /metrics as others reach it (metrics.url)
    #[arg(long, env = "BLOSM_METRICS_URL", value_name = "URL")]
    pub metrics_url: Option<String>,
    /// What runs the containers: docker, or sim for testnets (engine.runtime)
    #[arg(long, env = "BLOSM_RUNTIME", value_name = "RUNTIME")]
    pub runtime: Option<Runtime>,
    /// The container engine's API, unix:///path (engine.socket)
    #[arg(long, env = "BLOSM_ENGINE_SOCKET", value_name = "unix:///PATH")]
    pub engine_socket: Option<String>,
    /// The layer helper's socket (helper.socket)
    #[arg(long, env = "BLOSM_HELPER_SOCKET", value_name = "PATH")]
    pub helper_socket: Option<PathBuf>,
}

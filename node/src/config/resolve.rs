//! From the file as written to a [`Config`] that needs no further check.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{MAX_ADDRESS, MAX_ADDRESSES};
use blosm_migrate::engine::Runtime;
use blosm_migrate::service::{Declaration, Service};
use blosm_net::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::error::ConfigError;
use super::file::{
    DEFAULT_RADIUS_M, EngineTable, File, GatewayTable, MOST_THREADS, MetricsTable, MigrationTable, NetTable,
    NodeTable, ResourcesTable,
};
use super::keyfile;
use super::network::{NetworkError, NetworkFile};
use super::overrides::Overrides;
use super::source::Source;
use super::{
    ApiConfig, Config, EngineConfig, GatewayConfig, HelperConfig, KEY_FILE, Method, MetricsConfig,
    MigrationConfig, NetSettings, Network, NodeConfig, ResourceCaps, TOKEN_FILE,
};

/// Metres; beyond it a "nearest" node is no neighbour.
const MAX_DISTANCE_M: f64 = 100_000.0;
/// Resources that Algorithm 2 counts: memory, CPU, GPU.
const MAX_TOLERANCE: u8 = 3;
/// Threads; no machine at a roadside has more cores.
const MAX_THREADS: usize = 64;
/// Bytes per second; below it no migration would end.
const MIN_RATE: u64 = 64 << 10;
/// Connections of strangers, and handshakes, that a node ever has.
const MAX_STRANGERS: u32 = 256;
/// Moves at once; a node has far fewer cores and one link.
const MAX_AT_ONCE: u32 = 64;

pub(super) fn resolve(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    let path = std::path::absolute(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let (mut file, text) = File::read(&path)?;
    file.apply(overrides);
    let source = Source {
        path: &path,
        text: &text,
    };

    let data_dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    let network_path = data_dir.join(&file.network);
    let network = NetworkFile::read(&network_path).map_err(|error| match error {
        NetworkError::Missing(missing) => source.value(
            "network",
            format!("there is no {}; put the network's file there", missing.display()),
        ),
        error @ (NetworkError::Io { .. } | NetworkError::Malformed(_)) => error.into(),
    })?;
    let key = Arc::new(keyfile::read_secret_key(&data_dir.join(KEY_FILE))?);
    let token = keyfile::read_token(&data_dir.join(TOKEN_FILE))?;
    let default_label = hex::encode(&key.public().0[..4]);

    let node = node(&source, file.node, default_label)?;
    let net = net(&source, file.net)?;
    let gateway = gateway(&source, file.gateway, &net.advertise)?;
    let metrics = metrics(&source, file.metrics)?;
    let engine = engine(&source, file.engine)?;
    let helper = HelperConfig {
        socket: data_dir.join(&file.helper.socket),
    };
    let resources = resources(&source, &file.resources)?;
    let migration = migration(&source, file.migration)?;
    if engine.runtime == Runtime::Sim && migration.method == Method::Image {
        let message =
            "must be live with engine.runtime = \"sim\": simulated containers have no images to move";
        return Err(source.value("migration.method", message));
    }
    let services = services(&source, file.services)?;
    let network = Network {
        chain_id: network.chain_id(),
        genesis: network.genesis,
        bootstrap: network.bootstrap,
        path: network_path,
    };
    let api = ApiConfig {
        listen: file.api.listen,
        token,
    };
    Ok(Config {
        data_dir,
        path,
        key,
        network,
        node,
        net,
        gateway,
        api,
        metrics,
        engine,
        helper,
        resources,
        migration,
        services,
    })
}

fn node(source: &Source<'_>, table: NodeTable, default_label: String) -> Result<NodeConfig, ConfigError> {
    let label = table.label.unwrap_or(default_label);
    check_label(&label).map_err(|message| source.value("node.label", message))?;
    let location = table.location.ok_or_else(|| {
        source.value(
            "node.location",
            "set it to this node's LAT,LON in degrees, such as \"37.4500,126.6500\"",
        )
    })?;
    let radius_m = radius_m(table.radius.unwrap_or(DEFAULT_RADIUS_M))
        .map_err(|message| source.value("node.radius", message))?;
    let threads = match table.threads {
        Some(threads @ 1..=MAX_THREADS) => threads,
        Some(_) => return Err(source.value("node.threads", format!("must be 1 to {MAX_THREADS}"))),
        None => {
            std::thread::available_parallelism().map_or(MOST_THREADS, |cores| cores.get().min(MOST_THREADS))
        }
    };
    Ok(NodeConfig {
        label,
        location,
        radius_m,
        threads,
    })
}

/// Checks a node's label; the same rule holds for `blosm admit`.
pub(crate) fn check_label(label: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&label.len()) && label.bytes().all(allowed) {
        Ok(())
    } else {
        Err("must be 1 to 64 of A-Z a-z 0-9 . _ -")
    }
}

/// Checks a radius; the same rule holds for `blosm admit`.
pub(crate) fn radius_m(metres: f64) -> Result<u32, &'static str> {
    if (1.0..=MAX_DISTANCE_M).contains(&metres) {
        Ok(metres.round() as u32)
    } else {
        Err("must be 1 to 100000 metres")
    }
}

fn net(source: &Source<'_>, table: NetTable) -> Result<NetSettings, ConfigError> {
    if table.listen.is_empty() {
        return Err(source.value(
            "net.listen",
            "give at least one address, such as \"/ip4/0.0.0.0/tcp/4401\"",
        ));
    }
    for address in &table.listen {
        check_tcp(address).map_err(|message| source.value("net.listen", message))?;
    }
    if table.advertise.len() > MAX_ADDRESSES {
        return Err(source.value("net.advertise", format!("at most {MAX_ADDRESSES} addresses")));
    }
    for address in &table.advertise {
        check_advertised(address).map_err(|message| source.value("net.advertise", message))?;
    }
    if table.strangers > MAX_STRANGERS {
        return Err(source.value(
            "net.strangers",
            format!("must be 0 to {MAX_STRANGERS} connections"),
        ));
    }
    if !(1..=MAX_STRANGERS).contains(&table.per_address) {
        return Err(source.value(
            "net.per_address",
            format!("must be 1 to {MAX_STRANGERS} connections; with none nobody could connect"),
        ));
    }
    Ok(NetSettings {
        listen: table.listen,
        advertise: table.advertise,
        mdns: table.mdns,
        kad: table.kad,
        strangers: table.strangers as usize,
        per_address: table.per_address as usize,
    })
}

fn check_tcp(address: &Multiaddr) -> Result<(), String> {
    if address.iter().any(|part| matches!(part, Protocol::Tcp(_))) {
        Ok(())
    } else {
        Err(format!(
            "{address} names no TCP port; the form is /ip4/ADDRESS/tcp/PORT"
        ))
    }
}

/// Says why others could not dial `address`, if so.
pub(crate) fn check_advertised(address: &Multiaddr) -> Result<(), String> {
    check_tcp(address)?;
    let wildcard = address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_unspecified(),
        Protocol::Ip6(ip) => ip.is_unspecified(),
        Protocol::Tcp(port) => port == 0,
        _ => false,
    });
    if wildcard {
        Err(format!(
            "{address} is an address to listen on, nobody can dial it; name the machine's own address"
        ))
    } else {
        Ok(())
    }
}

fn gateway(
    source: &Source<'_>,
    table: GatewayTable,
    advertise: &[Multiaddr],
) -> Result<GatewayConfig, ConfigError> {
    let url = table.url.unwrap_or_else(|| derived_url(table.listen, advertise));
    let url = check_url(&url).map_err(|message| source.value("gateway.url", message))?;
    if !(1..=65_536).contains(&table.hold_max) {
        return Err(source.value("gateway.hold_max", "must be 1 to 65536 requests"));
    }
    at_most(
        source,
        "gateway.hold_time",
        table.hold_time,
        Duration::from_secs(600),
    )?;
    Ok(GatewayConfig {
        listen: table.listen,
        url,
        hold_max: table.hold_max as usize,
        hold_time: table.hold_time,
    })
}

/// The gateway's URL where none is given: the machine's address as the swarm knows it, else the one listened on.
fn derived_url(listen: SocketAddr, advertise: &[Multiaddr]) -> String {
    let advertised = advertise
        .iter()
        .flat_map(Multiaddr::iter)
        .find_map(|part| match part {
            Protocol::Ip4(ip) => Some(IpAddr::from(ip)),
            Protocol::Ip6(ip) => Some(IpAddr::from(ip)),
            _ => None,
        });
    let ip = match advertised {
        Some(ip) => ip,
        // A node that advertises nothing is reached from its own machine only.
        None if listen.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        None => listen.ip(),
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Checks a URL that an admission carries and drops a trailing slash.
pub(crate) fn check_url(url: &str) -> Result<String, String> {
    let parsed = reqwest::Url::parse(url).map_err(|error| format!("{url:?} is no URL: {error}"))?;
    if parsed.scheme() != "http" || parsed.host_str().is_none() {
        return Err(format!("{url:?} must have the form http://HOST:PORT"));
    }
    if url.len() > MAX_ADDRESS {
        return Err(format!("a URL of at most {MAX_ADDRESS} characters"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn metrics(source: &Source<'_>, table: MetricsTable) -> Result<MetricsConfig, ConfigError> {
    let url = match table.url {
        Some(url) => Some(check_url(&url).map_err(|message| source.value("metrics.url", message))?),
        None => None,
    };
    Ok(MetricsConfig {
        listen: table.listen,
        url,
    })
}

fn engine(source: &Source<'_>, table: EngineTable) -> Result<EngineConfig, ConfigError> {
    match table.socket.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(EngineConfig {
            runtime: table.runtime,
            socket: table.socket,
        }),
        _ => Err(source.value(
            "engine.socket",
            format!(
                "{:?} must have the form unix:///var/run/docker.sock",
                table.socket
            ),
        )),
    }
}

fn resources(source: &Source<'_>, table: &ResourcesTable) -> Result<ResourceCaps, ConfigError> {
    let cpu_milli = match table.cpu {
        None => None,
        Some(cores) if cores > 0.0 && cores <= 65_536.0 => Some((cores * 1000.0).round() as u64),
        Some(_) => return Err(source.value("resources.cpu", "must be more than 0 cores, such as 2.0")),
    };
    Ok(ResourceCaps {
        memory: table.memory.map(|memory| memory.as_u64()),
        cpu_milli,
    })
}

fn migration(source: &Source<'_>, table: MigrationTable) -> Result<MigrationConfig, ConfigError> {
    let hour = Duration::from_secs(3600);
    at_most(source, "migration.keep_source", table.keep_source, 24 * hour)?;
    at_most(
        source,
        "migration.confirm_wait",
        table.confirm_wait,
        Duration::from_secs(60),
    )?;
    at_most(source, "migration.min_stay", table.min_stay, hour)?;
    if !(0.0..=MAX_DISTANCE_M).contains(&table.margin) {
        return Err(source.value("migration.margin", "must be 0 to 100000 metres"));
    }
    if table.method == Method::Stateless {
        return Err(source.value(
            "migration.method",
            "must be live or image: a service says of itself that it is stateless",
        ));
    }
    at_most(
        source,
        "migration.max_downtime",
        table.max_downtime,
        Duration::from_secs(60),
    )?;
    let max_rate = table.max_rate.map(|rate| rate.as_u64());
    if max_rate.is_some_and(|rate| rate < MIN_RATE) {
        return Err(source.value("migration.max_rate", "must be at least 64KiB a second"));
    }
    if table.tolerance > MAX_TOLERANCE {
        return Err(source.value("migration.tolerance", format!("must be 0 to {MAX_TOLERANCE}")));
    }
    let at_once = |key: &str, value: u32| {
        if (1..=MAX_AT_ONCE).contains(&value) {
            return Ok(value as usize);
        }
        Err(source.value(
            key,
            format!("must be 1 to {MAX_AT_ONCE}; `blosm drain` empties a node"),
        ))
    };
    let (max_out, max_in) = (
        at_once("migration.max_out", table.max_out)?,
        at_once("migration.max_in", table.max_in)?,
    );
    if !(0.0..=1.0).contains(&table.stage_free) {
        return Err(source.value(
            "migration.stage_free",
            "must be 0.0 to 1.0, a share of the disk: 0.1 is 10 %",
        ));
    }
    if !(0.0..=table.stage_free).contains(&table.claim_free) {
        return Err(source.value(
            "migration.claim_free",
            format!(
                "must be 0.0 to migration.stage_free, which is {}",
                table.stage_free
            ),
        ));
    }
    Ok(MigrationConfig {
        method: table.method,
        keep_source: table.keep_source,
        confirm_wait: table.confirm_wait,
        min_stay: table.min_stay,
        margin: table.margin,
        tolerance: table.tolerance,
        max_downtime: table.max_downtime,
        max_rate,
        max_out,
        max_in,
        stage_free: table.stage_free,
        claim_free: table.claim_free,
    })
}

fn at_most(source: &Source<'_>, key: &str, value: Duration, most: Duration) -> Result<(), ConfigError> {
    if value <= most {
        return Ok(());
    }
    Err(source.value(
        key,
        format!("must be at most {}", humantime::format_duration(most)),
    ))
}

fn services(
    source: &Source<'_>,
    tables: Vec<Declaration>,
) -> Result<BTreeMap<String, Arc<Service>>, ConfigError> {
    let mut services = BTreeMap::new();
    for (index, table) in tables.into_iter().enumerate() {
        let key = format!("service.{index}");
        let name = table.name.clone();
        let service = table.validate().map_err(|error| ConfigError::Service {
            place: source.place(&key),
            name: name.clone(),
            source: error,
        })?;
        if services.insert(name.clone(), Arc::new(service)).is_some() {
            return Err(source.value(&format!("{key}.name"), format!("{name:?} is declared twice")));
        }
    }
    Ok(services)
}

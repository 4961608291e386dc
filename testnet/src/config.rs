//! The `blosm.toml` of a testnet's node.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::node::metrics_url;
use crate::state::HostState;

/// Where a node on a host of its own listens for its peers.
pub const PEER_PORT: u16 = 4401;
/// Where a node on a host of its own serves cars.
pub const GATEWAY_PORT: u16 = 8080;

/// Where one node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// For its peers.
    pub peer: u16,
    /// For cars.
    pub gateway: u16,
    /// Its local API, on loopback.
    pub api: u16,
    /// Its metrics.
    pub metrics: u16,
}

impl Ports {
    /// On a host of its own. The hosts' loopbacks are apart, so the same ones do for all.
    pub const HOST: Ports = Ports {
        peer: PEER_PORT,
        gateway: GATEWAY_PORT,
        api: 4480,
        metrics: 9480,
    };

    /// Those of node `number`, counted from 1, of nodes that share a loopback.
    pub fn shared(base: u16, number: usize) -> Ports {
        let offset = u16::try_from(number.saturating_sub(1) * PORTS).unwrap_or(u16::MAX);
        let first = base.saturating_add(offset);
        Ports {
            peer: first,
            gateway: first + 1,
            api: first + 2,
            metrics: first + 3,
        }
    }
}

/// The image that simulated containers are made of: a name and a digest, which stand for no bytes.
pub const SIM_IMAGE: &str =
    "blosm/counter:1@sha256:0000000000000000000000000000000000000000000000000000000000000001";

/// How many ports a node has.
pub const PORTS: usize = 4;

/// What runs the containers of a testnet's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A private Docker engine for each node
    #[default]
    Docker,
    /// The nodes' own simulation: no engine, no image
    Sim,
}

/// The declaration of the demo's stateful service.
///
/// # Panics
/// Never: the text is a constant but for the image.
pub fn counter(image: &str) -> Table {
    service("counter", image, false)
}

/// The same image declared as a stateless service.
///
/// # Panics
/// As [`counter`].
pub fn echo(image: &str) -> Table {
    service("echo", image, true)
}

/// The declaration of a service that the demo's program runs.
///
/// # Panics
/// As [`counter`].
pub fn service(name: &str, image: &str, stateless: bool) -> Table {
    let text = r#"
        port = 8080
        protocol = "http"
        health = { path = "/healthz", interval = "50ms", timeout = "1s", start = "10s" }
        resources = { memory = "32MiB", cpu = 0.1 }
        stop = { signal = "SIGTERM", grace = "2s", drain = "1s" }
        request = { max_body = "1MiB", timeout = "30s" }
    "#;
    let mut table: Table = text.parse().expect("the text above is TOML");
    table.insert("name".to_owned(), name.into());
    table.insert("image".to_owned(), image.into());
    table.insert("stateless".to_owned(), stateless.into());
    table
}

/// The whole file of one node. Without an engine's socket its containers are simulated. `extra` is laid over it key by key, so a test can change whatever it is about.
///
/// # Errors
/// `extra` puts a table where a value belongs, or the other way round.
pub fn render(
    host: &HostState,
    network: &Path,
    engine: Option<&str>,
    services: &[Table],
    extra: &Table,
) -> Result<String> {
    let (address, (latitude, longitude), ports) = (host.address, host.location, host.ports);
    // On a machine with other things nothing of a testnet is open to the outside.
    let all = if address.is_loopback() {
        address
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let text = format!(
        r#"
        network = "{network}"
        [node]
        label = "{label}"
        location = "{latitude:.6},{longitude:.6}"
        radius = {radius:?}
        [net]
        listen = ["/ip4/{all}/tcp/{peer}"]
        advertise = ["/ip4/{address}/tcp/{peer}"]
        [gateway]
        listen = "{all}:{gateway}"
        url = "http://{address}:{gateway}"
        [api]
        listen = "127.0.0.1:{api}"
        [metrics]
        listen = "{all}:{metrics}"
        url = "{metrics_url}"
        "#,
        network = network.display(),
        label = host.label,
        radius = host.radius,
        peer = ports.peer,
        gateway = ports.gateway,
        api = ports.api,
        metrics = ports.metrics,
        metrics_url = metrics_url(host),
    );
    let mut table: Table = text.parse().context("the node's configuration")?;
    let engine = match engine {
        Some(socket) => ("socket".to_owned(), Value::from(socket)),
        None => ("runtime".to_owned(), Value::from("sim")),
    };
    table.insert("engine".to_owned(), Table::from_iter([engine]).into());
    table.insert(
        "service".to_owned(),
        Value::Array(services.iter().cloned().map(Value::Table).collect()),
    );
    overlay(&mut table, extra);
    Ok(toml::to_string(&table)?)
}

/// Lays one table over another, key by key.
pub fn overlay(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_keys_win_and_others_stay() {
        let host = HostState {
            location: (37.45, 126.65),
            ..HostState::of(2, None, None)
        };
        let extra: Table = "[node]\nradius = 10.0\n[migration]\nkeep_source = \"15s\""
            .parse()
            .unwrap();
        let text = render(
            &host,
            Path::new("/t/network.toml"),
            Some("unix:///t/s"),
            &[counter("x@sha256:0")],
            &extra,
        )
        .unwrap();
        let table: Table = text.parse().unwrap();
        assert_eq!(table["node"]["radius"].as_float(), Some(10.0));
        assert_eq!(table["node"]["label"].as_str(), Some("host2"));
        assert_eq!(table["node"]["location"].as_str(), Some("37.450000,126.650000"));
        assert_eq!(table["migration"]["keep_source"].as_str(), Some("15s"));
        assert_eq!(table["service"][0]["name"].as_str(), Some("counter"));
        assert_eq!(table["net"]["listen"][0].as_str(), Some("/ip4/0.0.0.0/tcp/4401"));
        assert_eq!(table["engine"]["socket"].as_str(), Some("unix:///t/s"));

        let shared = HostState {
            address: Ipv4Addr::LOCALHOST,
            ports: Ports::shared(20_000, 3),
            ..host
        };
        let text = render(&shared, Path::new("/t/network.toml"), None, &[], &Table::new()).unwrap();
        let table: Table = text.parse().unwrap();
        assert_eq!(
            table["net"]["listen"][0].as_str(),
            Some("/ip4/127.0.0.1/tcp/20008")
        );
        assert_eq!(table["gateway"]["url"].as_str(), Some("http://127.0.0.1:20009"));
        assert_eq!(table["metrics"]["listen"].as_str(), Some("127.0.0.1:20011"));
        assert_eq!(table["engine"]["runtime"].as_str(), Some("sim"));
    }
}

//! The `blosm.toml` of a testnet's node.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::api;
use crate::state::HostState;

/// Where every node listens for its peers.
pub const PEER_PORT: u16 = 4401;
/// Where every node serves cars.
pub const GATEWAY_PORT: u16 = 8080;

/// What runs the containers of a testnet's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// A private Docker engine on each host.
    #[default]
    Docker,
    /// The node's own simulation: no engine, no image.
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

/// The whole file of one node. `extra` is laid over it key by key, so a test can change whatever it is about.
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
    let (address, (latitude, longitude)) = (host.address, host.location);
    let text = format!(
        r#"
        network = "{network}"
        [node]
        label = "{label}"
        location = "{latitude:.6},{longitude:.6}"
        radius = {radius:?}
        [net]
        listen = ["/ip4/0.0.0.0/tcp/{PEER_PORT}"]
        advertise = ["/ip4/{address}/tcp/{PEER_PORT}"]
        [gateway]
        listen = "0.0.0.0:{GATEWAY_PORT}"
        url = "http://{address}:{GATEWAY_PORT}"
        [api]
        listen = "{api}"
        "#,
        network = network.display(),
        label = host.label,
        radius = host.radius,
        api = api::LISTEN,
    );
    let mut table: Table = text.parse().context("the node's configuration")?;
    let engine = match engine {
        Some(socket) => ("socket", socket),
        None => ("runtime", "sim"),
    };
    let engine = Table::from_iter([(engine.0.to_owned(), engine.1.into())]);
    table.insert("engine".to_owned(), Value::Table(engine));
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
    use crate::hosts::LinkQuality;
    use crate::state::EngineState;

    #[test]
    fn extra_keys_win_and_others_stay() {
        let host = HostState {
            number: 2,
            label: "host2".into(),
            address: "10.77.0.2".parse().unwrap(),
            location: (37.45, 126.65),
            radius: 300.0,
            engine: EngineState::default(),
            key: None,
            node: None,
            cut: false,
            relay: None,
            link: LinkQuality::default(),
            clock: None,
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
        assert_eq!(table["engine"]["socket"].as_str(), Some("unix:///t/s"));
        let text = render(&host, Path::new("/t/network.toml"), None, &[], &Table::new()).unwrap();
        let table: Table = text.parse().unwrap();
        assert_eq!(
            table["engine"],
            Value::Table("runtime = \"sim\"".parse().unwrap())
        );
    }
}

//! What of a testnet runs.

mod nodes;

use anyhow::Result;
use futures::future::join_all;
use serde::Serialize;
use serde_json::json;

use crate::hosts::LinkQuality;
use crate::process::Process;
use crate::state::{Ground, HostState};
use crate::testnet::Testnet;

pub use nodes::{NodeStatus, Summary, cpu_seconds, nodes};

/// What only a testnet with hosts has.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// The host's number.
    pub host: usize,
    /// What its node calls itself.
    pub label: String,
    /// On the road.
    pub address: String,
    /// Its link is up.
    pub link: bool,
    /// What its link does to packets beside its rate; none when it does nothing.
    pub quality: Option<LinkQuality>,
    /// What makes it so: always `relay`, a process over TAP devices. Null when nothing does.
    pub impaired_by: Option<&'static str>,
    /// Its engine answers.
    pub engine: bool,
    /// Its `blosm` process runs.
    pub node: bool,
    /// Its gateway serves.
    pub ready: bool,
    /// The height of its chain.
    pub height: Option<u64>,
    /// Containers whose own program runs, by the kernel's process list.
    pub instances: usize,
    /// The socket of its engine.
    pub engine_socket: String,
}

async fn host(testnet: &Testnet, host: &HostState, node: &NodeStatus) -> HostStatus {
    let engine = testnet.engine(host.number);
    let answers = match engine.client() {
        Ok(client) => client.ping().await.is_ok(),
        Err(_) => false,
    };
    HostStatus {
        host: host.number,
        label: host.label.clone(),
        address: host.address.to_string(),
        link: !host.cut,
        quality: (!host.link.is_clear()).then_some(host.link),
        impaired_by: host.relay.filter(Process::alive).map(|_| "relay"),
        engine: answers,
        node: node.alive,
        ready: node.ready,
        height: node.height,
        instances: testnet
            .live_instances()
            .iter()
            .filter(|instance| instance.host == host.number)
            .count(),
        engine_socket: engine.url(),
    }
}

/// Prints it as a table or as JSON. Takes about two seconds, over which the processors' use is measured.
///
/// # Errors
/// Never in practice: the value is plain data.
pub async fn print(testnet: &Testnet, json: bool) -> Result<()> {
    let nodes = nodes(testnet).await;
    let summary = Summary::of(&nodes);
    let state = testnet.state();
    let hosts = match state.ground {
        Ground::Road => {
            let pairs = state.hosts.iter().zip(&nodes);
            Some(join_all(pairs.map(|(state, node)| host(testnet, state, node))).await)
        }
        Ground::Loopback => None,
    };
    let [prometheus, grafana] = state.monitor.urls();
    if json {
        let mut value = serde_json::to_value(&summary)?;
        let more = json!({
            "id": state.id, "dir": state.dir, "image": state.image, "runtime": state.runtime,
            "nodes": nodes, "hosts": hosts, "monitor": { "prometheus": prometheus, "grafana": grafana },
        });
        if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
            value.extend(more.clone());
        }
        println!("{value:#}");
        return Ok(());
    }
    print!("{}", nodes::table(&nodes));
    if let Some(hosts) = hosts {
        print!("\n{}", host_table(&hosts));
    }
    println!("\n{summary}");
    if prometheus.is_some() || grafana.is_some() {
        println!("{}", state.monitor);
    }
    Ok(())
}

fn host_table(hosts: &[HostStatus]) -> String {
    let word = |yes: bool| if yes { "up" } else { "down" };
    let mut out = format!(
        "{:<8}{:<12}{:<6}{:<8}{:<12}ENGINE SOCKET\n",
        "HOST", "ADDRESS", "LINK", "ENGINE", "CONTAINERS"
    );
    for host in hosts {
        out.push_str(&format!(
            "{:<8}{:<12}{:<6}{:<8}{:<12}{}\n",
            host.label,
            host.address,
            word(host.link),
            word(host.engine),
            host.instances,
            host.engine_socket
        ));
        if let Some(quality) = host.quality {
            let by = host.impaired_by.unwrap_or("a relay that is gone");
            out.push_str(&format!("        link: {quality}, by {by}\n"));
        }
    }
    out
}

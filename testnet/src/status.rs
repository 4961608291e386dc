//! What of a testnet runs.

use anyhow::Result;
use futures::future::join_all;
use serde::Serialize;

use crate::hosts::LinkQuality;
use crate::process::Process;
use crate::state::HostState;
use crate::testnet::Testnet;

/// One host, as it is now.
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

/// All hosts, as they are now.
pub async fn hosts(testnet: &Testnet) -> Vec<HostStatus> {
    join_all(testnet.state().hosts.iter().map(|host| status(testnet, host))).await
}

async fn status(testnet: &Testnet, host: &HostState) -> HostStatus {
    let engine = testnet.engine(host.number);
    let answers = match engine.client() {
        Ok(client) => client.ping().await.is_ok(),
        Err(_) => false,
    };
    let node = host.node.as_ref().is_some_and(Process::alive);
    let client = testnet.client(host.number).ok().filter(|_| node);
    let (ready, height) = match client {
        Some(client) => {
            let (ready, status) = tokio::join!(client.ready(), client.get("/v1/status"));
            (ready, status.ok().and_then(|status| status["height"].as_u64()))
        }
        None => (false, None),
    };
    HostStatus {
        host: host.number,
        label: host.label.clone(),
        address: host.address.to_string(),
        link: !host.cut,
        quality: (!host.link.is_clear()).then_some(host.link),
        impaired_by: host.relay.filter(Process::alive).map(|_| "relay"),
        engine: answers,
        node,
        ready,
        height,
        instances: testnet
            .live_instances()
            .iter()
            .filter(|instance| instance.host == host.number)
            .count(),
        engine_socket: engine.url(),
    }
}

/// Prints it as a table or as JSON.
///
/// # Errors
/// Never in practice: the value is plain data.
pub async fn print(testnet: &Testnet, json: bool) -> Result<()> {
    let hosts = hosts(testnet).await;
    if json {
        let state = testnet.state();
        let value =
            serde_json::json!({"id": state.id, "dir": state.dir, "image": state.image, "hosts": hosts});
        println!("{value:#}");
        return Ok(());
    }
    println!(
        "{:<8}{:<12}{:<6}{:<8}{:<9}{:<8}{:<11}ENGINE SOCKET",
        "HOST", "ADDRESS", "LINK", "ENGINE", "NODE", "HEIGHT", "CONTAINERS"
    );
    for host in hosts {
        let word = |yes: bool, word: &'static str| if yes { word } else { "down" };
        let node = if host.ready {
            "ready"
        } else {
            word(host.node, "starting")
        };
        let height = host
            .height
            .map_or_else(|| "-".to_owned(), |height| height.to_string());
        println!(
            "{:<8}{:<12}{:<6}{:<8}{:<9}{:<8}{:<11}{}",
            host.label,
            host.address,
            word(host.link, "up"),
            word(host.engine, "up"),
            node,
            height,
            host.instances,
            host.engine_socket
        );
        if let Some(quality) = host.quality {
            println!(
                "        link: {quality}, by {}",
                host.impaired_by.unwrap_or("a relay that is gone")
            );
        }
    }
    Ok(())
}

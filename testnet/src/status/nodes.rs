//! The nodes of a testnet: what each says of itself, and what its process costs.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde::Serialize;
use serde_json::Value;

use crate::process::Process;
use crate::state::HostState;
use crate::testnet::Testnet;

/// Over this time the use of processors is measured, before any node is asked anything.
const WINDOW: Duration = Duration::from_secs(2);
/// The kernel's ticks in a second, as it shows them in `/proc` on all of our architectures.
const TICKS: f64 = 100.0;
/// Nodes that are asked at the same time.
const ASKED: usize = 8;

/// One node, as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its number.
    pub node: usize,
    /// What it calls itself.
    pub label: String,
    /// Its key, once it has one.
    pub key: Option<String>,
    /// Its process, last known.
    pub pid: Option<i32>,
    /// The process runs.
    pub alive: bool,
    /// Its gateway serves.
    pub ready: bool,
    /// The height of its chain.
    pub height: Option<u64>,
    /// The hash of its newest block.
    pub hash: Option<String>,
    /// The highest height that it knows to be confirmed.
    pub confirmed_height: Option<u64>,
    /// The members that its chain has.
    pub members: Option<u64>,
    /// Peers that it is connected to.
    pub connected: Option<u64>,
    /// Memory of its process, in bytes.
    pub rss_bytes: Option<u64>,
    /// Processors that its process used.
    pub cpu_cores: Option<f64>,
    /// `high` or `low`, where nodes differ in what they offer.
    pub class: Option<String>,
    /// Where cars reach it.
    pub gateway: String,
    /// Its local API, as its own host sees it.
    pub api: String,
    /// Its metrics, as its own host sees them.
    pub metrics: String,
}

/// All nodes in a few figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Nodes of the testnet.
    pub peers: usize,
    /// Nodes that serve.
    pub ready: usize,
    /// All nodes have the same newest block.
    pub heads_equal: bool,
    /// The highest chain's height.
    pub height: u64,
    /// The highest height that some node knows to be confirmed.
    pub confirmed_height: u64,
    /// The median of the processes' memory.
    pub rss_bytes_p50: u64,
    /// The most memory of a process.
    pub rss_bytes_max: u64,
    /// Processors that all nodes used together.
    pub cpu_cores: f64,
}

/// All nodes, as they are now. Takes about two seconds.
pub async fn nodes(testnet: &Testnet) -> Vec<NodeStatus> {
    let hosts = &testnet.state().hosts;
    let used = || {
        hosts
            .iter()
            .map(|host| host.node.and_then(cpu_seconds))
            .collect::<Vec<_>>()
    };
    let before = used();
    tokio::time::sleep(WINDOW).await;
    let cores = before.into_iter().zip(used()).map(|(before, after)| {
        let used = after? - before?;
        Some(used.max(0.0) / WINDOW.as_secs_f64())
    });
    let asked = hosts
        .iter()
        .zip(cores)
        .map(|(host, cores)| node(testnet, host, cores));
    stream::iter(asked).buffered(ASKED).collect().await
}

async fn node(testnet: &Testnet, host: &HostState, cpu_cores: Option<f64>) -> NodeStatus {
    let process = host.node.filter(Process::alive);
    let said = match (process, testnet.client(host.number)) {
        (Some(_), Ok(client)) => client.get("/v1/status").await.unwrap_or_default(),
        _ => Value::Null,
    };
    let number = |field: &str| said[field].as_u64();
    NodeStatus {
        node: host.number,
        label: host.label.clone(),
        key: host.key.clone(),
        pid: host.node.map(|process| process.pid),
        alive: process.is_some(),
        ready: said["ready"].as_bool().unwrap_or(false),
        height: number("height"),
        hash: said["hash"].as_str().map(str::to_owned),
        confirmed_height: number("confirmed_height"),
        members: number("members"),
        connected: number("peers"),
        rss_bytes: process.and_then(rss_bytes),
        cpu_cores,
        class: host.class.clone(),
        gateway: format!("http://{}:{}", host.address, host.ports.gateway),
        api: format!("http://127.0.0.1:{}", host.ports.api),
        metrics: format!("http://127.0.0.1:{}/metrics", host.ports.metrics),
    }
}

impl Summary {
    /// Of these nodes.
    pub fn of(nodes: &[NodeStatus]) -> Summary {
        let mut memory: Vec<u64> = nodes.iter().filter_map(|node| node.rss_bytes).collect();
        memory.sort_unstable();
        let heads: BTreeSet<Option<&str>> = nodes.iter().map(|node| node.hash.as_deref()).collect();
        let most = |field: fn(&NodeStatus) -> Option<u64>| nodes.iter().filter_map(field).max().unwrap_or(0);
        Summary {
            peers: nodes.len(),
            ready: nodes.iter().filter(|node| node.ready).count(),
            heads_equal: heads.len() == 1 && !heads.contains(&None),
            height: most(|node| node.height),
            confirmed_height: most(|node| node.confirmed_height),
            rss_bytes_p50: memory.get(memory.len() / 2).copied().unwrap_or(0),
            rss_bytes_max: memory.last().copied().unwrap_or(0),
            cpu_cores: nodes.iter().filter_map(|node| node.cpu_cores).sum(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        write!(
            f,
            "{} of {} nodes ready, heads {}, height {} (confirmed {}), memory {:.1} MiB at the median and {:.1} at most, {:.2} cores in all",
            self.ready,
            self.peers,
            if self.heads_equal { "equal" } else { "NOT EQUAL" },
            self.height,
            self.confirmed_height,
            mib(self.rss_bytes_p50),
            mib(self.rss_bytes_max),
            self.cpu_cores,
        )
    }
}

/// One line for each node.
pub(super) fn table(nodes: &[NodeStatus]) -> String {
    let mut out = format!(
        "{:<9}{:<10}{:<8}{:<11}{:<7}{:<7}{:<9}{:<7}{:<8}{:<25}API\n",
        "NODE", "STATE", "HEIGHT", "CONFIRMED", "PEERS", "CLASS", "RSS MIB", "CORES", "PID", "GATEWAY"
    );
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for node in nodes {
        let state = match (node.ready, node.alive) {
            (true, _) => "ready",
            (false, true) => "starting",
            (false, false) => "down",
        };
        let memory = node.rss_bytes.map_or_else(
            || "-".to_owned(),
            |bytes| format!("{:.1}", bytes as f64 / 1024.0 / 1024.0),
        );
        let cores = node
            .cpu_cores
            .map_or_else(|| "-".to_owned(), |cores| format!("{cores:.3}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<9}{:<10}{:<8}{:<11}{:<7}{:<7}{:<9}{:<7}{:<8}{:<25}{}",
            node.label,
            state,
            number(node.height),
            number(node.confirmed_height),
            number(node.connected),
            node.class.as_deref().unwrap_or("-"),
            memory,
            cores,
            node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            node.gateway,
            node.api,
        );
    }
    out
}

/// Seconds that a process has spent on processors, all its threads together; none when it is gone.
pub fn cpu_seconds(process: Process) -> Option<f64> {
    if !process.alive() {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    // Behind the program's name, which may hold anything, utime and stime are fields 12 and 13.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS)
}

fn rss_bytes(process: Process) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize, hash: Option<&str>, rss: Option<u64>) -> NodeStatus {
        NodeStatus {
            node: number,
            label: format!("node{number}"),
            key: None,
            pid: Some(7),
            alive: hash.is_some(),
            ready: hash.is_some(),
            height: hash.map(|_| number as u64),
            hash: hash.map(str::to_owned),
            confirmed_height: None,
            members: None,
            connected: None,
            rss_bytes: rss,
            cpu_cores: rss.map(|_| 0.25),
            class: None,
            gateway: String::new(),
            api: String::new(),
            metrics: String::new(),
        }
    }

    #[test]
    fn summary_sees_another_head_and_a_node_that_is_down() {
        let mut nodes = vec![
            node(1, Some("a"), Some(10)),
            node(2, Some("a"), Some(30)),
            node(3, Some("a"), Some(20)),
        ];
        let summary = Summary::of(&nodes);
        assert!(summary.heads_equal);
        assert_eq!((summary.peers, summary.ready, summary.height), (3, 3, 3));
        assert_eq!((summary.rss_bytes_p50, summary.rss_bytes_max), (20, 30));
        assert_eq!(summary.cpu_cores, 0.75);
        nodes[1].hash = Some("b".to_owned());
        assert!(!Summary::of(&nodes).heads_equal);
        nodes[1] = node(2, None, None);
        let summary = Summary::of(&nodes);
        assert_eq!((summary.ready, summary.heads_equal), (2, false));
        assert!(!Summary::of(&[]).heads_equal);
    }

    #[test]
    fn own_process_has_used_a_processor_and_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Process {
            pid,
            started: crate::process::Status::read(pid).unwrap().started,
        };
        let before = cpu_seconds(own).unwrap();
        let mut sum = 0_u64;
        while cpu_seconds(own).unwrap() - before < 0.02 {
            sum = (0..100_000_u64).fold(sum, |sum, n| sum.wrapping_add(std::hint::black_box(n)));
        }
        assert!(rss_bytes(own).unwrap() > 1_000_000);
        assert!(cpu_seconds(Process { pid, started: 1 }).is_none());
    }
}

//! A network is upgraded node by node: `blosm` beside `blosm-next`, which reads and seals header version 2 and offers a
//! second major of the ledger protocol and of the block topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blosm_testnet::client;
use blosm_testnet::config;
use blosm_testnet::node::{Node, next_binary};
use blosm_testnet::{HostSpec, Spec};
use reqwest::Method;
use serde_json::{Value, json};

use crate::ride::{Ride, STILL};
use crate::road::{Nodes, eventually, peer};

/// What the two programs call themselves.
const OLD: &str = env!("CARGO_PKG_VERSION");
const NEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "+next");

impl Nodes {
    /// Ends a node and starts the next version on the same data directory.
    async fn upgrade(&mut self, number: usize) {
        self.testnet.stop_node(number).unwrap();
        self.testnet
            .install(number, Some(&next_binary().unwrap()))
            .unwrap();
        self.testnet.start_node(number).await.unwrap();
    }

    /// What an operator has to mend on a node that serves: anything but 200 fails here.
    async fn warnings(&self, number: usize) -> Vec<String> {
        let ready = self.testnet.client(number).unwrap().get("/readyz").await.unwrap();
        assert_eq!(ready["ready"], true, "{ready}");
        let warnings = ready["warnings"].as_array().unwrap().iter();
        warnings.map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// `blosm members -v` on a node: as a table, and by label.
    fn members(&self, number: usize) -> (String, BTreeMap<String, Value>) {
        let data_dir = self.testnet.state().data_dir(number).display().to_string();
        let node = Node::of(self.testnet.state(), number).unwrap();
        let words = ["members", "-v", "--data-dir", &data_dir];
        let table = node.command(&words).unwrap();
        let listed = node.command(&[&words[..], &["--json"]].concat()).unwrap();
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
        let label = |member: &Value| member["label"].as_str().unwrap().to_owned();
        (
            table,
            listed
                .into_iter()
                .map(|member| (label(&member), member))
                .collect(),
        )
    }

    /// Waits until every node is known on a node by these versions, each with the newest protocol that it speaks.
    async fn known(&self, on: usize, wanted: [(&str, u16); 3]) {
        let said = |member: &Value, (software, protocol): (&str, u16)| {
            let said = &member["known"]["status"];
            said["software"] == software && said["protocol"] == protocol
        };
        eventually(&format!("host{on} knows of {wanted:?}"), async || {
            let (table, members) = self.members(on);
            wanted.iter().enumerate().all(|(index, wanted)| {
                let label = format!("host{}", index + 1);
                let mut lines = table.lines().filter(|line| line.contains(&label));
                let shown = lines.any(|line| line.split_whitespace().any(|word| word == wanted.0));
                shown && said(&members[&label], *wanted)
            })
        })
        .await;
    }

    /// Waits until the two ends talk in that major of the ledger protocol.
    async fn talk(&self, (a, b): (usize, usize), major: u16) {
        eventually(&format!("hosts {a} and {b} talk in major {major}"), async || {
            let ends = [peer(&self.testnet, a, b).await, peer(&self.testnet, b, a).await];
            ends.iter()
                .all(|end| end.as_ref().is_some_and(|end| end["majors"]["ledger"] == major))
        })
        .await;
    }

    /// How many blocks a node has published in a major of the topic.
    async fn published(&self, number: usize, major: u16) -> f64 {
        let metrics = self.testnet.client(number).unwrap().metrics().await.unwrap();
        let topic = format!("/block/{major}\"}} ");
        let mut lines = metrics
            .lines()
            .filter(|line| line.starts_with("libp2p_gossipsub_topic_msg_published_total{"));
        let count = lines.find_map(|line| Some(line.split_once(&topic)?.1));
        count.map_or(0.0, |count| count.trim().parse().unwrap())
    }

    /// Each node's view of its connection to each other: since when it is there. Nobody holds anything against anybody.
    async fn links(&self) -> Vec<Value> {
        let mut links = Vec::new();
        for (a, b) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
            let seen = peer(&self.testnet, a, b).await;
            let seen = seen.unwrap_or_else(|| panic!("host{a} is not connected to host{b}"));
            assert_eq!(seen["score"], 0, "host{a} of host{b}: {seen:#}");
            links.push(seen["since_unix_ms"].clone());
        }
        links
    }
}

#[tokio::test]
async fn a_network_is_upgraded_node_by_node_while_a_session_moves() {
    let mut hosts = vec![HostSpec::default(); 3];
    hosts[2].program = Some(next_binary().unwrap());
    let mut nodes = Nodes::of(Spec {
        hosts,
        services: |image| vec![config::counter(image)],
        extra: STILL.parse().unwrap(),
        ..Spec::hosts(3)
    })
    .await;

    // A node of the next version among older ones: they talk in what both know.
    for on in [1, 3] {
        nodes.known(on, [(OLD, 1), (OLD, 1), (NEXT, 2)]).await;
    }
    for ends in [(1, 2), (1, 3), (2, 3)] {
        nodes.talk(ends, 1).await;
    }
    let ride = Ride::start(&nodes.testnet, 3).await;
    ride.moved(&nodes.testnet, 3, 2).await;
    ride.moved(&nodes.testnet, 2, 3).await;
    ride.moved(&nodes.testnet, 3, 2).await;
    let height = nodes.head(1).await.height;
    nodes.agree(height).await;
    assert!(nodes.published(1, 1).await > 0.0 && nodes.published(1, 2).await == 0.0);
    for number in 1..=3 {
        assert_eq!(nodes.warnings(number).await, Vec::<String>::new());
    }

    // The authority is upgraded before host 2, which reads none of its blocks any more.
    nodes.upgrade(1).await;
    nodes.talk((1, 3), 2).await;
    nodes.talk((1, 2), 1).await;
    let last = nodes.head(2).await;
    nodes.seal();
    eventually("host2 says that it needs another version", async || {
        !nodes.warnings(2).await.is_empty()
    })
    .await;
    let needs = format!(
        "block {} has header version 2, and this blosm reads 1; install a newer blosm on this node",
        last.height + 1
    );
    assert_eq!(nodes.warnings(2).await, [needs.as_str()]);
    let log = std::fs::read_to_string(Node::of(nodes.testnet.state(), 2).unwrap().log()).unwrap();
    assert!(
        log.lines()
            .any(|line| line.contains("ERROR") && line.contains(&needs)),
        "{log}"
    );
    let before = nodes.links().await;
    // It serves on: the session that it has, and whoever else asks at its gateway.
    ride.served_by(2).await;
    let host = nodes.testnet.state().host(2).unwrap();
    let url = format!("http://{}:{}/counter/log", host.address, host.ports.gateway);
    let cars = nodes.testnet.state().road().cars();
    client::ask(&cars, Method::GET, &url, None).await.unwrap();
    // It gives its session away, although the block in which that stands is none that it can read.
    ride.moved(&nodes.testnet, 2, 3).await;
    for _ in 0..5 {
        nodes.seal();
    }
    let head = nodes.head(1).await;
    nodes
        .until("host3 follows", |heads| heads[2].height >= head.height)
        .await;
    assert!(nodes.published(1, 1).await > 0.0 && nodes.published(1, 2).await > 0.0);
    assert_eq!(nodes.head(2).await.height, last.height);
    assert_eq!(nodes.warnings(2).await, [needs]);
    assert_eq!(
        nodes.links().await,
        before,
        "every connection is the same as before"
    );
    // The authority's operator sees who has to be upgraded.
    nodes.known(1, [(NEXT, 2), (OLD, 1), (NEXT, 2)]).await;
    let (_, members) = nodes.members(1);
    for (label, software, protocol) in [("host2", OLD, 1), ("host3", NEXT, 2)] {
        let ack = &members[label]["ack"];
        assert_eq!(
            (&ack["software"], &ack["protocol"]),
            (&json!(software), &json!(protocol))
        );
    }
    assert_eq!(members["host2"]["ack"]["height"], last.height);
    let hash = nodes.seal();
    let (confirmed, text) = nodes.wait_confirmed(1, &hash, "2s");
    assert!(!confirmed && text.contains("2 of 3"), "{text}");

    nodes.upgrade(2).await;
    let head = nodes.head(1).await;
    nodes.agree(head.height).await;
    assert_eq!(nodes.warnings(2).await, Vec::<String>::new());
    for ends in [(1, 2), (1, 3), (2, 3)] {
        nodes.talk(ends, 2).await;
    }
    // Nobody is left who would need the older one. A subscription may still be on its way.
    let begin = Instant::now();
    loop {
        let before = (nodes.published(1, 1).await, nodes.published(1, 2).await);
        nodes.seal();
        let head = nodes.head(1).await;
        nodes.agree(head.height).await;
        let after = (nodes.published(1, 1).await, nodes.published(1, 2).await);
        if after.0 == before.0 && after.1 > before.1 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{before:?}, {after:?}");
    }
    ride.moved(&nodes.testnet, 3, 2).await;
    ride.end(&nodes.testnet, 6).await;

    // Back again it does not go: nothing is damaged, and nobody is told to remove anything.
    nodes.testnet.stop_node(2).unwrap();
    nodes.testnet.install(2, None).unwrap();
    let error = nodes.testnet.start_node(2).await.unwrap_err().to_string();
    assert!(
        error.contains("has header version 2") && error.contains("start that one again"),
        "{error}"
    );
    nodes.end();
}

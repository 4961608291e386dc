//! A road of nodes whose heads are watched all the time.

use std::time::{Duration, Instant};

use blosm_testnet::config::{self, Runtime};
use blosm_testnet::node::Node;
use blosm_testnet::{HostSpec, Spec, Testnet, cleanup};
use serde_json::Value;
use toml::Table;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Lays keys over the `blosm.toml` of a host's node, for its next start.
pub(crate) fn set(testnet: &Testnet, number: usize, keys: &str) {
    let file = testnet.state().data_dir(number).join("blosm.toml");
    let mut table: Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    config::overlay(&mut table, &keys.parse().unwrap());
    std::fs::write(&file, toml::to_string(&table).unwrap()).unwrap();
}

/// Takes a testnet down; nothing of it may be left.
pub(crate) fn finish(testnet: Testnet) {
    let state = testnet.state().clone();
    testnet.down().unwrap();
    cleanup::check_gone(&state.id, &state.dir).unwrap();
}

/// What a node says of its connection to another one; none as long as there is none.
pub(crate) async fn peer(testnet: &Testnet, number: usize, other: usize) -> Option<Value> {
    let label = format!("host{other}");
    let peers = testnet.client(number).unwrap().get("/v1/peers").await.unwrap();
    let mut peers = peers.as_array().unwrap().iter();
    peers.find(|peer| peer["label"] == label.as_str()).cloned()
}

/// Nodes of a network without engines.
pub(crate) struct Nodes {
    pub(crate) testnet: Testnet,
    count: usize,
    /// The radius that host 2 has last been admitted with: each admission with another one is a block.
    radius: f64,
}

/// One look at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) height: u64,
    pub(crate) hash: String,
    pub(crate) confirmed: u64,
}

impl Nodes {
    /// So many nodes, all members, with one head.
    pub(crate) async fn start(count: usize) -> Nodes {
        Nodes::with(vec![HostSpec::default(); count]).await
    }

    pub(crate) async fn with(hosts: Vec<HostSpec>) -> Nodes {
        let count = hosts.len();
        Nodes::of(Spec {
            hosts,
            services: |_| Vec::new(),
            ..Spec::hosts(count)
        })
        .await
    }

    /// The nodes of a spec, with simulated containers.
    pub(crate) async fn of(spec: Spec) -> Nodes {
        let count = spec.hosts.len();
        let spec = Spec {
            runtime: Runtime::Sim,
            ..spec
        };
        let testnet = Testnet::up(&spec, &|line| eprintln!("{line}")).await.unwrap();
        Nodes {
            testnet,
            count,
            radius: 300.0,
        }
    }

    /// Has the authority seal one block; gives the transaction's hash.
    pub(crate) fn seal(&mut self) -> String {
        self.radius += 1.0;
        let mut host = self.testnet.state().host(2).unwrap().clone();
        host.radius = self.radius;
        Node::of(self.testnet.state(), 1).unwrap().admit(&host).unwrap()
    }

    /// What a node says of itself; it is asked inside its own namespace, so a cut link does not matter.
    pub(crate) async fn head(&self, number: usize) -> Head {
        let client = self.testnet.client(number).unwrap();
        let status = client.get("/v1/status").await.unwrap();
        let number = |field: &Value| field.as_u64().unwrap();
        Head {
            height: number(&status["height"]),
            hash: status["hash"].as_str().unwrap().to_owned(),
            confirmed: number(&status["confirmed_height"]),
        }
    }

    /// All heads. Fails if a node holds a height for confirmed that fewer than 90 % of the nodes hold.
    pub(crate) async fn heads(&self) -> Vec<Head> {
        let look = || futures::future::join_all((1..=self.count).map(|number| self.head(number)));
        // What is held only grows, so heads seen later than a confirmation are no less than those that it counted.
        let claimed = look().await.iter().map(|head| head.confirmed).max().unwrap();
        let heads = look().await;
        let holding = heads.iter().filter(|head| head.height >= claimed).count();
        assert!(
            holding * 10 >= self.count * 9,
            "block {claimed} is confirmed, and {holding} of {} hold it: {heads:?}",
            self.count
        );
        heads
    }

    /// Waits until heads are as wanted, watching confirmations all the while; gives how long it took.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Head]) -> bool) -> Duration {
        let begin = Instant::now();
        loop {
            let heads = self.heads().await;
            if wanted(&heads) {
                return begin.elapsed();
            }
            assert!(begin.elapsed() < PATIENCE, "{what}: {heads:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all nodes have one head of at least that height.
    pub(crate) async fn agree(&self, height: u64) -> Duration {
        self.until("one head everywhere", |heads| {
            heads[0].height >= height && heads.iter().all(|head| head.hash == heads[0].hash)
        })
        .await
    }

    /// Watches for a while that nothing is confirmed which is not held.
    pub(crate) async fn watch(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.heads().await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `blosm chain tx HASH --wait-confirmed` on a node: whether it was confirmed, and what was printed.
    pub(crate) fn wait_confirmed(&self, number: usize, hash: &str, timeout: &str) -> (bool, String) {
        let node = Node::of(self.testnet.state(), number).unwrap();
        let data_dir = self.testnet.state().data_dir(number).display().to_string();
        let words = [
            "chain",
            "tx",
            hash,
            "--wait-confirmed",
            "--timeout",
            timeout,
            "--data-dir",
            &data_dir,
        ];
        match node.command(&words) {
            Ok(text) => (true, text),
            Err(error) => (false, format!("{error:#}")),
        }
    }

    /// Cuts every host of one side off from every host of the other.
    pub(crate) fn split(&self, one: &[usize], other: &[usize]) {
        let road = self.testnet.state().road();
        for (a, b) in pairs(one, other) {
            road.part(a, b).unwrap();
        }
    }

    pub(crate) fn unite(&self, one: &[usize], other: &[usize]) {
        let road = self.testnet.state().road();
        for (a, b) in pairs(one, other) {
            road.rejoin(a, b).unwrap();
        }
    }

    pub(crate) fn end(self) {
        finish(self.testnet);
    }
}

fn pairs<'a>(one: &'a [usize], other: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    one.iter().flat_map(move |a| other.iter().map(move |b| (*a, *b)))
}

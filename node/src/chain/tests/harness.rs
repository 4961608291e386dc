//! Nodes with a real ledger and a real swarm, all in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{
    Admit, Genesis, HandOver, Hash, Ledger, Location, Open, Params, Payload, PublicKey, SecretKey, SessionId,
    Token, Transaction,
};
use blosm_net::{Multiaddr, NetConfig, NetEvent, NetHandle, Network, Protocol, peer_of_key};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::chain::{ChainHandle, ChainOptions, ChainTask, ChainView};

/// Longer than anything here takes on a busy machine.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

/// The key of node `i`; node 0 is the authority.
pub(super) fn key(i: u8) -> SecretKey {
    SecretKey::from_seed(&[i + 1; 32])
}

pub(super) fn genesis() -> Genesis {
    Genesis {
        name: "test".to_owned(),
        authorities: vec![key(0).public()],
        recovery: key(200).public(),
        time_ms: 1_700_000_000_000,
        params: Params::default(),
    }
}

/// A node that does not run: its place on disk, and its port once it has one.
pub(super) struct Place {
    pub(super) index: u8,
    pub(super) dir: TempDir,
    listen: Multiaddr,
}

/// A node that runs.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) chain: ChainHandle,
    pub(super) net: NetHandle,
    router: JoinHandle<()>,
    _closed: Closed,
}

/// Closes a node's database with the node, and waits for it: a process that ends while RocksDB works is aborted by it.
struct Closed(ChainHandle);

impl Drop for Closed {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| Handle::current().block_on(self.0.shutdown()));
    }
}

impl Place {
    pub(super) fn new(index: u8) -> Place {
        let listen = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        Place {
            index,
            dir: tempfile::tempdir().unwrap(),
            listen,
        }
    }

    pub(super) fn ledger(&self) -> std::path::PathBuf {
        self.dir.path().join("ledger")
    }

    pub(super) async fn start(self, bootstrap: &[&Node]) -> Node {
        self.start_with(bootstrap, ChainOptions::default()).await
    }

    pub(super) async fn start_with(mut self, bootstrap: &[&Node], options: ChainOptions) -> Node {
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let key = key(self.index);
        let ledger = Ledger::open(&self.ledger(), genesis(), Some(key.clone())).unwrap();
        let (net, mut events) = self.swarm(bootstrap).await;
        let chain = ChainTask::spawn(ledger, net.clone(), Arc::new(key), options).unwrap();
        let routed = chain.clone();
        let router = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    NetEvent::Gossip {
                        topic,
                        source,
                        data,
                        id,
                    } => routed.on_gossip(topic, source, data, id),
                    NetEvent::Request {
                        protocol: Protocol::Ledger,
                        peer,
                        data,
                        reply,
                    } => {
                        routed.on_request(peer, data, reply);
                    }
                    NetEvent::Connected { peer } => routed.on_connected(peer),
                    _ => {}
                }
            }
        });
        Node {
            place: self,
            _closed: Closed(chain.clone()),
            chain,
            net,
            router,
        }
    }
}

impl Place {
    /// The node's swarm without its ledger: a peer that says whatever a test wants.
    pub(super) async fn swarm(&mut self, bootstrap: &[&Node]) -> (NetHandle, mpsc::Receiver<NetEvent>) {
        let config = NetConfig {
            seed: *key(self.index).seed(),
            net8: genesis().chain_id().short(8),
            listen: vec![self.listen.clone()],
            bootstrap: bootstrap.iter().map(|node| node.full_address()).collect(),
            authorities: vec![peer_of_key(&genesis().authorities[0].0)],
            advertise: vec![],
            strangers: 0,
            per_address: 64,
            mdns: false,
            // Tests say who knows whose address.
            kad: false,
            agent: "test".to_owned(),
        };
        let (net, events) = Network::spawn(config).await.unwrap();
        self.listen = net.listeners()[0].clone();
        (net, events)
    }
}

impl Node {
    pub(super) fn key(&self) -> SecretKey {
        key(self.place.index)
    }

    pub(super) fn name(&self) -> PublicKey {
        self.key().public()
    }

    pub(super) fn full_address(&self) -> Multiaddr {
        format!("{}/p2p/{}", self.place.listen, self.net.local_peer())
            .parse()
            .unwrap()
    }

    pub(super) async fn stop(self) -> Place {
        self.chain.shutdown().await;
        self.net.shutdown().await;
        self.router.abort();
        self.place
    }

    pub(super) fn sign(&self, payload: Payload) -> Transaction {
        Transaction::sign(
            &self.key(),
            genesis().chain_id(),
            self.chain.snapshot().height,
            payload,
        )
    }

    pub(super) fn admission(&self, of: &Node, addresses: bool) -> Transaction {
        let listen = of.place.listen.to_string();
        self.admission_of(of.place.index, if addresses { vec![listen] } else { vec![] })
    }

    /// The admission of node `i` by its key: nobody has to run for that.
    pub(super) fn admission_of(&self, i: u8, addresses: Vec<String>) -> Transaction {
        self.sign(Payload::Admit(Admit {
            key: key(i).public(),
            admission: Hash([i; 32]),
            addresses,
            gateway: format!("http://127.0.0.1:{}", 8000 + u16::from(i)),
            metrics: None,
            location: Location {
                lat_e7: 374_500_000,
                lon_e7: 1_266_500_000,
            },
            radius_m: 300,
            label: format!("node{i}"),
        }))
    }

    /// Opens a session of this node, told apart by `n`.
    pub(super) fn opening(&self, n: u32) -> (SessionId, Transaction) {
        let mut nonce = [self.place.index; 32];
        nonce[..4].copy_from_slice(&n.to_be_bytes());
        let token = Token::mint(&self.key(), genesis().chain_id(), "counter", nonce);
        let open = Open::of(&token, "counter");
        (token.session(), self.sign(Payload::Open(open)))
    }

    pub(super) fn hand_over(&self, session: SessionId, epoch: u64, to: &Node) -> Transaction {
        self.sign(Payload::HandOver(HandOver {
            session,
            epoch,
            claim: None,
            destination: to.name(),
            manifest_root: Hash([9; 32]),
        }))
    }

    /// Waits until this node's chain is as wanted.
    pub(super) async fn sees(&self, wanted: impl Fn(&ChainView) -> bool) {
        let mut view = self.chain.subscribe();
        // The guard goes at once: a second look at the view while a writer waits would wait for ever.
        let seen = tokio::time::timeout(LIMIT, async {
            view.wait_for(|view| wanted(view)).await.map(drop)
        })
        .await;
        let height = self.chain.snapshot().height;
        seen.unwrap_or_else(|_| panic!("node {} stays at height {height}", self.place.index))
            .unwrap();
    }

    pub(super) async fn reaches(&self, height: u64) {
        self.sees(|view| view.height >= height).await;
    }

    pub(super) async fn connected(&self, to: &Node) {
        let mut peers = self.net.watch_peers();
        let peer = to.net.local_peer();
        tokio::time::timeout(LIMIT, peers.wait_for(|peers| peers.contains_key(&peer)))
            .await
            .unwrap()
            .unwrap();
    }

    pub(super) async fn disconnected(&self, from: &Node) {
        let mut peers = self.net.watch_peers();
        let peer = from.net.local_peer();
        tokio::time::timeout(LIMIT, peers.wait_for(|peers| !peers.contains_key(&peer)))
            .await
            .unwrap()
            .unwrap();
    }
}

/// An authority and `others` members, all admitted and connected to it.
pub(super) async fn network(others: u8) -> Vec<Node> {
    let mut nodes = vec![Place::new(0).start(&[]).await];
    for i in 1..=others {
        let node = Place::new(i).start(&[&nodes[0]]).await;
        nodes.push(node);
    }
    for node in &nodes {
        nodes[0]
            .chain
            .submit(nodes[0].admission(node, true))
            .await
            .unwrap();
    }
    let height = nodes[0].chain.snapshot().height;
    for node in &nodes {
        node.reaches(height).await;
    }
    nodes
}

/// Waits until something holds that nobody gives notice of.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Copies a directory of plain files.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

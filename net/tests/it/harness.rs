//! Nodes for tests: a swarm on a free loopback port, and waiting for what it reports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blosm_net::{
    Multiaddr, NetConfig, NetEvent, NetHandle, Network, PeerId, Protocol, Reply, Topic, Verdict,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

/// Longer than any of these events takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

pub const NET8: &str = "0a1b2c3d";

pub struct Node {
    pub net: NetHandle,
    pub events: mpsc::Receiver<NetEvent>,
    pub config: NetConfig,
    /// Whom it knows as a member; a restarted node knows them again.
    pub members: Vec<PeerId>,
}

pub fn config(seed: u8, listen: &str) -> NetConfig {
    NetConfig {
        seed: [seed; 32],
        net8: NET8.to_owned(),
        listen: vec![listen.parse().unwrap()],
        bootstrap: vec![],
        authorities: vec![],
        advertise: vec![],
        strangers: 0,
        per_address: 64,
        mdns: false,
        kad: true,
        agent: "blosm-test".to_owned(),
    }
}

/// A way to a node on which connections come from this address of the machine.
pub async fn from(ip: &str, to: &Multiaddr) -> Multiaddr {
    let port: u16 = to.to_string().rsplit('/').next().unwrap().parse().unwrap();
    let (source, to): (SocketAddr, SocketAddr) = (
        (ip.parse::<IpAddr>().unwrap(), 0).into(),
        ([127, 0, 0, 1], port).into(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(source).unwrap();
                if let Ok(mut there) = socket.connect(to).await {
                    // Either end may be cut off.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                }
            });
        }
    });
    format!("/ip4/127.0.0.1/tcp/{way}").parse().unwrap()
}

impl Node {
    pub async fn start(seed: u8) -> Node {
        Node::start_with(config(seed, "/ip4/127.0.0.1/tcp/0")).await
    }

    pub async fn start_with(config: NetConfig) -> Node {
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let (net, events) = Network::spawn(config.clone()).await.unwrap();
        Node {
            net,
            events,
            config,
            members: vec![],
        }
    }

    /// From now on this is a member, which has to dial.
    pub fn know(&mut self, peer: PeerId) {
        self.members.push(peer);
        self.net.set_addresses(peer, vec![]);
    }

    /// Stops the node and starts it again with the same key on the same port.
    pub async fn restart(self) -> Node {
        let mut config = self.config.clone();
        config.listen = vec![self.address()];
        let members = self.members.clone();
        self.net.shutdown().await;
        drop(self);
        let mut node = Node::start_with(config).await;
        for peer in members {
            node.know(peer);
        }
        node
    }

    pub fn id(&self) -> PeerId {
        self.net.local_peer()
    }

    pub fn address(&self) -> Multiaddr {
        self.net.listeners()[0].clone()
    }

    /// Makes this node dial the other, and waits until both have told their readers.
    pub async fn connect(&mut self, other: &mut Node) {
        other.know(self.id());
        self.net.set_addresses(other.id(), vec![other.address()]);
        self.connected(other.id()).await;
        other.connected(self.id()).await;
    }

    pub async fn event(&mut self) -> NetEvent {
        tokio::time::timeout(LIMIT, self.events.recv())
            .await
            .expect("an event in time")
            .expect("the task runs")
    }

    pub async fn connected(&mut self, wanted: PeerId) {
        loop {
            if let NetEvent::Connected { peer } = self.event().await
                && peer == wanted
            {
                return;
            }
        }
    }

    pub async fn disconnected(&mut self, wanted: PeerId) {
        loop {
            if let NetEvent::Disconnected { peer } = self.event().await
                && peer == wanted
            {
                return;
            }
        }
    }

    pub async fn asked(&mut self) -> (Protocol, PeerId, Vec<u8>, Reply) {
        loop {
            if let NetEvent::Request {
                protocol,
                peer,
                data,
                reply,
            } = self.event().await
            {
                return (protocol, peer, data, reply);
            }
        }
    }

    /// The next gossip message; accepted.
    pub async fn heard(&mut self) -> (Topic, Vec<u8>) {
        loop {
            if let NetEvent::Gossip { topic, data, id, .. } = self.event().await {
                self.net.verdict(id, Verdict::Accept);
                return (topic, data);
            }
        }
    }
}

/// An address of this machine where nobody listens.
pub fn free_address() -> Multiaddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("/ip4/127.0.0.1/tcp/{}", free.local_addr().unwrap().port())
        .parse()
        .unwrap()
}

/// Waits until something holds that nobody gives notice of.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Publishes numbered messages until the other node hears one: gossip needs a moment to learn who listens.
pub async fn gossip_flows(from: &Node, to: &mut Node, mark: &str) {
    let publish = async {
        for n in 0.. {
            from.net
                .publish(Topic::Tx, format!("{mark} {n}").into_bytes())
                .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let hear = async {
        loop {
            let (_, data) = to.heard().await;
            if data.starts_with(mark.as_bytes()) {
                return;
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = publish => {}
    }
}

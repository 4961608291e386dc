//! A peer that keeps no rule: a plain libp2p swarm, nothing of ours. It opens streams of any protocol and writes whatever a
//! script says.

use std::io;
use std::time::Duration;

use blosm_net::{Multiaddr, PeerId};
use futures::StreamExt;
use futures::prelude::*;
use libp2p::core::ConnectedPoint;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, OutboundFailure, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{StreamProtocol, SwarmBuilder, gossipsub, noise, ping, tcp, yamux};

use crate::harness::{LIMIT, NET8};

/// The version of gossipsub that it speaks.
pub const GOSSIPSUB: &str = "/meshsub/1.1.0";

/// What is written to one stream, and what is done about the answer.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Written one after the other.
    pub parts: Vec<Vec<u8>>,
    /// Waited before each part.
    pub pause: Duration,
    /// Makes further parts, for as long as the other end takes them.
    pub endless: Option<fn() -> Vec<u8>>,
    /// The stream is left open, and neither closed nor read.
    pub hold: bool,
}

impl Script {
    pub fn bytes(bytes: Vec<u8>) -> Script {
        Script {
            parts: vec![bytes],
            ..Script::default()
        }
    }

    /// A frame of our request-response protocols.
    pub fn frame(body: &[u8]) -> Script {
        Script::bytes(frame(body))
    }
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Writes scripts, and answers nobody.
#[derive(Debug, Clone)]
pub struct RawCodec;

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Script;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Script>
    where
        T: AsyncRead + Unpin + Send,
    {
        // Reads for ever what the other end says, and takes no notice.
        let mut buffer = [0; 4096];
        while io.read(&mut buffer).await? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, script: Script) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let further = std::iter::from_fn(|| script.endless.map(|make| make()));
        for part in script.parts.into_iter().chain(further) {
            tokio::time::sleep(script.pause).await;
            io.write_all(&part).await?;
            io.flush().await?;
        }
        if script.hold {
            future::pending::<()>().await;
        }
        Ok(())
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, _: &mut T, _: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        Ok(())
    }
}

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    scripts: request_response::Behaviour<RawCodec>,
    /// A peer without them would be dropped before it has done anything.
    ping: ping::Behaviour,
    gossip: Toggle<gossipsub::Behaviour>,
}
pub type Event = SwarmEvent<BehaviourEvent>;

fn honest_gossip() -> gossipsub::Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .build()
        .unwrap();
    let mut behaviour = gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config).unwrap();
    for topic in ["tx", "block"] {
        behaviour
            .subscribe(&gossipsub::IdentTopic::new(gossip::topic(topic)))
            .unwrap();
    }
    behaviour
}

/// The peer. It does something only while one of its methods is awaited.
pub struct Raw {
    pub swarm: Swarm<Behaviour>,
}

/// The name of one of our protocols.
pub fn own(name: &str) -> String {
    format!("/blosm/{NET8}/{name}/1")
}

impl Raw {
    /// Speaks one protocol by script, and ping and gossipsub as everybody does.
    pub fn new(seed: u8, protocol: &str) -> Raw {
        Raw::with_seed([seed; 32], protocol)
    }

    /// The same, of which there may be more than 256.
    pub fn with_seed(seed: [u8; 32], protocol: &str) -> Raw {
        let key = Keypair::ed25519_from_bytes(seed).unwrap();
        let gossip = (protocol != GOSSIPSUB).then(honest_gossip);
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).unwrap();
        let config = request_response::Config::default()
            .with_request_timeout(Duration::from_secs(600))
            .with_max_concurrent_streams(2048);
        let behaviour = Behaviour {
            scripts: request_response::Behaviour::with_codec(
                RawCodec,
                [(protocol, ProtocolSupport::Full)],
                config,
            ),
            ping: ping::Behaviour::default(),
            gossip: gossip.into(),
        };
        let muxer = || {
            let mut muxer = yamux::Config::default();
            muxer.set_max_num_streams(2048);
            muxer
        };
        let swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, muxer)
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        Raw { swarm }
    }

    pub fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    pub fn dial(&mut self, to: PeerId, address: Multiaddr) {
        let options = DialOpts::peer_id(to)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .allocate_new_port()
            .build();
        self.swarm.dial(options).unwrap();
    }

    /// Dials until it is connected. It may be closed at once.
    pub async fn connect(&mut self, to: PeerId, address: Multiaddr) {
        self.dial(to, address.clone());
        loop {
            match self.next().await {
                SwarmEvent::ConnectionEstablished { .. } => return,
                SwarmEvent::OutgoingConnectionError { .. } => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    self.dial(to, address.clone());
                }
                _ => {}
            }
        }
    }

    pub fn send(&mut self, to: PeerId, script: Script) {
        self.swarm.behaviour_mut().scripts.send_request(&to, script);
    }

    pub async fn next(&mut self) -> Event {
        tokio::time::timeout(LIMIT, self.swarm.select_next_some())
            .await
            .expect("something happens in time")
    }

    /// The next answer, or why there is none.
    pub async fn answered(&mut self) -> Result<Vec<u8>, OutboundFailure> {
        use request_response::{Event, Message};
        loop {
            match self.next().await {
                SwarmEvent::Behaviour(BehaviourEvent::Scripts(Event::Message {
                    message: Message::Response { response, .. },
                    ..
                })) => return Ok(response),
                SwarmEvent::Behaviour(BehaviourEvent::Scripts(Event::OutboundFailure { error, .. })) => {
                    return Err(error);
                }
                _ => {}
            }
        }
    }

    /// Waits until a connection that it dialled is closed, or was never let in.
    pub async fn closed(&mut self) {
        loop {
            match self.next().await {
                SwarmEvent::ConnectionClosed {
                    endpoint: ConnectedPoint::Dialer { .. },
                    ..
                }
                | SwarmEvent::OutgoingConnectionError { .. } => return,
                _ => {}
            }
        }
    }

    /// Connects again and again until the task is dropped.
    pub async fn insist(&mut self, to: PeerId, address: Multiaddr) {
        loop {
            self.connect(to, address.clone()).await;
            self.closed().await;
        }
    }

    /// Lives until the task is dropped.
    pub async fn live(mut self) {
        loop {
            self.swarm.select_next_some().await;
        }
    }
}

/// The frames of gossipsub, written by hand.
pub mod gossip {
    use sha2::{Digest, Sha256};

    use crate::harness::NET8;

    pub fn topic(name: &str) -> String {
        format!("/blosm/{NET8}/{name}/1")
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        bytes.extend(varint(body.len() as u64));
        bytes.extend_from_slice(body);
        bytes
    }

    /// One message with its length before it.
    fn rpc(body: &[u8]) -> Vec<u8> {
        let mut bytes = varint(body.len() as u64);
        bytes.extend_from_slice(body);
        bytes
    }

    pub fn subscribe(topics: impl IntoIterator<Item = String>) -> Vec<u8> {
        let one = |topic: String| {
            let mut body = vec![1 << 3, 1];
            body.extend(field(2, topic.as_bytes()));
            field(1, &body)
        };
        rpc(&topics.into_iter().flat_map(one).collect::<Vec<_>>())
    }

    /// Both topics, as every honest node subscribes to them.
    pub fn hello() -> Vec<u8> {
        subscribe([topic("tx"), topic("block")])
    }

    pub fn publish(topic: &str, data: &[u8]) -> Vec<u8> {
        let mut body = field(2, data);
        body.extend(field(4, topic.as_bytes()));
        rpc(&field(2, &body))
    }

    pub fn graft(topic: &str) -> Vec<u8> {
        rpc(&field(3, &field(3, &field(1, topic.as_bytes()))))
    }

    pub fn prune(topic: &str) -> Vec<u8> {
        rpc(&field(3, &field(4, &field(1, topic.as_bytes()))))
    }

    /// Promises messages of a topic.
    pub fn ihave(topic: &str, ids: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let mut body = field(1, topic.as_bytes());
        body.extend(ids.into_iter().flat_map(|id| field(2, &id)));
        rpc(&field(3, &field(1, &body)))
    }

    /// Asks for messages.
    pub fn iwant(ids: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let body: Vec<u8> = ids.into_iter().flat_map(|id| field(1, &id)).collect();
        rpc(&field(3, &field(2, &body)))
    }

    /// The id of a message, as every node makes it.
    pub fn id(topic: &str, data: &[u8]) -> Vec<u8> {
        let digest = Sha256::new()
            .chain_update(topic)
            .chain_update([0])
            .chain_update(data)
            .finalize();
        digest[..20].to_vec()
    }

    /// A length of 2^63 and nothing behind it.
    pub fn endless() -> Vec<u8> {
        varint(1 << 63)
    }
}

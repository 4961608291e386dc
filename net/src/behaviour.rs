//! The protocols that one connection speaks, composed, and their settings.

use std::time::Duration;

use libp2p::gossipsub::{self, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{PeerId, connection_limits, identify, ping};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};

use crate::codec::FrameCodec;
use crate::error::NetError;
use crate::protocol::{Protocol, Topic, network_version};

/// Connections of one cell of about 200 nodes, and room for joiners.
const MAX_ESTABLISHED_INBOUND: u32 = 512;
/// Handshakes under way, so that strangers cannot fill the process with them.
const MAX_PENDING_INBOUND: u32 = 64;
/// Two dials that meet, and one of a restarted peer.
const MAX_PER_PEER: u32 = 3;

/// A round trip this often keeps the rtt fresh and shows a dead peer; see `links`.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a message id is remembered; longer than any round of re-gossip.
const DUPLICATE_CACHE: Duration = Duration::from_secs(120);
/// The receiver measures a message with its topic's name and protobuf tags, the publisher without.
const ENVELOPE: usize = 256;
/// gossipsub applies the overall limit to its read buffer, which may hold the beginning of the next frame too.
const FRAME_MARGIN: usize = 64 * 1024;
/// Each queued copy owns its bytes, so a stuck peer must not hold many.
const QUEUE_PER_PEER: usize = 256;

pub(crate) type Exchange = request_response::Behaviour<FrameCodec>;

/// All that runs on a connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    /// Refuses connections that the node has no room for.
    limits: connection_limits::Behaviour,
    /// Tells and hears which network a peer is of.
    pub(crate) identify: identify::Behaviour,
    /// Shows that a peer lives.
    ping: ping::Behaviour,
    /// Spreads transactions and blocks.
    pub(crate) gossip: gossipsub::Behaviour,
    ledger: Exchange,
    session: Exchange,
    relay: Exchange,
    transfer: Exchange,
    join: Exchange,
}

impl Behaviour {
    /// What gossip counts goes into `registry`.
    pub(crate) fn new(
        keypair: &Keypair,
        net8: &str,
        agent: &str,
        registry: &mut Registry,
    ) -> Result<Self, NetError> {
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING_INBOUND))
            .with_max_established_incoming(Some(MAX_ESTABLISHED_INBOUND))
            .with_max_established_per_peer(Some(MAX_PER_PEER));
        // Addresses come from the operator and from the ledger only, so none are learnt from peers.
        let identify = identify::Config::new(network_version(net8), keypair.public())
            .with_agent_version(agent.to_owned())
            .with_cache_size(0)
            .with_hide_listen_addrs(true);
        let ping = ping::Config::new()
            .with_interval(PING_INTERVAL)
            .with_timeout(PING_TIMEOUT);
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            gossip: gossip(net8, registry)?,
            ledger: exchange(Protocol::Ledger, net8),
            session: exchange(Protocol::Session, net8),
            relay: exchange(Protocol::Relay, net8),
            transfer: exchange(Protocol::Transfer, net8),
            join: exchange(Protocol::Join, net8),
        })
    }

    pub(crate) fn exchange(&mut self, protocol: Protocol) -> &mut Exchange {
        match protocol {
            Protocol::Ledger => &mut self.ledger,
            Protocol::Session => &mut self.session,
            Protocol::Relay => &mut self.relay,
            Protocol::Transfer => &mut self.transfer,
            Protocol::Join => &mut self.join,
        }
    }

    pub(crate) fn send(&mut self, peer: &PeerId, protocol: Protocol, data: Vec<u8>) -> OutboundRequestId {
        self.exchange(protocol).send_request(peer, data)
    }
}

fn exchange(protocol: Protocol, net8: &str) -> Exchange {
    let limits = protocol.limits();
    // Streams count in both directions together, and a peer's refused stream looks like a lost answer: twice the number that
    // an honest peer sends.
    let config = request_response::Config::default()
        .with_request_timeout(limits.timeout)
        .with_max_concurrent_streams(2 * limits.in_flight);
    request_response::Behaviour::with_codec(
        FrameCodec::new(protocol),
        protocol
            .stream_protocols(net8)
            .into_iter()
            .map(|name| (name, ProtocolSupport::Full)),
        config,
    )
}

fn gossip(net8: &str, registry: &mut Registry) -> Result<gossipsub::Behaviour, NetError> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .heartbeat_initial_delay(Duration::from_millis(300))
        .heartbeat_interval(Duration::from_secs(1))
        // A cell has few nodes; the defaults would sit below their lower mark for ever.
        .mesh_n(4)
        .mesh_n_low(2)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        .flood_publish(true)
        .validate_messages()
        // Transactions and blocks carry signatures of their own.
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(message_id)
        .duplicate_cache_time(DUPLICATE_CACHE)
        .connection_handler_queue_len(QUEUE_PER_PEER)
        .max_transmit_size(Topic::Block.max_bytes() + FRAME_MARGIN);
    for topic in Topic::ALL {
        let limit = topic.max_bytes() + ENVELOPE;
        config.max_transmit_size_for_topic(limit, topic.ident(net8).hash());
    }
    let config = config
        .build()
        .map_err(|error| NetError::Gossip(error.to_string()))?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)
        .map_err(|error| NetError::Gossip(error.to_owned()))?
        .with_metrics(
            registry.sub_registry_with_prefix("libp2p_gossipsub"),
            gossipsub::MetricsConfig::default(),
        );
    for topic in Topic::ALL {
        gossip
            .subscribe(&topic.ident(net8))
            .map_err(|error| NetError::Gossip(error.to_string()))?;
    }
    Ok(gossip)
}

/// The same bytes on the same topic are the same message, whoever sends them.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let digest = Sha256::new()
        .chain_update(message.topic.as_str())
        .chain_update([0])
        .chain_update(&message.data)
        .finalize();
    MessageId::from(digest[..20].to_vec())
}

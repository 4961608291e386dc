//! The protocols that one connection speaks, composed, and their settings.

use std::time::Duration;

use libp2p::gossipsub::{self, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, connection_limits, identify, kad, mdns, ping};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};

use crate::codec::{FrameCodec, Request};
use crate::config::NetConfig;
use crate::doors::{Doors, Rules, ip_of};
use crate::error::NetError;
use crate::gated::Gated;
use crate::protocol::{
    KAD_MAJOR, Protocol, REACH_MAJORS, Topic, network_version, stream_protocol, stream_protocols,
};
use crate::reach;

/// Connections of one cell of about 200 nodes, some of them twice for a moment, and strangers. Authorities do not count.
const MAX_ESTABLISHED_INBOUND: u32 = 512;
/// Handshakes under way, so that strangers cannot fill the process with them. More than one address may have, see
/// [`NetConfig::per_address`].
const MAX_PENDING_INBOUND: u32 = 256;
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
/// More messages of one frame than this are not looked at.
const MAX_MESSAGES_PER_RPC: usize = 500;
/// Below this gossipsub ignores a peer altogether, and the task counts it as a misdeed.
pub(crate) const GRAYLIST: f64 = -80.0;

/// How long a search for one member may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions about reachability under way with one peer.
const REACH_IN_FLIGHT: usize = 2;
/// A question waits for four attempts at once, each of 3 s.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type Exchange = request_response::Behaviour<FrameCodec>;
/// Peers' subscriptions to other topics than ours are passed over, at no cost to them: they may be of a newer version.
pub(crate) type Gossip =
    gossipsub::Behaviour<gossipsub::IdentityTransform, gossipsub::WhitelistSubscriptionFilter>;

/// All that runs on a connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    /// Refuses connections that the node has no room for. The first field, since what comes after it may keep what it is told.
    limits: connection_limits::Behaviour,
    /// Refuses peers, and keeps the protocols of members from strangers.
    pub(crate) gated: Gated<Members>,
    /// Finds peers on the local network.
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    /// Shows that a peer lives.
    ping: ping::Behaviour,
    /// Strangers speak it too.
    join: Exchange,
}

/// What members speak with each other.
#[derive(NetworkBehaviour)]
pub(crate) struct Members {
    /// Tells and hears which network a peer is of, where it listens, and as what it sees us.
    identify: identify::Behaviour,
    /// Spreads transactions and blocks.
    pub(crate) gossip: Gossip,
    /// Asks other members for the address of one.
    pub(crate) kad: Toggle<kad::Behaviour<MemoryStore>>,
    ledger: Exchange,
    session: Exchange,
    relay: Exchange,
    transfer: Exchange,
    /// Asks a member to dial back.
    pub(crate) reach: Exchange,
}

impl Behaviour {
    /// What gossip counts goes into `registry`.
    pub(crate) fn new(
        keypair: &Keypair,
        config: &NetConfig,
        registry: &mut Registry,
    ) -> Result<Self, NetError> {
        let local = keypair.public().to_peer_id();
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING_INBOUND))
            .with_max_established_incoming(Some(MAX_ESTABLISHED_INBOUND))
            .with_max_established_per_peer(Some(MAX_PER_PEER));
        let mut limits = connection_limits::Behaviour::new(limits);
        for authority in &config.authorities {
            limits.bypass_peer_id(authority);
        }
        let doors = Doors::new(Rules {
            strangers: config.strangers,
            per_address: config.per_address,
        });
        // Nobody on the local network could dial a node that listens on loopback alone.
        let heard = config
            .listen
            .iter()
            .any(|address| ip_of(address).is_none_or(|ip| !ip.is_loopback()));
        let mdns = (config.mdns && heard).then(|| mdns(local)).flatten();
        let ping = ping::Config::new()
            .with_interval(PING_INTERVAL)
            .with_timeout(PING_TIMEOUT);
        Ok(Self {
            limits,
            gated: Gated::new(Members::new(keypair, config, registry)?, doors),
            mdns: mdns.into(),
            ping: ping::Behaviour::new(ping),
            join: exchange(Protocol::Join, &config.net8),
        })
    }

    pub(crate) fn members(&mut self) -> &mut Members {
        &mut self.gated.inner
    }

    pub(crate) fn doors(&mut self) -> &mut Doors {
        &mut self.gated.doors
    }

    pub(crate) fn exchange(&mut self, protocol: Protocol) -> &mut Exchange {
        let members = &mut self.gated.inner;
        match protocol {
            Protocol::Ledger => &mut members.ledger,
            Protocol::Session => &mut members.session,
            Protocol::Relay => &mut members.relay,
            Protocol::Transfer => &mut members.transfer,
            Protocol::Join => &mut self.join,
        }
    }

    pub(crate) fn send(&mut self, peer: &PeerId, protocol: Protocol, request: Request) -> OutboundRequestId {
        self.exchange(protocol).send_request(peer, request)
    }
}

impl Members {
    fn new(keypair: &Keypair, config: &NetConfig, registry: &mut Registry) -> Result<Self, NetError> {
        let net8 = &config.net8;
        // What peers tell of themselves goes to the book, which bounds it, and not to a cache of its own.
        let identify = identify::Config::new(network_version(net8), keypair.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            .with_cache_size(0);
        Ok(Self {
            identify: identify::Behaviour::new(identify),
            gossip: gossip(net8, registry)?,
            kad: config
                .kad
                .then(|| kad(keypair.public().to_peer_id(), net8))
                .into(),
            ledger: exchange(Protocol::Ledger, net8),
            session: exchange(Protocol::Session, net8),
            relay: exchange(Protocol::Relay, net8),
            transfer: exchange(Protocol::Transfer, net8),
            reach: reach(net8),
        })
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

fn reach(net8: &str) -> Exchange {
    let config = request_response::Config::default()
        .with_request_timeout(REACH_TIMEOUT)
        .with_max_concurrent_streams(2 * REACH_IN_FLIGHT);
    request_response::Behaviour::with_codec(
        FrameCodec::with_limits(reach::MAX_QUESTION, reach::MAX_ASKED, REACH_TIMEOUT),
        stream_protocols(net8, reach::REACH, REACH_MAJORS)
            .into_iter()
            .map(|name| (name, ProtocolSupport::Full)),
        config,
    )
}

fn kad(local: PeerId, net8: &str) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(stream_protocol(net8, "kad", KAD_MAJOR));
    config
        .set_query_timeout(SEARCH_TIMEOUT)
        // Addresses come from members that say them of themselves, see the task.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_periodic_bootstrap_interval(None)
        // It finds peers and stores nothing: what peers send to be stored is reported, and nobody takes it.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled);
    let mut kad = kad::Behaviour::with_config(local, MemoryStore::new(local), config);
    // A client would answer nobody until somebody has confirmed an address of it.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// None where the local network cannot be watched, which a node can live with.
fn mdns(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    match mdns::tokio::Behaviour::new(mdns::Config::default(), local) {
        Ok(mdns) => Some(mdns),
        Err(error) => {
            tracing::warn!(%error, "members on the local network will not be found by mDNS");
            None
        }
    }
}

fn gossip(net8: &str, registry: &mut Registry) -> Result<Gossip, NetError> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .heartbeat_initial_delay(Duration::from_millis(300))
        .heartbeat_interval(Duration::from_secs(1))
        // A cell has few nodes; the defaults would sit below their lower mark for ever.
        .mesh_n(4)
        .mesh_n_low(2)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        // So many hear of a message's id beside the mesh, drawn anew at each of three heartbeats: three, of an authority's
        // hundred links nine. Of the nine that a node has beside its mesh about seven hear of it in time.
        .gossip_lazy(3)
        .gossip_factor(0.1)
        .flood_publish(true)
        .validate_messages()
        // Transactions and blocks carry signatures of their own.
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(message_id)
        .duplicate_cache_time(DUPLICATE_CACHE)
        .connection_handler_queue_len(QUEUE_PER_PEER)
        .max_publish_messages(MAX_MESSAGES_PER_RPC)
        .max_transmit_size(Topic::Block.max_bytes() + FRAME_MARGIN);
    for (topic, major) in Topic::all() {
        let limit = topic.max_bytes() + ENVELOPE;
        config.max_transmit_size_for_topic(limit, topic.ident(net8, major).hash());
    }
    let config = config
        .build()
        .map_err(|error| NetError::Gossip(error.to_string()))?;
    let ours = Topic::all().map(|(topic, major)| topic.ident(net8, major).hash());
    let filter = gossipsub::WhitelistSubscriptionFilter(ours.collect());
    let mut gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(|error| NetError::Gossip(error.to_owned()))?
        .with_metrics(
            registry.sub_registry_with_prefix("libp2p_gossipsub"),
            // A topic is a label, and peers make no labels.
            gossipsub::MetricsConfig {
                max_never_subscribed_topics: 0,
                ..gossipsub::MetricsConfig::default()
            },
        );
    let (params, thresholds) = control_score();
    gossip
        .with_peer_score(params, thresholds)
        .map_err(NetError::Gossip)?;
    for (topic, major) in Topic::all() {
        gossip
            .subscribe(&topic.ident(net8, major))
            .map_err(|error| NetError::Gossip(error.to_string()))?;
    }
    Ok(gossip)
}

/// gossipsub's own score, for what only it sees: grafts before their time, and promised messages that never come. Messages
/// are judged by `scores`. Nothing is held against many nodes at one address, nor against a quiet topic.
fn control_score() -> (gossipsub::PeerScoreParams, gossipsub::PeerScoreThresholds) {
    let params = gossipsub::PeerScoreParams {
        app_specific_weight: 0.0,
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: -10.0,
        // A restarted peer grafts again before its time, and a loaded link keeps a promise late: a few in a row are honest.
        behaviour_penalty_threshold: 10.0,
        behaviour_penalty_decay: 0.9,
        slow_peer_weight: 0.0,
        // What is remembered of a peer that comes back is in `scores`.
        retain_score: Duration::from_secs(10),
        ..Default::default()
    };
    let thresholds = gossipsub::PeerScoreThresholds {
        gossip_threshold: -40.0,
        publish_threshold: -60.0,
        graylist_threshold: GRAYLIST,
        ..Default::default()
    };
    (params, thresholds)
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

//! Builds the swarm and binds its listeners, so that a node that cannot listen never starts.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::SwarmEvent;
use libp2p::{SwarmBuilder, noise, tcp, yamux};
use prometheus_client::registry::Registry;

use super::*;
use crate::book::split_peer;
use crate::config::NetConfig;
use crate::error::NetError;
use crate::handle::{NetHandle, Shared};
use crate::identity::keypair;
use crate::protocol::check_prefix;

/// A dial that takes longer is given up: on a cut link it would otherwise block the attempt that succeeds after the repair.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Members stay connected, used or not.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Streams of one connection, above what all protocols together may open.
const MAX_STREAMS: usize = 2048;
/// How long to wait for the listeners' real addresses. A machine without an interface has none yet, which is no error.
const LISTEN_WAIT: Duration = Duration::from_secs(2);

/// See [`crate::Network::spawn`].
pub(crate) async fn spawn(config: NetConfig) -> Result<(NetHandle, mpsc::Receiver<NetEvent>), NetError> {
    check_prefix(&config.net8)?;
    let mut registry = Registry::default();
    let mut swarm = build(&config, &mut registry)?;
    let meter = Meter::new(&mut registry);
    let local = *swarm.local_peer_id();
    let mut book = Book::new(local);
    let mut members = config.authorities.clone();
    for address in &config.bootstrap {
        let (peer, plain) =
            split_peer(address.clone()).ok_or_else(|| NetError::BootstrapWithoutPeer(address.clone()))?;
        book.add_bootstrap(peer, plain, Instant::now());
        members.push(peer);
    }
    for member in &members {
        swarm.behaviour_mut().doors().admit(*member);
    }
    let listeners = listen(&mut swarm, &config.listen).await?;

    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (events, events_out) = mpsc::channel(EVENTS);
    let (peers, peers_out) = watch::channel(Peers::new());
    let (reachability, reachability_out) = watch::channel(Reachability::default());
    let wishes = Arc::new(Wishes::default());
    let counters = Arc::new(Live::default());
    let handle = NetHandle {
        shared: Arc::new(Shared {
            local,
            listeners,
            commands: commands_in,
            wishes: wishes.clone(),
            peers: peers_out,
            reachability: reachability_out,
            counters: counters.clone(),
            registry,
        }),
    };
    let mut task = Task {
        swarm,
        local,
        net8: config.net8,
        authorities: config.authorities.into_iter().collect(),
        book,
        links: Links::new(local),
        scores: Scores::default(),
        buckets: Buckets::default(),
        reach: Reach::new(config.advertise),
        commands,
        wishes,
        events,
        notices: VecDeque::new(),
        peers,
        reachability,
        pending: HashMap::new(),
        in_flight: HashMap::new(),
        answers: FuturesUnordered::new(),
        unanswered: HashMap::new(),
        serving: HashMap::new(),
        waiting: Arc::new(Semaphore::new(WAITING_KIB)),
        sending: HashMap::new(),
        leaving: Arc::new(Semaphore::new(LEAVING_KIB)),
        shares: HashMap::new(),
        asked: HashMap::new(),
        dial_backs: FuturesUnordered::new(),
        dialling_back: Arc::new(Semaphore::new(DIAL_BACKS)),
        counters,
        meter,
    };
    // What the local network has told while the listeners were bound.
    for peer in members {
        task.recall(peer);
    }
    tokio::spawn(task.run());
    Ok((handle, events_out))
}

fn build(config: &NetConfig, registry: &mut Registry) -> Result<Swarm<Behaviour>, NetError> {
    let keypair = keypair(&config.seed);
    let behaviour = Behaviour::new(&keypair, config, registry)?;
    let muxer = || {
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(MAX_STREAMS);
        muxer
    };
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, muxer)
        .map_err(NetError::Noise)?
        .with_bandwidth_metrics(registry)
        .with_behaviour(|_| behaviour)
        .expect("a behaviour that is already built cannot fail")
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE_TIMEOUT))
        .with_connection_timeout(DIAL_TIMEOUT)
        .build();
    Ok(swarm)
}

/// Binds all listeners and returns their real addresses.
async fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<Vec<Multiaddr>, NetError> {
    let mut waiting: HashSet<ListenerId> = HashSet::new();
    for address in addresses {
        let refused = |source| NetError::Listen {
            address: address.clone(),
            source,
        };
        probe(address).map_err(refused)?;
        let id = swarm.listen_on(address.clone()).map_err(|error| match error {
            TransportError::Other(source) => refused(source),
            TransportError::MultiaddrNotSupported(_) => refused(io::Error::new(
                io::ErrorKind::Unsupported,
                "only /ip4/…/tcp/… and /ip6/…/tcp/… are supported",
            )),
        })?;
        waiting.insert(id);
    }
    let mut bound = Vec::new();
    let deadline = tokio::time::Instant::now() + LISTEN_WAIT;
    while !waiting.is_empty() {
        let Ok(event) = tokio::time::timeout_at(deadline, swarm.select_next_some()).await else {
            break;
        };
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                tracing::info!(%address, "listening");
                waiting.remove(&listener_id);
                bound.push(address);
            }
            SwarmEvent::ListenerClosed {
                addresses,
                reason: Err(source),
                ..
            } => {
                let address = addresses.into_iter().next().unwrap_or_else(Multiaddr::empty);
                return Err(NetError::Listen { address, source });
            }
            // Nobody can have connected before the addresses are known to anybody but by chance; such a connection is
            // closed, so that the task sees every connection from its beginning.
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                let _ = swarm.disconnect_peer_id(peer_id);
            }
            _ => {}
        }
    }
    Ok(bound)
}

/// libp2p shares its listening port, so a second process on the same port would start and then take half of the
/// connections. A plain bind tells.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Part::Ip4(ip)) => ip.into(),
        Some(Part::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Part::Tcp(port)) if port != 0 => TcpListener::bind(SocketAddr::new(ip, port)).map(drop),
        _ => Ok(()),
    }
}

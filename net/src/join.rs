//! The other end of the join protocol: a machine that is to become a node asks an authority, before any node runs on it.

use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use libp2p::request_response::{self, OutboundFailure, ProtocolSupport};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, ping, tcp, yamux};

use crate::book::split_peer;
use crate::codec::{FrameCodec, Request};
use crate::event::Answer;
use crate::identity::keypair;
use crate::protocol::{Protocol, check_prefix};

/// How long the whole may take: a dial and a question.
const LIMIT: Duration = Duration::from_secs(20);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a measurement that is late is waited for when the answer is there.
const RTT_WAIT: Duration = Duration::from_secs(1);

/// One question to an authority.
#[derive(Debug, Clone)]
pub struct JoinQuestion {
    /// The first eight hex digits of the network's id.
    pub net8: String,
    /// The authority; must end in `/p2p/<PeerId>`.
    pub authority: Multiaddr,
    /// Where to listen meanwhile, so that the authority can see whether it can dial back. May be empty; an address that cannot
    /// be had is left out.
    pub listen: Vec<Multiaddr>,
    /// The question, at most 16 KiB.
    pub request: Vec<u8>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    /// The authority's words, at most 64 KiB.
    pub response: Vec<u8>,
    /// When they came, by this machine's clock.
    pub answered: SystemTime,
    /// The round trip to the authority.
    pub rtt: Option<Duration>,
    /// Whether somebody has dialled one of the listeners meanwhile, as [`crate::NetHandle::dial_back`] does. Always false
    /// when the authority does not try.
    pub dialled_back: bool,
}

/// A question brought no answer. Each says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The network prefix is not eight lower-case hex digits.
    #[error("the network prefix `{0}` is not eight hex digits")]
    Prefix(String),
    /// The address does not name its peer.
    #[error("`{0}` does not say whom it leads to: it must end with /p2p/<PeerId>")]
    Address(Multiaddr),
    /// The question is too long.
    #[error("a question of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The swarm could not be built.
    #[error("the noise keys could not be derived from the node key")]
    Noise(#[source] noise::Error),
    /// Nobody answers there, or somebody else.
    #[error("cannot reach {authority}: {reason}; is the authority up, and its port open?")]
    Dial {
        /// The address.
        authority: Multiaddr,
        /// What the network said.
        reason: String,
    },
    /// The peer closed the connection, as one does that takes no strangers, or has too many of them at the moment.
    #[error("{0} closed the connection: it is no authority, or too many ask it at the same time; try again")]
    Refused(PeerId),
    /// The peer does not speak the join protocol of this network.
    #[error("{0} does not admit nodes to this network: it is of another network, or of an older version")]
    Unsupported(PeerId),
    /// The peer gave no usable answer.
    #[error("{0} gave no usable answer; its log says why")]
    NoAnswer(PeerId),
    /// No answer in time.
    #[error("no answer from {0} in time; try again")]
    Timeout(PeerId),
}

#[derive(NetworkBehaviour)]
struct Asking {
    join: request_response::Behaviour<FrameCodec>,
    ping: ping::Behaviour,
}

/// Asks an authority one question over the join protocol, under the key of `seed`. No node with that key may run meanwhile.
///
/// # Errors
/// [`JoinError`]; nothing is left running.
pub async fn ask_to_join(seed: &[u8; 32], question: JoinQuestion) -> Result<JoinAnswer, JoinError> {
    check_prefix(&question.net8).map_err(|_| JoinError::Prefix(question.net8.clone()))?;
    let Some((authority, address)) = split_peer(question.authority.clone()) else {
        return Err(JoinError::Address(question.authority));
    };
    let (size, limit) = (question.request.len(), Protocol::Join.limits().max_request);
    if size > limit {
        return Err(JoinError::TooLarge { size, limit });
    }
    let mut swarm = build(seed, &question.net8)?;
    for listen in question.listen {
        if let Err(error) = swarm.listen_on(listen.clone()) {
            tracing::debug!(address = %listen, %error, "cannot listen; the authority will not be able to dial back");
        }
    }
    let unreachable = |reason: String| JoinError::Dial {
        authority: question.authority.clone(),
        reason,
    };
    let options = DialOpts::peer_id(authority)
        .addresses(vec![address])
        .allocate_new_port()
        .build();
    swarm
        .dial(options)
        .map_err(|error| unreachable(error.to_string()))?;
    let majors = Protocol::Join.majors().iter();
    let request = majors.map(|major| (*major, question.request.clone()));
    let request = Request::Out(request.collect());
    swarm.behaviour_mut().join.send_request(&authority, request);
    let mut asking = Asked {
        authority,
        rtt: None,
        response: None,
        dialled_back: false,
    };
    let answered = async {
        loop {
            match tokio::time::timeout(RTT_WAIT, swarm.select_next_some()).await {
                Ok(SwarmEvent::OutgoingConnectionError { error, .. }) => {
                    return Err(unreachable(error.to_string()));
                }
                Ok(event) => asking.on_event(event)?,
                // Nothing happens: an answer that is there does not wait for its measurement any longer.
                Err(_) => {}
            }
            if let Some(answer) = asking.answer() {
                return Ok(answer);
            }
        }
    };
    match tokio::time::timeout(LIMIT, answered).await {
        Ok(outcome) => outcome,
        Err(_) => Err(JoinError::Timeout(authority)),
    }
}

/// A question under way.
struct Asked {
    authority: PeerId,
    rtt: Option<Duration>,
    response: Option<(Vec<u8>, Instant, SystemTime)>,
    dialled_back: bool,
}

impl Asked {
    fn on_event(&mut self, event: SwarmEvent<AskingEvent>) -> Result<(), JoinError> {
        match event {
            // Whoever only tries goes as soon as this end has proven its name, before a connection stands.
            SwarmEvent::IncomingConnection { .. } => self.dialled_back = true,
            SwarmEvent::Behaviour(AskingEvent::Ping(ping::Event {
                peer,
                result: Ok(rtt),
                ..
            })) if peer == self.authority => self.rtt = Some(rtt),
            SwarmEvent::Behaviour(AskingEvent::Join(event)) => self.on_join(event)?,
            _ => {}
        }
        Ok(())
    }

    fn on_join(&mut self, event: request_response::Event<Request, Answer>) -> Result<(), JoinError> {
        use request_response::{Event, Message};
        match event {
            Event::Message {
                message: Message::Response { response, .. },
                ..
            } => self.response = Some((response.data, Instant::now(), SystemTime::now())),
            Event::OutboundFailure { error, .. } => {
                return Err(match error {
                    OutboundFailure::UnsupportedProtocols => JoinError::Unsupported(self.authority),
                    OutboundFailure::Timeout => JoinError::Timeout(self.authority),
                    OutboundFailure::ConnectionClosed | OutboundFailure::DialFailure => {
                        JoinError::Refused(self.authority)
                    }
                    OutboundFailure::Io(_) => JoinError::NoAnswer(self.authority),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// The answer, once all of it is there or has been waited for.
    fn answer(&mut self) -> Option<JoinAnswer> {
        let (_, since, _) = self.response.as_ref()?;
        if self.rtt.is_none() && since.elapsed() < RTT_WAIT {
            return None;
        }
        let (response, _, answered) = self.response.take()?;
        Some(JoinAnswer {
            response,
            answered,
            rtt: self.rtt,
            dialled_back: self.dialled_back,
        })
    }
}

fn build(seed: &[u8; 32], net8: &str) -> Result<Swarm<Asking>, JoinError> {
    let limits = Protocol::Join.limits();
    let config = request_response::Config::default().with_request_timeout(limits.timeout);
    let behaviour = Asking {
        join: request_response::Behaviour::with_codec(
            FrameCodec::new(Protocol::Join),
            Protocol::Join
                .stream_protocols(net8)
                .into_iter()
                .map(|name| (name, ProtocolSupport::Outbound)),
            config,
        ),
        // Often enough that one answer of it is there before a slow authority's.
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(200))),
    };
    let swarm = SwarmBuilder::with_existing_identity(keypair(seed))
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .map_err(JoinError::Noise)?
        .with_behaviour(|_| behaviour)
        .expect("a behaviour that is already built cannot fail")
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(LIMIT))
        .with_connection_timeout(DIAL_TIMEOUT)
        .build();
    Ok(swarm)
}

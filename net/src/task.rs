//! The swarm task: turns what the swarm reports into events, and what the handles ask into swarm calls.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable};
use futures::stream::FuturesUnordered;
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub;
use libp2p::request_response::{self, InboundRequestId, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, ping};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::book::{Book, Reach};
use crate::counters::{Live, count};
use crate::error::RequestError;
use crate::event::{GossipId, NetEvent, Reply};
use crate::handle::{Command, Direction, Peers, Wishes};
use crate::links::{Established, Links, Lost, ROUND};
use crate::protocol::{Protocol, Topic, network_version};

mod start;

pub(crate) use start::spawn;

/// Events that the reader has not taken. When full, gossip is ignored and requests are refused, both counted.
const EVENTS: usize = 1024;
/// Commands that the task has not taken. When full, a request waits, a publication is refused, a verdict is dropped.
const COMMANDS: usize = 1024;
/// Bytes of received messages that wait for their verdict or answer, in KiB. When full, gossip is ignored and requests are refused.
const WAITING_KIB: usize = 256 * 1024;
/// Connects and disconnects that wait for room among the events. The oldest goes when it is full, which takes more peers
/// than may connect.
const NOTICES: usize = 4096;

type AnswerFuture = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// What came of an inbound request.
struct Answered {
    protocol: Protocol,
    request: InboundRequestId,
    /// None when the reply was dropped or the peer is gone.
    answer: Option<(ResponseChannel<Vec<u8>>, Vec<u8>)>,
}

/// An outbound request that waits for its answer.
struct Pending {
    peer: PeerId,
    answer: oneshot::Sender<Result<Vec<u8>, RequestError>>,
}

struct Task {
    swarm: Swarm<Behaviour>,
    net8: String,
    book: Book,
    links: Links,
    commands: mpsc::Receiver<Command>,
    wishes: Arc<Wishes>,
    events: mpsc::Sender<NetEvent>,
    notices: VecDeque<NetEvent>,
    peers: watch::Sender<Peers>,
    pending: HashMap<(Protocol, OutboundRequestId), Pending>,
    in_flight: HashMap<(PeerId, Protocol), usize>,
    answers: FuturesUnordered<AnswerFuture>,
    unanswered: HashMap<(Protocol, InboundRequestId), AbortHandle>,
    waiting: Arc<Semaphore>,
    counters: Arc<Live>,
}

impl Task {
    async fn run(mut self) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let events = self.events.clone();
        let stopped = loop {
            self.dial_due();
            let next_dial = self.book.next_due().map(tokio::time::Instant::from_std);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { done }) => break Some(done),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                () = self.wishes.changed.notified() => self.on_wishes(),
                Some(answered) = self.answers.next(), if !self.answers.is_empty() => self.on_answered(answered),
                room = events.reserve(), if !self.notices.is_empty() => match room {
                    Ok(room) => if let Some(notice) = self.notices.pop_front() { room.send(notice) },
                    Err(_) => break None,
                },
                () = until(next_dial) => {}
                _ = rounds.tick() => self.on_round(),
            }
            if self.events.is_closed() {
                break None;
            }
        };
        tracing::debug!("the network stops");
        // The listeners must be free when `shutdown` returns.
        drop(self);
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    // === what the handles ask ===

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish { topic, data } => self.on_publish(topic, data),
            Command::Verdict { id, verdict } => {
                self.swarm
                    .behaviour_mut()
                    .gossip
                    .report_message_validation_result(&id.message, &id.source, verdict.into());
            }
            Command::Request {
                peer,
                protocol,
                data,
                answer,
            } => self.on_request(peer, protocol, data, answer),
            Command::Shutdown { .. } => unreachable!("the loop takes it"),
        }
    }

    fn on_publish(&mut self, topic: Topic, data: Vec<u8>) {
        let ident = topic.ident(&self.net8);
        match self.swarm.behaviour_mut().gossip.publish(ident, data) {
            Ok(_) => count(&self.counters.gossip_published),
            // Neither is a loss: there is nobody to tell, or they have been told.
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::Duplicate) => {}
            Err(error) => {
                count(&self.counters.publish_dropped);
                tracing::debug!(?topic, %error, "message not published");
            }
        }
    }

    fn on_request(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        data: Vec<u8>,
        answer: oneshot::Sender<Result<Vec<u8>, RequestError>>,
    ) {
        let in_flight = self.in_flight.entry((peer, protocol)).or_default();
        if *in_flight >= protocol.limits().in_flight {
            let _ = answer.send(Err(RequestError::Busy));
            return;
        }
        self.book.on_used(&peer, Instant::now());
        if !self.swarm.is_connected(&peer) {
            match self.book.reach(&peer) {
                Reach::Under => {}
                Reach::Dial(addresses) => self.dial(peer, addresses),
                Reach::Nowhere => {
                    self.in_flight.remove(&(peer, protocol));
                    let _ = answer.send(Err(RequestError::NotConnected));
                    return;
                }
            }
        }
        *self.in_flight.entry((peer, protocol)).or_default() += 1;
        let id = self.swarm.behaviour_mut().send(&peer, protocol, data);
        count(&self.counters.requests_sent);
        self.pending.insert((protocol, id), Pending { peer, answer });
    }

    fn on_wishes(&mut self) {
        for (peer, wish) in self.wishes.take() {
            match wish {
                Some(wish) => self
                    .book
                    .set_member(peer, wish.addresses, wish.keep, Instant::now()),
                None => {
                    self.book.forget(peer);
                    self.disconnect(peer);
                }
            }
        }
    }

    fn on_answered(&mut self, answered: Answered) {
        self.unanswered.remove(&(answered.protocol, answered.request));
        if let Some((channel, response)) = answered.answer {
            let sent = self
                .swarm
                .behaviour_mut()
                .exchange(answered.protocol)
                .send_response(channel, response);
            // An error means that the peer stopped waiting.
            if sent.is_ok() {
                count(&self.counters.responses_sent);
            }
        }
    }

    // === time ===

    fn dial_due(&mut self) {
        for (peer, addresses) in self.book.due(Instant::now()) {
            self.dial(peer, addresses);
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        // A port of its own: two ends that dial each other from their listening ports would make one connection with two
        // dialling ends, which no handshake survives.
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "not dialled");
            self.book.on_dial_failed(peer, Instant::now());
        }
    }

    fn on_round(&mut self) {
        for (peer, lost) in self.links.round() {
            match lost {
                Lost::Silent => {
                    count(&self.counters.peers_silent);
                    tracing::info!(%peer, "peer has fallen silent; disconnected");
                }
                Lost::Deaf => {
                    tracing::debug!(%peer, "peer never told its topics; reconnecting");
                }
            }
            self.disconnect(peer);
        }
        for peer in self.book.unused(Instant::now()) {
            tracing::debug!(%peer, "nothing is asked of this peer any more; disconnected");
            self.disconnect(peer);
        }
    }

    fn disconnect(&mut self, peer: PeerId) {
        // An error means that there is no connection.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    // === what the swarm reports ===

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_established(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                tracing::debug!(%peer, %error, "dial failed");
                if !matches!(error, DialError::DialPeerConditionFalse(_)) {
                    self.book.on_dial_failed(peer, Instant::now());
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "incoming connection failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listener reports an error");
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(?reason, "listener closed");
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let direction = match endpoint {
            ConnectedPoint::Dialer { .. } => Direction::Outbound,
            ConnectedPoint::Listener { .. } => Direction::Inbound,
        };
        let address = endpoint.get_remote_address().clone();
        let now = Instant::now();
        if self.book.is_refused(&peer) {
            count(&self.counters.peers_refused);
            self.disconnect(peer);
            return;
        }
        tracing::debug!(%peer, ?direction, %address, "connection established");
        match self.links.on_established(peer, id, direction, address, now) {
            Established::First => {
                self.book
                    .on_connected(peer, direction == Direction::Outbound, now);
                self.publish_peers();
                self.notice(NetEvent::Connected { peer });
            }
            Established::Close(id) => {
                self.swarm.close_connection(id);
            }
            Established::Reset => self.disconnect(peer),
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if self.links.on_closed(&peer, id) {
            self.book.on_disconnected(peer, Instant::now());
            self.publish_peers();
            self.notice(NetEvent::Disconnected { peer });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Ledger(event) => self.on_exchange(Protocol::Ledger, event),
            BehaviourEvent::Session(event) => self.on_exchange(Protocol::Session, event),
            BehaviourEvent::Relay(event) => self.on_exchange(Protocol::Relay, event),
            BehaviourEvent::Transfer(event) => self.on_exchange(Protocol::Transfer, event),
            BehaviourEvent::Join(event) => self.on_exchange(Protocol::Join, event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Ping(ping::Event { peer, result, .. }) => {
                if let Ok(rtt) = result {
                    self.links.on_rtt(&peer, rtt);
                    self.peers.send_if_modified(|peers| {
                        if let Some(info) = peers.get_mut(&peer) {
                            info.rtt = Some(rtt);
                        }
                        // Readers are told of peers that come and go, not of every ping.
                        false
                    });
                }
            }
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        if let identify::Event::Received { peer_id, info, .. } = event {
            self.links.on_sign_of_life(&peer_id);
            if info.protocol_version != network_version(&self.net8) {
                count(&self.counters.peers_refused);
                tracing::debug!(peer = %peer_id, version = ?info.protocol_version, "peer is of another network");
                self.disconnect(peer_id);
            }
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => self.on_message(propagation_source, message_id, message),
            gossipsub::Event::Subscribed { peer_id, topic } => {
                self.on_subscription(&peer_id, &topic, true);
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                self.on_subscription(&peer_id, &topic, false);
            }
            gossipsub::Event::GossipsubNotSupported { peer_id } => {
                count(&self.counters.peers_refused);
                self.disconnect(peer_id);
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "peer takes gossip too slowly");
            }
        }
    }

    fn on_subscription(&mut self, peer: &PeerId, topic: &gossipsub::TopicHash, subscribed: bool) {
        if let Some(topic) = self.topic(topic) {
            self.links.on_subscribed(peer, topic, subscribed);
        }
    }

    fn topic(&self, hash: &gossipsub::TopicHash) -> Option<Topic> {
        Topic::ALL
            .into_iter()
            .find(|topic| topic.ident(&self.net8).hash() == *hash)
    }

    fn on_message(&mut self, source: PeerId, id: gossipsub::MessageId, message: gossipsub::Message) {
        self.links.on_sign_of_life(&source);
        let Some(topic) = self.topic(&message.topic) else {
            return;
        };
        let taken = self.room_for(message.data.len()).and_then(|waiting| {
            let id = GossipId {
                message: id.clone(),
                source,
                _waiting: waiting,
            };
            let data = message.data;
            let event = NetEvent::Gossip {
                topic,
                source,
                data,
                id,
            };
            self.events.try_send(event).ok()
        });
        if taken.is_some() {
            count(&self.counters.gossip_received);
        } else {
            count(&self.counters.gossip_dropped);
            self.swarm
                .behaviour_mut()
                .gossip
                .report_message_validation_result(&id, &source, gossipsub::MessageAcceptance::Ignore);
        }
    }

    fn on_exchange(&mut self, protocol: Protocol, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        use request_response::{Event, Message};
        match event {
            Event::Message { peer, message, .. } => {
                self.links.on_sign_of_life(&peer);
                match message {
                    Message::Request {
                        request_id,
                        request,
                        channel,
                    } => self.on_inbound(protocol, peer, request_id, request, channel),
                    Message::Response { request_id, response } => {
                        self.finish(protocol, request_id, Ok(response))
                    }
                }
            }
            Event::OutboundFailure {
                request_id, error, ..
            } => {
                count(&self.counters.requests_failed);
                self.finish(protocol, request_id, Err(failure(error)));
            }
            Event::InboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                tracing::debug!(%peer, protocol = protocol.name(), %error, "request not answered");
                if let Some(abort) = self.unanswered.remove(&(protocol, request_id)) {
                    abort.abort();
                }
            }
            Event::ResponseSent { .. } => {}
        }
    }

    fn on_inbound(
        &mut self,
        protocol: Protocol,
        peer: PeerId,
        request: InboundRequestId,
        data: Vec<u8>,
        channel: ResponseChannel<Vec<u8>>,
    ) {
        let Some(waiting) = self.room_for(data.len()) else {
            count(&self.counters.requests_dropped);
            return;
        };
        let (answer, answered) = oneshot::channel();
        let reply = Reply {
            answer,
            limit: protocol.limits().max_response,
            _waiting: waiting,
        };
        let event = NetEvent::Request {
            protocol,
            peer,
            data,
            reply,
        };
        if self.events.try_send(event).is_err() {
            count(&self.counters.requests_dropped);
            return;
        }
        count(&self.counters.requests_received);
        self.book.on_used(&peer, Instant::now());
        let (abort, registration) = AbortHandle::new_pair();
        let answered = Abortable::new(answered, registration);
        self.unanswered.insert((protocol, request), abort);
        self.answers.push(Box::pin(async move {
            let answer = match answered.await {
                Ok(Ok(response)) => Some((channel, response)),
                _ => None,
            };
            Answered {
                protocol,
                request,
                answer,
            }
        }));
    }

    fn finish(
        &mut self,
        protocol: Protocol,
        request: OutboundRequestId,
        outcome: Result<Vec<u8>, RequestError>,
    ) {
        let Some(pending) = self.pending.remove(&(protocol, request)) else {
            return;
        };
        let key = (pending.peer, protocol);
        if let Some(in_flight) = self.in_flight.get_mut(&key) {
            *in_flight -= 1;
            if *in_flight == 0 {
                self.in_flight.remove(&key);
            }
        }
        // An error means that the caller has gone.
        let _ = pending.answer.send(outcome);
    }

    // === what the node reads ===

    /// Books the bytes of a received message; none when too many wait already.
    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024).max(1)).ok()?;
        self.waiting.clone().try_acquire_many_owned(kib).ok()
    }

    fn publish_peers(&mut self) {
        self.peers.send_replace(self.links.view());
    }

    /// Queues what must not be lost; the loop hands it on as soon as there is room.
    fn notice(&mut self, notice: NetEvent) {
        if self.notices.len() >= NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn failure(failure: OutboundFailure) -> RequestError {
    match failure {
        OutboundFailure::DialFailure => RequestError::Dial,
        OutboundFailure::Timeout => RequestError::Timeout,
        OutboundFailure::ConnectionClosed => RequestError::ConnectionLost,
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported,
        OutboundFailure::Io(error) => RequestError::Stream(error),
    }
}

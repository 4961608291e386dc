//! Requests and their answers, in both directions.

use std::io;

use futures::future::Abortable;
use libp2p::request_response::{self, OutboundFailure};
use libp2p::swarm::ConnectionId;

use super::*;
use crate::book::Reach as Way;
use crate::buckets::Intake;
use crate::codec::Request;
use crate::doors::Refusal;
use crate::event::Reply;
use crate::meter::ANSWERED;

impl Task {
    // === ours ===

    pub(super) fn on_request(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        messages: Vec<(u16, Vec<u8>)>,
        answer: oneshot::Sender<Result<Answer, RequestError>>,
    ) {
        let key = (peer, protocol);
        if self.in_flight.get(&key).copied().unwrap_or(0) >= protocol.limits().in_flight {
            self.refuse(protocol, answer, RequestError::Busy);
            return;
        }
        if !self.links.is_connected(&peer) {
            match self.book.reach(&peer) {
                Way::Under => {}
                Way::Dial(addresses) => self.dial(peer, addresses),
                Way::Nowhere => {
                    self.refuse(protocol, answer, RequestError::NotConnected);
                    return;
                }
            }
        }
        self.book.on_begun(&peer, Instant::now());
        *self.in_flight.entry(key).or_default() += 1;
        let request = Request::Out(messages);
        let id = self.swarm.behaviour_mut().send(&peer, protocol, request);
        count(&self.counters.requests_sent);
        let since = Instant::now();
        self.pending
            .insert((protocol, id), Pending { peer, since, answer });
    }

    /// A request that is not even sent.
    fn refuse(
        &self,
        protocol: Protocol,
        answer: oneshot::Sender<Result<Answer, RequestError>>,
        error: RequestError,
    ) {
        self.meter.request(protocol, error.word(), Duration::ZERO);
        // An error means that the caller has gone.
        let _ = answer.send(Err(error));
    }

    fn finish(
        &mut self,
        protocol: Protocol,
        request: OutboundRequestId,
        outcome: Result<Answer, RequestError>,
    ) {
        let Some(pending) = self.pending.remove(&(protocol, request)) else {
            return;
        };
        let word = outcome.as_ref().map_or_else(RequestError::word, |_| ANSWERED);
        self.meter.request(protocol, word, pending.since.elapsed());
        self.book.on_ended(&pending.peer, Instant::now());
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

    fn on_failure(&mut self, protocol: Protocol, peer: PeerId, error: &OutboundFailure) {
        count(&self.counters.requests_failed);
        match error {
            OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.on_misdeed(peer, Misdeed::Frame);
            }
            // The others may wait for a container, a disk or an engine.
            OutboundFailure::Timeout if protocol == Protocol::Ledger => {
                self.on_misdeed(peer, Misdeed::Timeout);
            }
            _ => {}
        }
    }

    // === what the swarm reports ===

    pub(super) fn on_exchange(
        &mut self,
        protocol: Protocol,
        event: request_response::Event<Request, Answer>,
    ) {
        use request_response::{Event, Message};
        match event {
            Event::Message {
                peer,
                connection_id,
                message,
            } => {
                self.links.on_sign_of_life(&peer);
                match message {
                    Message::Request {
                        request_id,
                        request,
                        channel,
                    } => {
                        if let Some((major, data)) = self.judge(protocol, peer, connection_id, request) {
                            self.settled(&peer, protocol, major);
                            self.on_inbound(protocol, peer, request_id, major, data, channel);
                        }
                    }
                    Message::Response { request_id, response } => {
                        self.settled(&peer, protocol, response.major);
                        self.finish(protocol, request_id, Ok(response));
                    }
                }
            }
            Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                self.on_failure(protocol, peer, &error);
                self.finish(protocol, request_id, Err(failure(error)));
            }
            Event::InboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                tracing::debug!(%peer, protocol = protocol.name(), %error, "request not answered");
                self.served(protocol, request_id);
                if let Some(abort) = self.unanswered.remove(&(protocol, request_id)) {
                    abort.abort();
                }
            }
            Event::ResponseSent { request_id, .. } => self.served(protocol, request_id),
        }
    }

    /// The two ends have talked in this major.
    fn settled(&mut self, peer: &PeerId, protocol: Protocol, major: u16) {
        if self.links.on_settled(peer, protocol, major) {
            self.publish_identity(*peer);
        }
    }

    /// An inbound request has come to its end.
    fn served(&mut self, protocol: Protocol, request: InboundRequestId) {
        self.sending.remove(&(protocol, request));
        if let Some(peer) = self.serving.remove(&(protocol, request)) {
            self.book.on_ended(&peer, Instant::now());
        }
    }

    // === theirs ===

    /// The request itself, if it is one and its peer may make it.
    fn judge(
        &mut self,
        protocol: Protocol,
        peer: PeerId,
        connection: ConnectionId,
        request: Request,
    ) -> Option<(u16, Vec<u8>)> {
        if !self.swarm.behaviour_mut().doors().on_question(connection) {
            self.counters.refused(Refusal::Overdue);
            self.swarm.close_connection(connection);
            return None;
        }
        let kind = Intake::Request(protocol);
        if !self.buckets.take(peer, kind, Instant::now()) {
            self.counters.limited(kind);
            return None;
        }
        match request {
            Request::Whole { major, data } => Some((major, data)),
            Request::Out(_) => None,
            Request::Oversize => {
                self.on_misdeed(peer, Misdeed::Frame);
                None
            }
            Request::Stalled => {
                self.on_misdeed(peer, Misdeed::Stalled);
                None
            }
        }
    }

    fn on_inbound(
        &mut self,
        protocol: Protocol,
        peer: PeerId,
        request: InboundRequestId,
        major: u16,
        data: Vec<u8>,
        channel: ResponseChannel<Answer>,
    ) {
        let Some(waiting) = self.room_for(data.len()) else {
            count(&self.counters.requests_dropped);
            return;
        };
        let (answer, answered) = oneshot::channel();
        let reply = Reply {
            major,
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
        self.book.on_begun(&peer, Instant::now());
        self.serving.insert((protocol, request), peer);
        let (abort, registration) = AbortHandle::new_pair();
        let answered = Abortable::new(answered, registration);
        self.unanswered.insert((protocol, request), abort);
        self.answers.push(Box::pin(async move {
            let answer = match answered.await {
                Ok(Ok(data)) => Some((channel, Answer { major, data })),
                _ => None,
            };
            Answered {
                protocol,
                request,
                answer,
            }
        }));
    }

    pub(super) fn on_answered(&mut self, answered: Answered) {
        let key = (answered.protocol, answered.request);
        self.unanswered.remove(&key);
        let Some((channel, response)) = answered.answer else {
            return;
        };
        // What a peer does not take stays in memory until its time is over.
        let Some(room) = book_kib(&self.leaving, response.data.len()) else {
            count(&self.counters.answers_dropped);
            return;
        };
        let exchange = self.swarm.behaviour_mut().exchange(answered.protocol);
        // An error means that the peer stopped waiting.
        if exchange.send_response(channel, response).is_ok() {
            count(&self.counters.responses_sent);
            self.sending.insert(key, room);
        }
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

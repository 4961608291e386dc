//! Whether others can dial this node, and the same for others.

use libp2p::request_response::{Event, Message};

use super::*;
use crate::buckets::Intake;
use crate::codec::Request;
use crate::dial_back;
use crate::protocol::{REACH_MAJORS, stream_protocols};
use crate::reach::{Finding, MAX_ASKED, REACH, decode, encode, leads_back};

impl Task {
    pub(super) fn publish_reachability(&mut self) {
        self.reachability.send_replace(self.reach.state().clone());
    }

    /// Asks a member whether it can dial this node: an authority, which everybody has to reach, or from an authority anybody.
    pub(super) fn ask_for_dial_back(&mut self, now: Instant) {
        let anybody = self.authorities.is_empty() || self.authorities.contains(&self.local);
        let peers = self.peers.borrow();
        let names = stream_protocols(&self.net8, REACH, REACH_MAJORS);
        let is_ours = |name: &String| names.iter().any(|ours| ours.as_ref() == name);
        let speaks = |protocols: &[String]| protocols.iter().any(is_ours);
        let witness = peers
            .iter()
            .find(|(peer, info)| (anybody || self.authorities.contains(peer)) && speaks(&info.protocols))
            .map(|(peer, _)| *peer);
        drop(peers);
        let Some(witness) = witness else { return };
        if let Some(addresses) = self.reach.question(now) {
            let question = encode(&addresses);
            let question = REACH_MAJORS.iter().map(|major| (*major, question.clone()));
            let question = Request::Out(question.collect());
            let members = self.swarm.behaviour_mut().members();
            let id = members.reach.send_request(&witness, question);
            self.asked.insert(id, addresses);
        }
    }

    pub(super) fn on_reach(&mut self, event: Event<Request, Answer>) {
        match event {
            Event::Message {
                peer,
                message: Message::Request { request, channel, .. },
                ..
            } => self.on_reach_question(peer, request, channel),
            Event::Message {
                message: Message::Response { request_id, response },
                ..
            } => {
                if let Some(asked) = self.asked.remove(&request_id) {
                    self.on_findings(&asked, &response.data);
                }
            }
            Event::OutboundFailure {
                request_id, error, ..
            } => {
                tracing::debug!(%error, "no word on whether this node can be dialled");
                self.asked.remove(&request_id);
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    fn on_findings(&mut self, asked: &[Multiaddr], findings: &[u8]) {
        let before = self.reach.state().verdict();
        if !self.reach.on_answer(asked, findings) {
            return;
        }
        self.publish_reachability();
        let state = self.reach.state().clone();
        for address in state.reached {
            self.swarm.add_external_address(address);
        }
        for address in &state.unreached {
            self.swarm.remove_external_address(address);
        }
        let after = self.reach.state().verdict();
        if after != before && after == Some(false) {
            tracing::warn!(
                addresses = ?state.unreached,
                "no member can dial this node; it works over the connections that it opens itself"
            );
        }
    }

    // === for others ===

    fn on_reach_question(&mut self, peer: PeerId, request: Request, channel: ResponseChannel<Answer>) {
        if !self.buckets.take(peer, Intake::Reach, Instant::now()) {
            self.counters.limited(Intake::Reach);
            return;
        }
        let Request::Whole { major, data } = request else {
            return;
        };
        let (Some(addresses), Some(from)) = (decode(&data), self.links.ip(&peer)) else {
            return;
        };
        let Ok(place) = self.dialling_back.clone().try_acquire_owned() else {
            return;
        };
        self.dial_backs.push(Box::pin(async move {
            let back: Vec<_> = addresses
                .iter()
                .filter(|address| leads_back(address, from))
                .cloned()
                .collect();
            let mut reached = dial_back::try_all(peer, &back).await.into_iter();
            let finding = |address: &Multiaddr| {
                if !leads_back(address, from) {
                    return Finding::Untried;
                }
                match reached.next() {
                    Some(true) => Finding::Reached,
                    _ => Finding::Unreached,
                }
            };
            let data = addresses
                .iter()
                .map(finding)
                .map(|finding| finding as u8)
                .collect();
            let findings = Answer { major, data };
            drop(place);
            DialledBack { channel, findings }
        }));
    }

    pub(super) fn on_dialled_back(&mut self, done: DialledBack) {
        // An error means that the peer has gone.
        let _ = self
            .swarm
            .behaviour_mut()
            .members()
            .reach
            .send_response(done.channel, done.findings);
    }

    /// The node asks for a peer, which may be a stranger that asks to be admitted.
    pub(super) fn on_dial_back(
        &mut self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        answer: oneshot::Sender<Option<Multiaddr>>,
    ) {
        let from = self
            .links
            .ip(&peer)
            .or_else(|| self.swarm.behaviour_mut().doors().stranger_ip(&peer));
        let (Some(from), Ok(place)) = (from, self.dialling_back.clone().try_acquire_owned()) else {
            let _ = answer.send(None);
            return;
        };
        tokio::spawn(async move {
            let back = addresses.into_iter().filter(|address| leads_back(address, from));
            let back: Vec<_> = back.take(MAX_ASKED).collect();
            let reached = dial_back::try_all(peer, &back).await;
            let first = back.into_iter().zip(reached).find(|(_, reached)| *reached);
            // An error means that nobody waits any longer.
            let _ = answer.send(first.map(|(address, _)| address));
            drop(place);
        });
    }
}

//! Gossip: published, received and judged.

use libp2p::gossipsub;

use super::*;
use crate::behaviour::GRAYLIST;
use crate::buckets::Intake;
use crate::event::{GossipId, Verdict};
use crate::meter::Fate;
use crate::protocol::Topic;

/// Messages of one peer that wait for the reader or its verdict. What is over it is ignored, so that a peer that floods the
/// reader leaves room for the others.
const SHARE: usize = 256;

impl Task {
    /// A message goes to the newest major of its topic, and to an older one while a peer does not know a newer. Further
    /// peers that do not know it either are left to those that have what they miss: the authority's own peers, and sync.
    pub(super) fn on_publish(&mut self, topic: Topic, data: Vec<u8>) {
        let mut newer = None;
        for major in topic.majors() {
            if newer.is_none_or(|newer| self.links.lack(topic, newer)) {
                self.publish(topic, *major, data.clone());
            }
            newer = Some(*major);
        }
    }

    fn publish(&mut self, topic: Topic, major: u16, data: Vec<u8>) {
        let ident = topic.ident(&self.net8, major);
        match self.swarm.behaviour_mut().members().gossip.publish(ident, data) {
            Ok(_) => {
                count(&self.counters.gossip_published);
                self.meter.published(topic);
            }
            // Neither is a loss: there is nobody to tell, or they have been told.
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::Duplicate) => {}
            Err(error) => {
                count(&self.counters.publish_dropped);
                tracing::debug!(?topic, major, %error, "message not published");
            }
        }
    }

    pub(super) fn on_verdict(&mut self, id: &GossipId, verdict: Verdict) {
        self.meter.gossip(id.topic, Fate::Judged(verdict));
        self.swarm
            .behaviour_mut()
            .members()
            .gossip
            .report_message_validation_result(&id.message, &id.source, verdict.into());
        if verdict == Verdict::Reject {
            self.on_misdeed(id.source, Misdeed::Message);
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
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
            gossipsub::Event::GossipsubNotSupported { peer_id } => self.links.on_mute(&peer_id),
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "peer takes gossip too slowly");
            }
        }
    }

    fn on_subscription(&mut self, peer: &PeerId, topic: &gossipsub::TopicHash, subscribed: bool) {
        if let Some((topic, major)) = self.topic(topic) {
            self.links.on_subscribed(peer, topic, major, subscribed);
        }
    }

    fn topic(&self, hash: &gossipsub::TopicHash) -> Option<(Topic, u16)> {
        Topic::all().find(|(topic, major)| topic.ident(&self.net8, *major).hash() == *hash)
    }

    fn on_message(&mut self, source: PeerId, id: gossipsub::MessageId, message: gossipsub::Message) {
        self.links.on_sign_of_life(&source);
        let Some((topic, major)) = self.topic(&message.topic) else {
            return;
        };
        if self.hand_on(topic, major, source, &id, message.data) {
            count(&self.counters.gossip_received);
        } else {
            self.swarm
                .behaviour_mut()
                .members()
                .gossip
                .report_message_validation_result(&id, &source, gossipsub::MessageAcceptance::Ignore);
        }
    }

    /// Gives a message to the reader, if there is room for it. What is not given is counted.
    fn hand_on(
        &mut self,
        topic: Topic,
        major: u16,
        source: PeerId,
        id: &gossipsub::MessageId,
        data: Vec<u8>,
    ) -> bool {
        if !self.buckets.take(source, Intake::Gossip, Instant::now()) {
            self.counters.limited(Intake::Gossip);
            self.meter.gossip(topic, Fate::Limited);
            self.on_misdeed(source, Misdeed::Flood);
            return false;
        }
        let share = self
            .shares
            .entry(source)
            .or_insert_with(|| Arc::new(Semaphore::new(SHARE)));
        let share = share.clone().try_acquire_owned();
        let (Ok(share), Some(waiting)) = (share, self.room_for(data.len())) else {
            count(&self.counters.gossip_dropped);
            self.meter.gossip(topic, Fate::Dropped);
            return false;
        };
        let id = GossipId {
            topic,
            major,
            message: id.clone(),
            source,
            _waiting: waiting,
            _share: share,
        };
        let event = NetEvent::Gossip {
            topic,
            source,
            data,
            id,
        };
        let given = self.events.try_send(event).is_ok();
        if !given {
            count(&self.counters.gossip_dropped);
            self.meter.gossip(topic, Fate::Dropped);
        }
        given
    }

    /// gossipsub ignores who breaks its rules again and again; such a peer is of no use.
    pub(super) fn judge_control(&mut self) {
        let peers: Vec<PeerId> = self.peers.borrow().keys().copied().collect();
        for peer in peers {
            let score = self.swarm.behaviour_mut().members().gossip.peer_score(&peer);
            if score.is_some_and(|score| score < GRAYLIST) {
                self.on_misdeed(peer, Misdeed::Control);
            }
        }
    }
}

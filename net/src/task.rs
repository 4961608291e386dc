//! The swarm task: turns what the swarm reports into events, and what the handles ask into swarm calls.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::AbortHandle;
use futures::stream::FuturesUnordered;
use libp2p::request_response::{InboundRequestId, OutboundRequestId, ResponseChannel};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::behaviour::Behaviour;
use crate::book::Book;
use crate::buckets::Buckets;
use crate::counters::{Live, count};
use crate::error::RequestError;
use crate::event::{Answer, NetEvent};
use crate::handle::{Command, Peers, Wishes};
use crate::links::{Links, ROUND};
use crate::meter::Meter;
use crate::protocol::Protocol;
use crate::reach::{Reach, Reachability};
use crate::scores::{Misdeed, Outcome, Scores};

mod connections;
mod discovery;
mod exchange;
mod gossip;
mod reachability;
mod start;

pub(crate) use start::spawn;

/// Events that the reader has not taken. When full, gossip is ignored and requests are refused, both counted.
const EVENTS: usize = 1024;
/// Commands that the task has not taken. When full, a request waits, a publication is refused, a verdict is dropped.
const COMMANDS: usize = 1024;
/// Bytes of received messages that wait for their verdict or answer, in KiB. When full, gossip is ignored and requests are refused.
const WAITING_KIB: usize = 256 * 1024;
/// Bytes of answers that peers have not taken yet, in KiB. When full, answers are dropped.
const LEAVING_KIB: usize = 256 * 1024;
/// Connects and disconnects that wait for room among the events. The oldest goes when it is full, which takes more peers
/// than may connect.
const NOTICES: usize = 4096;
/// Attempts to dial back that are under way.
const DIAL_BACKS: usize = 4;

type AnswerFuture = Pin<Box<dyn Future<Output = Answered> + Send>>;
type DialBackFuture = Pin<Box<dyn Future<Output = DialledBack> + Send>>;

/// What came of an inbound request.
struct Answered {
    protocol: Protocol,
    request: InboundRequestId,
    /// None when the reply was dropped or the peer is gone.
    answer: Option<(ResponseChannel<Answer>, Answer)>,
}

/// What came of a member's wish to be dialled.
struct DialledBack {
    channel: ResponseChannel<Answer>,
    findings: Answer,
}

/// An outbound request that waits for its answer.
struct Pending {
    peer: PeerId,
    since: Instant,
    answer: oneshot::Sender<Result<Answer, RequestError>>,
}

struct Task {
    swarm: Swarm<Behaviour>,
    local: PeerId,
    net8: String,
    authorities: HashSet<PeerId>,
    book: Book,
    links: Links,
    scores: Scores,
    buckets: Buckets,
    reach: Reach,
    commands: mpsc::Receiver<Command>,
    wishes: Arc<Wishes>,
    events: mpsc::Sender<NetEvent>,
    notices: VecDeque<NetEvent>,
    peers: watch::Sender<Peers>,
    reachability: watch::Sender<Reachability>,
    pending: HashMap<(Protocol, OutboundRequestId), Pending>,
    in_flight: HashMap<(PeerId, Protocol), usize>,
    answers: FuturesUnordered<AnswerFuture>,
    unanswered: HashMap<(Protocol, InboundRequestId), AbortHandle>,
    /// Whose inbound requests are under way.
    serving: HashMap<(Protocol, InboundRequestId), PeerId>,
    waiting: Arc<Semaphore>,
    /// Answers on their way, by request.
    sending: HashMap<(Protocol, InboundRequestId), OwnedSemaphorePermit>,
    leaving: Arc<Semaphore>,
    /// The part of the waiting gossip that one peer may have.
    shares: HashMap<PeerId, Arc<Semaphore>>,
    /// Own questions about reachability, with the addresses that they ask about.
    asked: HashMap<OutboundRequestId, Vec<Multiaddr>>,
    dial_backs: FuturesUnordered<DialBackFuture>,
    dialling_back: Arc<Semaphore>,
    counters: Arc<Live>,
    meter: Meter,
}

impl Task {
    async fn run(mut self) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let events = self.events.clone();
        let stopped = loop {
            let next_dial = self.dial_due().map(tokio::time::Instant::from_std);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { done }) => break Some(done),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                () = self.wishes.changed.notified() => self.on_wishes(),
                Some(answered) = self.answers.next(), if !self.answers.is_empty() => self.on_answered(answered),
                Some(done) = self.dial_backs.next(), if !self.dial_backs.is_empty() => self.on_dialled_back(done),
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

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish { topic, data } => self.on_publish(topic, data),
            Command::Verdict { id, verdict } => self.on_verdict(&id, verdict),
            Command::Request {
                peer,
                protocol,
                messages,
                answer,
            } => self.on_request(peer, protocol, messages, answer),
            Command::DialBack {
                peer,
                addresses,
                answer,
            } => self.on_dial_back(peer, addresses, answer),
            Command::Blame { peer, misdeed } => self.on_misdeed(peer, misdeed),
            Command::Reconnect { peer } => self.disconnect(peer),
            Command::Shutdown { .. } => unreachable!("the loop takes it"),
        }
    }

    fn on_wishes(&mut self) {
        for (peer, wish) in self.wishes.take() {
            match wish {
                Some(wish) => {
                    self.swarm.behaviour_mut().doors().admit(peer);
                    self.book
                        .set_member(peer, wish.addresses, wish.keep, Instant::now());
                    self.recall(peer);
                }
                None => self.strike_out(peer),
            }
        }
    }

    /// Nothing that made a peer a member holds any longer.
    fn strike_out(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().doors().forget(&peer);
        if let Some(kad) = self.swarm.behaviour_mut().members().kad.as_mut() {
            kad.remove_peer(&peer);
        }
        self.book.forget(peer);
        self.scores.forget(&peer);
        self.disconnect(peer);
    }

    /// A member did what it should not.
    fn on_misdeed(&mut self, peer: PeerId, misdeed: Misdeed) {
        let now = Instant::now();
        // What a member that is out already had sent before is paid for.
        if self.swarm.behaviour_mut().doors().check(&peer, now).is_err() {
            return;
        }
        let authority = self.authorities.contains(&peer);
        match self.scores.on_misdeed(peer, misdeed, authority, now) {
            Outcome::Passed => {}
            Outcome::Noted => self.counters.misdeed(misdeed),
            Outcome::Out(time) => {
                self.counters.misdeed(misdeed);
                count(&self.counters.peers_kept_out);
                tracing::info!(%peer, seconds = time.as_secs(), "member misbehaves; kept out for a while");
                self.swarm.behaviour_mut().doors().shut(peer, now + time);
                self.disconnect(peer);
            }
        }
    }

    // === time ===

    fn on_round(&mut self) {
        let now = Instant::now();
        self.drop_lost();
        self.drop_unused(now);
        self.drop_overdue(now);
        self.judge_control();
        self.scores.round(now);
        self.buckets.round(now);
        self.shares.retain(|_, share| Arc::strong_count(share) > 1);
        self.book.expire(now);
        self.search_lost(now);
        self.ask_for_dial_back(now);
        self.show_scores();
    }

    // === what the node reads ===

    /// Books the bytes of a received message; none when too many wait already.
    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        book_kib(&self.waiting, bytes)
    }

    fn publish_peers(&mut self) {
        let mut peers = self.links.view();
        for (peer, info) in &mut peers {
            info.score = self.scores.of(peer);
        }
        self.peers.send_replace(peers);
    }

    /// Readers are told of peers that come and go, not of every change of a score.
    fn show_scores(&mut self) {
        self.peers.send_if_modified(|peers| {
            for (peer, info) in peers {
                info.score = self.scores.of(peer);
            }
            false
        });
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

fn book_kib(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kib = u32::try_from(bytes.div_ceil(1024).max(1)).ok()?;
    room.clone().try_acquire_many_owned(kib).ok()
}

//! The handle that the rest of the node holds.

use std::collections::{BTreeMap, HashMap};
use std::iter::{repeat_n, zip};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::config::NetConfig;
use crate::counters::{Counters, Live, count};
use crate::error::{NetError, PublishError, RequestError};
use crate::event::{Answer, GossipId, NetEvent, Verdict};
use crate::learnt::Found;
use crate::protocol::{Protocol, Topic};
use crate::reach::Reachability;
use crate::scores::Misdeed;
use crate::task;
use crate::text;

/// Starts swarms.
#[derive(Debug)]
pub struct Network;

impl Network {
    /// Listens on every configured address and starts the swarm task on the current tokio runtime.
    ///
    /// The task ends with [`NetHandle::shutdown`], or when all handles or the receiver are dropped.
    ///
    /// # Errors
    /// A listen address that cannot be had, or settings that cannot be used; nothing runs then.
    pub async fn spawn(config: NetConfig) -> Result<(NetHandle, mpsc::Receiver<NetEvent>), NetError> {
        task::spawn(config).await
    }
}

/// Which end dialled a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer dialled us.
    Inbound,
    /// We dialled the peer.
    Outbound,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its id.
    pub peer: PeerId,
    /// Its address as this end sees it; of an inbound connection the port is a passing one.
    pub address: Multiaddr,
    /// Which end dialled.
    pub direction: Direction,
    /// How it was found.
    pub found: Found,
    /// Since when it is connected, by this machine's clock.
    pub since: SystemTime,
    /// The round trip of the last ping, measured every 2 s.
    pub rtt: Option<Duration>,
    /// Its program and version, by its own words: at most 128 printable characters; empty until it has told them.
    pub agent: String,
    /// The protocols that it speaks, by its own words, sorted: at most 32 of at most 128 printable characters.
    pub protocols: Vec<String>,
    /// The major of each protocol in which the two ends last talked.
    pub majors: BTreeMap<Protocol, u16>,
    /// How it has behaved: 0 is best, and at -50 it is disconnected and kept out for a while.
    pub score: i32,
}

/// The connected peers.
pub type Peers = BTreeMap<PeerId, PeerInfo>;

/// Talks to the swarm task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetHandle {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones of a handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) local: PeerId,
    pub(crate) listeners: Vec<Multiaddr>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) peers: watch::Receiver<Peers>,
    pub(crate) reachability: watch::Receiver<Reachability>,
    pub(crate) counters: Arc<Live>,
    pub(crate) registry: Registry,
}

/// What a handle asks the task to do.
#[derive(Debug)]
pub(crate) enum Command {
    Publish {
        topic: Topic,
        data: Vec<u8>,
    },
    Verdict {
        id: GossipId,
        verdict: Verdict,
    },
    Request {
        peer: PeerId,
        protocol: Protocol,
        /// In each major that this node offers.
        messages: Vec<(u16, Vec<u8>)>,
        answer: oneshot::Sender<Result<Answer, RequestError>>,
    },
    DialBack {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        answer: oneshot::Sender<Option<Multiaddr>>,
    },
    Blame {
        peer: PeerId,
        misdeed: Misdeed,
    },
    Reconnect {
        peer: PeerId,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// What is wanted of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) addresses: Vec<Multiaddr>,
    /// It is kept connected; else it is dialled when there is a request for it.
    pub(crate) keep: bool,
}

/// The newest wish for each peer that the task has not seen yet, or none to forget it.
///
/// Not a channel, since a wish must neither be lost nor make its caller wait; it is bounded by the number of peers.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    newest: Mutex<HashMap<PeerId, Option<Wish>>>,
    pub(crate) changed: Notify,
}

impl Wishes {
    fn put(&self, peer: PeerId, wish: Option<Wish>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(peer, wish);
        drop(newest);
        self.changed.notify_one();
    }

    pub(crate) fn take(&self) -> HashMap<PeerId, Option<Wish>> {
        std::mem::take(&mut self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl NetHandle {
    /// The id of this node.
    pub fn local_peer(&self) -> PeerId {
        self.shared.local
    }

    /// The addresses that the swarm listened on when it started, with real ports.
    pub fn listeners(&self) -> &[Multiaddr] {
        &self.shared.listeners
    }

    /// Hands a message to a topic. Best effort: with nobody subscribed, or the same bytes published before, nothing happens.
    /// Messages of one publisher keep their order on each connection.
    ///
    /// # Errors
    /// The message is too long, the task is too busy, or it has ended.
    pub fn publish(&self, topic: Topic, data: Vec<u8>) -> Result<(), PublishError> {
        let (size, limit) = (data.len(), topic.max_bytes());
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        self.shared
            .commands
            .try_send(Command::Publish { topic, data })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    count(&self.shared.counters.publish_dropped);
                    PublishError::Busy
                }
                mpsc::error::TrySendError::Closed(_) => PublishError::Stopped,
            })
    }

    /// Gives the verdict on a received message. Within about five seconds of its arrival, or it is no longer forwarded.
    pub fn verdict(&self, id: GossipId, verdict: Verdict) {
        // A full queue means that the message is not forwarded, which gossip survives.
        let _ = self.shared.commands.try_send(Command::Verdict { id, verdict });
    }

    /// Holds against a member what it said in a request or an answer, as a rejected message is. Of the gossip that was
    /// rejected, the oversize and the slow the task knows itself.
    pub fn blame(&self, peer: PeerId, misdeed: Misdeed) {
        // A full queue means that this one is not counted.
        let _ = self.shared.commands.try_send(Command::Blame { peer, misdeed });
    }

    /// Sends a request and waits for its answer, at most for the protocol's time limit. A peer that is not connected is
    /// dialled first. Dropping the future gives up the answer, not the request.
    ///
    /// # Errors
    /// [`RequestError::may_have_arrived`] says whether the peer may have acted upon it.
    pub async fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        let majors = protocol.majors();
        let messages = zip(majors.iter().copied(), repeat_n(data, majors.len()));
        let answer = self.ask(peer, protocol, messages.collect()).await?;
        Ok(answer.data)
    }

    /// [`NetHandle::request`] where majors differ: `encode` gives the message in each that this node offers. Which of them
    /// was sent stands in the answer.
    ///
    /// # Errors
    /// As [`NetHandle::request`].
    pub async fn request_by_major(
        &self,
        peer: PeerId,
        protocol: Protocol,
        encode: impl Fn(u16) -> Vec<u8>,
    ) -> Result<Answer, RequestError> {
        let majors = protocol.majors().iter();
        let messages = majors.map(|major| (*major, encode(*major))).collect();
        self.ask(peer, protocol, messages).await
    }

    async fn ask(
        &self,
        peer: PeerId,
        protocol: Protocol,
        messages: Vec<(u16, Vec<u8>)>,
    ) -> Result<Answer, RequestError> {
        let size = messages.iter().map(|(_, data)| data.len()).max().unwrap_or(0);
        let limit = protocol.limits().max_request;
        if size > limit {
            return Err(RequestError::TooLarge { size, limit });
        }
        let (answer, answered) = oneshot::channel();
        let command = Command::Request {
            peer,
            protocol,
            messages,
            answer,
        };
        if self.shared.commands.send(command).await.is_err() {
            return Err(RequestError::Stopped);
        }
        answered.await.unwrap_or(Err(RequestError::Stopped))
    }

    /// Names a member and its addresses. From now on its connections are accepted and it is kept connected, whatever it
    /// takes. With an empty list it has to dial, unless its address is learnt from the peer itself, the local network or
    /// another member.
    pub fn set_addresses(&self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.shared.wishes.put(
            peer,
            Some(Wish {
                addresses,
                keep: true,
            }),
        );
    }

    /// Names the addresses of a member that is not kept connected: it is welcome, and dialled when there is a request for
    /// it. A connection that this end has dialled for a request ends when it has not been used for half a minute, one
    /// that was to be kept until now after some seconds.
    pub fn know(&self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.shared.wishes.put(
            peer,
            Some(Wish {
                addresses,
                keep: false,
            }),
        );
    }

    /// Strikes a peer out, whatever had made it a member: disconnects it and refuses its connections until
    /// [`NetHandle::set_addresses`] or [`NetHandle::know`] names it again.
    pub fn forget(&self, peer: PeerId) {
        self.shared.wishes.put(peer, None);
    }

    /// Closes all connections to a peer. One that is kept connected is dialled again at once, and may be let in as somebody
    /// else than before.
    pub fn reconnect(&self, peer: PeerId) {
        // A full queue means that the connection ends later, by itself.
        let _ = self.shared.commands.try_send(Command::Reconnect { peer });
    }

    /// Whether a peer that is connected now can be dialled: tries the addresses that lead to where its connection comes
    /// from, at most 4, for at most 3 s, and returns the first at which the peer has proven its name. None too when the
    /// peer is not connected, or more peers ask for this than can be served.
    ///
    /// The attempt is made under a fresh key, so it is no connection of this node.
    pub async fn dial_back(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Option<Multiaddr> {
        let (answer, answered) = oneshot::channel();
        let command = Command::DialBack {
            peer,
            addresses,
            answer,
        };
        self.shared.commands.send(command).await.ok()?;
        answered.await.ok().flatten()
    }

    /// What is known of how others reach this node.
    pub fn reachability(&self) -> Reachability {
        self.shared.reachability.borrow().clone()
    }

    /// Follows [`NetHandle::reachability`].
    pub fn watch_reachability(&self) -> watch::Receiver<Reachability> {
        self.shared.reachability.clone()
    }

    /// The connected peers, by id.
    pub fn connected(&self) -> Vec<PeerId> {
        self.shared.peers.borrow().keys().copied().collect()
    }

    /// Whether there is a connection to this peer.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.shared.peers.borrow().contains_key(peer)
    }

    /// The connected peers with what is known of their connections.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.peers.borrow().values().cloned().collect()
    }

    /// Follows the set of connected peers. Round trips, scores and what they say of themselves change without notice.
    pub fn watch_peers(&self) -> watch::Receiver<Peers> {
        self.shared.peers.clone()
    }

    /// The counters as they stand.
    pub fn counters(&self) -> Counters {
        self.shared.counters.snapshot()
    }

    /// What libp2p itself counts (bytes by transport, gossip by topic), in Prometheus' text format.
    pub fn metrics(&self) -> String {
        text::render(&self.shared.registry)
    }

    /// Closes all connections and listeners and waits until the task has ended. Requests under way fail with
    /// [`RequestError::Stopped`].
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self
            .shared
            .commands
            .send(Command::Shutdown { done })
            .await
            .is_ok()
        {
            // An error means that the task has ended in another way.
            let _ = ended.await;
        }
    }
}

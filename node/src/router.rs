//! From the swarm's events to the services that they concern. Nothing here waits: each request gets a task of its own,
//! and the swarm bounds how many there are.

use std::sync::Arc;

use blosm_ledger::PublicKey;
use blosm_net::{NetEvent, PeerId, Protocol, key_of_peer};
use tokio::sync::mpsc;

use crate::admission::{Desk, Standing};
use crate::chain::ChainHandle;
use crate::gateway::Gateway;
use crate::sessions::{Census, SessionsHandle};

/// Who serves which protocol. Session, relay and transfer wait until the node has taken up its sessions.
#[derive(Clone)]
pub(crate) struct Router {
    pub(crate) chain: ChainHandle,
    /// Answers those who want to join.
    pub(crate) desk: Arc<Desk>,
    /// Asks the authority when it takes this node for a stranger.
    pub(crate) standing: Arc<Standing>,
    /// Hears who is there.
    pub(crate) census: Arc<Census>,
    pub(crate) services: tokio::sync::watch::Receiver<Option<(SessionsHandle, Gateway)>>,
}

impl Router {
    /// Routes until the swarm ends.
    pub(crate) async fn run(self, mut events: mpsc::Receiver<NetEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::Gossip {
                    topic,
                    source,
                    data,
                    id,
                } => self.chain.on_gossip(topic, source, data, id),
                NetEvent::Connected { peer } => {
                    self.chain.on_connected(peer);
                    self.note(&peer, true);
                    if self.standing.concerns(&peer) {
                        let standing = self.standing.clone();
                        tokio::spawn(async move { standing.ask().await });
                    }
                }
                NetEvent::Disconnected { peer } => {
                    tracing::debug!(%peer, "disconnected");
                    self.note(&peer, false);
                }
                NetEvent::Request {
                    protocol: Protocol::Join,
                    peer,
                    data,
                    reply,
                } => {
                    let Some(from) = key(&peer) else { continue };
                    let desk = self.desk.clone();
                    tokio::spawn(async move { reply.send(desk.answer(from, &data).await) });
                }
                NetEvent::Request {
                    protocol: Protocol::Ledger,
                    peer,
                    data,
                    reply,
                } => {
                    self.chain.on_request(peer, data, reply);
                }
                NetEvent::Request {
                    protocol,
                    peer,
                    data,
                    reply,
                } => {
                    let Some(from) = key(&peer) else { continue };
                    let mut services = self.services.clone();
                    tokio::spawn(async move {
                        // While the node takes up its sessions its peers wait: a refusal would look like a lost request.
                        let Ok(ready) = services
                            .wait_for(Option::is_some)
                            .await
                            .map(|ready| ready.clone())
                        else {
                            return;
                        };
                        let Some((sessions, gateway)) = ready else { return };
                        let answer = match protocol {
                            Protocol::Ledger | Protocol::Join => return,
                            Protocol::Session => {
                                crate::sessions::encode(&sessions.on_request(from, &data).await)
                            }
                            Protocol::Relay => gateway.on_relay(from, &data).await,
                            Protocol::Transfer => sessions.on_transfer(from, &data).await,
                        };
                        reply.send(answer);
                    });
                }
            }
        }
    }
}

impl Router {
    /// Strangers come and go unnoticed.
    fn note(&self, peer: &PeerId, connected: bool) {
        if let Some(key) = key(peer)
            && self.chain.snapshot().state.members().contains(&key)
        {
            self.census.note(key, connected);
        }
    }
}

fn key(peer: &PeerId) -> Option<PublicKey> {
    key_of_peer(peer).map(PublicKey)
}

//! The network of a node: one libp2p swarm that moves bytes.
//!
//! This crate owns the sockets, the identity of a peer, the links that are kept up, four gossip topics and five
//! request-response protocols. It knows no block, no container and no member: it carries bytes that others decode, and it
//! is told which peers to stay connected to. Its caller is the node, which routes [`NetEvent`]s to the ledger task, the
//! sessions and the transfer.
//!
//! ```text
//!   NetHandle (clone it) --commands--> swarm task --NetEvent--> the node's router
//!      publish, request                  |  Behaviour: gossipsub, identify, ping,
//!      set_addresses, know, forget       |             request-response x 5
//!      verdict <-- GossipId              |  Book:  whom to dial, and when again
//!      peers   <-- watch --------------- |  Links: which connection of a peer stays
//!   Reply (one per request) --answer-----+
//! ```
//!
//! What holds:
//! - The swarm task never waits for its reader. When the reader is behind, gossip is ignored and requests are refused, and
//!   both are counted in [`Counters`]; `Connected` and `Disconnected` are never lost.
//! - Nothing is allocated for a length that a peer only claims: a frame's length is checked against its protocol's limit,
//!   and memory grows with the bytes that arrive. What waits for the reader or for an answer is bounded in bytes.
//! - A peer that falls silent is dropped within a few seconds. One that is to be kept is dialled again for ever, after 0.2 s
//!   at first and then after at most 5 s; one that is only known, when there is a request for it.
//! - Every gossip message is held back until the reader has given its [`Verdict`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod behaviour;
mod book;
mod codec;
mod config;
mod counters;
mod error;
mod event;
mod handle;
mod identity;
mod links;
mod protocol;
mod task;
mod text;

pub use config::NetConfig;
pub use counters::Counters;
pub use error::{NetError, PublishError, RequestError};
pub use event::{GossipId, NetEvent, Reply, Verdict};
pub use handle::{Direction, NetHandle, Network, PeerInfo, Peers};
pub use identity::{key_of_peer, peer_of_key};
pub use libp2p::{Multiaddr, PeerId};
pub use protocol::{Limits, Protocol, Topic};

//! The network of a node: one libp2p swarm that moves bytes.
//!
//! This crate owns the sockets, the identity of a peer, the links that are kept up, four gossip topics and six
//! request-response protocols. It knows no block and no container: it carries bytes that others decode, and it is told who
//! the members are. Its caller is the node, which routes [`NetEvent`]s to the ledger task, the sessions and the transfer.
//!
//! ```text
//!   NetHandle (clone it) --commands--> swarm task --NetEvent--> the node's router
//!      publish, request                  |  Behaviour: for members  gossipsub, identify, kad, request-response x 4
//!      set_addresses, know, forget       |             for all      ping, mDNS, the join protocol
//!      verdict <-- GossipId              |  Doors:   who may connect, and as what
//!      peers   <-- watch --------------- |  Book:    whom to dial, where, and when again
//!      reachability <-- watch ---------- |  Links:   which connection of a peer stays
//!   Reply (one per request) --answer-----+  Scores:  who misbehaves        Buckets: who asks too much
//!                                           Reach:   whether others can dial this node
//!   ask_to_join: one question to an authority, before there is a node
//! ```
//!
//! What holds:
//! - Only members connect: those of the configuration and those that [`NetHandle::set_addresses`] names, until
//!   [`NetHandle::forget`]. Everybody else is turned away after the handshake, but for a few strangers on a node that takes
//!   them; to those nothing but the join protocol is spoken.
//! - The swarm task never waits for its reader. When the reader is behind, gossip is ignored and requests are refused, and
//!   both are counted in [`Counters`]; `Connected` and `Disconnected` are never lost.
//! - Nothing is allocated for a length that a peer only claims: a frame's length is checked against its protocol's limit,
//!   and memory grows with the bytes that arrive. What waits for the reader, for an answer or for a peer that does not read
//!   is bounded in bytes and in time.
//! - A peer that falls silent is dropped within a few seconds. One that is to be kept is dialled again for ever, after 0.2 s
//!   at first and then after at most 5 s; one that is only known, when there is a request for it. A kept member that is lost for longer is looked for among the others.
//! - Every gossip message is held back until the reader has given its [`Verdict`]. Invalid messages and broken frames cost
//!   score, volume does not.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod behaviour;
mod book;
mod buckets;
mod codec;
mod config;
mod counters;
mod dial_back;
mod doors;
mod error;
mod event;
mod gated;
mod handle;
mod identity;
mod join;
mod learnt;
mod links;
mod meter;
mod protocol;
mod reach;
mod scores;
mod task;
mod text;

pub use buckets::Intake;
pub use config::NetConfig;
pub use counters::Counters;
pub use doors::Refusal;
pub use error::{NetError, PublishError, RequestError};
pub use event::{Answer, GossipId, NetEvent, Reply, Verdict};
pub use handle::{Direction, NetHandle, Network, PeerInfo, Peers};
pub use identity::{key_of_peer, peer_of_key};
pub use join::{JoinAnswer, JoinError, JoinQuestion, ask_to_join};
pub use learnt::Found;
pub use libp2p::{Multiaddr, PeerId};
pub use protocol::{Limits, Protocol, Topic};
pub use reach::Reachability;
pub use scores::Misdeed;

//! The node's ledger task: the one place where blocks and the network meet.
//!
//! It owns the [`blosm_ledger::Ledger`] and speaks the ledger protocol and the gossip topics. It decides nothing about
//! sessions or containers; those read [`ChainView`]s and submit transactions.
//!
//! ```text
//!  sessions, API --- ChainHandle: submit, snapshot, subscribe, block, transaction --+
//!  router ---------- ChainHandle: on_gossip, on_request, on_connected --+           |
//!                                                                       v           v
//!        ChainTask (tokio) -- workers: greet, sync, answer ----> ledger thread: Ledger, RocksDB, seal
//!             |                                                       |      |
//!             +-- acker: signed (height, hash) to the proposer        |      +--> watch<Arc<ChainView>>
//!             +-- opening (authority): sync before the first seal     +--> block topic, push to the parties
//!             +-- status (authority): signed counts to the status topic
//! ```
//!
//! What holds:
//! - The ledger runs on a thread of its own; no tokio worker ever waits for the disk.
//! - A block is imported, with its log synced, before it is published, pushed or answered.
//! - After a start the authority seals nothing until half of the other members have told a head of its own chain, and it
//!   holds the highest sealed block that one of them has shown; see [`ChainOptions::alone`].
//! - Gossip is a hint: what it loses is pulled from a peer that is ahead.

mod ack;
mod client;
mod clock;
mod contact;
mod handle;
mod meter;
mod neighbours;
mod opening;
mod outlet;
mod probe;
mod status;
mod submit;
mod sync;
mod task;
mod thread;
mod toll;
mod view;
mod wait;
mod wire;

#[cfg(test)]
mod tests;

pub use clock::{Clock, ClockFault, ClockView};
pub use contact::Isolated;
pub use handle::{BlockId, ChainHandle, Pong, TxStatus};
pub use meter::LedgerMeter;
pub(crate) use neighbours::FULL_MESH;
pub use opening::Unopened;
pub use probe::{Arrival, PROBE_BYTES, ProbeError, ProbeReport};
pub use submit::SubmitError;
pub use task::{ChainOptions, ChainTask};
pub use view::{ChainView, Needs};

//! The ledger: who is a member, what runs where, and who owns a session.
//!
//! This crate owns blocks and transactions with their canonical bytes, the rules by which a single authority seals
//! them, the state that they make, Merkle roots, and the store. It has no network, no clock, no container engine and
//! no async runtime: time and random bytes come in as arguments, bytes go out. `blosm-node` runs a [`Ledger`] on a
//! thread of its own and moves its blocks; `blosm-migrate` uses the types.
//!
//! ```text
//!   SecretKey ─ Transaction::sign ─> Transaction
//!                                       │ Ledger::submit (sealer)
//!                                       v
//!                 State <─ apply ─── Pool ──┐
//!                                           │ Ledger::seal: Chain::propose, one synced write, then the block is out
//!                                           v
//!   SealedBlock { Block { Header, transactions }, Certificate }
//!       │ Ledger::import (everybody else)
//!       v
//!   Chain: certify ─> CertifiedBlock ─ check ─> CheckedBlock ─ Store::write ─ commit ─> Head, State
//!
//!   Ack, signed by a member ─> Acks: who holds which height ─> Confirmations, confirmed_height ─> next Header
//!                                                        └─> Status, signed by the sealer ─> the members
//! ```
//!
//! What always holds:
//! - One encoding per value (borsh), a hash domain per kind of object, strict signature verification only.
//! - A block is on disk, synced, before [`Ledger::seal`] or [`Ledger::import`] returns; so nothing of an unimported
//!   block leaves the process, and the sealer never signs a second block of one height.
//! - A block with a valid certificate is final: there is no fork choice, and no local clock can refuse it.
//! - A session has one owner at each epoch, and only that owner's signature moves it to the next.
//! - Everything from a peer is bounded before it is decoded, and nothing from a peer panics.
//!
//! Not here: certificates of several authorities are verified but not made, and the kinds in [`RESERVED_KINDS`] have
//! a tag but no meaning yet.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ack;
mod acks;
mod block;
mod certificate;
mod chain;
mod evidence;
mod genesis;
mod hash;
mod import_error;
mod key;
mod ledger;
mod members;
pub mod merkle;
mod newer;
#[cfg(feature = "next")]
mod next;
mod payload;
mod pool;
mod refusal;
mod session;
mod sessions_root;
mod state;
mod status;
mod store;
mod token;
mod transaction;

pub use ack::{Ack, AckBody, AckError, MAX_SOFTWARE, VerifiedAck};
pub use acks::{Acks, Confirmations, threshold};
pub use block::{Block, HEADER_VERSION, Header, NEWEST_VERSION, SealedBlock};
pub use certificate::{Certificate, CertificateError, vote_bytes};
pub use chain::{CertifiedBlock, Chain, CheckedBlock, Head, Proposal};
pub use evidence::{Evidence, MAX_EVIDENCE};
pub use genesis::{
    Confirmation, Genesis, GenesisError, MAX_AUTHORITIES, MAX_BLOCK_BYTES, MAX_BLOCK_TXS, MAX_NETWORK_NAME,
    MAX_TX_BYTES, Params, authorities_hash, quorum,
};
pub use hash::{Hash, ParseHexError};
pub use import_error::{GossipVerdict, ImportError, Penalty};
pub use key::{PublicKey, SecretKey, Signature};
pub use ledger::{Imported, Ledger, LedgerError, SealedTransaction, Submitted};
pub use members::{Evicted, Member, Members, member_leaf};
pub use newer::Newer;
pub use payload::{
    Abort, Admit, Announce, Claim, Evict, FieldError, HandOver, HardFailure, KIND_NAMES, Location,
    MAX_ADDRESS, MAX_ADDRESSES, MAX_ARCHITECTURE, MAX_CONTAINER_ID, MAX_INVITED, MAX_LABEL, MAX_REASON,
    MAX_SERVICE, Metadata, Open, Payload, RESERVED_KINDS, Release, ReleaseReason, UnknownKind, Verdict,
    is_service_name, round_up_sixteenth,
};
pub use pool::MAX_POOL_TXS;
pub use refusal::Refusal;
pub use session::{ClaimRecord, MAX_CLAIMS, SessionRecord, SessionStatus};
pub use sessions_root::BUCKETS;
pub use state::State;
pub use status::{
    Count, MAX_COUNTS, MAX_STATUS_BYTES, Status, StatusBody, StatusError, StatusMatch, VerifiedStatus,
};
pub use store::{Damage, StoreError, StoreFigures};
pub use token::{SessionId, TOKEN_CHARS, Token, TokenError};
pub use transaction::{DecodeError, MAX_EXPIRY_HEIGHTS, Transaction, TransactionError};

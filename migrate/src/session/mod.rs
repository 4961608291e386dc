//! Who runs a session on this node: the journal, its fold, and the rules of ownership.
//!
//! ```text
//!  Journal (file, fsync)  --replay-->  Record (fold of Entry)  --+
//!                                                                +--> ownership::adopt / newest_owner
//!  chain view (SessionRecord)  ----------------------------------+
//!
//!  Keeper: all that a node decides about one session, by the two above; within it
//!  Source: the source's side of one hand-over, as a pure machine (Input -> Effect)
//! ```
//!
//! What is here decides; the node does. Nothing in this module talks to an engine or to a peer, and only
//! [`Journal`] touches a disk. The rule numbers in the comments are those of `docs/protocol.md`, "Sessions".

mod entry;
mod journal;
pub mod journal_bytes;
mod keeper;
mod ownership;
mod record;
mod source;
mod start;

pub use entry::{Attempt, Entry, Pending};
pub use journal::{Journal, JournalError};
pub use keeper::{Failed, Failure, Keeper, Known, Launch, MAX_PENDING, Moved, No, Ready, Signing, Taking};
pub use ownership::{
    Adoption, Fact, KnownOwner, Turn, adopt, facts, newest_owner, overtaken, proven_owner, turn,
};
pub use record::{Applied, Container, Gave, Record, Stale, Standing};
pub use source::{Effect, Input, Offer, Refused, Source, Timing};
pub use start::{Fate, Found, fate};

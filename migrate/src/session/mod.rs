//! Who runs a session on this node: the journal, its fold, and the rules of ownership.
//!
//! ```text
//!  Journal (file, fsync)  --replay-->  Record (fold of Entry)  --+
//!                                                                +--> ownership::adopt / newest_owner
//!  chain view (SessionRecord)  ----------------------------------+
//!
//!  Source: the source's side of one hand-over, as a pure machine (Input -> Effect)
//! ```
//!
//! What is here decides; the node does. Nothing in this module talks to an engine or to a peer, and only
//! [`Journal`] touches a disk. The rule numbers in the comments are those of `docs/protocol.md`, "Sessions".

mod entry;
mod journal;
pub mod journal_bytes;
mod ownership;
mod record;
mod source;

pub use entry::{Attempt, Entry, Pending};
pub use journal::{Journal, JournalError};
pub use ownership::{Adoption, Fact, KnownOwner, adopt, newest_owner, proven_owner};
pub use record::{Applied, Container, Gave, Record, Stale, Standing};
pub use source::{Effect, Input, Offer, Refused, Source, Timing};

//! How a node becomes a member: invites, and the conversation in which one is used.
//!
//! ```text
//!  blosm invite ──API──> Invites (hashes of secrets, invites.json) <── judge ── Desk <──join protocol── blosm join
//!                                                                                │
//!                                                          chain: Admit <────────┘
//! ```
//! A use of an invite is nothing but an `Admit` on the chain: its admission id is made from the invite and the node's key
//! (`admission_id`). So a use is as durable as the block that it stands in, is never counted twice for one node, and a
//! crash between the two cannot part them, as they are one. The authority's file holds only what the operator decided.

mod client;
mod desk;
mod invite;
mod reach;
mod standing;
mod store;
mod wire;

pub(crate) use client::{Found, Line, LineError, Said, find};
pub(crate) use desk::Desk;
pub(crate) use invite::Invite;
pub use invite::InviteError;
pub(crate) use standing::Standing;
pub use store::InvitesError;
pub(crate) use store::{InviteView, Invites, Terms};
pub(crate) use wire::{Application, Hello, JoinRequest, JoinResponse, Reached, Welcome, time};

use blosm_ledger::{Hash, Members, PublicKey};

/// The version of what nodes say to one another, as `join` compares it. It rises when an older node could not take part.
pub const PROTOCOL: u16 = if cfg!(feature = "next") { 2 } else { 1 };
/// The oldest that can take part.
pub const OLDEST_PROTOCOL: u16 = 1;
/// The version of this program.
pub const SOFTWARE: &str = if cfg!(feature = "next") {
    concat!(env!("CARGO_PKG_VERSION"), "+next")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The id of the admission of a node by an invite; the same whenever that node uses that invite.
pub(crate) fn admission_id(invite: &Hash, node: &PublicKey) -> Hash {
    Hash::of("invite-admission", &(*invite, *node))
}

/// The member, other than `key`, that has this label: labels name nodes for people.
pub(crate) fn label_owner(members: &Members, key: &PublicKey, label: &str) -> Option<PublicKey> {
    let found = members
        .iter()
        .find(|(other, member)| *other != key && member.label == label);
    found.map(|(other, _)| *other)
}

//! The start of a node: what becomes of the containers that its engine holds (rule 7).

use blosm_ledger::{PublicKey, SessionRecord};

use super::ownership::{Adoption, adopt};
use super::record::Record;

/// A container of this network's sessions in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it runs, be it at its gate.
    pub running: bool,
    /// Whether its own program may ever have run: it was started, and there is no gate that was never opened.
    pub passed: bool,
    /// Whether its service is stateless: whatever ran in it has left nothing to lose.
    pub stateless: bool,
}

/// What becomes of it before the node takes up its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// It is stopped, and its exit seen.
    pub stop: bool,
    /// It is removed: an attempt that has ended has left it.
    pub remove: bool,
}

/// Rule 7: a labelled container that runs and is not the current one of a session of this node is stopped and kept. One
/// that no record names goes if it never ran or has no state. `record` and `sealed` are of the session that its label names.
pub fn fate(
    found: Found<'_>,
    record: Option<&Record>,
    sealed: Option<&SessionRecord>,
    me: PublicKey,
) -> Fate {
    let container = record.and_then(|record| record.container.as_ref());
    let is_current = container.is_some_and(|current| current.name == found.name);
    let owned = record.is_some_and(|record| matches!(adopt(record, sealed, me), Adoption::Mine { .. }));
    let applied = record.and_then(|record| record.applied.as_ref());
    let is_applied = applied.is_some_and(|applied| applied.container.name == found.name);
    let stale = record.map_or(&[][..], |record| &record.stale);
    let is_stale = stale.iter().any(|stale| stale.container.name == found.name);
    let is_named = is_current || is_applied || is_stale;
    Fate {
        stop: found.running && !(owned && is_current),
        remove: !is_named && (found.stateless || !found.passed),
    }
}

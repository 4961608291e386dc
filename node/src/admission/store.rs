//! The invites of an authority, as its operator made them, and who may board by one.
//!
//! The file holds no secret, only their hashes, and no uses: those are on the chain (see the module above).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use blosm_ledger::{Hash, Members, PublicKey};
use serde::{Deserialize, Serialize};

use super::invite::Secret;
use super::wire::Denial;
use super::{admission_id, label_owner};
use crate::durable::replace;

/// Name of the file in the data directory.
const FILE: &str = "invites.json";
/// Invites that are remembered. When there are more, those that ended go first, the oldest first.
const MAX_INVITES: usize = 256;
/// The most nodes that one invite admits; a network is a cell of about 200.
const MAX_USES: u32 = 4096;
/// The longest life of an invite.
const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest label, in bytes.
const MAX_LABEL: usize = 64;

/// Why an invite was not made, found or taken back.
#[derive(Debug, thiserror::Error)]
pub enum InvitesError {
    /// The file can't be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what an authority writes.
    #[error("{path} can't be understood ({source}); remove it, and make new invites", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// What the operator asked for.
    #[error("{field}: {rule}")]
    Terms {
        /// The field.
        field: &'static str,
        /// What it has to be.
        rule: &'static str,
    },
    /// There are too many that may still be used.
    #[error("{MAX_INVITES} invites are open; `blosm invites revoke` those that nobody needs")]
    Full,
    /// None, or several, have an id that begins so.
    #[error("{count} invites have an id that begins with {prefix:?}; `blosm invites ls` shows them")]
    Which {
        /// How many.
        count: usize,
        /// What was given.
        prefix: String,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What an invite shall be good for.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// How many nodes it admits.
    pub(crate) uses: u32,
    /// How long.
    pub(crate) life: Duration,
    /// What the operator calls it; may be empty.
    pub(crate) label: String,
}

/// One invite as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Issued {
    uses: u32,
    label: String,
    issued_unix_ms: u64,
    expires_unix_ms: u64,
    revoked_unix_ms: Option<u64>,
}

/// One invite as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct InviteView {
    /// The hash of its secret.
    pub(crate) id: Hash,
    /// What the operator calls it.
    pub(crate) label: String,
    /// How many nodes it admits.
    pub(crate) uses: u32,
    /// Those that it has admitted, evicted ones too.
    pub(crate) used_by: Vec<PublicKey>,
    /// `open`, `used_up`, `expired` or `revoked`.
    pub(crate) state: &'static str,
    /// By the authority's clock.
    pub(crate) issued_unix_ms: u64,
    /// By the authority's clock.
    pub(crate) expires_unix_ms: u64,
}

/// All invites of an authority.
#[derive(Debug)]
pub(crate) struct Invites {
    path: PathBuf,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    issued: BTreeMap<Hash, Issued>,
    /// Admissions on their way to the chain, by their id: each holds a use of its invite, and its label.
    boarding: BTreeMap<Hash, Boarding>,
}

#[derive(Debug)]
struct Boarding {
    invite: Hash,
    label: String,
}

impl Invites {
    /// Reads the invites of that data directory.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, InvitesError> {
        let path = data_dir.join(FILE);
        let issued = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| InvitesError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(InvitesError::File { path, source }),
        };
        let book = Mutex::new(Book {
            issued,
            boarding: BTreeMap::new(),
        });
        Ok(Self { path, book })
    }

    /// Makes an invite; it is on the disk before its secret is told to anybody.
    pub(crate) fn issue(
        &self,
        now: u64,
        terms: Terms,
        members: &Members,
    ) -> Result<(Secret, InviteView), InvitesError> {
        terms.check()?;
        let secret = Secret::generate().map_err(|_| InvitesError::Random)?;
        let life = u64::try_from(terms.life.as_millis()).unwrap_or(u64::MAX);
        let issued = Issued {
            uses: terms.uses,
            label: terms.label,
            issued_unix_ms: now,
            expires_unix_ms: now.saturating_add(life),
            revoked_unix_ms: None,
        };
        let id = secret.id();
        let mut book = self.book();
        let mut next = book.issued.clone();
        if next.len() >= MAX_INVITES {
            let ended = next
                .iter()
                .filter(|(id, issued)| issued.standing(now, used_by(id, members).count()) != Standing::Open)
                .min_by_key(|(_, issued)| issued.issued_unix_ms)
                .map(|(id, _)| *id)
                .ok_or(InvitesError::Full)?;
            next.remove(&ended);
        }
        let view = issued.view(id, now, members);
        next.insert(id, issued);
        self.write(&next)?;
        book.issued = next;
        Ok((secret, view))
    }

    /// Takes back the invite whose id begins with `prefix`. Members that it has admitted stay.
    pub(crate) fn revoke(
        &self,
        now: u64,
        prefix: &str,
        members: &Members,
    ) -> Result<InviteView, InvitesError> {
        let mut book = self.book();
        let mut next = book.issued.clone();
        let lower = prefix.to_ascii_lowercase();
        let mut found = next
            .iter_mut()
            .filter(|(id, _)| !lower.is_empty() && id.to_string().starts_with(&lower));
        let (Some((id, issued)), None) = (found.next(), found.next()) else {
            let count = book
                .issued
                .keys()
                .filter(|id| !lower.is_empty() && id.to_string().starts_with(&lower))
                .count();
            return Err(InvitesError::Which {
                count,
                prefix: prefix.to_owned(),
            });
        };
        issued.revoked_unix_ms.get_or_insert(now);
        let view = issued.view(*id, now, members);
        self.write(&next)?;
        book.issued = next;
        Ok(view)
    }

    /// All of them, the newest first.
    pub(crate) fn list(&self, now: u64, members: &Members) -> Vec<InviteView> {
        let book = self.book();
        let mut list: Vec<_> = book
            .issued
            .iter()
            .map(|(id, issued)| issued.view(*id, now, members))
            .collect();
        list.sort_by_key(|view| std::cmp::Reverse(view.issued_unix_ms));
        list
    }

    /// Whether `node`, which is no member, might be admitted by this invite now. Holds nothing.
    pub(crate) fn judge(
        &self,
        now: u64,
        invite: &Hash,
        node: &PublicKey,
        members: &Members,
    ) -> Result<(), Denial> {
        self.book().judge(now, invite, node, members).map(drop)
    }

    /// Takes a use of the invite for `node`, which is no member, until [`Invites::landed`], and gives the admission's id.
    /// A node that has one on its way already holds no second one.
    pub(crate) fn board(
        &self,
        now: u64,
        invite: &Hash,
        node: &PublicKey,
        label: &str,
        members: &Members,
    ) -> Result<Hash, Denial> {
        let mut book = self.book();
        let admission = book.judge(now, invite, node, members)?;
        if let Some(owner) = label_owner(members, node, label) {
            return Err(Denial::LabelTaken {
                label: label.to_owned(),
                owner,
            });
        }
        let taken = book.boarding.iter().any(|(other, boarding)| {
            *other != admission && boarding.label == label && !members.admission_used(other)
        });
        if taken {
            // Whose it is stands on the chain in a moment.
            return Err(Denial::Busy);
        }
        let boarding = Boarding {
            invite: *invite,
            label: label.to_owned(),
        };
        book.boarding.insert(admission, boarding);
        Ok(admission)
    }

    /// The admission is on the chain, or can never get there.
    pub(crate) fn landed(&self, admission: &Hash) {
        self.book().boarding.remove(admission);
    }

    fn write(&self, issued: &BTreeMap<Hash, Issued>) -> Result<(), InvitesError> {
        let bytes = serde_json::to_vec_pretty(issued).expect("hashes, numbers and text are plain data");
        replace(&self.path, &bytes).map_err(|source| InvitesError::File {
            path: self.path.clone(),
            source,
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book
            .lock()
            .expect("nothing panics while it holds the invites")
    }
}

impl Book {
    fn judge(&self, now: u64, invite: &Hash, node: &PublicKey, members: &Members) -> Result<Hash, Denial> {
        let issued = self.issued.get(invite).ok_or(Denial::Unknown)?;
        let admission = admission_id(invite, node);
        if let (true, Some(evicted)) = (members.admission_used(&admission), members.evicted(node)) {
            return Err(Denial::Evicted {
                height: evicted.height,
                reason: evicted.reason.clone(),
            });
        }
        let on_their_way = self.boarding.iter().filter(|(other, boarding)| {
            boarding.invite == *invite && **other != admission && !members.admission_used(other)
        });
        let used = used_by(invite, members).count() + on_their_way.count();
        match issued.standing(now, used) {
            Standing::Open => Ok(admission),
            Standing::UsedUp => Err(Denial::UsedUp { uses: issued.uses }),
            Standing::Expired => Err(Denial::Expired {
                expires_unix_ms: issued.expires_unix_ms,
            }),
            Standing::Revoked => Err(Denial::Revoked),
        }
    }
}

/// The nodes that an invite has admitted.
fn used_by<'a>(invite: &'a Hash, members: &'a Members) -> impl Iterator<Item = PublicKey> + 'a {
    let present = members.iter().map(|(key, _)| *key);
    let former = members.former().map(|(key, _)| *key);
    present
        .chain(former)
        .filter(move |key| members.admission_used(&admission_id(invite, key)))
}

/// What an invite is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    UsedUp,
    Expired,
    Revoked,
}

impl Issued {
    fn standing(&self, now: u64, used: usize) -> Standing {
        if self.revoked_unix_ms.is_some() {
            Standing::Revoked
        } else if now >= self.expires_unix_ms {
            Standing::Expired
        } else if used >= self.uses as usize {
            Standing::UsedUp
        } else {
            Standing::Open
        }
    }

    fn view(&self, id: Hash, now: u64, members: &Members) -> InviteView {
        let used_by: Vec<_> = used_by(&id, members).collect();
        InviteView {
            id,
            label: self.label.clone(),
            uses: self.uses,
            state: match self.standing(now, used_by.len()) {
                Standing::Open => "open",
                Standing::UsedUp => "used_up",
                Standing::Expired => "expired",
                Standing::Revoked => "revoked",
            },
            used_by,
            issued_unix_ms: self.issued_unix_ms,
            expires_unix_ms: self.expires_unix_ms,
        }
    }
}

impl Terms {
    fn check(&self) -> Result<(), InvitesError> {
        let require = |holds: bool, field, rule| {
            if holds {
                Ok(())
            } else {
                Err(InvitesError::Terms { field, rule })
            }
        };
        require(
            (1..=MAX_USES).contains(&self.uses),
            "uses",
            "must be 1 to 4096 nodes",
        )?;
        require(
            (Duration::from_secs(1)..=MAX_LIFE).contains(&self.life),
            "expires",
            "must be 1s to 366days from now",
        )?;
        require(
            self.label.len() <= MAX_LABEL && !self.label.chars().any(char::is_control),
            "label",
            "must be at most 64 bytes without control characters",
        )
    }
}

#[cfg(test)]
mod tests;

//! The bytes of the journal file, apart from the file: what a disk holds after a crash is read here without a disk.
//!
//! ```text
//! file  = "BLOSMJ1\n" record*
//! record = length u32 LE | BLAKE3-64 of the payload | payload (borsh Entry)
//! ```
//! A torn last record, as a power cut leaves one, is left out: its append never returned, so nobody acted on it.
//! A broken record before the last one is damage: what follows it was acted on.

use std::collections::BTreeMap;

use blosm_ledger::SessionId;

use super::entry::Entry;
use super::record::Record;

/// First bytes of the file; the digit is the format's version.
pub const MAGIC: &[u8; 8] = b"BLOSMJ1\n";
/// Bytes before each payload.
pub(super) const PREFIX: usize = 4 + 8;
/// No entry is near this size; a larger length is damage.
const MAX_ENTRY: usize = 1 << 20;

/// What the bytes of a journal add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// The records, by session.
    pub records: BTreeMap<SessionId, Record>,
    /// How many bytes from the start are whole; what follows is a torn append.
    pub good: usize,
}

/// A record before the last one does not match its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record at byte {offset} is damaged")]
pub struct Broken {
    /// Where it begins.
    pub offset: usize,
}

/// The bytes of these entries, one after the other, as they are appended to the file.
#[must_use]
pub fn encode<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let payload = borsh::to_vec(entry).expect("an entry is plain data and a Vec takes any length");
        let length = u32::try_from(payload.len()).expect("an entry is far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&checksum(&payload));
        out.extend_from_slice(&payload);
    }
    out
}

/// Replays the bytes of a file that begins with [`MAGIC`].
///
/// # Errors
/// Damage before the last record.
pub fn replay(bytes: &[u8]) -> Result<Replay, Broken> {
    let mut records = BTreeMap::new();
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let Some((entry, end)) = read_entry(bytes, at) else {
            // Only the last append can be torn, and a torn append ends the file: nothing whole follows it.
            let torn = (at + 1..bytes.len()).all(|later| read_entry(bytes, later).is_none());
            if !torn {
                return Err(Broken { offset: at });
            }
            break;
        };
        fold(&mut records, entry);
        at = end;
    }
    Ok(Replay { records, good: at })
}

/// Takes one more entry into account.
pub fn fold(records: &mut BTreeMap<SessionId, Record>, entry: Entry) {
    let session = entry.session();
    records
        .entry(session)
        .or_insert_with(|| Record::new(session))
        .apply(entry);
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(payload);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.as_bytes()[..8]);
    sum
}

fn read_entry(bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    let prefix = bytes.get(at..at + PREFIX)?;
    let length = u32::from_le_bytes(prefix[..4].try_into().ok()?) as usize;
    if length > MAX_ENTRY {
        return None;
    }
    let payload = bytes.get(at + PREFIX..at + PREFIX + length)?;
    if checksum(payload) != prefix[4..] {
        return None;
    }
    let entry = borsh::from_slice(payload).ok()?;
    Some((entry, at + PREFIX + length))
}

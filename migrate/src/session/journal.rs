//! The journal file: an append-only list of checked records, each on the disk before its fact is acted on.
//!
//! Its bytes are [`super::journal_bytes`].

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use blosm_ledger::SessionId;

use super::entry::Entry;
use super::journal_bytes::{self, MAGIC, Replay, fold};
use super::record::Record;

/// A journal that is larger than this when it is opened is written anew from its records.
const CONDENSE_ABOVE: u64 = 1 << 20;

/// Why the journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed or is full. Nothing that was to be written may be acted on.
    #[error(
        "the session journal {path} can't be {what}: {source}; free space or repair the disk, then start again"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A record before the last one does not match its checksum.
    #[error(
        "the session journal {path} is damaged at byte {offset}; restore it from a copy, or move it away to give up the sessions of this node"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the broken record begins.
        offset: u64,
    },
    /// The file is not a journal of this version.
    #[error("{path} is not a session journal that this version can read")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// An earlier write failed: what the file holds is not known until it is opened again.
    #[error("the session journal {path} failed earlier; restart the node")]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
}

/// The journal of one node, with the records that it adds up to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    records: BTreeMap<SessionId, Record>,
    poisoned: bool,
}

impl Journal {
    /// Opens or creates the journal at `path` and replays it.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |what| {
            move |source| JournalError::Io {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("opened"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // New, or cut short while it was being created: nothing was ever recorded in it.
            file.set_len(0).map_err(failed("written"))?;
            file.seek(SeekFrom::Start(0)).map_err(failed("written"))?;
            file.write_all(MAGIC)
                .and_then(|()| file.sync_all())
                .map_err(failed("written"))?;
            sync_folder(path).map_err(failed("written"))?;
            bytes = MAGIC.to_vec();
        }
        if !bytes.starts_with(MAGIC) {
            return Err(JournalError::Foreign {
                path: path.to_owned(),
            });
        }
        let Replay { records, good } =
            journal_bytes::replay(&bytes).map_err(|broken| JournalError::Damaged {
                path: path.to_owned(),
                offset: broken.offset as u64,
            })?;
        if good < bytes.len() {
            file.set_len(good as u64).map_err(failed("repaired"))?;
        }
        // What an earlier process has written, or put in this file's place, and did not live to sync would be acted on from
        // here on, and could still be forgotten at a power cut.
        file.sync_all()
            .and_then(|()| sync_folder(path))
            .map_err(failed("written"))?;
        file.seek(SeekFrom::Start(good as u64)).map_err(failed("read"))?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            records,
            poisoned: false,
        };
        if good as u64 > CONDENSE_ABOVE {
            journal.condense()?;
        }
        Ok(journal)
    }

    /// Writes entries down, in order and durable when this returns, and takes them into account. After a crash in the
    /// middle a prefix of them may stand: callers put the entry that matters most first.
    pub fn append(&mut self, entries: Vec<Entry>) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned {
                path: self.path.clone(),
            });
        }
        let bytes = journal_bytes::encode(&entries);
        if let Err(source) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            // After a failed fsync the kernel may drop the pages: only a fresh read tells what is there.
            self.poisoned = true;
            return Err(JournalError::Io {
                path: self.path.clone(),
                what: "written",
                source,
            });
        }
        for entry in entries {
            fold(&mut self.records, entry);
        }
        Ok(())
    }

    /// What is known of a session.
    pub fn record(&self, session: &SessionId) -> Option<&Record> {
        self.records.get(session)
    }

    /// All records, by session.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Writes the journal anew: one snapshot per session. The old file stays until the new one is durable.
    fn condense(&mut self) -> Result<(), JournalError> {
        let path = self.path.clone();
        let failed = |what| {
            move |source| JournalError::Io {
                path: path.clone(),
                what,
                source,
            }
        };
        let fresh = self.path.with_extension("new");
        let mut bytes = MAGIC.to_vec();
        for record in self.records.values() {
            bytes.extend(journal_bytes::encode([&Entry::Snapshot(Box::new(
                record.clone(),
            ))]));
        }
        let write = || -> io::Result<File> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)?;
            sync_folder(&self.path)?;
            Ok(file)
        };
        self.file = write().map_err(failed("written anew"))?;
        Ok(())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests;

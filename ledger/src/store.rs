//! The chain on disk: RocksDB, one column family per index, one synced write per block.
//!
//! What is acknowledged is on disk: [`Store::write`] returns after the log is synced, and everything that a block
//! changes, over all indexes, is in one batch, so a crash leaves either all of it or nothing.

mod columns;
mod error;
mod figures;
mod startup;

use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use rocksdb::{ColumnFamily, DB, WriteBatch, WriteOptions};

pub use error::{Damage, StoreError};
pub use figures::StoreFigures;

use crate::block::{Block, Header, SealedBlock, read_header, read_transactions};
use crate::certificate::Certificate;
use crate::chain::CheckedBlock;
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::hash::{Hash, canonical};
use crate::state::{Changes, State};
use crate::transaction::{DecodeError, Transaction};
use columns::{ADMISSION, Column, EVICTED, EVIDENCE_KEY, HEAD_KEY, MEMBER, RESUMED_KEY, height_key, tagged};
pub(crate) use startup::Loaded;

/// The layout of the column families. A change of it needs a new number and a conversion.
const SCHEMA: u32 = 1;

/// The open database. Only one process holds it at a time.
pub(crate) struct Store {
    db: DB,
    path: PathBuf,
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Place {
    pub(crate) height: u64,
    pub(crate) index: u32,
}

impl Store {
    /// Opens or makes the database under `path`, checks it, and loads head and state.
    pub(crate) fn open(path: &Path, genesis: &Genesis) -> Result<(Store, Loaded), StoreError> {
        let path = path.to_path_buf();
        std::fs::create_dir_all(&path).map_err(|source| StoreError::Directory {
            path: path.clone(),
            source,
        })?;
        let db = DB::open_cf_descriptors(&columns::database_options(), &path, columns::descriptors())
            .map_err(|source| open_error(&path, source))?;
        let store = Store { db, path };
        let loaded = startup::load(&store, genesis)?;
        Ok((store, loaded))
    }

    /// Writes a block and all that it changes, and returns when it is synced.
    pub(crate) fn write(&self, block: &CheckedBlock) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let height = height_key(block.head.height);
        let SealedBlock {
            block: Block { header, transactions },
            certificate,
        } = &block.sealed;
        batch.put_cf(
            self.column(Column::Headers),
            height,
            canonical(&(header, certificate)),
        );
        batch.put_cf(self.column(Column::Bodies), height, canonical(transactions));
        batch.put_cf(self.column(Column::Hash), block.head.hash.0, height);
        for (index, hash) in (0u32..).zip(&block.tx_hashes) {
            let place = Place {
                height: block.head.height,
                index,
            };
            batch.put_cf(self.column(Column::Tx), hash.0, canonical(&place));
        }
        self.put_state(&mut batch, &block.state, &block.changes);
        batch.put_cf(self.column(Column::Meta), HEAD_KEY, canonical(&block.head));
        self.commit(batch)
    }

    /// Adds what changed in a state to a batch.
    fn put_state(&self, batch: &mut WriteBatch, state: &State, changes: &Changes) {
        let members = self.column(Column::Members);
        for key in &changes.members {
            match state.members().get(key) {
                Some(member) => batch.put_cf(members, tagged(MEMBER, &key.0), canonical(member)),
                None => batch.delete_cf(members, tagged(MEMBER, &key.0)),
            }
            match state.members().evicted(key) {
                Some(evicted) => batch.put_cf(members, tagged(EVICTED, &key.0), canonical(evicted)),
                None => batch.delete_cf(members, tagged(EVICTED, &key.0)),
            }
        }
        for admission in &changes.admissions {
            batch.put_cf(members, tagged(ADMISSION, &admission.0), []);
        }
        for id in &changes.sessions {
            if let Some(record) = state.session(id) {
                batch.put_cf(self.column(Column::Sessions), id.0, canonical(record));
            }
        }
    }

    /// Writes the proofs that the authority sealed twice, and how many of them its operator has answered.
    pub(crate) fn put_evidence(&self, evidence: &[Evidence], resumed: u32) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let meta = self.column(Column::Meta);
        batch.put_cf(meta, EVIDENCE_KEY, canonical(&evidence));
        batch.put_cf(meta, RESUMED_KEY, resumed.to_le_bytes());
        self.commit(batch)
    }

    /// Writes a batch and returns when the log is synced.
    fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(StoreError::Write)
    }

    /// The header and certificate of a height.
    pub(crate) fn header(&self, height: u64) -> Result<Option<(Header, Certificate)>, StoreError> {
        let Some(bytes) = self.get(Column::Headers, &height_key(height))? else {
            return Ok(None);
        };
        let rest = &mut bytes.as_slice();
        let read = read_header(rest).and_then(|header| Ok((header, Certificate::read(rest)?)));
        let found = read.map_err(|error| self.unreadable("header", height, &error))?;
        self.ends(rest, "header", height)?;
        Ok(Some(found))
    }

    /// The transactions of a height.
    pub(crate) fn body(&self, height: u64) -> Result<Option<Vec<Transaction>>, StoreError> {
        let Some(bytes) = self.get(Column::Bodies, &height_key(height))? else {
            return Ok(None);
        };
        let rest = &mut bytes.as_slice();
        let transactions =
            read_transactions(rest).map_err(|error| self.unreadable("body", height, &error))?;
        self.ends(rest, "body", height)?;
        Ok(Some(transactions))
    }

    /// The block of a height.
    pub(crate) fn sealed(&self, height: u64) -> Result<Option<SealedBlock>, StoreError> {
        let Some((header, certificate)) = self.header(height)? else {
            return Ok(None);
        };
        let transactions = self.body(height)?.ok_or_else(|| {
            self.damaged(Damage::Missing {
                index: "body",
                height,
            })
        })?;
        Ok(Some(SealedBlock {
            block: Block { header, transactions },
            certificate,
        }))
    }

    /// The height of a block hash.
    pub(crate) fn height_of(&self, hash: &Hash) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.get(Column::Hash, &hash.0)? else {
            return Ok(None);
        };
        let bytes = bytes
            .try_into()
            .map_err(|_| self.damaged(Damage::Entry("block hashes")))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Where a transaction stands, if it is sealed.
    pub(crate) fn place(&self, hash: &Hash) -> Result<Option<Place>, StoreError> {
        self.get(Column::Tx, &hash.0)?
            .map(|bytes| {
                borsh::from_slice(&bytes).map_err(|_| self.damaged(Damage::Entry("transaction places")))
            })
            .transpose()
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.column(column), key).map_err(StoreError::Read)
    }

    /// What cannot be decoded is damaged, or of a later version, which is to be told apart: its operator must remove nothing.
    fn unreadable(&self, index: &'static str, height: u64, error: &DecodeError) -> StoreError {
        match error.newer() {
            Some(newer) => StoreError::Newer {
                path: self.path.clone(),
                height,
                newer,
            },
            None => self.damaged(Damage::Wrong { index, height }),
        }
    }

    fn ends(&self, rest: &[u8], index: &'static str, height: u64) -> Result<(), StoreError> {
        if rest.is_empty() {
            return Ok(());
        }
        Err(self.damaged(Damage::Wrong { index, height }))
    }

    fn damaged(&self, what: Damage) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            what,
        }
    }

    fn column(&self, column: Column) -> &ColumnFamily {
        self.db
            .cf_handle(column.name())
            .expect("every column family was opened or made with the database")
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Tells a directory that is in use from one that cannot be opened. The database has no code of its own for it.
fn open_error(path: &Path, source: rocksdb::Error) -> StoreError {
    let text = source.to_string();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        StoreError::Locked {
            path: path.to_path_buf(),
        }
    } else {
        StoreError::Open {
            path: path.to_path_buf(),
            source,
        }
    }
}

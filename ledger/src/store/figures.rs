//! What the database says of itself, for whoever watches it.

use rocksdb::properties;

use super::columns::Column;
use super::{Store, StoreError};

/// What the store holds and does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Bytes of the tables on the disk, by column family. What was written last is in the log and in memory only.
    pub table_bytes: Vec<(&'static str, u64)>,
    /// Bytes of all memtables.
    pub memtable_bytes: u64,
    /// Bytes of the block cache that are in use.
    pub cache_bytes: u64,
    /// Bytes that compactions have to rewrite, by estimate.
    pub compaction_backlog_bytes: u64,
    /// Compactions and flushes that run now.
    pub background_jobs: u64,
    /// Flushes and compactions that have failed since the start.
    pub background_errors: u64,
    /// Writes wait until compactions have caught up.
    pub writes_stopped: bool,
}

impl Store {
    /// Reads them. Takes microseconds: nothing is read from the disk.
    pub(crate) fn figures(&self) -> Result<StoreFigures, StoreError> {
        let mut figures = StoreFigures::default();
        for column in Column::ALL {
            let of = |name| self.property_of(column, name);
            figures
                .table_bytes
                .push((column.name(), of(properties::TOTAL_SST_FILES_SIZE)?));
            figures.memtable_bytes += of(properties::SIZE_ALL_MEM_TABLES)?;
            figures.compaction_backlog_bytes += of(properties::ESTIMATE_PENDING_COMPACTION_BYTES)?;
        }
        // One cache, and one set of workers, for all of them.
        let of_all = |name| self.property_of(Column::Meta, name);
        figures.cache_bytes = of_all(properties::BLOCK_CACHE_USAGE)?;
        figures.background_jobs =
            of_all(properties::NUM_RUNNING_COMPACTIONS)? + of_all(properties::NUM_RUNNING_FLUSHES)?;
        figures.background_errors = of_all(properties::BACKGROUND_ERRORS)?;
        figures.writes_stopped = of_all(properties::IS_WRITE_STOPPED)? != 0;
        Ok(figures)
    }

    fn property_of(&self, column: Column, name: &properties::PropName) -> Result<u64, StoreError> {
        let found = self.db.property_int_value_cf(self.column(column), name);
        // A property that this RocksDB does not have is one of which nothing can be said.
        Ok(found.map_err(StoreError::Read)?.unwrap_or(0))
    }
}

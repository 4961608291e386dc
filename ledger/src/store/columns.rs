//! Column families, keys and settings of the database.

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options};

/// One column family per index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Height to header and certificate.
    Headers,
    /// Height to transactions.
    Bodies,
    /// Block hash to height.
    Hash,
    /// Transaction hash to height and place.
    Tx,
    /// Members, former members and used admission ids.
    Members,
    /// Session id to record.
    Sessions,
    /// Schema, network and head.
    Meta,
}

impl Column {
    pub(super) const ALL: [Column; 7] = [
        Column::Headers,
        Column::Bodies,
        Column::Hash,
        Column::Tx,
        Column::Members,
        Column::Sessions,
        Column::Meta,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Column::Headers => "headers",
            Column::Bodies => "bodies",
            Column::Hash => "hash",
            Column::Tx => "tx",
            Column::Members => "members",
            Column::Sessions => "sessions",
            Column::Meta => "meta",
        }
    }
}

/// `meta`: the schema's number, u32 little endian.
pub(super) const SCHEMA_KEY: &[u8] = b"schema";
/// `meta`: the chain id.
pub(super) const CHAIN_KEY: &[u8] = b"chain";
/// `meta`: the head, borsh.
pub(super) const HEAD_KEY: &[u8] = b"head";
/// `meta`: proofs that the authority sealed twice, oldest first, borsh.
pub(super) const EVIDENCE_KEY: &[u8] = b"evidence";
/// `meta`: how many of them the authority's operator has answered, u32 little endian.
pub(super) const RESUMED_KEY: &[u8] = b"resumed";

/// The first byte of a key in `members`, by what it holds.
pub(super) const MEMBER: u8 = 0;
pub(super) const EVICTED: u8 = 1;
pub(super) const ADMISSION: u8 = 2;

pub(super) fn tagged(tag: u8, name: &[u8; 32]) -> [u8; 33] {
    let mut key = [tag; 33];
    key[1..].copy_from_slice(name);
    key
}

/// Heights are big endian, so that iteration goes up.
pub(super) fn height_key(height: u64) -> [u8; 8] {
    height.to_be_bytes()
}

/// A memtable's size. A node writes little, and a hundred nodes may share one machine.
const WRITE_BUFFER: usize = 1024 * 1024;
/// The one block cache of all column families.
const BLOCK_CACHE: usize = 8 * 1024 * 1024;
/// The log is cut when it is larger, by writing the memtables out.
const WAL_LIMIT: u64 = 16 * 1024 * 1024;

/// Settings of the whole database, small in memory and strict about torn logs.
pub(super) fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_open_files(64);
    options.set_max_background_jobs(1);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1024 * 1024);
    options.set_max_total_wal_size(WAL_LIMIT);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

/// All column families with one shared cache.
pub(super) fn descriptors() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    let named = Column::ALL.map(|column| (column.name(), column));
    let mut all = vec![ColumnFamilyDescriptor::new(
        "default",
        column_options(&cache, None),
    )];
    all.extend(
        named.map(|(name, column)| ColumnFamilyDescriptor::new(name, column_options(&cache, Some(column)))),
    );
    all
}

fn column_options(cache: &Cache, column: Option<Column>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    if matches!(column, Some(Column::Hash | Column::Tx)) {
        // These are asked for keys that are not there, for every transaction of every block.
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

//! What can go wrong with the ledger's directory, and what an operator should do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::hash::Hash;
use crate::newer::Newer;

/// What can go wrong with the ledger's directory.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process holds the directory.
    #[error("another blosm runs on {}: stop it, or use another data directory", .path.display())]
    Locked {
        /// The ledger's directory.
        path: PathBuf,
    },
    /// The directory cannot be made.
    #[error("cannot make the ledger's directory {}", .path.display())]
    Directory {
        /// The ledger's directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error(
        "cannot open the ledger in {}: if the disk is sound, remove that directory and start again, \
         and the node fetches the chain from the others", .path.display()
    )]
    Open {
        /// The ledger's directory.
        path: PathBuf,
        /// What the database says.
        source: rocksdb::Error,
    },
    /// The directory belongs to another network.
    #[error(
        "{} holds the ledger of network {found}, the configuration names {wanted}: \
         use another data directory or the right network.toml", .path.display()
    )]
    OtherNetwork {
        /// The ledger's directory.
        path: PathBuf,
        /// The chain id on disk.
        found: Hash,
        /// The chain id of the genesis.
        wanted: Hash,
    },
    /// A later version wrote the directory.
    #[error("{} was written by a later blosm (schema {found}, this one reads {ours}): upgrade", .path.display())]
    Schema {
        /// The ledger's directory.
        path: PathBuf,
        /// The schema on disk.
        found: u32,
        /// The schema of this version.
        ours: u32,
    },
    /// A later version wrote a block. Nothing is damaged.
    #[error("block {height} in {} has {newer}: a later blosm wrote it; start that one again", .path.display())]
    Newer {
        /// The ledger's directory.
        path: PathBuf,
        /// The block's height.
        height: u64,
        /// What it has.
        newer: Newer,
    },
    /// What is on disk contradicts itself and cannot be mended.
    #[error(
        "the ledger in {} is damaged: {what}. Remove that directory and start again: the node fetches the chain \
         from the others. On the authority restore a copy that holds the newest block, or it would seal a height twice",
        .path.display()
    )]
    Damaged {
        /// The ledger's directory.
        path: PathBuf,
        /// What does not fit.
        what: Damage,
    },
    /// Reading failed.
    #[error("reading the ledger failed")]
    Read(#[source] rocksdb::Error),
    /// Writing failed.
    #[error("writing the ledger failed; check the disk and its free space, then restart")]
    Write(#[source] rocksdb::Error),
}

/// What does not fit on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// There are blocks but no head.
    #[error("it holds blocks but no head")]
    NoHead,
    /// An entry that must exist is missing.
    #[error("{index} of height {height} is missing")]
    Missing {
        /// Which index.
        index: &'static str,
        /// The height.
        height: u64,
    },
    /// An entry cannot be decoded or contradicts another.
    #[error("{index} of height {height} is wrong")]
    Wrong {
        /// Which index.
        index: &'static str,
        /// The height.
        height: u64,
    },
    /// An entry without a height cannot be decoded.
    #[error("an entry of {0} cannot be read")]
    Entry(&'static str),
    /// There is a block above the head.
    #[error("there is a block above the head {0}")]
    AboveHead(u64),
    /// Members or sessions differ from the head's header, and the blocks do not give them again.
    #[error("members or sessions are not those of the head {0}, and its blocks do not give them either")]
    State(u64),
}

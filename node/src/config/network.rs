//! `network.toml`: the genesis that all members share, and addresses to find the first of them.
//!
//! Only `[genesis]` decides which network it is. Addresses and comments may differ from copy to copy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use blosm_ledger::{Genesis, Hash};
use blosm_net::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::source::Source;

/// A network file's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// Members to dial before the chain has told any address; each ends in `/p2p/<PeerId>`.
    #[serde(default)]
    pub bootstrap: Vec<Multiaddr>,
    /// What all members share; its hash is the network's id.
    pub genesis: Genesis,
}

/// Why a network file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It is not there.
    #[error("there is no {path}; get it from the network's operator, or make a network with `blosm network new --name NAME --out {path}`", path = .0.display())]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a network file.
    #[error("{0}")]
    Malformed(String),
}

impl NetworkFile {
    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Self, NetworkError> {
        let text = fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetworkError::Missing(path.to_owned()),
            _ => NetworkError::Io {
                path: path.to_owned(),
                source,
            },
        })?;
        Self::parse(path, &text).map_err(|error| NetworkError::Malformed(error.to_string()))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let file: Self = source.parse()?;
        file.genesis
            .validate()
            .map_err(|error| source.value("genesis", error.to_string()))?;
        for address in &file.bootstrap {
            check_bootstrap(address).map_err(|message| source.value("bootstrap", message))?;
        }
        Ok(file)
    }

    /// The network's id.
    pub fn chain_id(&self) -> Hash {
        self.genesis.chain_id()
    }
}

/// Says what is wrong with a bootstrap address, if anything.
pub(crate) fn check_bootstrap(address: &Multiaddr) -> Result<(), String> {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => Ok(()),
        _ => Err(format!("{address} must end in /p2p/ and the member's peer id")),
    }
}

//! What may be wrong with a configuration, said so that an operator knows which line to change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use blosm_migrate::service::DeclarationError;

use super::keyfile::KeyFileError;
use super::network::NetworkError;

/// A file and, where known, a line in it (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; `None` where the key is absent from the file.
    pub line: Option<usize>,
}

impl Place {
    pub(super) fn new(path: &Path, line: Option<usize>) -> Self {
        Self {
            path: path.to_owned(),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// Why a configuration cannot be used. Every case is the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no configuration file.
    #[error("there is no {path}; create it with `blosm init --network network.toml --data-dir {dir}`",
        path = .path.display(), dir = .path.parent().unwrap_or(Path::new(".")).display())]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is not the TOML that is expected: a syntax error, an unknown key, a wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser said, on one line.
        message: String,
    },
    /// A value is well-formed and cannot be used.
    #[error("{place}: {key}: {message}")]
    Value {
        /// Where.
        place: Place,
        /// The key as a dotted path.
        key: String,
        /// What to change.
        message: String,
    },
    /// A `[[service]]` table declares something that cannot run.
    #[error("{place}: service {name:?}: {source}")]
    Service {
        /// Where its table begins.
        place: Place,
        /// Its name as written.
        name: String,
        /// What is wrong with it.
        source: DeclarationError,
    },
    /// The node's key or the API token.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The network file.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

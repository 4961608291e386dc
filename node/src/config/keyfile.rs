//! The two secrets of a data directory: the node's key and the local API's token.
//!
//! Both are 32 random bytes in hex on one line, readable by their owner only. A secret that others can
//! read is refused, not repaired: it may have been copied already.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blosm_ledger::SecretKey;

use crate::durable;

/// Bytes of a secret.
const SECRET_LEN: usize = 32;
/// A secret in hex, its line feed, and room for a stray carriage return.
const MAX_FILE_LEN: u64 = 2 * SECRET_LEN as u64 + 2;

/// Why a secret cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is not there.
    #[error("there is no {path}; `blosm init --network network.toml --data-dir {dir}` makes it, or restore it from your copy",
        path = .0.display(), dir = .0.parent().unwrap_or(Path::new(".")).display())]
    Missing(PathBuf),
    /// The group or others may read it.
    #[error("{path} has mode {mode:04o}, so others can read it; if nobody has, `chmod 600 {path}`, else make a new one",
        path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is something else.
    #[error("{path} must hold 64 hex digits on one line", path = .0.display())]
    Malformed(PathBuf),
    /// A file of that name exists and is never overwritten.
    #[error("{path} exists and is not overwritten; move it away first", path = .0.display())]
    Exists(PathBuf),
    /// The system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads a secret key, refusing a file that others can read.
pub fn read_secret_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    Ok(SecretKey::from_seed(&read_secret(path)?))
}

/// The bearer token of the local API. Its debug output does not show it.
#[derive(Clone)]
pub struct ApiToken(String);

impl ApiToken {
    /// The text as it stands in the `Authorization` header after `Bearer `.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `presented` is this token, in a time that does not depend on where they differ.
    pub fn matches(&self, presented: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), presented.as_bytes());
        let differing = ours.iter().zip(theirs).fold(0u8, |acc, (a, b)| acc | (a ^ b));
        // The length of a token is no secret.
        std::hint::black_box(differing) == 0 && ours.len() == theirs.len()
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(..)")
    }
}

/// Reads the local API's token.
pub fn read_token(path: &Path) -> Result<ApiToken, KeyFileError> {
    Ok(ApiToken(hex::encode(read_secret(path)?)))
}

fn read_secret(path: &Path) -> Result<[u8; SECRET_LEN], KeyFileError> {
    let io = |source| KeyFileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => io(source),
    })?;
    // Of the open file, not of the path: the two may differ by the time of the second look.
    let meta = file.metadata().map_err(io)?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let malformed = || KeyFileError::Malformed(path.to_owned());
    if meta.len() > MAX_FILE_LEN {
        return Err(malformed());
    }
    let text = io::read_to_string(file).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => malformed(),
        _ => io(source),
    })?;
    let mut secret = [0; SECRET_LEN];
    hex::decode_to_slice(text.trim_end(), &mut secret).map_err(|_| malformed())?;
    Ok(secret)
}

/// Writes `secret` to a new file with mode 0600 and makes it durable. Never overwrites; a crash leaves all of it or nothing.
pub fn write_secret(path: &Path, secret: &[u8; 32]) -> Result<(), KeyFileError> {
    let line = format!("{}\n", hex::encode(secret));
    durable::create(path, line.as_bytes(), 0o600).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Io {
            path: path.to_owned(),
            source,
        },
    })
}

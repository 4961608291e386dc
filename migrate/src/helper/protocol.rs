//! What the node may ask of the helper, and what it answers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::image::Digest;
use crate::layer;
use crate::service::StopSignal;

/// Version of this protocol; a node and a helper of different versions do not work together.
pub const VERSION: u16 = 2;
/// Longest frame in either direction, bytes. Bulk goes through descriptors.
pub const MAX_FRAME: usize = 64 << 10;
/// Longest text in an answer, bytes.
const MAX_TEXT: usize = 1024;

/// An engine's full id of a container: 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ContainerId(pub [u8; 32]);

/// Name of a marker file: 32 hex digits, so it names nothing else.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Marker(pub [u8; 16]);

/// The text is not the hex digits that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected {0} lower-case hex digits")]
pub struct NotAnId(usize);

/// What the node may ask. The first of [`Request::Source`] and [`Request::Gated`] binds the connection to its container.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Request {
    /// Who is there?
    Hello = 0,
    /// Hold the writable layer of this running container, to read it.
    Source(ContainerId) = 1,
    /// What changed since the last round. The answer comes with a file.
    Round = 2,
    /// Send the source's first process a signal.
    Signal(StopSignal) = 3,
    /// A descriptor that tells the exit of the source's first process.
    Exit = 4,
    /// What changed until the exit. The answer comes with a file.
    Last = 5,
    /// Hold the root of this container, which waits at its gate, to write to it.
    Gated(ContainerId) = 6,
    /// Apply the stream of the descriptor (a file or a pipe) that comes along.
    Apply = 7,
    /// Make durable what was applied.
    Sync = 8,
    /// Whether a file of this name lies at the top of the held container's writable layer.
    Prove(Marker) = 9,
    /// The uncompressed tar of one layer of an image. The answer comes with a pipe.
    Layer {
        /// Digests of the image's layers, lowest first.
        chain: Vec<Digest>,
        /// Which of them.
        which: u16,
    } = 10,
    /// The config of an image. The answer comes with a file.
    Config(Digest) = 11,
    /// Hold the held container's anonymous volumes that its image declares, too; before anything was read or written.
    Volumes = 12,
    /// What the source's volumes that its image declares take on the disk.
    Weigh = 13,
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Reply {
    /// Nothing was done, for this reason.
    Refused(Refusal) = 0,
    /// This machine failed; part of it may have been done.
    Failed(String) = 1,
    /// To [`Request::Hello`].
    Hello(Facts) = 2,
    /// To [`Request::Source`].
    Source(SourceFacts) = 3,
    /// To [`Request::Round`] and [`Request::Last`]; a file comes along.
    Round(RoundFigures) = 4,
    /// To [`Request::Signal`] and [`Request::Sync`].
    Done = 5,
    /// To [`Request::Exit`], [`Request::Layer`] and [`Request::Config`]; a descriptor comes along.
    Descriptor = 6,
    /// To [`Request::Gated`].
    Gated(Gated) = 7,
    /// To [`Request::Apply`].
    Applied(ApplyFigures) = 8,
    /// To [`Request::Prove`].
    Proved(bool) = 9,
    /// To [`Request::Volumes`]: where the container sees them, in the order in which streams number them.
    Volumes(Vec<String>) = 10,
    /// To [`Request::Weigh`]: bytes.
    Weight(u64) = 11,
}

/// What the helper says of itself and of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Facts {
    /// [`VERSION`] of the helper.
    pub version: u16,
    /// The kernel's release.
    pub kernel: String,
    /// Whether the helper may read what belongs to others (it runs as root, with its rights).
    pub privileged: bool,
}

/// A source that is held.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SourceFacts {
    /// Its first process.
    pub pid: u32,
}

/// A gated container that is held.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Gated {
    /// Its first process: the gate.
    pub pid: u32,
    /// Why its own writable layer cannot be found, so that [`Request::Prove`] will be refused.
    pub layer_hidden: Option<String>,
}

/// What one pass over a writable layer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundFigures {
    /// Entries told of: deletions, directories, files, links, attributes.
    pub entries: u64,
    /// Length of the stream, bytes.
    pub bytes: u64,
    /// File data in it, bytes.
    pub data: u64,
    /// Names looked at.
    pub looked: u64,
    /// Files whose content was read.
    pub read: u64,
    /// Time to find what looks different, microseconds.
    pub walk_us: u64,
    /// Time to read and compare it, microseconds.
    pub reading_us: u64,
}

/// What one stream did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ApplyFigures {
    /// Operations.
    pub operations: u64,
    /// Length of the stream, bytes.
    pub bytes: u64,
    /// File data written, bytes.
    pub data: u64,
    /// Directories of the peer's that are mounts here: they are as they are here.
    pub skipped: u64,
}

impl From<layer::RoundFigures> for RoundFigures {
    fn from(of: layer::RoundFigures) -> Self {
        Self {
            entries: of.entries,
            bytes: of.bytes,
            data: of.data,
            looked: of.looked,
            read: of.read,
            walk_us: micros(of.walk),
            reading_us: micros(of.reading),
        }
    }
}

impl From<&layer::ApplyFigures> for ApplyFigures {
    fn from(of: &layer::ApplyFigures) -> Self {
        Self {
            operations: of.operations,
            bytes: of.bytes,
            data: of.data,
            skipped: of.skipped,
        }
    }
}

fn micros(of: Duration) -> u64 {
    u64::try_from(of.as_micros()).unwrap_or(u64::MAX)
}

/// Why the helper did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Refusal {
    /// The engine has no such container.
    #[error("the engine has no such container")]
    NoContainer = 0,
    /// It is not a session's.
    #[error("the container does not carry the labels of a session")]
    NotLabelled = 1,
    /// It is another network's.
    #[error("the container belongs to another network")]
    OtherNetwork = 2,
    /// Its first process does not run, or is not this machine's.
    #[error("the container does not run here")]
    NotRunning = 3,
    /// Its first process still runs: the last pass comes after its exit.
    #[error("the container's first process still runs")]
    StillRuns = 4,
    /// It does not wait at a gate of ours.
    #[error("the container does not wait at its gate")]
    NotGated = 5,
    /// Its root is no overlay, or one that cannot be read this way.
    #[error("the container's writable layer cannot be read: {0}")]
    Unreadable(String) = 6,
    /// The layer holds what this way of moving cannot carry.
    #[error("the container's writable layer cannot move this way: {0}")]
    Unsupported(String) = 7,
    /// The stream is not what an honest peer sends; some of it may have been applied.
    #[error("the peer's stream was refused: {0}")]
    Stream(String) = 8,
    /// The engine's image store cannot be read this way.
    #[error("the image store cannot be read: {0}")]
    Store(String) = 9,
    /// The request does not fit what the connection holds.
    #[error("the request does not fit this connection")]
    OutOfPlace = 10,
    /// A descriptor is missing, is one too many, or is neither a file nor a pipe.
    #[error("the request needs one descriptor of a file or a pipe, and no other request takes one")]
    Descriptor = 11,
    /// As many connections as the helper serves.
    #[error("the helper serves as many connections as it takes")]
    Busy = 12,
    /// Bytes that are no request.
    #[error("the helper does not know this request")]
    Malformed = 13,
    /// A declared volume is none that can be carried.
    #[error("the container's volumes cannot be carried: {0}")]
    Volumes(String) = 14,
}

/// A text that fits an answer.
pub(super) fn text(of: impl fmt::Display) -> String {
    let mut text = of.to_string();
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

macro_rules! hex_name {
    ($name:ident, $bytes:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let bad = NotAnId(2 * $bytes);
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(bad);
                }
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| bad)?;
                Ok(Self(bytes))
            }
        }
    };
}

hex_name!(ContainerId, 32);
hex_name!(Marker, 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_digits_and_nothing_else() {
        let id = "ab".repeat(32);
        assert_eq!(id.parse::<ContainerId>().unwrap().to_string(), id);
        for wrong in [
            "",
            "ab",
            "../../etc",
            &"AB".repeat(32),
            &"ab".repeat(33),
            &format!("{}/.", "ab".repeat(31)),
        ] {
            assert_eq!(wrong.parse::<ContainerId>(), Err(NotAnId(64)), "{wrong}");
            assert_eq!(wrong.parse::<Marker>(), Err(NotAnId(32)), "{wrong}");
        }
    }

    #[test]
    fn the_bytes_of_requests_stay() {
        let bytes = |request: &Request| borsh::to_vec(request).unwrap();
        assert_eq!(bytes(&Request::Hello), [0]);
        assert_eq!(bytes(&Request::Signal(StopSignal::SigKill)), [3, 7]);
        assert_eq!(
            bytes(&Request::Prove(Marker([5; 16]))),
            [&[9][..], &[5; 16]].concat()
        );
        assert_eq!(bytes(&Request::Volumes), [12]);
        assert_eq!(bytes(&Request::Weigh), [13]);
        assert!(borsh::from_slice::<Request>(&[14]).is_err());
        assert!(borsh::from_slice::<Request>(&[11]).is_err());
        assert!(borsh::from_slice::<Request>(&[0, 0]).is_err());
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert!(text("ü".repeat(2000)).len() <= MAX_TEXT);
    }
}

//! What a transaction says: one variant per kind, with the tags that later versions will use reserved.

use borsh::{BorshDeserialize, BorshSerialize, io};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::{Hash, hex_bytes};
use crate::key::PublicKey;
use crate::token::{SessionId, Token};

/// The most addresses in one transaction.
pub const MAX_ADDRESSES: usize = 8;
/// The longest address or URL, in bytes.
pub const MAX_ADDRESS: usize = 128;
/// The longest label, in bytes.
pub const MAX_LABEL: usize = 64;
/// The longest reason of an eviction, in bytes.
pub const MAX_REASON: usize = 128;
/// The longest service name, in bytes.
pub const MAX_SERVICE: usize = 40;
/// The longest container id, in bytes.
pub const MAX_CONTAINER_ID: usize = 64;
/// The longest architecture name, in bytes.
pub const MAX_ARCHITECTURE: usize = 16;
/// The most destinations that an announcement invites.
pub const MAX_INVITED: usize = 16;

/// What a transaction says. The number of a variant is its tag in the canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Payload {
    /// An authority admits a node.
    Admit(Admit) = 0,
    /// An authority removes a node, or a node leaves.
    Evict(Evict) = 1,
    /// A node says that it opened a session.
    Open(Open) = 2,
    /// The owner announces a session's container, for others to judge whether they can take it.
    Announce(Announce) = 3,
    /// A destination says what it judged, and asks for the container. A request, not a lock.
    Claim(Claim) = 4,
    /// The owner gives the session away. The point of no return.
    HandOver(HandOver) = 5,
    /// The owner keeps the session after it had given it to a node that can no longer take it.
    Abort(Abort) = 6,
    /// The owner closes the session for ever.
    Release(Release) = 7,
}

/// Admission of a node, signed by an authority.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Admit {
    /// The node.
    pub key: PublicKey,
    /// An id that was never used, so that an old admission cannot be played again: random, or made from an invite and the
    /// node's key, so that an invite admits a node once.
    pub admission: Hash,
    /// libp2p multiaddresses to dial, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// The URL of its gateway.
    pub gateway: String,
    /// The URL of its metrics, if it shows them.
    pub metrics: Option<String>,
    /// Where it stands.
    pub location: Location,
    /// How far its coverage reaches, in metres.
    pub radius_m: u32,
    /// Its name for people.
    pub label: String,
}

/// A point on the Earth (WGS84), in ten-millionths of a degree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Location {
    /// Latitude, -900,000,000 to 900,000,000.
    pub lat_e7: i32,
    /// Longitude, -1,800,000,000 to 1,800,000,000.
    pub lon_e7: i32,
}

/// Removal of a node, signed by an authority, or by the node itself when it leaves.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Evict {
    /// The node.
    pub key: PublicKey,
    /// Why, in an operator's words.
    pub reason: String,
    /// Whether the operator says that the machine is off and will not run its sessions again. Only an authority's
    /// operator can know that.
    pub lost: bool,
}

/// The first fact about a session, signed by its opener.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Open {
    /// The session. It is the sender's own by its name: [`SessionId::of`] the sender and the token's hash.
    pub session: SessionId,
    /// The service that its container runs.
    pub service: String,
    /// The hash of its token.
    pub token_hash: Hash,
}

impl Open {
    /// The opening of the session that `token` names, for the token's opener to sign.
    #[must_use]
    pub fn of(token: &Token, service: &str) -> Open {
        Open {
            session: token.session(),
            service: service.to_owned(),
            token_hash: token.hash(),
        }
    }
}

/// The metadata of a session's container, signed by its owner.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Announce {
    /// The session.
    pub session: SessionId,
    /// The epoch at which the sender owns it.
    pub epoch: u64,
    /// What a destination needs to judge.
    pub metadata: Metadata,
    /// Nodes that may pull without presenting the session's token, at most [`MAX_INVITED`].
    pub invited: Vec<PublicKey>,
}

/// Container metadata (the paper's transaction). Nothing of the data that the service processes, nothing of the client.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Metadata {
    /// The node that runs the container.
    pub source: PublicKey,
    /// Where it can be reached (the paper's source_ip), at most [`MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// The engine's id of the container.
    pub container_id: String,
    /// The service.
    pub service: String,
    /// The hash of the fields of the service's declaration that matter for running it.
    pub declaration_hash: Hash,
    /// Image and writable layer together, in bytes, rounded up.
    pub total_size: u64,
    /// The writable layer alone, in bytes, rounded up.
    pub writable_size: u64,
    /// Memory in use, in bytes, rounded up.
    pub memory: u64,
    /// Processor in use, in thousandths of a core, rounded up.
    pub cpu_usage: u32,
    /// GPU in use, in thousandths of a device, rounded up.
    pub gpu_usage: u32,
    /// GPU memory in use, in bytes, rounded up.
    pub gpu_memory: u64,
    /// The image's architecture in the engine's spelling (`amd64`, `arm64`).
    pub architecture: String,
    /// The digest of the base image's config.
    #[serde(with = "hex_bytes")]
    pub config_digest: [u8; 32],
}

impl Metadata {
    /// The same metadata with sizes and usage rounded up, as they are announced.
    #[must_use]
    pub fn rounded(mut self) -> Metadata {
        let usage = |v: u32| u32::try_from(round_up_sixteenth(v.into())).unwrap_or(u32::MAX);
        self.total_size = round_up_sixteenth(self.total_size);
        self.writable_size = round_up_sixteenth(self.writable_size);
        self.memory = round_up_sixteenth(self.memory);
        self.gpu_memory = round_up_sixteenth(self.gpu_memory);
        self.cpu_usage = usage(self.cpu_usage);
        self.gpu_usage = usage(self.gpu_usage);
        self
    }
}

/// Rounds up to steps of a sixteenth of the largest power of two that is not above `value`.
///
/// Exact figures would tell what a client does; a result is at most 1/16 above its value.
#[must_use]
pub fn round_up_sixteenth(value: u64) -> u64 {
    let Some(power) = value.checked_ilog2() else {
        return 0;
    };
    let step = (1u64 << power).div_ceil(16);
    value.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

/// A destination's judgement, signed by it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Claim {
    /// The session.
    pub session: SessionId,
    /// The session's epoch.
    pub epoch: u64,
    /// Which attempt of the destination this is, so that its messages are told apart.
    #[serde(with = "hex_bytes")]
    pub attempt: [u8; 16],
    /// The judgement.
    pub verdict: Verdict,
}

/// Algorithm 2's result, per resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Verdict {
    /// There is memory for it.
    pub memory: bool,
    /// There is processor for it.
    pub cpu: bool,
    /// There is GPU for it.
    pub gpu: bool,
    /// This node declares the service, with the same declaration.
    pub service: bool,
    /// A check that no tolerance mends, if one failed.
    pub hard: Option<HardFailure>,
    /// Whether the destination takes the container.
    pub accepted: bool,
}

/// A check that no tolerance mends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum HardFailure {
    /// The image is for another architecture.
    Architecture = 0,
    /// No container runtime answers.
    Runtime = 1,
    /// There is not enough free disk.
    Disk = 2,
    /// The declared memory reservation does not fit.
    Reservation = 3,
    /// The container needs a GPU device and there is none.
    GpuDevice = 4,
}

/// The owner gives the session to `destination`, once per epoch.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct HandOver {
    /// The session.
    pub session: SessionId,
    /// The epoch at which the sender owns it; the destination owns it at the next.
    pub epoch: u64,
    /// The hash of the claim that this answers, if any. It need not be sealed.
    pub claim: Option<Hash>,
    /// The new owner.
    pub destination: PublicKey,
    /// What exactly moved: the root of the manifest that the destination applied.
    pub manifest_root: Hash,
}

/// The owner keeps the session, in the place of a hand-over that nobody can take any more.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Abort {
    /// The session.
    pub session: SessionId,
    /// The epoch at which the sender owns it; it owns it at the next too.
    pub epoch: u64,
    /// The hash of the claim that the hand-over answered, if any.
    pub claim: Option<Hash>,
}

/// The owner closes the session.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Release {
    /// The session.
    pub session: SessionId,
    /// The epoch at which the sender owns it.
    pub epoch: u64,
    /// Why.
    pub reason: ReleaseReason,
}

/// Why a session was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum ReleaseReason {
    /// The client ended it.
    Client = 0,
    /// The client was idle for too long.
    Idle = 1,
    /// The operator ended it.
    Operator = 2,
    /// Its state exists nowhere any more.
    StateLost = 3,
}

/// A tag that this version cannot read: reserved for a later version, or unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("transaction kind {0} needs a newer blosm")]
pub struct UnknownKind(pub u8);

/// The kinds of this version by tag.
pub const KIND_NAMES: [&str; KINDS as usize] = [
    "admit",
    "evict",
    "open",
    "announce",
    "claim",
    "hand_over",
    "abort",
    "release",
];
/// How many kinds this version reads: the tags below this number.
pub(crate) const KINDS: u8 = 8;

/// The tags that later versions will give a meaning. They are fixed now, so that golden bytes survive.
pub const RESERVED_KINDS: [(u8, &str); 7] = [
    (8, "set_authorities"),
    (9, "resume"),
    (10, "lapse"),
    (11, "take_over"),
    (12, "rotate"),
    (13, "put_service"),
    (14, "activate"),
];

impl BorshDeserialize for Payload {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        // By hand, so that a tag of a later version is told apart from bytes that are simply wrong.
        Ok(match u8::deserialize_reader(reader)? {
            0 => Payload::Admit(Admit::deserialize_reader(reader)?),
            1 => Payload::Evict(Evict::deserialize_reader(reader)?),
            2 => Payload::Open(Open::deserialize_reader(reader)?),
            3 => Payload::Announce(Announce::deserialize_reader(reader)?),
            4 => Payload::Claim(Claim::deserialize_reader(reader)?),
            5 => Payload::HandOver(HandOver::deserialize_reader(reader)?),
            6 => Payload::Abort(Abort::deserialize_reader(reader)?),
            7 => Payload::Release(Release::deserialize_reader(reader)?),
            tag => return Err(io::Error::new(io::ErrorKind::InvalidData, UnknownKind(tag))),
        })
    }
}

/// A field that breaks its rule. The sender made the transaction wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field} {rule}")]
pub struct FieldError {
    /// The field.
    pub field: &'static str,
    /// What it has to be.
    pub rule: &'static str,
}

impl Payload {
    /// The kind's name, for metrics and logs: one of [`KIND_NAMES`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Payload::Admit(_) => "admit",
            Payload::Evict(_) => "evict",
            Payload::Open(_) => "open",
            Payload::Announce(_) => "announce",
            Payload::Claim(_) => "claim",
            Payload::HandOver(_) => "hand_over",
            Payload::Abort(_) => "abort",
            Payload::Release(_) => "release",
        }
    }

    /// The session that it is about, if it is about one.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Payload::Admit(_) | Payload::Evict(_) => None,
            Payload::Open(p) => Some(p.session),
            Payload::Announce(p) => Some(p.session),
            Payload::Claim(p) => Some(p.session),
            Payload::HandOver(p) => Some(p.session),
            Payload::Abort(p) => Some(p.session),
            Payload::Release(p) => Some(p.session),
        }
    }

    /// Whether a transaction of this kind carries a last height. Facts about who owns a session never expire:
    /// whoever takes a session submits those of dead signers too.
    #[must_use]
    pub fn expires(&self) -> bool {
        match self {
            Payload::Admit(_) | Payload::Evict(_) | Payload::Announce(_) | Payload::Claim(_) => true,
            Payload::Open(_) | Payload::HandOver(_) | Payload::Abort(_) | Payload::Release(_) => false,
        }
    }

    /// Checks every bound that the types cannot say.
    pub fn check(&self) -> Result<(), FieldError> {
        match self {
            Payload::Admit(p) => {
                addresses(&p.addresses)?;
                text("gateway", &p.gateway, MAX_ADDRESS)?;
                if let Some(metrics) = &p.metrics {
                    text("metrics", metrics, MAX_ADDRESS)?;
                }
                text("label", &p.label, MAX_LABEL)?;
                require(
                    p.location.lat_e7.unsigned_abs() <= 900_000_000
                        && p.location.lon_e7.unsigned_abs() <= 1_800_000_000,
                    "location",
                    "must lie within 90 degrees of latitude and 180 of longitude",
                )
            }
            Payload::Evict(p) => text("reason", &p.reason, MAX_REASON),
            Payload::Open(p) => service(&p.service),
            Payload::Announce(p) => {
                let m = &p.metadata;
                addresses(&m.addresses)?;
                service(&m.service)?;
                text("container_id", &m.container_id, MAX_CONTAINER_ID)?;
                text("architecture", &m.architecture, MAX_ARCHITECTURE)?;
                require(
                    p.invited.len() <= MAX_INVITED,
                    "invited",
                    "must list at most 16 nodes",
                )
            }
            Payload::Claim(_) | Payload::HandOver(_) | Payload::Abort(_) | Payload::Release(_) => Ok(()),
        }
    }
}

/// Whether `name` can name a service: 1 to 40 of a-z, 0-9 and `-`.
#[must_use]
pub fn is_service_name(name: &str) -> bool {
    (1..=MAX_SERVICE).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn require(holds: bool, field: &'static str, rule: &'static str) -> Result<(), FieldError> {
    if holds {
        Ok(())
    } else {
        Err(FieldError { field, rule })
    }
}

fn service(name: &str) -> Result<(), FieldError> {
    require(
        is_service_name(name),
        "service",
        "must be 1 to 40 characters of a-z, 0-9 and -",
    )
}

/// Text that an operator may meet in a terminal: bounded, and without control characters.
fn text(field: &'static str, value: &str, max: usize) -> Result<(), FieldError> {
    require(value.len() <= max, field, "is too long")?;
    require(
        !value.chars().any(char::is_control),
        field,
        "must not hold control characters",
    )
}

fn addresses(list: &[String]) -> Result<(), FieldError> {
    require(
        list.len() <= MAX_ADDRESSES,
        "addresses",
        "must list at most 8 addresses",
    )?;
    list.iter()
        .try_for_each(|address| text("addresses", address, MAX_ADDRESS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_four_bits_after_the_first() {
        for (value, rounded) in [
            (0, 0),
            (1, 1),
            (16, 16),
            (17, 17),
            (31, 31),
            (33, 34),
            (100, 100),
            (101, 104),
            (1000, 1024),
            ((1 << 20) + 1, (1 << 20) + (1 << 16)),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(round_up_sixteenth(value), rounded, "{value}");
            assert_eq!(round_up_sixteenth(rounded), rounded, "rounding {value} twice");
        }
    }

    #[test]
    fn service_names() {
        for good in ["a", "counter", "a-1", &"x".repeat(40)] {
            assert!(is_service_name(good), "{good}");
        }
        for bad in ["", "A", "a_b", "ä", "a/b", &"x".repeat(41)] {
            assert!(!is_service_name(bad), "{bad}");
        }
    }

    #[test]
    fn fields_are_bounded() {
        let admit = Admit {
            key: PublicKey([1; 32]),
            admission: Hash::ZERO,
            addresses: vec!["/ip4/10.0.0.1/tcp/1".into()],
            gateway: "http://10.0.0.1:8080".into(),
            metrics: None,
            location: Location { lat_e7: 0, lon_e7: 0 },
            radius_m: 300,
            label: "host1".into(),
        };
        let field = |change: fn(&mut Admit)| {
            let mut changed = admit.clone();
            change(&mut changed);
            Payload::Admit(changed).check().map_err(|error| error.field)
        };
        assert_eq!(field(|_| ()), Ok(()));
        assert_eq!(field(|a| a.label = "a\u{1b}[2J".into()), Err("label"));
        assert_eq!(field(|a| a.addresses = vec![String::new(); 9]), Err("addresses"));
        assert_eq!(field(|a| a.addresses = vec!["x".repeat(129)]), Err("addresses"));
        assert_eq!(field(|a| a.gateway = "x".repeat(129)), Err("gateway"));
        assert_eq!(field(|a| a.metrics = Some("\n".into())), Err("metrics"));
        assert_eq!(field(|a| a.location.lat_e7 = i32::MIN), Err("location"));
        assert_eq!(field(|a| a.location.lon_e7 = 1_800_000_001), Err("location"));
    }
}

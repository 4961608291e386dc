//! What is said on `/blosm/<net8>/join/1`: the asker is the peer at the other end of the connection, which has proven its
//! key; no message names it. borsh, one message per frame; the frame's limit was checked before these bytes exist.

use std::time::{Duration, UNIX_EPOCH};

use blosm_ledger::{Genesis, Location, MAX_ADDRESSES, PublicKey};
use borsh::{BorshDeserialize, BorshSerialize};

use super::invite::Secret;

/// The longest text in an answer, in bytes.
const MAX_TEXT: usize = 256;
/// The longest name of a version, in bytes.
const MAX_VERSION: usize = 32;

/// A question of a node that wants to become a member, or has just become one.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum JoinRequest {
    /// What network is this, and is the invite good? Changes nothing.
    Hello(Hello) = 0,
    /// Admit me.
    Admit(Box<Application>) = 1,
    /// From a member: can you connect to the addresses that the chain has of me?
    Reach = 2,
    /// From a node that is a member by its own chain, and a stranger here: what has become of me?
    Standing {
        /// The height of its head.
        height: u64,
    } = 3,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Hello {
    /// The invite's.
    pub(crate) secret: Secret,
    /// [`super::PROTOCOL`] of the asker.
    pub(crate) protocol: u16,
    /// Its software's version, for people.
    pub(crate) software: String,
    /// Its wall clock, for the authority's log.
    pub(crate) clock_unix_ms: u64,
}

/// A node's record as it shall stand on the chain.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Application {
    /// Who asks.
    pub(crate) hello: Hello,
    /// libp2p addresses that others dial.
    pub(crate) addresses: Vec<String>,
    /// URL of its gateway.
    pub(crate) gateway: String,
    /// URL of its metrics, if it shows them.
    pub(crate) metrics: Option<String>,
    /// Where it stands.
    pub(crate) location: Location,
    /// How far its coverage reaches, in metres.
    pub(crate) radius_m: u32,
    /// Its name for people.
    pub(crate) label: String,
}

/// The answer to a [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum JoinResponse {
    /// To `Hello`.
    Welcome(Box<Welcome>) = 0,
    /// To `Admit`: the asker is a member.
    Admitted {
        /// Since the block of this height, which is on the authority's disk.
        height: u64,
        /// Whether the record on the chain is the one that was sent.
        as_sent: bool,
    } = 1,
    /// To `Reach`.
    Reached(Vec<Reached>) = 2,
    /// No.
    Denied(Denial) = 3,
    /// To `Standing`: the asker is a member.
    Member {
        /// Since the block of this height.
        since: u64,
    } = 4,
}

/// What the authority says of itself and of the invite.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Welcome {
    /// The network. The asker compares its hash with the invite's.
    pub(crate) genesis: Genesis,
    /// The authority's wall clock.
    pub(crate) clock_unix_ms: u64,
    /// Its software's version.
    pub(crate) software: String,
    /// Its protocol version.
    pub(crate) protocol: u16,
    /// Since which height the asker is a member, if it is one.
    pub(crate) member_since: Option<u64>,
}

/// What came of connecting to one address.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Reached {
    /// The address.
    pub(crate) address: String,
    /// Why nobody was reached there; none: a node answers.
    pub(crate) error: Option<String>,
}

/// Why a node is not admitted, with what to do about it. The texts are shown to the operator of the node that asks.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum Denial {
    /// No invite has this secret.
    #[error("the authority knows no such invite; ask its operator for a new one (`blosm invite`)")]
    Unknown = 0,
    /// Its time is over.
    #[error("the invite expired at {} by the authority's clock; ask for a new one (`blosm invite --expires 24h`)", time_of(.expires_unix_ms))]
    Expired {
        /// When.
        expires_unix_ms: u64,
    } = 1,
    /// As many nodes as it allows have been admitted by it.
    #[error("the invite is used up: it admits {uses} node{}, and has; ask for a new one (`blosm invite --uses N`)", plural(.uses))]
    UsedUp {
        /// How many it allows.
        uses: u32,
    } = 2,
    /// The operator took it back.
    #[error("the invite was revoked by the authority's operator; ask for a new one (`blosm invite`)")]
    Revoked = 3,
    /// The node was a member by this invite, and was evicted.
    #[error(
        "this node was evicted at block {height} ({reason}), and an invite admits a node once; ask for a new one (`blosm invite`)"
    )]
    Evicted {
        /// The block.
        height: u64,
        /// Why, in the operator's words.
        reason: String,
    } = 4,
    /// Another member has the label.
    #[error("the label {label} is taken by {owner}; choose another --label")]
    LabelTaken {
        /// The label.
        label: String,
        /// The member.
        owner: PublicKey,
    } = 5,
    /// The asker's version cannot take part.
    #[error(
        "this blosm ({software}, protocol {protocol}) is too old: the network needs protocol {oldest}; install blosm {wanted} and run the same command again"
    )]
    TooOld {
        /// The asker's.
        software: String,
        /// The asker's.
        protocol: u16,
        /// The oldest that can take part.
        oldest: u16,
        /// The version that the authority runs.
        wanted: String,
    } = 6,
    /// The node that answers admits nobody.
    #[error(
        "the node that answers is no authority of the network; ask an authority's operator for an invite"
    )]
    NotAuthority = 7,
    /// The authority has not sealed the admission in time. Asking again uses the invite no second time.
    #[error(
        "the authority has not sealed the admission ({why}); run the same command again in a minute, one node uses an invite once"
    )]
    NotSealing {
        /// Why.
        why: String,
    } = 8,
    /// A field of the record cannot be used.
    #[error("{field}: {message}; change it in blosm.toml, or the flag of that name")]
    Field {
        /// The field.
        field: String,
        /// What it has to be.
        message: String,
    } = 9,
    /// As many nodes as it can serve are joining at this moment.
    #[error("the authority is busy with other nodes that join; run the same command again")]
    Busy = 10,
    /// The request cannot be read.
    #[error("the authority cannot read the request; install the blosm that it runs")]
    Malformed = 11,
    /// `Reach` is for members.
    #[error("this node is no member of the network; run `blosm join` with an invite")]
    NotMember = 12,
}

fn plural(count: &u32) -> &'static str {
    if *count == 1 { "" } else { "s" }
}

fn time_of(unix_ms: &u64) -> String {
    time(*unix_ms)
}

/// A moment as people write it, in UTC.
pub(crate) fn time(unix_ms: u64) -> String {
    let seconds = Duration::from_secs(unix_ms / 1000);
    match UNIX_EPOCH.checked_add(seconds) {
        // What humantime can write; a peer may send anything.
        Some(at) if seconds.as_secs() < 253_402_300_800 => humantime::format_rfc3339_seconds(at).to_string(),
        _ => "a time after the year 9999".to_owned(),
    }
}

impl JoinRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// None when the bytes are no request.
    pub(crate) fn decode(bytes: &[u8]) -> Option<JoinRequest> {
        let mut request = borsh::from_slice(bytes).ok()?;
        let hello = match &mut request {
            JoinRequest::Hello(hello) => Some(hello),
            JoinRequest::Admit(application) if application.addresses.len() > MAX_ADDRESSES => return None,
            JoinRequest::Admit(application) => Some(&mut application.hello),
            JoinRequest::Reach | JoinRequest::Standing { .. } => None,
        };
        if let Some(hello) = hello {
            clean(&mut hello.software, MAX_VERSION);
        }
        Some(request)
    }
}

impl JoinResponse {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// None when the bytes are no answer. Texts end up in a terminal and are made fit for it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<JoinResponse> {
        let mut response = borsh::from_slice(bytes).ok()?;
        match &mut response {
            JoinResponse::Welcome(welcome) => clean(&mut welcome.software, MAX_VERSION),
            JoinResponse::Admitted { .. } | JoinResponse::Member { .. } => {}
            JoinResponse::Reached(list) if list.len() > MAX_ADDRESSES => return None,
            JoinResponse::Reached(list) => {
                for reached in list {
                    clean(&mut reached.address, MAX_TEXT);
                    reached.error.iter_mut().for_each(|error| clean(error, MAX_TEXT));
                }
            }
            JoinResponse::Denied(denial) => denial.clean(),
        }
        Some(response)
    }
}

impl Denial {
    /// Whether the same request may be answered otherwise in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Denial::NotSealing { .. } | Denial::Busy)
    }

    fn clean(&mut self) {
        match self {
            Denial::Evicted { reason, .. } => clean(reason, MAX_TEXT),
            Denial::LabelTaken { label, .. } => clean(label, MAX_TEXT),
            Denial::TooOld { software, wanted, .. } => {
                clean(software, MAX_VERSION);
                clean(wanted, MAX_VERSION);
            }
            Denial::NotSealing { why } => clean(why, MAX_TEXT),
            Denial::Field { field, message } => {
                clean(field, MAX_TEXT);
                clean(message, MAX_TEXT);
            }
            Denial::Unknown
            | Denial::Expired { .. }
            | Denial::UsedUp { .. }
            | Denial::Revoked
            | Denial::NotAuthority
            | Denial::Busy
            | Denial::Malformed
            | Denial::NotMember => {}
        }
    }
}

fn encode<T: BorshSerialize>(message: &T) -> Vec<u8> {
    borsh::to_vec(message).expect("writing to memory cannot fail")
}

/// Takes out control characters and cuts to `most` bytes.
fn clean(text: &mut String, most: usize) {
    text.retain(|c| !c.is_control());
    if text.len() > most {
        let end = (0..=most)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            secret: Secret::generate().unwrap(),
            protocol: 1,
            software: "0.1.0".into(),
            clock_unix_ms: 7,
        }
    }

    fn application() -> Application {
        Application {
            hello: hello(),
            addresses: vec!["/ip4/10.0.0.1/tcp/4401".into()],
            gateway: "http://10.0.0.1:8080".into(),
            metrics: None,
            location: Location { lat_e7: 1, lon_e7: 2 },
            radius_m: 300,
            label: "a".into(),
        }
    }

    #[test]
    fn requests_are_read_whole_or_not_at_all() {
        for request in [
            JoinRequest::Hello(hello()),
            JoinRequest::Admit(Box::new(application())),
            JoinRequest::Reach,
            JoinRequest::Standing { height: 7 },
        ] {
            let bytes = request.encode();
            assert_eq!(JoinRequest::decode(&bytes), Some(request));
            assert_eq!(JoinRequest::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(JoinRequest::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(JoinRequest::decode(&[200]), None);
        let many = Application {
            addresses: vec![String::new(); MAX_ADDRESSES + 1],
            ..application()
        };
        assert_eq!(
            JoinRequest::decode(&JoinRequest::Admit(Box::new(many)).encode()),
            None
        );
    }

    #[test]
    fn what_a_peer_wrote_cannot_steer_the_terminal() {
        let mut named = hello();
        named.software = format!("\u{1b}[2J{}", "ä".repeat(100));
        let Some(JoinRequest::Hello(read)) = JoinRequest::decode(&JoinRequest::Hello(named).encode()) else {
            panic!("it is a request");
        };
        assert!(read.software.len() <= MAX_VERSION && !read.software.contains('\u{1b}'));
        let denial = Denial::Evicted {
            height: 3,
            reason: "\u{1b}]0;x\u{7}broken".into(),
        };
        let answer = JoinResponse::decode(&JoinResponse::Denied(denial).encode());
        let Some(JoinResponse::Denied(denial)) = answer else {
            panic!("it is an answer");
        };
        assert_eq!(
            denial.to_string(),
            "this node was evicted at block 3 (]0;xbroken), and an invite admits a node once; ask for a new one \
             (`blosm invite`)"
        );
    }

    #[test]
    fn every_denial_names_its_cure_on_one_line() {
        let key = PublicKey([1; 32]);
        for (denial, cure) in [
            (Denial::Unknown, "`blosm invite`"),
            (
                Denial::Expired {
                    expires_unix_ms: u64::MAX,
                },
                "`blosm invite --expires",
            ),
            (Denial::UsedUp { uses: 1 }, "`blosm invite --uses"),
            (Denial::Revoked, "`blosm invite`"),
            (
                Denial::Evicted {
                    height: 1,
                    reason: "x".into(),
                },
                "`blosm invite`",
            ),
            (
                Denial::LabelTaken {
                    label: "a".into(),
                    owner: key,
                },
                "--label",
            ),
            (
                Denial::TooOld {
                    software: "0.0.9".into(),
                    protocol: 0,
                    oldest: 1,
                    wanted: "0.1.0".into(),
                },
                "install blosm 0.1.0",
            ),
            (Denial::NotAuthority, "ask an authority's operator"),
            (Denial::NotSealing { why: "x".into() }, "again"),
            (
                Denial::Field {
                    field: "gateway".into(),
                    message: "x".into(),
                },
                "blosm.toml",
            ),
            (Denial::Busy, "again"),
            (Denial::Malformed, "install"),
            (Denial::NotMember, "`blosm join`"),
        ] {
            let text = denial.to_string();
            assert!(text.contains(cure) && !text.contains('\n'), "{text}");
        }
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
    }
}

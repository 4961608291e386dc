//! The topics and protocols of the wire, and the limits that both sides share.

use std::time::Duration;

use libp2p::StreamProtocol;
use libp2p::gossipsub::IdentTopic;

use crate::error::NetError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Room for what surrounds a block in a gossip message.
const GOSSIP_MARGIN: usize = 4 * KIB;

/// A gossip topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Transactions on their way to the sealer.
    Tx,
    /// Sealed blocks.
    Block,
    /// What the proposer says of its head and of who holds it.
    Status,
    /// Messages that measure how fast the network spreads one.
    Probe,
}

impl Topic {
    /// All topics; every node subscribes to each of them.
    pub const ALL: [Topic; 4] = [Topic::Tx, Topic::Block, Topic::Status, Topic::Probe];

    /// The longest message in bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            Topic::Tx => 4 * KIB,
            Topic::Block => 512 * KIB + GOSSIP_MARGIN,
            Topic::Status => KIB,
            Topic::Probe => KIB,
        }
    }

    /// The topic's short name, as in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Topic::Tx => "tx",
            Topic::Block => "block",
            Topic::Status => "status",
            Topic::Probe => "probe",
        }
    }

    /// The major versions that a node subscribes to, newest first: at most its two newest, as of a [`Protocol`].
    pub fn majors(self) -> &'static [u16] {
        match self {
            Topic::Block if cfg!(feature = "next") => &[2, 1],
            Topic::Tx | Topic::Block | Topic::Status | Topic::Probe => &[1],
        }
    }

    /// All topics with all their majors.
    pub(crate) fn all() -> impl Iterator<Item = (Topic, u16)> {
        let majors = |topic: Topic| topic.majors().iter().map(move |major| (topic, *major));
        Topic::ALL.into_iter().flat_map(majors)
    }

    pub(crate) fn ident(self, net8: &str, major: u16) -> IdentTopic {
        IdentTopic::new(format!("/blosm/{net8}/{}/{major}", self.name()))
    }
}

/// A request-response protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Transactions to the proposer, ranges of blocks, heads and acknowledgements.
    Ledger,
    /// The conversation of source and destination about one session; an answer may take as long as a cut.
    Session,
    /// A client's request and its response as whole messages.
    Relay,
    /// Batches of chunks.
    Transfer,
    /// A node that is no member yet asks an authority to admit it.
    Join,
}

/// What one protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest request in bytes.
    pub max_request: usize,
    /// The longest response in bytes.
    pub max_response: usize,
    /// How long a request may take from first byte to last byte of the response.
    pub timeout: Duration,
    /// How many requests to one peer may be unanswered; one more is refused here with `Busy`.
    pub in_flight: usize,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Protocol; 5] = [
        Protocol::Ledger,
        Protocol::Session,
        Protocol::Relay,
        Protocol::Transfer,
        Protocol::Join,
    ];

    /// The limits of this protocol. They are part of it: both ends check them.
    pub fn limits(self) -> Limits {
        match self {
            Protocol::Ledger => Limits {
                max_request: MIB,
                max_response: MIB + MIB / 4,
                timeout: Duration::from_secs(10),
                in_flight: 64,
            },
            Protocol::Session => Limits {
                max_request: 256 * KIB,
                max_response: MIB,
                timeout: Duration::from_secs(120),
                in_flight: 64,
            },
            // Requests are held during a cut, so many of one client may wait at a time.
            Protocol::Relay => Limits {
                max_request: 16 * MIB,
                max_response: 16 * MIB,
                timeout: Duration::from_secs(120),
                in_flight: 256,
            },
            Protocol::Transfer => Limits {
                max_request: 64 * KIB,
                max_response: MIB + MIB / 4,
                timeout: Duration::from_secs(60),
                in_flight: 64,
            },
            // Strangers speak it, so it is small.
            Protocol::Join => Limits {
                max_request: 16 * KIB,
                max_response: 64 * KIB,
                timeout: Duration::from_secs(10),
                in_flight: 4,
            },
        }
    }

    /// The protocol's short name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Ledger => "ledger",
            Protocol::Session => "session",
            Protocol::Relay => "relay",
            Protocol::Transfer => "transfer",
            Protocol::Join => "join",
        }
    }

    /// The major versions that a node offers, newest first: at most its two newest, so that a network can be upgraded
    /// node by node. A dialler takes the first that the listener has too.
    pub fn majors(self) -> &'static [u16] {
        match self {
            Protocol::Ledger if cfg!(feature = "next") => &[2, 1],
            Protocol::Ledger | Protocol::Session | Protocol::Relay | Protocol::Transfer | Protocol::Join => {
                &[1]
            }
        }
    }

    /// The names under which this protocol is offered, in the order of preference.
    pub(crate) fn stream_protocols(self, net8: &str) -> Vec<StreamProtocol> {
        stream_protocols(net8, self.name(), self.majors())
    }
}

/// The majors of the question whether a member can dial back.
pub(crate) const REACH_MAJORS: &[u16] = &[1];
/// The major of the search for members. Kademlia speaks one at a time: a new one takes a version that answers both by
/// two behaviours.
pub(crate) const KAD_MAJOR: u16 = 1;

pub(crate) fn stream_protocols(net8: &str, name: &str, majors: &[u16]) -> Vec<StreamProtocol> {
    majors
        .iter()
        .map(|major| stream_protocol(net8, name, *major))
        .collect()
}

pub(crate) fn stream_protocol(net8: &str, name: &str, major: u16) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/blosm/{net8}/{name}/{major}"))
        .expect("the name starts with a slash")
}

/// The major that two ends have settled on, which is one of those that this node offers.
pub(crate) fn major_of(protocol: &StreamProtocol) -> u16 {
    let last = protocol.as_ref().rsplit('/').next();
    last.and_then(|major| major.parse().ok())
        .expect("only names with a major are offered")
}

/// What `identify` announces.
pub(crate) fn network_version(net8: &str) -> String {
    format!("/blosm/{net8}/{}", if cfg!(feature = "next") { 2 } else { 1 })
}

/// Whether a peer that announces this is of the network; of another version it may be.
pub(crate) fn is_of_network(announced: &str, net8: &str) -> bool {
    let rest = announced
        .strip_prefix("/blosm/")
        .and_then(|rest| rest.strip_prefix(net8));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

pub(crate) fn check_prefix(net8: &str) -> Result<(), NetError> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if net8.len() == 8 && net8.bytes().all(hex) {
        Ok(())
    } else {
        Err(NetError::Prefix(net8.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_network_and_version() {
        let names = Protocol::Relay.stream_protocols("0a1b2c3d");
        assert_eq!(
            names.iter().map(StreamProtocol::as_ref).collect::<Vec<_>>(),
            ["/blosm/0a1b2c3d/relay/1"]
        );
        assert_eq!(
            Topic::Block.ident("0a1b2c3d", 1).hash().as_str(),
            "/blosm/0a1b2c3d/block/1"
        );
        for major in [1, 2, u16::MAX] {
            assert_eq!(major_of(&stream_protocol("0a1b2c3d", "relay", major)), major);
        }
    }

    #[test]
    fn at_most_two_versions_are_offered_newest_first() {
        let protocols = Protocol::ALL.map(|protocol| (protocol.name(), protocol.majors()));
        let topics = Topic::ALL.map(|topic| (topic.name(), topic.majors()));
        for (name, majors) in protocols
            .into_iter()
            .chain(topics)
            .chain([("reach", REACH_MAJORS)])
        {
            assert!((1..=2).contains(&majors.len()), "{name}: {majors:?}");
            assert!(majors.is_sorted_by(|a, b| a > b), "{name}: {majors:?}");
        }
    }

    #[test]
    fn a_peer_of_another_version_is_of_the_same_network() {
        let net8 = "0a1b2c3d";
        for same in [
            network_version(net8).as_str(),
            "/blosm/0a1b2c3d/1",
            "/blosm/0a1b2c3d/3",
        ] {
            assert!(is_of_network(same, net8), "{same}");
        }
        for other in [
            "",
            "/blosm/0a1b2c3d",
            "/blosm/0a1b2c3de/1",
            "/blosm/00000000/1",
            "/ipfs/0a1b2c3d/1",
        ] {
            assert!(!is_of_network(other, net8), "{other}");
        }
    }

    #[test]
    fn only_eight_hex_digits_make_a_prefix() {
        assert!(check_prefix("0a1b2c3d").is_ok());
        for bad in ["", "0a1b2c3", "0a1b2c3d4", "0A1B2C3D", "0a1b/c3d"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}

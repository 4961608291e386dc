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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

    pub(crate) fn ident(self, net8: &str) -> IdentTopic {
        IdentTopic::new(format!("/blosm/{net8}/{}/1", self.name()))
    }

    /// A bit of its own, for sets of topics.
    pub(crate) fn bit(self) -> u8 {
        match self {
            Topic::Tx => 1,
            Topic::Block => 2,
            Topic::Status => 4,
            Topic::Probe => 8,
        }
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
    fn majors(self) -> &'static [u16] {
        match self {
            Protocol::Ledger | Protocol::Session | Protocol::Relay | Protocol::Transfer | Protocol::Join => {
                &[1]
            }
        }
    }

    /// The names under which this protocol is offered, in the order of preference.
    pub(crate) fn stream_protocols(self, net8: &str) -> Vec<StreamProtocol> {
        let name = |major: &u16| {
            StreamProtocol::try_from_owned(format!("/blosm/{net8}/{}/{major}", self.name()))
                .expect("the name starts with a slash")
        };
        self.majors().iter().map(name).collect()
    }
}

/// What `identify` announces; a peer that says anything else is of another network.
pub(crate) fn network_version(net8: &str) -> String {
    format!("/blosm/{net8}/1")
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
            Topic::Block.ident("0a1b2c3d").hash().as_str(),
            "/blosm/0a1b2c3d/block/1"
        );
    }

    #[test]
    fn at_most_two_versions_are_offered_newest_first() {
        for protocol in Protocol::ALL {
            let majors = protocol.majors();
            assert!((1..=2).contains(&majors.len()), "{protocol:?}: {majors:?}");
            assert!(majors.is_sorted_by(|a, b| a > b), "{protocol:?}: {majors:?}");
        }
    }

    #[test]
    fn topics_have_bits_of_their_own() {
        let all = Topic::ALL.iter().fold(0, |all, topic| all | topic.bit());
        assert_eq!(all.count_ones() as usize, Topic::ALL.len());
    }

    #[test]
    fn only_eight_hex_digits_make_a_prefix() {
        assert!(check_prefix("0a1b2c3d").is_ok());
        for bad in ["", "0a1b2c3", "0a1b2c3d4", "0A1B2C3D", "0a1b/c3d"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}

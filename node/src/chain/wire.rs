//! What the ledger protocol says. borsh, one message per frame; the frame's limit was checked before these bytes exist.
//!
//! Majors differ in the bytes of a message, never in what it means to the code around.

use blosm_ledger::{Ack, Confirmations, Hash, NEWEST_VERSION};
use blosm_net::{NetHandle, PeerId, Protocol, Reply, RequestError};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most blocks of one answer.
pub(super) const MAX_RANGE_BLOCKS: u16 = 128;
/// The most bytes of blocks in one answer; with what surrounds them they stay under the protocol's limit.
pub(super) const MAX_RANGE_BYTES: usize = 1024 * 1024;
/// The longest reason that is sent.
const MAX_REASON: usize = 256;

/// A request of the ledger protocol.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) enum LedgerRequest {
    /// Seal this transaction; answered when it is sealed or refused.
    Submit(Vec<u8>),
    /// Blocks from this height upwards.
    Range {
        /// The first height.
        from: u64,
        /// At most this many.
        max: u16,
    },
    /// The newest block.
    Head,
    /// The sender holds this block and all before it. For the proposer.
    Ack(Ack),
    /// A sealed block that concerns the receiver.
    Block(Vec<u8>),
    /// How many members hold the block of this height.
    Confirmations {
        /// The height.
        height: u64,
    },
    /// The same, answered when more than so many hold it or 90 % do, or the time is over.
    WaitConfirmed {
        /// The height.
        height: u64,
        /// How many the sender knows of.
        beyond: u32,
        /// How long to wait at most, in milliseconds; the proposer may answer earlier.
        timeout_ms: u32,
    },
    /// The receiver's probe came to the sender; answered like [`LedgerRequest::Head`].
    Probed {
        /// Which probe.
        id: [u8; 16],
        /// How long ago it came, in microseconds.
        held_us: u64,
        /// When, by the sender's clock, in microseconds since the Unix epoch.
        arrived_unix_us: u64,
    },
}

/// An answer of the ledger protocol.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) enum LedgerResponse {
    /// The transaction is sealed at this height.
    Sealed {
        /// The height.
        height: u64,
    },
    /// The transaction is not taken.
    Refused {
        /// Why, for the operator of the sender.
        reason: String,
        /// Whether it can never be taken.
        is_final: bool,
    },
    /// This node does not seal, or does not seal yet.
    NotSealing,
    /// The newest block of the answering node.
    Head(WireHead),
    /// The acknowledgement was taken.
    Acked {
        /// The proposer's newest block.
        head: WireHead,
        /// The proposer's clock, in milliseconds since the Unix epoch.
        time_ms: u64,
    },
    /// What the receiver of a pushed block holds now.
    Holds(Ack),
    /// Blocks in rising order without a gap; none when the answering node has none of them.
    Blocks(Vec<Vec<u8>>),
    /// How many members hold a block, and how many there are; none above the head.
    Confirmations(Option<(u32, u32)>),
    /// The request cannot be served now, or not for this peer.
    Unavailable,
}

/// The newest block of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct WireHead {
    /// Its height.
    pub(super) height: u64,
    /// Its hash.
    pub(super) hash: Hash,
    /// The highest height that the node knows to be confirmed.
    pub(super) confirmed_height: u64,
}

impl LedgerRequest {
    /// Sends it in the major that the two ends settle on. None: the answer is no message.
    pub(super) async fn ask(
        &self,
        net: &NetHandle,
        peer: PeerId,
    ) -> Result<Option<LedgerResponse>, RequestError> {
        let encode = |major| self.encode_in(major);
        let answer = net.request_by_major(peer, Protocol::Ledger, encode).await?;
        Ok(LedgerResponse::decode_in(&answer.data, answer.major))
    }

    pub(super) fn encode_in(&self, major: u16) -> Vec<u8> {
        encode(self, major)
    }

    pub(super) fn decode_in(bytes: &[u8], major: u16) -> Option<LedgerRequest> {
        decode(bytes, major)
    }
}

impl LedgerResponse {
    /// A refusal, its reason cut to what is sent.
    pub(super) fn refused(reason: String, is_final: bool) -> LedgerResponse {
        LedgerResponse::Refused {
            reason: shorten(reason),
            is_final,
        }
    }

    /// How many members hold a block.
    pub(super) fn confirmations(found: Option<Confirmations>) -> LedgerResponse {
        LedgerResponse::Confirmations(found.map(|found| (found.acked, found.members)))
    }

    /// Sends it in the major of the request.
    pub(super) fn answer(&self, reply: Reply) {
        let bytes = self.encode_in(reply.major());
        reply.send(bytes);
    }

    pub(super) fn encode_in(&self, major: u16) -> Vec<u8> {
        encode(self, major)
    }

    pub(super) fn decode_in(bytes: &[u8], major: u16) -> Option<LedgerResponse> {
        let mut response = decode(bytes, major)?;
        match &mut response {
            LedgerResponse::Blocks(blocks) if blocks.len() > usize::from(MAX_RANGE_BLOCKS) => return None,
            // It ends up in a terminal or a log.
            LedgerResponse::Refused { reason, .. } => {
                let printable: String = reason.chars().filter(|c| !c.is_control()).collect();
                *reason = shorten(printable);
            }
            _ => {}
        }
        Some(response)
    }
}

/// In major 2, which only the test feature `next` has, a message follows the newest header version that its sender reads.
fn is_prefaced(major: u16) -> bool {
    cfg!(feature = "next") && major >= 2
}

fn encode<T: BorshSerialize>(message: &T, major: u16) -> Vec<u8> {
    let encoded = if is_prefaced(major) {
        borsh::to_vec(&(NEWEST_VERSION, message))
    } else {
        borsh::to_vec(message)
    };
    encoded.expect("writing to memory cannot fail")
}

fn decode<T: BorshDeserialize>(bytes: &[u8], major: u16) -> Option<T> {
    if is_prefaced(major) {
        let (_, message): (u16, T) = borsh::from_slice(bytes).ok()?;
        Some(message)
    } else {
        borsh::from_slice(bytes).ok()
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// In the oldest major, as most tests speak.
#[cfg(test)]
impl LedgerRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_in(1)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<LedgerRequest> {
        Self::decode_in(bytes, 1)
    }
}

/// In the oldest major, as most tests speak.
#[cfg(test)]
impl LedgerResponse {
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_in(1)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<LedgerResponse> {
        Self::decode_in(bytes, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blosm_ledger::{AckBody, SecretKey};

    fn ack() -> Ack {
        let key = SecretKey::from_seed(&[1; 32]);
        let body = AckBody {
            chain_id: Hash([4; 32]),
            member: key.public(),
            height: 5,
            hash: Hash([6; 32]),
            software: "0.1.0".to_owned(),
            protocol: 1,
            run: 7,
            number: 8,
        };
        Ack::sign(&key, body)
    }

    #[test]
    fn messages_round_trip() {
        let requests = [
            LedgerRequest::Submit(vec![1, 2]),
            LedgerRequest::Range { from: 3, max: 4 },
            LedgerRequest::Head,
            LedgerRequest::Ack(ack()),
            LedgerRequest::Block(vec![7]),
            LedgerRequest::Confirmations { height: 8 },
            LedgerRequest::WaitConfirmed {
                height: 8,
                beyond: 2,
                timeout_ms: 1000,
            },
            LedgerRequest::Probed {
                id: [9; 16],
                held_us: 10,
                arrived_unix_us: 11,
            },
        ];
        for request in requests {
            assert_eq!(LedgerRequest::decode(&request.encode()), Some(request));
        }
        let head = WireHead {
            height: 1,
            hash: Hash([2; 32]),
            confirmed_height: 0,
        };
        let responses = [
            LedgerResponse::Sealed { height: 1 },
            LedgerResponse::refused("no".to_owned(), true),
            LedgerResponse::NotSealing,
            LedgerResponse::Head(head),
            LedgerResponse::Acked { head, time_ms: 9 },
            LedgerResponse::Holds(ack()),
            LedgerResponse::Blocks(vec![vec![1], vec![]]),
            LedgerResponse::Confirmations(Some((1, 2))),
            LedgerResponse::Unavailable,
        ];
        for response in responses {
            assert_eq!(LedgerResponse::decode(&response.encode()), Some(response));
        }
    }

    #[test]
    fn wrong_bytes_are_no_message() {
        let mut trailing = LedgerRequest::Head.encode();
        trailing.push(0);
        let lie = [0, 255, 255, 255, 255];
        for bytes in [&[][..], &[200], &trailing, &lie] {
            assert_eq!(LedgerRequest::decode(bytes), None);
        }
        let many = LedgerResponse::Blocks(vec![vec![]; usize::from(MAX_RANGE_BLOCKS) + 1]);
        assert_eq!(LedgerResponse::decode(&many.encode()), None);
    }

    #[test]
    fn reasons_are_short_and_printable() {
        let long = LedgerResponse::Refused {
            reason: "ä\u{1b}[2J".repeat(1000),
            is_final: false,
        };
        let Some(LedgerResponse::Refused { reason, .. }) = LedgerResponse::decode(&long.encode()) else {
            panic!("it decodes");
        };
        assert!(reason.len() <= MAX_REASON && !reason.contains('\u{1b}'));
    }
}

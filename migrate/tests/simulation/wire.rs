//! What nodes say to one another: `node/src/sessions/wire.rs`, `gateway/relay.rs` and `chain/wire.rs`, as far as it
//! matters here.

use std::rc::Rc;

use blosm_ledger::{Hash, PublicKey, SealedBlock, SessionId, Token};
use blosm_migrate::session::{Attempt, No, Pending};

use crate::engine::Run;

#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Want {
        session: SessionId,
        token: Option<Token>,
    },
    Invite {
        session: SessionId,
        attempt: Attempt,
    },
    Claim {
        claim: Vec<u8>,
        live: bool,
    },
    Cut {
        session: SessionId,
        attempt: Attempt,
    },
    Ready {
        session: SessionId,
        attempt: Attempt,
        root: Hash,
    },
    HandOver {
        session: SessionId,
        handover: Pending,
        pending: Vec<Pending>,
    },
    Serving {
        session: SessionId,
        epoch: u64,
    },
    Alive {
        session: SessionId,
        attempt: Attempt,
    },
    Cancel {
        session: SessionId,
        attempt: Attempt,
    },
    Close {
        session: SessionId,
    },
    /// The final state of an attempt.
    Pull {
        attempt: Attempt,
    },
    Relay(Request),
    Submit(Vec<u8>),
    Head,
    Range {
        from: u64,
    },
    /// A transaction, gossiped.
    Transaction(Vec<u8>),
    /// A sealed block, pushed or gossiped.
    Block(Rc<SealedBlock>),
}

/// A client's request. The container adds its number to its state.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) token: Token,
    pub(crate) number: u64,
    pub(crate) hops: u8,
    pub(crate) via: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Announced {
        announce: Vec<u8>,
        pending: Vec<Pending>,
    },
    Agreed,
    Accepted {
        live: bool,
    },
    Stopped {
        root: Hash,
    },
    HandedOver {
        handover: Pending,
        pending: Vec<Pending>,
    },
    Taken {
        serving: bool,
    },
    Noted,
    Refused(Refusal),
    State {
        layer: Rc<Vec<u64>>,
    },
    Relayed(Relayed),
    Sealed,
    NotSealing,
    NotTaken {
        is_final: bool,
    },
    Head {
        height: u64,
    },
    Blocks(Vec<Rc<SealedBlock>>),
}

#[derive(Debug, Clone)]
pub(crate) enum Relayed {
    Answer(Served),
    Moved {
        handover: Pending,
        pending: Vec<Pending>,
    },
    Denied(Denied),
}

/// What a container answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// How many requests its state holds, this one included.
    pub(crate) counter: u64,
    pub(crate) run: Run,
    pub(crate) node: PublicKey,
}

/// Why no container answered; as the gateway's `Denied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    Evicted,
    Gone,
    Held,
    Interrupted,
    OwnerUnreachable,
    TooManyHops,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    No(No),
    CutFailed,
    NotReady,
    NotMember,
    NotAuthorised,
    Malformed,
    Busy,
}

impl From<No> for Refusal {
    fn from(no: No) -> Self {
        Self::No(no)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    /// Whether the other end may have got the question.
    pub(crate) may_have_arrived: bool,
}

//! What nodes say to one another about a session, on `/blosm/<net8>/session/1`.
//!
//! Every request is answered once. All of them may be repeated: a node that has done what is asked answers as it did
//! the first time. The sender is the peer at the other end of the connection; no message names it.

use blosm_ledger::{Hash, Metadata, SessionId, Transaction, Verdict};
use blosm_migrate::session::{Attempt, Pending};
use blosm_migrate::transfer::RoundManifest;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};

use super::census::NodeStatus;
use super::progress::Step;
use crate::config::Method;

/// A question or a notice to another node.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum SessionRequest {
    /// A member that the client has turned up at asks the owner to announce the session (rule 2).
    Want {
        /// The session.
        session: SessionId,
        /// The token itself: who presents it was sent by the client. Absent when the owner has invited the asker.
        token: Option<String>,
    } = 0,
    /// The owner asks a member to take the session.
    Invite {
        /// The session.
        session: SessionId,
        /// The attempt's name, chosen by the owner so that its operator can follow it.
        attempt: Attempt,
        /// Why it is moved.
        reason: MoveReason,
        /// How the operator wants it moved; absent: as the member is configured.
        method: Option<Method>,
        /// Whether it may stop the service for longer than the member's `max_downtime`.
        force: bool,
    } = 1,
    /// The asker's claim, as it also went to the proposer.
    Claim {
        /// Canonical bytes of the `Claim` transaction.
        claim: Vec<u8>,
        /// How the asker wants to move the container.
        method: Method,
    } = 2,
    /// The asker has staged what it can: stop the container now.
    Cut {
        /// The session.
        session: SessionId,
        /// The attempt.
        attempt: Attempt,
    } = 3,
    /// The asker has applied and journaled this state: sign it over.
    Ready {
        /// The session.
        session: SessionId,
        /// The attempt.
        attempt: Attempt,
        /// What was applied.
        root: Hash,
    } = 4,
    /// The signed hand-over, repeated by its signer until it is answered with `serving`.
    HandOver {
        /// The session.
        session: SessionId,
        /// The transaction.
        handover: Pending,
        /// `Open` and `HandOver`s before it that are not sealed, oldest first.
        pending: Vec<Pending>,
    } = 5,
    /// The new owner serves.
    Serving {
        /// The session.
        session: SessionId,
        /// The epoch at which it owns the session.
        epoch: u64,
    } = 6,
    /// An attempt is still at work.
    Alive {
        /// The session.
        session: SessionId,
        /// The attempt.
        attempt: Attempt,
        /// How far it is, for the owner's operator.
        step: Option<Step>,
    } = 7,
    /// The asker gives the attempt up.
    Cancel {
        /// The session.
        session: SessionId,
        /// The attempt.
        attempt: Attempt,
    } = 8,
    /// Algorithm 3: has this node room for a new container of the service?
    Room {
        /// Name of the service.
        service: String,
        /// Hash of the asker's declaration of it; another one is not the same service.
        declaration: Hash,
    } = 9,
    /// The finished report of a migration, for the other end's books.
    Report {
        /// The session.
        session: SessionId,
        /// The attempt.
        attempt: Attempt,
        /// The report as JSON.
        json: Vec<u8>,
    } = 10,
    /// The client closes its session at a node that does not own it.
    Close {
        /// The session.
        session: SessionId,
        /// The token itself.
        token: String,
    } = 11,
    /// A dry run: would this node take that container? Nothing follows from the answer.
    Assess {
        /// The container as it would be announced.
        metadata: Box<Metadata>,
        /// diffIDs of the image that it was created from, lowest first.
        layers: Vec<[u8; 32]>,
    } = 12,
    /// How are you? Any member may ask.
    Status = 13,
    /// An authority's operator wants the node empty before it evicts it. Asked again it tells how far that is.
    Drain = 14,
}

impl SessionRequest {
    /// The session that it is about; questions for room are about none.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Want { session, .. }
            | Self::Invite { session, .. }
            | Self::Cut { session, .. }
            | Self::Ready { session, .. }
            | Self::HandOver { session, .. }
            | Self::Serving { session, .. }
            | Self::Alive { session, .. }
            | Self::Cancel { session, .. }
            | Self::Report { session, .. }
            | Self::Close { session, .. } => Some(*session),
            Self::Claim { claim, .. } => Transaction::decode(claim).ok()?.payload.session(),
            Self::Room { .. } | Self::Assess { .. } | Self::Status | Self::Drain => None,
        }
    }
}

/// The answer to a [`SessionRequest`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum SessionResponse {
    /// To `Want`.
    Announced(Announcement) = 0,
    /// To `Alive`, `Cancel`, `Invite`, `Report`, and to a `Claim` with a verdict of false: yes.
    Agreed = 1,
    /// To `Cut`.
    Stopped(Stopped) = 2,
    /// To `Ready`.
    HandedOver {
        /// The signed transaction.
        handover: Pending,
        /// `Open` and `HandOver`s before it that are not sealed, oldest first.
        pending: Vec<Pending>,
    } = 3,
    /// To `HandOver`: it is journaled here.
    Taken {
        /// Whether requests are answered already.
        serving: bool,
    } = 4,
    /// To `Serving`: what the hand-over did to the requests at the former owner.
    Noted(SourceFigures) = 5,
    /// To `Room`: booked for the asker.
    Booked {
        /// The booking's name, for the request that follows.
        ticket: u64,
    } = 6,
    /// No.
    Refused(Refusal) = 7,
    /// To `Assess`.
    Assessed(Assessed) = 8,
    /// To `Claim`: the asker may pull, in this way.
    Accepted {
        /// How the source gives the container.
        method: Method,
        /// Why it does not give it live, when that was asked for.
        no_live: Option<NoLive>,
    } = 9,
    /// To `Status`.
    Status(Box<NodeStatus>) = 10,
    /// To `Drain`.
    Draining {
        /// Whether every session was moved, or everybody was asked for it.
        settled: bool,
        /// Sessions that are still there.
        remaining: u32,
    } = 11,
}

/// Why a container can't be moved live. Both ends use it; the source's crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum NoLive {
    /// Nothing answers at the helper's socket.
    #[error("no layer helper answers")]
    NoHelper = 0,
    /// The container's root is not an overlay that can be read.
    #[error("the container's writable layer is not an overlay directory that can be read")]
    NotOverlay = 1,
    /// The layer holds what rounds can't carry, or the overlay uses `redirect_dir` or `metacopy`.
    #[error(
        "the container's writable layer holds what can't be carried (a device node, a path that is too long), or uses redirect_dir or metacopy; see the log there"
    )]
    OverlayFeature = 2,
    /// The helper failed or refused.
    #[error("the layer helper refused or failed; see the log there")]
    Failed = 3,
    /// The engine did not start a gated container, or the helper does not see into it.
    #[error("a gated container can't be prepared; see the log there")]
    NoGate = 4,
    /// A volume of the container is none that can be carried.
    #[error("the container's volumes can't be carried; see the log there")]
    Volumes = 5,
}

/// Why a member is asked to take a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum MoveReason {
    /// The client is nearer to the destination.
    Mobility = 0,
    /// The operator wants it.
    Operator = 1,
    /// The operator empties the node.
    Drain = 2,
}

impl MoveReason {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Mobility, Self::Operator, Self::Drain];

    /// The name that reports and metrics use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mobility => "mobility",
            Self::Operator => "operator",
            Self::Drain => "drain",
        }
    }
}

/// What a node would do with a container that it was asked about.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Assessed {
    /// Its judgement (Algorithm 2), as of now.
    pub(crate) verdict: Verdict,
    /// Which of the layers in question it lacks, by their index.
    pub(crate) lacking: Vec<u32>,
    /// The methods by which it takes sessions, in the words of reports.
    pub(crate) methods: Vec<String>,
}

/// What a destination needs to judge for itself and to stage.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Announcement {
    /// Canonical bytes of the `Announce` transaction.
    pub(crate) announce: Vec<u8>,
    /// Name of the declared service.
    pub(crate) service: String,
    /// `Open` and `HandOver`s that are not sealed, oldest first: with the chain they prove that the announcer owns the
    /// session.
    pub(crate) pending: Vec<Pending>,
    /// Config digest of the image that the container runs from.
    pub(crate) running: [u8; 32],
}

/// The state in which the source stopped, and what that took.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Stopped {
    /// What the destination has to apply.
    pub(crate) state: FinalState,
    /// Waiting for the requests in flight, in microseconds.
    pub(crate) drain_us: u64,
    /// From the stop signal to the exit, in microseconds.
    pub(crate) stop_us: u64,
    /// Commit and export of the changed layer, or the last look at it, in microseconds.
    pub(crate) commit_us: u64,
    /// From the moment of the last answer to this answer, in microseconds of the source's clock.
    pub(crate) since_last_answer_us: u64,
    /// The container's own layer in bytes.
    pub(crate) writable_bytes: u64,
    /// All layers in bytes.
    pub(crate) image_bytes: u64,
}

/// The final state at the source, by method.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum FinalState {
    /// A committed image.
    Image {
        /// Config digest of the committed image.
        config_digest: [u8; 32],
        /// Its ordered diffIDs.
        diff_ids: Vec<[u8; 32]>,
    } = 0,
    /// What the rounds before have not brought. If it is small it has come along, whole: no round trip in the cut.
    Live(RoundManifest) = 1,
    /// None: the service is stateless and still runs.
    Stateless = 2,
}

/// What the former owner counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct SourceFigures {
    /// Requests that entered from the hold on.
    pub(crate) sent: u64,
    /// Requests held there.
    pub(crate) held: u64,
    /// Requests that waited in vain.
    pub(crate) failed: u64,
    /// Requests in flight that the drain did not wait for.
    pub(crate) interrupted: u64,
    /// The longest wait in microseconds.
    pub(crate) max_stall_us: u64,
}

/// Why a session whose volumes are copied does not move as an image.
pub(crate) const VOLUMES_BY_LIVE: &str =
    "the session's volumes (volumes = \"copy\") move by the live method only";

fn because(no_live: &Option<NoLive>) -> String {
    no_live.map_or_else(String::new, |why| format!(": {why}"))
}

/// Why a peer says no. Internal text never crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// The request can't be read, or contradicts itself.
    #[error("the request is malformed")]
    Malformed = 0,
    /// The peer does not own the session.
    #[error("the peer does not own the session")]
    NotOwner = 1,
    /// The token is not the session's, or was not presented.
    #[error("the session's token was not presented")]
    NotAuthorised = 2,
    /// The session came there less than `min_stay` ago.
    #[error("the session moved less than min_stay ago")]
    TooSoon = 3,
    /// Another hand-over of it is in progress, or as many of others as the node allows (`max_in`, `max_out`).
    #[error(
        "another hand-over of the session is in progress, or as many of others as the node allows at once"
    )]
    Busy = 4,
    /// The attempt is not, or no longer, open.
    #[error("the attempt is not, or no longer, open")]
    Void = 5,
    /// The applied state is not the stopped one.
    #[error("the applied state is not the one that was stopped")]
    OtherRoot = 6,
    /// The container could not be stopped or committed; it runs on where it was.
    #[error("the container could not be stopped or committed; see the source's log")]
    CutFailed = 7,
    /// The peer declares no such service, or declares it otherwise.
    #[error("the peer does not declare the service, or declares it otherwise")]
    OtherService = 8,
    /// The peer has no room, or not the service's image.
    #[error("the peer has no room for the service")]
    Full = 9,
    /// The network demands confirmations that the announcement does not have yet.
    #[error("the announcement is not confirmed by 90 % of the members yet")]
    Unconfirmed = 10,
    /// The peer is shutting down or starting.
    #[error("the peer is not ready")]
    NotReady = 11,
    /// The asker is no member.
    #[error("the asker is not a member of the network")]
    NotMember = 12,
    /// The peer is drained: it takes no session.
    #[error("the peer is drained; `blosm undrain` on it ends that")]
    Drained = 13,
    /// The session has volumes that move with it, and another method than the live one would leave them behind. With why
    /// the peer can't give it live, if that was asked for.
    #[error("{VOLUMES_BY_LIVE}{}", because(.0))]
    Volumes(Option<NoLive>) = 14,
}

impl Refusal {
    /// One of each.
    pub(crate) const ALL: [Self; 15] = [
        Self::Malformed,
        Self::NotOwner,
        Self::NotAuthorised,
        Self::TooSoon,
        Self::Busy,
        Self::Void,
        Self::OtherRoot,
        Self::CutFailed,
        Self::OtherService,
        Self::Full,
        Self::Unconfirmed,
        Self::NotReady,
        Self::NotMember,
        Self::Drained,
        Self::Volumes(None),
    ];

    /// What it is called in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotOwner => "not_owner",
            Self::NotAuthorised => "not_authorised",
            Self::TooSoon => "too_soon",
            Self::Busy => "busy",
            Self::Void => "void",
            Self::OtherRoot => "other_root",
            Self::CutFailed => "cut_failed",
            Self::OtherService => "other_service",
            Self::Full => "full",
            Self::Unconfirmed => "unconfirmed",
            Self::NotReady => "not_ready",
            Self::NotMember => "not_member",
            Self::Drained => "drained",
            Self::Volumes(_) => "volumes",
        }
    }
}

/// Encodes a message of this protocol.
pub(crate) fn encode<T: BorshSerialize>(message: &T) -> Vec<u8> {
    borsh::to_vec(message).expect("a message is plain data and a Vec takes any length")
}

/// A duration as it crosses the wire.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

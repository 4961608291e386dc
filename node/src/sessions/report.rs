//! The report of one migration, with the field names that others script against.

use blosm_ledger::{Hash, PublicKey, SessionId};
use blosm_migrate::session::Attempt;
use serde::{Deserialize, Serialize};

use super::unix_ms;
use super::wire::MoveReason;

/// Version of the report's shape.
pub const SCHEMA: u32 = 1;

/// How a migration ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationOutcome {
    /// Not at its end yet.
    Running,
    /// The destination serves.
    Completed,
    /// No container moved: the destination relays.
    Relayed,
    /// It failed before the signature; the source goes on.
    Aborted,
}

impl MigrationOutcome {
    /// Those with which a migration ends.
    pub(crate) const ENDS: [Self; 3] = [Self::Completed, Self::Relayed, Self::Aborted];

    /// The name that reports and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Relayed => "relayed",
            Self::Aborted => "aborted",
        }
    }
}

/// One migration as the API, the demo and the benches report it. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationReport {
    /// Version of this shape.
    pub schema: u32,
    /// The attempt's name, 32 hex digits.
    pub id: String,
    /// The session, hex.
    pub session: String,
    /// Name of the service.
    pub service: String,
    /// How the container moves.
    pub method: String,
    /// The method that was wanted and why another one had to be taken, as `live: reason`.
    pub fallback: Option<String>,
    /// `mobility`, `operator`, `drain`.
    pub reason: String,
    /// The node that gives, as its public key in hex.
    pub source: String,
    /// The node that takes.
    pub destination: String,
    /// The destination's verdict (Algorithm 2).
    pub verdict: bool,
    /// Its parts.
    pub verdict_detail: VerdictDetail,
    /// How it ended.
    pub outcome: MigrationOutcome,
    /// Whether the service's state was lost.
    pub state_lost: bool,
    /// Start by the destination's wall clock.
    pub started_unix_ms: u64,
    /// All layers of the moved image.
    pub image_bytes: u64,
    /// The container's own layer.
    pub writable_bytes: u64,
    /// What crossed the link for it.
    pub wire_bytes: u64,
    /// Chunks that were sent.
    pub chunks_sent: u64,
    /// Chunks that the destination held already.
    pub chunks_reused: u64,
    /// Staging and the cut, each with its bytes.
    pub rounds: Vec<Round>,
    /// What each phase took.
    pub phases_ms: Phases,
    /// What the ledger did beside it.
    pub ledger: LedgerFigures,
    /// The link as the transfer found it.
    pub link: LinkFigures,
    /// The longest wait of a request of this session because of the migration.
    pub downtime_ms: f64,
    /// From the source's last possible answer to the destination's first healthy one.
    pub service_down_ms: f64,
    /// From the first word to the last.
    pub total_ms: f64,
    /// What happened to the session's requests.
    pub requests: RequestFigures,
    /// Why it did not complete.
    pub error: Option<String>,
}

impl MigrationReport {
    /// The report of an attempt that begins now.
    pub(crate) fn begin(
        attempt: &Attempt,
        session: SessionId,
        source: PublicKey,
        destination: PublicKey,
        reason: MoveReason,
    ) -> Self {
        Self {
            schema: SCHEMA,
            id: hex::encode(attempt),
            session: session.to_string(),
            service: String::new(),
            method: "image".into(),
            fallback: None,
            reason: reason.name().into(),
            source: source.to_string(),
            destination: destination.to_string(),
            verdict: false,
            verdict_detail: VerdictDetail::default(),
            outcome: MigrationOutcome::Running,
            state_lost: false,
            started_unix_ms: unix_ms(),
            image_bytes: 0,
            writable_bytes: 0,
            wire_bytes: 0,
            chunks_sent: 0,
            chunks_reused: 0,
            rounds: Vec::new(),
            phases_ms: Phases::default(),
            ledger: LedgerFigures::default(),
            link: LinkFigures::default(),
            downtime_ms: 0.0,
            service_down_ms: 0.0,
            total_ms: 0.0,
            requests: RequestFigures::default(),
            error: None,
        }
    }

    /// Adds a transaction of this migration.
    pub(crate) fn note(&mut self, kind: &str, hash: Hash) {
        self.ledger.transactions.push(SealedTransaction {
            kind: kind.to_owned(),
            hash: hash.to_string(),
            unix_ms: Some(unix_ms()),
            height: None,
        });
    }
}

/// The parts of a verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerdictDetail {
    /// Size and memory suffice.
    pub memory: bool,
    /// CPU suffices.
    pub cpu: bool,
    /// GPU suffices.
    pub gpu: bool,
    /// The destination declares the same service.
    pub service: bool,
    /// The hard check that failed.
    pub hard: Option<String>,
}

/// One round of copying.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Bytes that the destination lacked.
    pub bytes: u64,
    /// Bytes that crossed the link for them.
    pub wire_bytes: u64,
    /// Time.
    pub ms: f64,
    /// The part of it in which they were fetched: not what the source prepared before, nor the engine's load.
    pub pull_ms: f64,
}

/// Phases in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Asking for and getting the announcement.
    pub announce: f64,
    /// Self-evaluation.
    pub evaluate: f64,
    /// Fetching and loading what the running container's image has and the destination lacks.
    pub stage: f64,
    /// Copying the writable layer while the source runs.
    pub precopy: f64,
    /// Waiting for requests in flight.
    pub drain: f64,
    /// From the stop signal to the exit.
    pub stop: f64,
    /// At the source, after the exit: the commit, or the last look at the writable layer.
    pub commit: f64,
    /// Fetching, applying and making durable what was left after the stop; with the image method also creating the container.
    pub transfer: f64,
    /// From the signed hand-over to the first healthy answer.
    pub start: f64,
    /// From READY to the journaled hand-over.
    pub handover: f64,
    /// Time for which only the ledger held requests back.
    pub ledger_wait: f64,
}

/// What the ledger did beside a migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerFigures {
    /// Members that hold the announcement's block.
    pub confirmations: u32,
    /// Members of the network.
    pub members: u32,
    /// From the announcement to that count.
    pub confirmed_ms: f64,
    /// From the signature to the sealed `HandOver`; 0 while it is not.
    pub sealed_ms: f64,
    /// Transactions of this migration with their heights; no height while not sealed.
    pub transactions: Vec<SealedTransaction>,
}

impl LedgerFigures {
    /// Takes over the heights that `known` has of the same transactions.
    pub(crate) fn keep_heights(&mut self, known: &[SealedTransaction]) {
        for transaction in &mut self.transactions {
            let same = known.iter().find(|other| other.hash == transaction.hash);
            transaction.height = transaction.height.or(same.and_then(|other| other.height));
        }
    }
}

/// A transaction and where the chain holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedTransaction {
    /// `announce`, `claim`, `handover`.
    pub kind: String,
    /// Its hash, hex.
    pub hash: String,
    /// When it was signed, by the signer's wall clock.
    pub unix_ms: Option<u64>,
    /// Its height.
    pub height: Option<u64>,
}

/// The link as the transfer found it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkFigures {
    /// Goodput of the chunks, 10^6 bits per second.
    pub mbit: f64,
    /// Round trip of a small request.
    pub rtt_ms: f64,
}

/// Requests of the session from the hold to the first healthy answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestFigures {
    /// All that came.
    pub sent: u64,
    /// Those that waited.
    pub held: u64,
    /// Those that waited in vain.
    pub failed: u64,
    /// Those in flight that the drain did not wait for.
    pub interrupted: u64,
    /// The longest wait.
    pub max_stall_ms: f64,
}

//! A destination's attempt to take a session by the image method, from the first question to the signed hand-over.
//!
//! ```text
//! Want -> evaluate (Alg. 2) -> Claim -> stage base and running image   the source serves
//!      -> Cut -> pull, load, check, create -> APPLIED -> READY         the source is down
//!      -> HandedOver -> the session's task starts it and routes        this node serves
//! ```
//! This task moves bytes and asks; what the session *is* here changes only in its [`super::actor`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blosm_ledger::{Announce, Claim, Hash, Payload, PublicKey, SessionId, Token, Verdict};
use blosm_migrate::docker::ImageError;
use blosm_migrate::evaluate::{SystemView, evaluate};
use blosm_migrate::image::{Digest, Identity, LoadError, SparseImage, load, manifest_root};
use blosm_migrate::placement::BookingKey;
use blosm_migrate::recreate::{Base, ConfigMismatch, check_committed_config};
use blosm_migrate::service::Service;
use blosm_migrate::session::{Attempt, Entry, Fact, Pending, proven_owner};
use blosm_migrate::transfer::{
    Pull, PullError, Pulled, TransferRequest, TransferResponse, WhichImage, WireError,
};
use blosm_net::{Protocol, peer_of_key};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::actor::Command;
use super::grants::Grants;
use super::launch::{self, LaunchError};
use super::notice::{self, NoAnswer};
use super::registry::Slot;
use super::report::{MigrationOutcome, MigrationReport, Round, VerdictDetail};
use super::wire::{
    Announcement, MoveReason, Refusal, SessionRequest, SessionResponse, SourceFigures, Stopped,
};
use super::{IMAGE_REPOSITORY, room};
use crate::parts::Parts;

mod books;
mod stage;

/// Repository of pinned bases whose own name means another image in this engine.
const BASE_REPOSITORY: &str = "blosm-base";
/// Between two signs of life to the source.
const ALIVE: Duration = Duration::from_secs(1);
/// How long the report waits for the first healthy answer and for the source's figures.
const SERVED_WAIT: Duration = Duration::from_secs(30);
/// How long the source may take to export an image before an attempt is given up.
const EXPORT_WAIT: Duration = Duration::from_secs(1800);
/// Between two questions for an image that is being exported.
const EXPORT_LOOK: Duration = Duration::from_millis(20);
/// Tries of a cut whose answer was lost.
const CUT_TRIES: u32 = 3;

/// What to take, and from whom.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) session: SessionId,
    pub(super) attempt: Attempt,
    pub(super) token: Option<String>,
    pub(super) source: PublicKey,
    pub(super) reason: MoveReason,
}

/// Why an attempt ended without a hand-over.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the source says no: {0}")]
    Refused(#[from] Refusal),
    #[error("the source does not answer: {0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("the source's answer is not what was asked for")]
    OtherAnswer,
    #[error("the source can't prove that it owns the session; this node's chain may be behind")]
    NotProven,
    #[error("this node judged that it can't take the container")]
    VerdictFalse,
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("the source committed another image than it said")]
    OtherImage,
    #[error(transparent)]
    Config(#[from] ConfigMismatch),
    #[error("this node has no room for the service any more")]
    NoRoom,
    #[error("the session is not wanted here any more")]
    Overtaken,
}

impl From<blosm_migrate::docker::EngineError> for Ended {
    fn from(error: blosm_migrate::docker::EngineError) -> Self {
        Self::Launch(error.into())
    }
}

impl From<blosm_migrate::docker::ImageError> for Ended {
    fn from(error: blosm_migrate::docker::ImageError) -> Self {
        Self::Launch(error.into())
    }
}

/// Runs one attempt. What it leaves behind on failure is cleaned up here; what is applied stays until the source has said
/// whether it signs.
pub(super) async fn run(parts: Arc<Parts>, slot: Arc<Slot>, visit: Visit) {
    let spool = Grants::folder(&parts.config.data_dir.join("incoming"), &visit.attempt);
    let mut attempt = Incoming {
        report: MigrationReport::begin(
            &visit.attempt,
            visit.session,
            visit.source,
            parts.me,
            visit.reason,
        ),
        begin: Instant::now(),
        announced: None,
        epoch: 0,
        staged: Vec::new(),
        container_image: None,
        applied: false,
        spool,
        parts,
        slot,
        visit,
    };
    let outcome = attempt.drive().await;
    attempt.finish(outcome).await;
}

struct Incoming {
    parts: Arc<Parts>,
    slot: Arc<Slot>,
    visit: Visit,
    report: MigrationReport,
    begin: Instant,
    announced: Option<Hash>,
    /// The epoch at which the source owns the session.
    epoch: u64,
    /// Images that this attempt has loaded, to be removed when it fails.
    staged: Vec<String>,
    /// The image of the created container, which stays as long as that.
    container_image: Option<String>,
    /// The container is in the journal: only the source's word removes it now.
    applied: bool,
    spool: PathBuf,
}

/// What the cut has left to measure.
struct Moved {
    last_answer_before: Instant,
    handed_over: Instant,
    epoch: u64,
}

impl Incoming {
    async fn drive(&mut self) -> Result<Moved, Ended> {
        let (announcement, announce) = self.want().await?;
        let service = self.parts.config.services.get(&announcement.service).cloned();
        let verdict = self.evaluate(&announce, service.as_deref()).await?;
        self.claim(&announce, verdict).await?;
        let (true, Some(service)) = (verdict.accepted, service) else {
            return Err(Ended::VerdictFalse);
        };
        let key = BookingKey::Claim(self.visit.attempt);
        if !room::book(&self.parts, &service, key, None) {
            return Err(Ended::NoRoom);
        }
        let alive = self.keep_alive();
        let moved = self.transfer(&service, &announce, announcement.running).await;
        drop(alive);
        moved
    }

    /// Rule 2: the owner announces when a member asks for the session by presenting its token.
    async fn want(&mut self) -> Result<(Announcement, Announce), Ended> {
        self.event("announce");
        let begin = Instant::now();
        let request = SessionRequest::Want {
            session: self.visit.session,
            token: self.visit.token.clone(),
        };
        let SessionResponse::Announced(announcement) = self.ask(&request).await? else {
            return Err(Ended::OtherAnswer);
        };
        self.report.phases_ms.announce = millis(begin);
        let transaction = self
            .parts
            .transaction(&announcement.announce)
            .ok_or(Ended::OtherAnswer)?;
        let hash = transaction.hash();
        let announce = match transaction.payload {
            Payload::Announce(announce)
                if transaction.sender == self.visit.source && announce.session == self.visit.session =>
            {
                announce
            }
            _ => return Err(Ended::OtherAnswer),
        };
        self.prove_owner(&announcement.pending, announce.epoch)?;
        self.announced = Some(hash);
        self.epoch = announce.epoch;
        self.report.note("announce", hash);
        self.report.service = announce.metadata.service.clone();
        Ok((announcement, announce))
    }

    /// A member's word alone does not make it the owner: else it could have a container started here that runs
    /// elsewhere.
    fn prove_owner(&self, pending: &[Pending], epoch: u64) -> Result<(), Ended> {
        let mut facts = Vec::with_capacity(pending.len());
        for transaction in pending {
            let transaction = self
                .parts
                .transaction(&transaction.bytes)
                .ok_or(Ended::OtherAnswer)?;
            match transaction.payload {
                Payload::Open(open)
                    if open.session == self.visit.session && open.opener == transaction.sender =>
                {
                    facts.push(Fact::Opened { opener: open.opener });
                }
                Payload::HandOver(handover) if handover.session == self.visit.session => {
                    facts.push(Fact::HandedOver {
                        sender: transaction.sender,
                        epoch: handover.epoch,
                        destination: handover.destination,
                    });
                }
                _ => {}
            }
        }
        let opener = self
            .visit
            .token
            .as_deref()
            .and_then(|token| Token::parse(token).ok())
            .map(|token| token.opener());
        let view = self.parts.chain.snapshot();
        let proven = proven_owner(view.state.session(&self.visit.session), opener, &facts);
        if proven == Some((self.visit.source, epoch)) {
            Ok(())
        } else {
            Err(Ended::NotProven)
        }
    }

    async fn evaluate(&mut self, announce: &Announce, service: Option<&Service>) -> Result<Verdict, Ended> {
        let begin = Instant::now();
        let base_held = match service {
            Some(service) => self.parts.docker.pinned(&service.image).await.is_ok(),
            None => false,
        };
        let runtime = self.parts.docker.alive().await;
        let remaining = {
            let bookings = self.parts.bookings();
            bookings.remaining(Instant::now())
        };
        let architecture = &self.parts.docker.info().architecture;
        let system = match self.parts.readings() {
            Ok(readings) => SystemView::new(&readings, remaining, architecture, runtime, base_held),
            Err(error) => {
                tracing::warn!(%error, "this node can't read its own resources; it claims nothing");
                return Err(Ended::VerdictFalse);
            }
        };
        let tolerance = self.parts.config.migration.tolerance;
        let verdict = evaluate(&announce.metadata, service, &system, tolerance);
        self.report.phases_ms.evaluate = millis(begin);
        self.report.verdict = verdict.accepted;
        self.report.verdict_detail = VerdictDetail {
            memory: verdict.memory,
            cpu: verdict.cpu,
            gpu: verdict.gpu,
            service: verdict.service,
            hard: verdict.hard.map(|hard| format!("{hard:?}").to_lowercase()),
        };
        Ok(verdict)
    }

    /// Rule 2: to the owner and to the proposer at the same time.
    async fn claim(&mut self, announce: &Announce, verdict: Verdict) -> Result<(), Ended> {
        let claim = Claim {
            session: self.visit.session,
            epoch: announce.epoch,
            attempt: self.visit.attempt,
            verdict,
        };
        let transaction = self.parts.sign(Payload::Claim(claim));
        let bytes = transaction.encode();
        self.report.note("claim", transaction.hash());
        self.parts.reports.put(self.report.clone());
        let parts = self.parts.clone();
        tokio::spawn(async move {
            let hash = transaction.hash();
            match parts.chain.submit(transaction).await {
                Ok(height) => parts.reports.sealed(&hash, height),
                // A claim is a request, not a lock: the hand-over does not need it sealed.
                Err(error) => tracing::debug!(%error, "a claim is not sealed"),
            }
        });
        match self.ask(&SessionRequest::Claim { claim: bytes }).await? {
            SessionResponse::Agreed => Ok(()),
            _ => Err(Ended::OtherAnswer),
        }
    }

    /// Signs of life until the task is ended.
    fn keep_alive(&self) -> AbortOnDropHandle<()> {
        let (parts, visit) = (self.parts.clone(), self.visit.clone());
        let confirmed = self.announced;
        AbortOnDropHandle::new(tokio::spawn(async move {
            let request = SessionRequest::Alive {
                session: visit.session,
                attempt: visit.attempt,
            };
            let wait = parts.config.migration.confirm_wait;
            if let Some(announced) = confirmed {
                tokio::spawn(watch_confirmations(parts.clone(), visit.attempt, announced, wait));
            }
            loop {
                if let Err(error) = notice::ask(&parts, visit.source, &request).await {
                    tracing::debug!(%error, "a sign of life is not answered");
                }
                tokio::time::sleep(ALIVE).await;
            }
        }))
    }

    async fn transfer(
        &mut self,
        service: &Arc<Service>,
        announce: &Announce,
        running: [u8; 32],
    ) -> Result<Moved, Ended> {
        self.event("stage");
        let begin = Instant::now();
        let base = self.stage(service, Digest(running)).await?;
        self.report.phases_ms.stage = millis(begin);

        let asked = Instant::now();
        let (stopped, answered) = self.cut().await?;
        // The source's word, never more than the whole cut took.
        let since = Duration::from_micros(stopped.since_last_answer_us).min(asked.elapsed());
        let last_answer_before = answered.checked_sub(since).unwrap_or(asked);
        self.report.phases_ms.drain = stopped.drain_us as f64 / 1000.0;
        self.report.phases_ms.stop = stopped.stop_us as f64 / 1000.0;
        self.report.phases_ms.commit = stopped.commit_us as f64 / 1000.0;
        self.report.image_bytes = stopped.image_bytes;
        self.report.writable_bytes = stopped.writable_bytes;
        tracing::debug!(cut_ms = millis(asked), "the source has stopped");

        self.event("transfer");
        let begin = Instant::now();
        let (container, image, root) = self.apply(service, &base, announce.epoch, &stopped).await?;
        self.report.phases_ms.transfer = millis(begin);
        let entry = Entry::Applied {
            session: self.visit.session,
            service: service.name.clone(),
            source: self.visit.source,
            epoch: announce.epoch,
            attempt: self.visit.attempt,
            root,
            container: container.clone(),
            image,
        };
        let (done, written) = oneshot::channel();
        self.slot
            .commands
            .send(Command::Applied { entry, done })
            .await
            .map_err(|_| Ended::Overtaken)?;
        if !written.await.unwrap_or(false) {
            self.drop_container(&container).await;
            return Err(Ended::Overtaken);
        }
        self.applied = true;
        self.event("applied");
        self.ready(root, announce.epoch, last_answer_before).await
    }

    /// Asks for the cut. A lost answer is asked for again: the source has stopped once and says the same.
    async fn cut(&mut self) -> Result<(Stopped, Instant), Ended> {
        let request = SessionRequest::Cut {
            session: self.visit.session,
            attempt: self.visit.attempt,
        };
        let mut tries = 0;
        loop {
            match self.ask(&request).await {
                Ok(SessionResponse::Stopped(stopped)) => return Ok((stopped, Instant::now())),
                Ok(_) => return Err(Ended::OtherAnswer),
                // Required mode: the announcement is not confirmed yet.
                Err(Ended::Refused(Refusal::Unconfirmed)) if tries < 50 => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(Ended::NoAnswer(_)) if tries < CUT_TRIES => {
                    tokio::time::sleep(Duration::from_millis(200)).await
                }
                Err(error) => return Err(error),
            }
            tries += 1;
        }
    }

    /// READY. The answer is the signed hand-over; without one the session's task goes on asking.
    async fn ready(&mut self, root: Hash, epoch: u64, last_answer_before: Instant) -> Result<Moved, Ended> {
        let begin = Instant::now();
        let request = SessionRequest::Ready {
            session: self.visit.session,
            attempt: self.visit.attempt,
            root,
        };
        let SessionResponse::HandedOver { handover, pending } = self.ask(&request).await? else {
            return Err(Ended::OtherAnswer);
        };
        self.note_handover(&handover);
        let (reply, taken) = oneshot::channel();
        let acquire = Command::Acquire {
            handover,
            pending,
            reply,
        };
        self.slot
            .commands
            .send(acquire)
            .await
            .map_err(|_| Ended::Overtaken)?;
        match taken.await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => return Err(refusal.into()),
            Err(_) => return Err(Ended::Overtaken),
        }
        self.report.phases_ms.handover = millis(begin);
        Ok(Moved {
            last_answer_before,
            handed_over: Instant::now(),
            epoch: epoch + 1,
        })
    }

    fn note_handover(&mut self, handover: &Pending) {
        self.report.note("handover", handover.hash);
        // Into the book at once: it may be sealed before this attempt has closed its own.
        let transactions = self.report.ledger.transactions.clone();
        self.parts.reports.update(&self.report.id, |report| {
            let known = std::mem::replace(&mut report.ledger.transactions, transactions);
            report.ledger.keep_heights(&known);
        });
    }

    async fn ask(&self, request: &SessionRequest) -> Result<SessionResponse, Ended> {
        match notice::ask(&self.parts, self.visit.source, request).await? {
            SessionResponse::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }

    fn event(&self, phase: &'static str) {
        self.parts
            .reports
            .event(&self.visit.attempt, &self.visit.session, phase);
    }
}

/// Algorithm 1's wait, beside the transfer: counts until 90 % hold the announcement, or `limit` is over.
async fn watch_confirmations(parts: Arc<Parts>, attempt: Attempt, announced: Hash, limit: Duration) {
    let begin = Instant::now();
    let id = hex::encode(attempt);
    while begin.elapsed() < limit {
        if let Some(status) = parts.chain.transaction(announced).await {
            parts.reports.sealed(&announced, status.height);
            parts.reports.update(&id, |report| {
                report.ledger.confirmations = status.confirmations;
                report.ledger.members = status.members;
                report.ledger.confirmed_ms = millis(begin);
            });
            if status.is_confirmed() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

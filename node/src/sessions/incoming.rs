//! A destination's attempt to take a session, from the first question to the signed hand-over.
//!
//! ```text
//! Want -> evaluate (Alg. 2) -> Claim -> stage base and running image   the source serves
//!   live:      gated container, rounds of the writable layer           the source serves
//!              -> Cut -> last delta -> APPLIED -> READY                the source is down
//!   image:     Cut -> pull, load, check, create -> APPLIED -> READY    the source is down
//!   stateless: create, start, healthy -> Cut -> APPLIED -> READY       both serve
//!      -> HandedOver -> the session's task starts it and routes        this node serves
//! ```
//! This task moves bytes and asks; what the session *is* here changes only in its [`super::actor`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blosm_ledger::{Announce, Claim, Hash, Payload, PublicKey, SessionId, Token, Verdict};
use blosm_migrate::docker::ImageError;
use blosm_migrate::helper::HelperError;
use blosm_migrate::image::{Digest, Identity, LoadError, SparseImage, manifest_root};
use blosm_migrate::placement::BookingKey;
use blosm_migrate::recreate::{Base, ConfigMismatch, check_committed_config};
use blosm_migrate::service::Service;
use blosm_migrate::session::{Attempt, Entry, Pending, Standing, facts, proven_owner};
use blosm_migrate::transfer::{Pull, PullError, WhichImage, WireError};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::actor::{Command, MoveOrder};
use super::launch::{self, LaunchError, Running};
use super::methods::Live;
use super::notice::{self, NoAnswer};
use super::registry::Slot;
use super::report::{MigrationOutcome, MigrationReport, Round};
use super::wire::{
    Announcement, FinalState, MoveReason, NoLive, Refusal, SessionRequest, SessionResponse, SourceFigures,
    Stopped,
};
use super::{IMAGE_REPOSITORY, budget, judge, room};
use crate::config::Method;
use crate::parts::Parts;

use ended::Ended;
pub(crate) use ended::migration_failures;
use signature::Signed;

mod books;
mod claim;
mod confirm;
mod ended;
pub(super) mod folders;
mod live;
mod seeds;
mod signature;
mod stage;
mod stateless;

/// Between two signs of life to the source.
const ALIVE: Duration = Duration::from_secs(1);
/// How long the report waits for the first healthy answer and for the source's figures.
const SERVED_WAIT: Duration = Duration::from_secs(30);
/// How long the source may take to export an image before an attempt is given up.
const EXPORT_WAIT: Duration = Duration::from_secs(1800);
/// Between two questions for an image that is being exported.
const EXPORT_LOOK: Duration = Duration::from_millis(20);
/// Between two tries of a cut that waits for confirmations.
const CONFIRM_LOOK: Duration = Duration::from_millis(100);
/// Tries of a cut whose answer was lost.
const CUT_TRIES: u32 = 3;
/// How long the source is asked for its signature: it has signed or rolled back by then.
const SIGNATURE_WAIT: Duration = Duration::from_secs(60);

/// What to take, and from whom.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) session: SessionId,
    pub(super) attempt: Attempt,
    pub(super) token: Option<String>,
    pub(super) source: PublicKey,
    pub(super) how: MoveOrder,
}

/// Runs one attempt. What it leaves behind on failure is cleaned up here; what is applied stays until the source has said
/// whether it signs.
pub(super) async fn run(parts: Arc<Parts>, slot: Arc<Slot>, visit: Visit) {
    let spool = folders::of(&parts.config.data_dir, &visit.session);
    let mut attempt = Incoming {
        report: MigrationReport::begin(
            &visit.attempt,
            visit.session,
            visit.source,
            parts.me,
            visit.how.reason,
        ),
        begin: Instant::now(),
        announced: None,
        epoch: 0,
        staged: Vec::new(),
        container_image: None,
        pull: None,
        rate: None,
        method: Method::Image,
        instead_of: None,
        claim: Vec::new(),
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
    /// How it fetches, once something was fetched.
    pull: Option<Arc<stage::Puller>>,
    /// What the link carries, bytes per second, as the last longer pull has found it.
    rate: Option<f64>,
    /// The method that the source has agreed to.
    method: Method,
    /// The one that was wanted, if another had to be taken.
    instead_of: Option<Method>,
    /// The signed claim, to be presented again if another method has to be taken.
    claim: Vec<u8>,
    /// The container is in the journal: only the source's word removes it now.
    applied: bool,
    spool: PathBuf,
}

/// A container that holds the source's final state and has not served it.
struct Arrived {
    container: String,
    image: String,
    root: Hash,
    /// Its process, if it runs already.
    prepared: Option<Running>,
    /// When the source could last answer, on this node's clock.
    last_answer_before: Instant,
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
        let wanted = self.wanted(service.as_deref());
        let accepted = self.claim(&announce, verdict, wanted).await?;
        let (true, Some(service), Some(method)) = (verdict.accepted, service, accepted) else {
            return Err(Ended::VerdictFalse);
        };
        let key = BookingKey::Claim(self.visit.attempt);
        if !room::book(&self.parts, &service, key, None) {
            return Err(Ended::NoRoom);
        }
        let alive = self.keep_alive();
        let moved = self
            .transfer(&service, &announce, announcement.running, method)
            .await;
        drop(alive);
        moved
    }

    /// Signs of life until the task is ended.
    fn keep_alive(&self) -> AbortOnDropHandle<()> {
        let (parts, visit) = (self.parts.clone(), self.visit.clone());
        if let Some(announced) = self.announced {
            // It outlives the attempt, which may be over before the last of the members has answered.
            tokio::spawn(confirm::count(parts.clone(), visit.clone(), announced));
        }
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let request = SessionRequest::Alive {
                    session: visit.session,
                    attempt: visit.attempt,
                    step: parts.reports.step(&visit.attempt),
                };
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
        method: Method,
    ) -> Result<Moved, Ended> {
        self.event("stage");
        let begin = Instant::now();
        self.parts.budget.may_stage(&self.parts).await?;
        let base = self.stage(service, Digest(running)).await?;
        self.report.phases_ms.stage = millis(begin);
        let epoch = announce.epoch;
        let arrived = match method {
            Method::Image => self.by_image(service, &base, epoch).await?,
            Method::Stateless => self.by_stateless(service, &base, epoch).await?,
            Method::Live => {
                self.by_live_or_image(service, &base, epoch, Digest(running))
                    .await?
            }
        };
        let entry = Entry::Applied {
            session: self.visit.session,
            service: service.name.clone(),
            source: self.visit.source,
            epoch,
            attempt: self.visit.attempt,
            root: arrived.root,
            container: arrived.container.clone(),
            image: arrived.image,
        };
        let (done, written) = oneshot::channel();
        self.slot
            .commands
            .send(Command::Applied {
                entry,
                prepared: arrived.prepared,
                done,
            })
            .await
            .map_err(|_| Ended::Overtaken)?;
        if !written.await.unwrap_or(false) {
            self.drop_container(&arrived.container).await;
            return Err(Ended::Overtaken);
        }
        self.applied = true;
        self.event("applied");
        self.ready(arrived.root, epoch, arrived.last_answer_before).await
    }

    /// The paper's way: everything that is new crosses the link while the source is down.
    async fn by_image(&mut self, service: &Arc<Service>, base: &Base, epoch: u64) -> Result<Arrived, Ended> {
        // What was staged need not be written in the cut.
        self.parts.engine.sync().await?;
        let (stopped, last_answer_before) = self.cut().await?;
        self.event("transfer");
        let begin = Instant::now();
        let FinalState::Image {
            config_digest,
            diff_ids,
        } = stopped.state
        else {
            return Err(Ended::OtherAnswer);
        };
        let said = Identity {
            config_digest: Digest(config_digest),
            diff_ids: diff_ids.into_iter().map(Digest).collect(),
        };
        let (container, image) = self.apply(service, base, epoch, &said).await?;
        self.parts.engine.sync().await?;
        self.report.phases_ms.transfer = millis(begin);
        Ok(Arrived {
            container,
            image,
            root: manifest_root(&self.visit.session, epoch, &said),
            prepared: None,
            last_answer_before,
        })
    }

    /// The name of this attempt's container.
    fn container_name(&self, epoch: u64) -> String {
        launch::name(&self.visit.session, epoch + 1, &self.visit.attempt)
    }

    /// Has the source cut, and notes what that took. Gives its final state, and when it could last answer.
    async fn cut(&mut self) -> Result<(Stopped, Instant), Ended> {
        let asked = Instant::now();
        let (stopped, answered) = self.ask_for_cut().await?;
        // The source's word, never more than the whole cut took.
        let since = Duration::from_micros(stopped.since_last_answer_us).min(asked.elapsed());
        let last_answer_before = answered.checked_sub(since).unwrap_or(asked);
        self.report.phases_ms.drain = stopped.drain_us as f64 / 1000.0;
        self.report.phases_ms.stop = stopped.stop_us as f64 / 1000.0;
        self.report.phases_ms.commit = stopped.commit_us as f64 / 1000.0;
        self.report.image_bytes = stopped.image_bytes;
        self.report.writable_bytes = stopped.writable_bytes;
        tracing::debug!(cut_ms = millis(asked), "the source has stopped");
        Ok((stopped, last_answer_before))
    }

    /// Asks for the cut. A lost answer is asked for again: the source has stopped once and says the same.
    async fn ask_for_cut(&mut self) -> Result<(Stopped, Instant), Ended> {
        let request = SessionRequest::Cut {
            session: self.visit.session,
            attempt: self.visit.attempt,
        };
        let (begin, mut lost) = (Instant::now(), 0);
        loop {
            match self.ask(&request).await {
                Ok(SessionResponse::Stopped(stopped)) => return Ok((stopped, Instant::now())),
                Ok(_) => return Err(Ended::OtherAnswer),
                // Required mode: the announcement is not confirmed yet. The source serves on.
                Err(Ended::Refused(Refusal::Unconfirmed)) => {
                    if begin.elapsed() >= self.parts.config.migration.confirm_wait {
                        return Err(self.unconfirmed());
                    }
                    tokio::time::sleep(CONFIRM_LOOK).await;
                }
                Err(Ended::NoAnswer(_)) if lost < CUT_TRIES => {
                    lost += 1;
                    tokio::time::sleep(Duration::from_millis(200)).await
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// READY. The answer is the signed hand-over; without one in time the session's task goes on asking.
    async fn ready(&mut self, root: Hash, epoch: u64, last_answer_before: Instant) -> Result<Moved, Ended> {
        let begin = Instant::now();
        let epoch = epoch + 1;
        let request = SessionRequest::Ready {
            session: self.visit.session,
            attempt: self.visit.attempt,
            root,
        };
        let signed = signature::wait(|| self.ask(&request), || self.acquired(epoch), SIGNATURE_WAIT).await?;
        self.note_handover(signed.handover());
        if let Signed::Answered { handover, pending } = signed {
            self.acquire(handover, pending).await?;
        }
        self.report.phases_ms.handover = millis(begin);
        Ok(Moved {
            last_answer_before,
            handed_over: Instant::now(),
            epoch,
        })
    }

    /// Has the session's task take the session.
    async fn acquire(&self, handover: Pending, pending: Vec<Pending>) -> Result<(), Ended> {
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
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refusal)) => Err(refusal.into()),
            Err(_) => Err(Ended::Overtaken),
        }
    }

    /// The hand-over by which the session is this node's at that epoch, if it has come in another way.
    fn acquired(&self, epoch: u64) -> Option<Hash> {
        match self.parts.journal.record(&self.visit.session)?.standing {
            Standing::Owner { epoch: owned, since } if owned == epoch => Some(since),
            _ => None,
        }
    }

    fn note_handover(&mut self, handover: Hash) {
        self.report.note("handover", handover);
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

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

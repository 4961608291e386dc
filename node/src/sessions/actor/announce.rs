//! The announcement of a session, to a member that asks for it or is asked to take it (rule 2).

use blosm_ledger::{Announce, Transaction};

use super::super::wire::Announcement;
use super::super::{MigrationOutcome, MigrationReport, measure, notice};
use super::*;

/// How long a member that was asked to take a session may take to claim it.
const INVITATION: Duration = Duration::from_secs(60);
/// An engine that hangs must not hold up the session; who asks waits no longer than this either.
const MEASURE_LIMIT: Duration = Duration::from_secs(8);
/// How long the container's sizes are waited for, within that: a walk through many files takes longer.
const SIZES_WAIT: Duration = Duration::from_secs(6);

impl Actor {
    /// Rule 2: the container's metadata for a destination to judge, announced on the chain at the same time.
    pub(super) async fn want(
        &mut self,
        from: PublicKey,
        token_presented: bool,
    ) -> Result<SessionResponse, Refusal> {
        // Who brings the token comes for its client, and not because this node has asked it to.
        let invited = !token_presented && self.invited.is_some_and(|(member, ..)| member == from);
        let looked = self.look();
        let epoch = self
            .keeper
            .want(Instant::now(), &looked.known(), token_presented, invited)?;
        let record = looked.record;
        let service = self.service().ok_or(Refusal::NotReady)?;
        let live = self.live.as_ref().ok_or(Refusal::NotReady)?;
        let container = live.running.container.clone();
        let announcement = self.announcement(&service, &container, epoch, from).await;
        let (announce, running) = announcement.map_err(|error| {
            tracing::warn!(session = %self.id, %error, "the container can't be announced");
            Refusal::NotReady
        })?;
        let bytes = announce.encode();
        self.publish(announce, epoch);
        self.keeper.welcome(from);
        Ok(SessionResponse::Announced(Announcement {
            pending: record.pending.clone(),
            announce: bytes,
            service: service.name.clone(),
            running,
        }))
    }

    pub(super) async fn announcement(
        &mut self,
        service: &Service,
        container: &str,
        epoch: u64,
        to: PublicKey,
    ) -> Result<(Transaction, [u8; 32]), LaunchError> {
        let measuring = measure::measure(&self.parts, service, container, &mut self.sizing, SIZES_WAIT);
        let measured = tokio::time::timeout(MEASURE_LIMIT, measuring)
            .await
            .unwrap_or(Err(LaunchError::Late))?;
        let announce = Announce {
            session: self.id,
            epoch,
            metadata: measured.metadata,
            invited: vec![to],
        };
        Ok((
            self.parts.sign(Payload::Announce(announce)),
            measured.image.identity.config_digest.0,
        ))
    }

    /// `blosm migrate`, `blosm drain`: names the member in the next announcement and asks it to come.
    pub(super) async fn invite(&mut self, to: PublicKey, how: MoveOrder) -> Result<Attempt, Refusal> {
        if !self.is_mine() {
            return Err(Refusal::NotOwner);
        }
        self.tell_source(Input::Want { invited: true })?;
        if !self.parts.slots.may_leave() {
            return Err(Refusal::Busy);
        }
        let attempt = super::super::random();
        let request = SessionRequest::Invite {
            session: self.id,
            attempt,
            reason: how.reason,
            method: how.method,
            force: how.force,
        };
        match notice::ask(&self.parts, to, &request).await {
            Ok(SessionResponse::Agreed) => {
                // Not before: an order that was answered with no, or not at all, is not carried out later. What the member
                // asks next waits in this task's queue meanwhile.
                self.invited = Some((to, attempt, Instant::now()));
                // Into the book at once, so that the operator can follow it; the destination's replaces it.
                let mut report = MigrationReport::begin(&attempt, self.id, self.parts.me, to, how.reason);
                report.service = self.record().service.clone();
                self.parts.reports.put(report);
                Ok(attempt)
            }
            Ok(SessionResponse::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(Refusal::Malformed),
            Err(_) => Err(Refusal::NotReady),
        }
    }

    /// A member that was asked to come and has neither claimed nor said why not is not waited for.
    pub(super) fn give_up_invitation(&mut self) {
        let Some((to, attempt, since)) = self.invited else {
            return;
        };
        let claimed = self
            .keeper
            .source()
            .is_some_and(|source| source.may_pull(&attempt, to));
        if claimed || since.elapsed() < INVITATION {
            return;
        }
        self.invited = None;
        let why = "the destination was asked and did not come; see its log";
        self.close_book(attempt, MigrationOutcome::Aborted, why);
    }
}

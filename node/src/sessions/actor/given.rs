//! After the signature: the hand-over is repeated, the kept container waits, and goes (rules 3, 4 and 6).

use blosm_migrate::session::Container;

use super::super::wire::{SourceFigures, micros};
use super::super::{MigrationOutcome, notice};
use super::cut::committed_image;
use super::*;

/// How long the report of a new owner that serves is waited for.
const REPORT_WAIT: Duration = Duration::from_secs(60);

impl Actor {
    /// Rule 4: each end repeats the hand-over until the other has acked.
    pub(super) fn repeat_handover(&mut self) {
        let record = self.record();
        let Some(gave) = self.keeper.to_repeat(&record) else {
            return;
        };
        if self.notice.as_ref().is_some_and(|notice| !notice.is_finished()) {
            return;
        }
        let request = SessionRequest::HandOver {
            session: self.id,
            handover: gave.handover.clone(),
            pending: record.pending_before(gave),
        };
        let (parts, slot, epoch, destination) = (
            self.parts.clone(),
            self.slot.clone(),
            gave.epoch,
            gave.destination,
        );
        self.notice = Some(tokio::spawn(async move {
            if let Ok(SessionResponse::Taken { serving }) = notice::ask(&parts, destination, &request).await {
                // The actor may be gone with the node; it asks again after the next start.
                let _ = slot.commands.send(Command::Answered { epoch, serving }).await;
            }
        }));
    }

    pub(super) async fn on_answered(&mut self, epoch: u64, serving: bool) -> Result<(), JournalClosed> {
        let record = self.record();
        let Some(entry) = self.keeper.answered(&record, epoch, serving) else {
            return Ok(());
        };
        if let (Entry::Served { .. }, Some(gave)) = (&entry, &record.gave) {
            self.close_book_later(gave.attempt);
        }
        self.append(entry).await
    }

    /// The new owner serves, and its report comes when it has counted. One that was restarted has none to send.
    fn close_book_later(&self, attempt: Attempt) {
        let parts = self.parts.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REPORT_WAIT).await;
            parts.reports.update(&hex::encode(attempt), |report| {
                if report.outcome == MigrationOutcome::Running {
                    report.outcome = MigrationOutcome::Completed;
                    report.error = Some("the destination serves and has sent no figures".into());
                }
            });
        });
    }

    /// The new owner says that it serves; it is told what the hand-over did to the requests here.
    pub(super) async fn noted(
        &mut self,
        from: PublicKey,
        epoch: u64,
    ) -> Result<SessionResponse, JournalClosed> {
        if !self.keeper.gave_to(&self.record(), from, epoch) {
            return Ok(SessionResponse::Refused(Refusal::NotOwner));
        }
        self.on_answered(epoch, true).await?;
        let figures = self.slot.gate.figures();
        Ok(SessionResponse::Noted(SourceFigures {
            sent: figures.sent,
            held: figures.held,
            failed: figures.failed,
            interrupted: figures.interrupted,
            max_stall_us: micros(figures.max_stall),
        }))
    }

    /// Rule 6: the stopped container is kept until the destination serves, and `keep_source` longer. One of an earlier
    /// stay is worth nothing since the session has come back.
    pub(super) async fn remove_kept(&mut self) -> Result<(), JournalClosed> {
        let keep_source = self.parts.config.migration.keep_source;
        let (now, record, busy) = (Instant::now(), self.record(), self.incoming.is_some());
        for stale in self.keeper.removable(now, &record, keep_source, busy) {
            self.remove_given(&stale.container, stale.given).await?;
        }
        Ok(())
    }

    /// Removes a stopped container whose state lives elsewhere, and the images that were made for it.
    pub(super) async fn remove_given(
        &mut self,
        container: &Container,
        given: Option<(u64, Attempt)>,
    ) -> Result<(), JournalClosed> {
        // Never by force: what runs is not ours to remove here.
        if let Err(error) = launch::remove(&self.parts, &container.name, false).await {
            tracing::warn!(session = %self.id, container = container.name, %error, "can't be removed yet");
            return Ok(());
        }
        // The committed image stands on the one that the container was created from: it goes first.
        if let Some((epoch, attempt)) = given {
            self.drop_image(&committed_image(&self.id, epoch, &attempt)).await;
            self.grants.end(&attempt);
        }
        self.drop_image(&container.image).await;
        self.append(Entry::Removed {
            session: self.id,
            container: container.name.clone(),
        })
        .await
    }
}

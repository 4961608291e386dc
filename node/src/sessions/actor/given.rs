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
        let Some(gave) = record
            .gave
            .as_ref()
            .filter(|gave| !gave.served && record.standing == Standing::Gave)
        else {
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
        let Some(gave) = record.gave.as_ref().filter(|gave| gave.epoch == epoch) else {
            return Ok(());
        };
        if serving && !gave.served {
            self.served_at = Some(Instant::now());
            self.close_book_later(gave.attempt);
            self.append(Entry::Served {
                session: self.id,
                epoch,
            })
            .await?;
        } else if !gave.acknowledged {
            self.append(Entry::Acknowledged {
                session: self.id,
                epoch,
            })
            .await?;
        }
        Ok(())
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
        let record = self.record();
        if !record
            .gave
            .as_ref()
            .is_some_and(|gave| gave.destination == from && gave.epoch == epoch)
        {
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
        let record = self.record();
        for stale in &record.stale {
            self.remove_given(&stale.container, stale.given).await?;
        }
        if record.standing != Standing::Gave || !record.gave.as_ref().is_some_and(|gave| gave.served) {
            return Ok(());
        }
        let served_at = *self.served_at.get_or_insert_with(Instant::now);
        if served_at.elapsed() < self.parts.config.migration.keep_source || self.incoming.is_some() {
            return Ok(());
        }
        let (Some(container), Some(gave)) = (&record.container, &record.gave) else {
            return Ok(());
        };
        self.remove_given(container, Some((gave.epoch - 1, gave.attempt)))
            .await
    }

    /// Removes a stopped container whose state lives elsewhere, and the images that were made for it.
    pub(super) async fn remove_given(
        &self,
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

    /// Rule 3: with the destination evicted and the hand-over unsealed, this node's sealed `Abort` gives the session back.
    pub(super) async fn reclaim(
        &mut self,
        record: &Record,
        sealed: Option<&blosm_ledger::SessionRecord>,
        view: &ChainView,
    ) -> Result<(), JournalClosed> {
        let (Some(gave), Some(sealed)) = (&record.gave, sealed) else {
            return Ok(());
        };
        if sealed.owner != self.parts.me || !sealed.is_open() {
            return Ok(());
        }
        if sealed.epoch == gave.epoch && sealed.since != gave.handover.hash {
            self.append(Entry::Reclaimed {
                session: self.id,
                epoch: gave.epoch,
                abort_hash: sealed.since,
            })
            .await?;
            tracing::warn!(session = %self.id, "the destination was evicted before the hand-over was sealed; the session is back");
            self.begin_ownership();
            return self.ensure_running().await;
        }
        let evicted = view.state.members().evicted(&gave.destination).is_some();
        if sealed.epoch + 1 == gave.epoch
            && evicted
            && self.aborting.as_ref().is_none_or(JoinHandle::is_finished)
        {
            let abort = blosm_ledger::Abort {
                session: self.id,
                epoch: sealed.epoch,
                claim: None,
            };
            let (abort, chain) = (self.parts.sign(Payload::Abort(abort)), self.parts.chain.clone());
            self.aborting = Some(tokio::spawn(async move {
                if let Err(error) = chain.submit(abort).await {
                    tracing::warn!(%error, "the abort of an unsealed hand-over is not sealed yet");
                }
            }));
        }
        Ok(())
    }
}

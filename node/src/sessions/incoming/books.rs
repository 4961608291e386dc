//! The end of an attempt: its report, at both ends, and what it leaves behind.

use super::ended::UNHEALTHY;
use super::*;

impl Incoming {
    /// Closes the books, and cleans up what a failed attempt has left.
    pub(super) async fn finish(mut self, outcome: Result<Moved, Ended>) {
        let id = self.report.id.clone();
        match outcome {
            Ok(moved) => {
                let _ = tokio::fs::remove_dir_all(&self.spool).await;
                self.completed(moved).await;
            }
            Err(error) => {
                let relayed = matches!(error, Ended::VerdictFalse | Ended::NoRoom | Ended::TooFast { .. });
                self.report.outcome = if relayed {
                    MigrationOutcome::Relayed
                } else {
                    MigrationOutcome::Aborted
                };
                self.report.error = Some(error.to_string());
                self.report.total_ms = millis(self.begin);
                // A source that refuses loses nothing by being asked again.
                if !matches!(
                    error,
                    Ended::Refused(Refusal::TooSoon | Refusal::Busy | Refusal::NotReady)
                ) {
                    self.slot.failed_attempts.fetch_add(1, Ordering::Relaxed);
                }
                self.event(if relayed { "relayed" } else { "aborted" });
                tracing::info!(session = %self.visit.session, attempt = %id, %error, "the attempt ended; the session stays where it is");
                if !self.applied {
                    self.clean_up(&error).await;
                }
                if error.is_disk() {
                    // Worth less than the room of the session journal.
                    let _ = tokio::fs::remove_dir_all(&self.spool).await;
                }
                // An attempt that the owner never announced is no migration, only a question.
                if self.announced.is_some() || self.visit.how.reason != MoveReason::Mobility {
                    self.publish_report(Some(error.word()));
                }
            }
        }
        let ended = Command::AttemptEnded {
            attempt: self.visit.attempt,
        };
        // The session's task may have ended with the node.
        let _ = self.slot.commands.send(ended).await;
    }

    pub(super) async fn completed(&mut self, moved: Moved) {
        let figures = self.wait_served(&moved).await;
        let own = self.slot.gate.figures();
        let requests = &mut self.report.requests;
        let source = figures.unwrap_or_default();
        requests.sent = own.sent + source.sent;
        requests.held = own.held + source.held;
        requests.failed = own.failed + source.failed;
        requests.interrupted = own.interrupted + source.interrupted;
        requests.max_stall_ms =
            (own.max_stall.as_secs_f64() * 1000.0).max(source.max_stall_us as f64 / 1000.0);
        self.report.downtime_ms = requests.max_stall_ms.max(self.report.service_down_ms);
        self.report.total_ms = millis(self.begin);
        if self
            .slot
            .healthy
            .borrow()
            .is_none_or(|(epoch, _)| epoch != moved.epoch)
        {
            // Handed back, or not healthy yet: not a move that a client would call one.
            self.report.outcome = MigrationOutcome::Aborted;
            self.report.error = Some("the container did not become healthy here".into());
            self.slot.failed_attempts.fetch_add(1, Ordering::Relaxed);
            self.event("aborted");
            self.publish_report(Some(UNHEALTHY));
            return;
        }
        self.report.outcome = MigrationOutcome::Completed;
        self.slot.failed_attempts.store(0, Ordering::Relaxed);
        self.drop_staged().await;
        self.event("serving");
        self.publish_report(None);
    }

    pub(super) async fn wait_served(&mut self, moved: &Moved) -> Option<SourceFigures> {
        let (mut healthy, mut served) = (self.slot.healthy.subscribe(), self.slot.served.subscribe());
        let waiting = async {
            let at = healthy
                .wait_for(|at| at.is_some_and(|(epoch, _)| epoch == moved.epoch))
                .await
                .ok()?
                .map(|at| at.1);
            if let Some(at) = at {
                let down = at.saturating_duration_since(moved.last_answer_before);
                self.report.service_down_ms = down.as_secs_f64() * 1000.0;
                self.report.phases_ms.start =
                    at.saturating_duration_since(moved.handed_over).as_secs_f64() * 1000.0;
            }
            let figures = served
                .wait_for(|figures| figures.is_some_and(|(epoch, _)| epoch == moved.epoch))
                .await
                .ok()?;
            figures.map(|(_, figures)| figures)
        };
        tokio::time::timeout(SERVED_WAIT, waiting).await.ok().flatten()
    }

    /// Into this node's book and the source's; `why`, in a word, when the migration is not completed.
    pub(super) fn publish_report(&self, why: Option<&'static str>) {
        let mut report = self.report.clone();
        // What came in beside the attempt (heights, confirmations) stands in the book already.
        if let Some(known) = self.parts.reports.get(&report.id) {
            report.ledger.confirmations = known.ledger.confirmations;
            report.ledger.members = known.ledger.members;
            report.ledger.confirmed_ms = known.ledger.confirmed_ms;
            report.ledger.sealed_ms = known.ledger.sealed_ms;
            report.ledger.keep_heights(&known.ledger.transactions);
        }
        self.parts
            .metrics
            .migration(self.method, self.instead_of, &report, why);
        self.parts.reports.put(report.clone());
        let (parts, visit) = (self.parts.clone(), self.visit.clone());
        tokio::spawn(async move { send(&parts, &visit, &report).await });
    }

    pub(super) async fn clean_up(&mut self, error: &Ended) {
        {
            let mut bookings = self.parts.bookings();
            bookings.release(BookingKey::Claim(self.visit.attempt));
        }
        // A source that has refused knows; any other is told, so that it does not wait for us.
        if !matches!(error, Ended::Refused(_)) && self.announced.is_some() {
            let request = SessionRequest::Cancel {
                session: self.visit.session,
                attempt: self.visit.attempt,
            };
            if let Err(error) = notice::ask(&self.parts, self.visit.source, &request).await {
                tracing::debug!(%error, "the source was not told; it will notice the silence");
            }
        }
        let name = launch::name(&self.visit.session, self.epoch + 1, &self.visit.attempt);
        self.drop_container(&name).await;
        self.staged.extend(self.container_image.take());
        self.drop_staged().await;
    }

    pub(super) async fn drop_staged(&mut self) {
        // Newest first: an engine keeps what another image stands on.
        for image in std::mem::take(&mut self.staged).into_iter().rev() {
            if let Err(error) = self.parts.engine.remove_image(&image, false).await {
                tracing::debug!(image, %error, "a staged image is left");
            }
        }
    }

    pub(super) async fn drop_container(&self, name: &str) {
        if let Err(error) = launch::remove(&self.parts, name, true).await {
            tracing::debug!(container = name, %error, "a staged container is left");
        }
    }
}

/// Sends a report to the source, which keeps the last one that it gets.
pub(super) async fn send(parts: &Parts, visit: &Visit, report: &MigrationReport) {
    let request = SessionRequest::Report {
        session: visit.session,
        attempt: visit.attempt,
        json: serde_json::to_vec(report).expect("a report is plain data"),
    };
    if let Err(error) = notice::ask(parts, visit.source, &request).await {
        tracing::debug!(%error, "the other end did not take the report");
    }
}

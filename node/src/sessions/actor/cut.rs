//! The cut at the source, up to the signature, and the way back from it (rule 5).

use blosm_migrate::image::manifest_root;
use blosm_migrate::recreate;

use super::super::IMAGE_REPOSITORY;
use super::super::wire::micros;
use super::*;

/// Longest time for holding, draining, stopping, committing and exporting; below the time that the peer waits.
const CUT_LIMIT: Duration = Duration::from_secs(100);

impl Actor {
    /// Rule 5, first half: hold, drain, stop and see the exit, commit.
    pub(super) async fn begin_cut(
        &mut self,
        from: PublicKey,
        attempt: Attempt,
    ) -> Result<SessionResponse, JournalClosed> {
        // A cut that is done is answered for again, whatever has become of the proposer.
        let again = self.cut.as_ref().is_some_and(|cut| cut.attempt == attempt);
        if !again && let Err(refusal) = self.may_cut().await {
            return Ok(SessionResponse::Refused(refusal));
        }
        match self.tell_source(Input::Cut { attempt, from }) {
            Err(refusal) => return Ok(SessionResponse::Refused(refusal)),
            Ok(Effect::BeginCut { .. }) => {}
            Ok(_) => {
                return Ok(match &self.cut {
                    Some(cut) if cut.attempt == attempt => SessionResponse::Stopped(cut.answer()),
                    _ => SessionResponse::Refused(Refusal::Busy),
                });
            }
        }
        let cut = match tokio::time::timeout(CUT_LIMIT, self.cut(attempt)).await {
            Ok(cut) => cut,
            Err(_) => Err(LaunchError::Late),
        };
        match cut {
            Ok(cut) => {
                let root = manifest_root(
                    &self.id,
                    self.record().owned_epoch().unwrap_or_default(),
                    &cut.image.identity,
                );
                let answer = cut.answer();
                self.cut = Some(cut);
                match self.tell_source(Input::CutDone { attempt, root }) {
                    Ok(_) => Ok(SessionResponse::Stopped(answer)),
                    Err(refusal) => {
                        self.roll_back(attempt).await?;
                        Ok(SessionResponse::Refused(refusal))
                    }
                }
            }
            Err(error) => {
                tracing::warn!(session = %self.id, attempt = %hex::encode(attempt), %error, "the cut failed; the session stays here");
                // The machine answers with a roll-back; there is no other way out of `Stopping`.
                let _ = self.tell_source(Input::CutFailed { attempt });
                self.roll_back(attempt).await?;
                Ok(SessionResponse::Refused(Refusal::CutFailed))
            }
        }
    }

    /// In a network that requires confirmations no container stops before 90 % hold its announcement (Algorithm 1).
    pub(super) async fn may_cut(&self) -> Result<(), Refusal> {
        let Adoption::Mine { .. } = self.adoption() else {
            return Err(Refusal::NotOwner);
        };
        // More than a new owner takes: the proposer has been away for that many hand-overs.
        if self.record().pending.len() >= super::destination::MAX_PENDING {
            return Err(Refusal::Unconfirmed);
        }
        if self.parts.config.network.genesis.params.confirmation == blosm_ledger::Confirmation::Advisory {
            return Ok(());
        }
        let announced = self.announced.ok_or(Refusal::Unconfirmed)?;
        let status = self
            .parts
            .chain
            .transaction(announced)
            .await
            .ok_or(Refusal::Unconfirmed)?;
        // Alg. 1, line 23
        if status.is_confirmed() {
            Ok(())
        } else {
            Err(Refusal::Unconfirmed)
        }
    }

    pub(super) async fn cut(&mut self, attempt: Attempt) -> Result<Cut, LaunchError> {
        let service = self
            .service()
            .ok_or_else(|| LaunchError::Absent("of a service that is not declared".into()))?;
        let name = match &self.live {
            Some(live) => live.running.container.clone(),
            None => return Err(LaunchError::Absent("that runs".into())),
        };
        let base = launch::base(&self.parts, &service).await?;
        let signal = recreate::stop_signal(&service, &base.config)?;
        self.parts.reports.event(&attempt, &self.id, "drain");
        self.slot.gate.hold();
        let begin = Instant::now();
        self.slot.gate.drain(service.stop.drain).await;
        let last_answer = Instant::now();
        self.parts.reports.event(&attempt, &self.id, "stop");
        let stopping = self.parts.docker.stop(&name, signal, service.stop.grace).await;
        if stopping.is_ok() {
            // From here on the container is known to be down; `wants_start` is kept off by the source's machine.
            self.live = None;
        }
        stopping?;
        let stop = last_answer.elapsed();
        self.parts.reports.event(&attempt, &self.id, "commit");
        let committing = Instant::now();
        let epoch = self.record().owned_epoch().unwrap_or_default();
        let reference = committed_image(&self.id, epoch, &attempt);
        let tag = reference
            .trim_start_matches(IMAGE_REPOSITORY)
            .trim_start_matches(':');
        self.parts.docker.settled(&name).await?;
        let image = self.parts.docker.commit(&name, IMAGE_REPOSITORY, tag).await?;
        let layers = self
            .grants
            .finish(&self.parts.docker, attempt, &reference, &image)
            .await?;
        let stopped = Stopped {
            config_digest: image.identity.config_digest.0,
            diff_ids: image.identity.diff_ids.iter().map(|digest| digest.0).collect(),
            drain_us: micros(last_answer - begin),
            stop_us: micros(stop),
            commit_us: micros(committing.elapsed()),
            since_last_answer_us: 0,
            writable_bytes: layers,
            image_bytes: image.size,
        };
        Ok(Cut {
            attempt,
            image,
            stopped,
            last_answer,
        })
    }

    /// Before the signature the source may roll back freely (rule 3): the container starts where it stopped.
    pub(super) async fn roll_back(&mut self, attempt: Attempt) -> Result<(), JournalClosed> {
        self.parts.reports.event(&attempt, &self.id, "aborted");
        self.cut = None;
        self.grants.end(&attempt);
        let epoch = self.record().owned_epoch().unwrap_or_default();
        self.drop_image(&committed_image(&self.id, epoch, &attempt)).await;
        self.next_start = None;
        match &self.live {
            // It was never stopped: requests go on to it.
            Some(live) => self.slot.gate.set(Route::Local(live.running.address)),
            None => self.ensure_running().await?,
        }
        Ok(())
    }
}

impl Cut {
    /// The answer to a request for this cut, with the time that has passed since.
    fn answer(&self) -> Stopped {
        Stopped {
            since_last_answer_us: micros(self.last_answer.elapsed()),
            ..self.stopped.clone()
        }
    }
}

/// The image that a cut makes of a session's container.
pub(super) fn committed_image(session: &SessionId, epoch: u64, attempt: &Attempt) -> String {
    format!("{IMAGE_REPOSITORY}:{}-out", launch::name(session, epoch, attempt))
}

//! The owner's side of a session's life: its container runs, is started again, or the session ends.

use blosm_migrate::docker::EngineError;
use blosm_migrate::service::StopSignal;
use blosm_migrate::session::{Failed, Failure, Launch};

use super::*;

impl Actor {
    /// The one place where a real entrypoint is started or adopted.
    ///
    /// Rule 4: only the owner, by its journal and by all that the chain says against it, and never during a cut.
    pub(super) async fn ensure_running(&mut self) -> Result<(), JournalClosed> {
        let Some(service) = self.service() else {
            let service = self.record().service.clone();
            tracing::warn!(session = %self.id, service, "the service is not declared here any more; declare it to serve this session");
            self.keeper.put_off(Instant::now() + Duration::from_secs(5));
            return Ok(());
        };
        if let Some(running) = self.take_prepared() {
            let record = self.record();
            if let Some(entry) = record
                .container
                .as_ref()
                .and_then(|current| self.keeper.starting(current))
            {
                self.append(entry).await?;
            }
            match launch::pass(&self.parts, &service, &running).await {
                Ok(()) => return self.serve(running).await,
                // The engine knows more.
                Err(error) => {
                    tracing::info!(session = %self.id, %error, "the prepared container does not serve")
                }
            }
        }
        let outcome = match self.container(&service).await? {
            Ok(name) => launch::start(&self.parts, &service, &name).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(running) => self.serve(running).await,
            Err(error) => self.start_failed(&service, error).await,
        }
    }

    /// The container that was prepared for this stay, if it is the session's.
    fn take_prepared(&mut self) -> Option<Running> {
        let record = self.record();
        self.prepared
            .take()
            .filter(|prepared| self.keeper.is_current(&record, &prepared.container))
    }

    /// The session's container, created if it never was; written down before the engine hears of it.
    async fn container(&mut self, service: &Service) -> Result<Result<String, LaunchError>, JournalClosed> {
        let record = self.record();
        let there = match &record.container {
            None => false,
            Some(container) => match self.parts.engine.inspect(&container.name).await {
                Err(error) => return Ok(Err(error.into())),
                Ok(found) => found.is_some(),
            },
        };
        match self.keeper.launch(&record, there) {
            Launch::Start { container, before } => {
                if let Some(entry) = before {
                    self.append(entry).await?;
                }
                return Ok(Ok(container));
            }
            Launch::Absent { container } => return Ok(Err(LaunchError::Absent(container))),
            Launch::Create => {}
        }
        let pinned = match self.parts.engine.pinned(&service.image).await {
            Ok(pinned) => pinned,
            Err(error) => return Ok(Err(error.into())),
        };
        let base = pinned.base();
        let name = launch::name(&self.id, 0, &super::super::random());
        // By its id: a tag may be moved under a running container.
        let image = pinned.id.clone();
        self.append(Entry::Creating {
            session: self.id,
            epoch: 0,
            container: name.clone(),
            image,
        })
        .await?;
        if let Err(error) =
            launch::create(&self.parts, service, &base, &self.id, &name, &pinned.id, None).await
        {
            return Ok(Err(error));
        }
        self.append(Entry::Starting {
            session: self.id,
            container: name.clone(),
        })
        .await?;
        Ok(Ok(name))
    }

    async fn serve(&mut self, running: Running) -> Result<(), JournalClosed> {
        tracing::info!(session = %self.id, container = %running.container, address = %running.address, "serving");
        let mut came = None;
        if let Some((entry, from)) = self.keeper.healthy(&self.record()) {
            self.append(entry).await?;
            came = Some(from);
        }
        let gone = launch::exit(&self.parts.engine, &running);
        let (gate, address) = (self.slot.gate.clone(), running.address);
        let exit = AbortOnDropHandle::new(tokio::spawn(async move {
            gone.await;
            // At once, not when this session's task has time: the engine may give the address to another container.
            gate.close(address);
        }));
        self.live = Some(Live {
            running,
            exit,
            told_to_stop: false,
        });
        self.slot.gate.set(Route::Local(address));
        if let Some(from) = came {
            self.tell_serving(from);
        }
        Ok(())
    }

    async fn start_failed(&mut self, service: &Service, error: LaunchError) -> Result<(), JournalClosed> {
        let failure = Failure {
            engine_answered: error.engine_answered(),
            absent: matches!(error, LaunchError::Absent(_)),
        };
        let looked = self.look();
        let failed = self.keeper.start_failed(Instant::now(), &looked.known(), failure);
        tracing::warn!(session = %self.id, tries = self.keeper.failed_starts(), %error, "the container does not serve");
        match failed {
            Failed::Again => {}
            Failed::HandBack { stop, signing } => self.hand_back(service, stop, signing).await?,
            Failed::Lost => {
                tracing::error!(session = %self.id, %error, "the session's state is lost; it is closed");
                self.close(ReleaseReason::StateLost).await?;
            }
        }
        Ok(())
    }

    /// The container's first process has ended, and nobody here asked for it.
    pub(super) fn on_exit(&mut self) {
        if let Some(live) = self.live.take() {
            tracing::warn!(session = %self.id, container = %live.running.container, "the container ended; starting it again");
        }
        self.slot.gate.hold();
        self.keeper.start_at_once();
        self.grants.end_live(&self.id);
    }

    /// The chain has moved: it may hold a newer fact than the journal.
    pub(super) async fn on_chain(&mut self) -> Result<(), JournalClosed> {
        // Seen with this: what comes later wakes this task again.
        drop(self.chain.borrow_and_update());
        let looked = self.look();
        let known = looked.known();
        match self.keeper.chain_moved(&known) {
            Moved::Nothing => {}
            Moved::Back => {
                self.keeper.begin(Instant::now());
                self.slot.gate.set(Route::Held);
            }
            Moved::Lost { why, closed } => self.lose(why, closed).await?,
            Moved::Reclaimed(entry) => self.reclaim(entry).await?,
            Moved::Abort(abort) => self.abort(abort),
        }
        // Rule 4: a hand-over to this node may also come in a block, and so may a hand-back.
        if let Some(handover) = self.keeper.in_block(&known)
            && let Some(found) = self.parts.chain.sealed(handover).await
        {
            let taken = self.acquire(pending(&found.transaction), Vec::new()).await?;
            tracing::info!(session = %self.id, ?taken, "hand-over found in a block");
        }
        // Asked anew: it may just have been taken.
        if let Some(attempt) = self.keeper.passed_over(&self.look().known()) {
            self.discard_applied(attempt).await?;
        }
        Ok(())
    }

    /// This node ran a session that is another's: stop, keep, route on.
    async fn lose(&mut self, why: &str, closed: bool) -> Result<(), JournalClosed> {
        if !self.keeper.lose(self.live.is_some()) {
            return Ok(());
        }
        tracing::warn!(session = %self.id, why, "no longer the owner; the container is stopped and kept");
        self.slot.gate.hold();
        // If it can't be stopped and the session comes back, it is adopted like any that runs.
        self.live = None;
        self.cut = None;
        if let Some(container) = self.record().container.clone() {
            let grace = self
                .service()
                .map_or(Duration::from_secs(2), |service| service.stop.grace);
            if let Err(error) = self
                .stop_or_absent(&container.name, StopSignal::SigTerm, grace)
                .await
            {
                tracing::error!(session = %self.id, %error, "a container of another's session can't be stopped yet");
                // Asked again with the next change of the chain or the next beat.
                self.keeper.not_stopped();
                return Ok(());
            }
        }
        self.slot
            .gate
            .set(if closed { Route::Gone } else { Route::Elsewhere });
        // An evicted node may come back, and its sessions with it.
        if self.parts.evicted().is_none() {
            self.release_booking();
        }
        Ok(())
    }

    /// Rule 3: the session is this node's again.
    async fn reclaim(&mut self, entry: Entry) -> Result<(), JournalClosed> {
        self.append(entry).await?;
        tracing::warn!(session = %self.id, "the destination was evicted before the hand-over was sealed; the session is back");
        self.slot.gate.set(Route::Held);
        self.keeper.start_at_once();
        if self.is_mine() {
            self.ensure_running().await?;
        }
        Ok(())
    }

    /// Has the `Abort` sealed that takes the place of a hand-over to a destination that was evicted.
    fn abort(&mut self, abort: blosm_ledger::Abort) {
        if self.aborting.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (abort, chain) = (self.parts.sign(Payload::Abort(abort)), self.parts.chain.clone());
        self.aborting = Some(tokio::spawn(async move {
            if let Err(error) = chain.submit(abort).await {
                tracing::warn!(%error, "the abort of an unsealed hand-over is not sealed yet");
            }
        }));
    }

    /// Stops a container and sees its exit; one that is not there any more does not run.
    pub(super) async fn stop_or_absent(
        &self,
        name: &str,
        signal: StopSignal,
        grace: Duration,
    ) -> Result<(), EngineError> {
        match self.parts.engine.stop(name, signal, grace).await {
            Ok(_) | Err(EngineError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Closes the session for ever. False when this node may not.
    pub(super) async fn close(&mut self, reason: ReleaseReason) -> Result<bool, JournalClosed> {
        let Some(epoch) = self.keeper.may_close(&self.look().known()) else {
            return Ok(false);
        };
        self.slot.gate.hold();
        let release = self.parts.sign(Payload::Release(Release {
            session: self.id,
            epoch,
            reason,
        }));
        self.append(Entry::Closed {
            session: self.id,
            release: Some(pending(&release)),
        })
        .await?;
        self.live = None;
        self.slot.gate.set(Route::Gone);
        self.slot.submit.notify_one();
        if let Some(container) = self.record().container.clone() {
            self.remove_container(&container.name, &container.image).await?;
        }
        self.release_booking();
        Ok(true)
    }

    /// Removes a container that nobody needs any more, with the image that was made for it.
    pub(super) async fn remove_container(&mut self, name: &str, image: &str) -> Result<(), JournalClosed> {
        if let Err(error) = launch::remove(&self.parts, name, true).await {
            tracing::warn!(session = %self.id, container = name, %error, "can't be removed yet");
            return Ok(());
        }
        self.append(Entry::Removed {
            session: self.id,
            container: name.to_owned(),
        })
        .await?;
        self.drop_image(image).await;
        Ok(())
    }

    /// Removes an image that only this session used. The pinned base is the operator's.
    pub(super) async fn drop_image(&self, image: &str) {
        if image.starts_with(super::super::IMAGE_REPOSITORY)
            && let Err(error) = self.parts.engine.remove_image(image, false).await
        {
            tracing::debug!(image, %error, "an image of a moved session is left");
        }
    }

    pub(super) fn release_booking(&self) {
        let mut bookings = self.parts.bookings();
        bookings.release(blosm_migrate::placement::BookingKey::Session(self.id.0));
    }
}

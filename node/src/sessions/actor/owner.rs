//! The owner's side of a session's life: its container runs, is started again, or the session ends.

use blosm_migrate::docker::EngineError;
use blosm_migrate::service::StopSignal;

use super::*;

impl Actor {
    pub(super) fn wants_start(&self, now: Instant) -> bool {
        self.live.is_none()
            && self.cut.is_none()
            && !self.source.as_ref().is_some_and(Source::is_cut)
            && matches!(self.adoption(), Adoption::Mine { .. })
            && self.next_start.is_none_or(|at| now >= at)
    }

    /// The one place where a real entrypoint is started or adopted.
    ///
    /// Rule 4: only the owner, by its journal and by all that the chain says against it, and never during a cut.
    pub(super) async fn ensure_running(&mut self) -> Result<(), JournalClosed> {
        let Some(service) = self.service() else {
            let service = self.record().service.clone();
            tracing::warn!(session = %self.id, service, "the service is not declared here any more; declare it to serve this session");
            self.next_start = Some(Instant::now() + Duration::from_secs(5));
            return Ok(());
        };
        if let Some(running) = self.take_prepared() {
            let started = self.record().container.as_ref().is_some_and(|c| c.started);
            self.mark_starting(&running.container, started).await?;
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
        self.prepared.take().filter(|prepared| {
            record
                .container
                .as_ref()
                .is_some_and(|current| current.name == prepared.container)
        })
    }

    /// The session's container, created if it never was; written down before the engine hears of it.
    async fn container(&mut self, service: &Service) -> Result<Result<String, LaunchError>, JournalClosed> {
        let record = self.record();
        if let Some(container) = &record.container {
            match self.parts.engine.inspect(&container.name).await {
                Err(error) => return Ok(Err(error.into())),
                Ok(None) if container.started => return Ok(Err(LaunchError::Absent(container.name.clone()))),
                Ok(None) => {}
                Ok(Some(_)) => {
                    self.mark_starting(&container.name, container.started).await?;
                    return Ok(Ok(container.name.clone()));
                }
            }
        }
        if record.owned_epoch() != Some(0) {
            // A session that came from elsewhere has its state in the container that was applied, and nowhere else.
            let name = record
                .container
                .as_ref()
                .map_or_else(String::new, |container| container.name.clone());
            return Ok(Err(LaunchError::Absent(name)));
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
        self.mark_starting(&name, false).await?;
        Ok(Ok(name))
    }

    async fn mark_starting(&self, name: &str, started: bool) -> Result<(), JournalClosed> {
        if started {
            return Ok(());
        }
        self.append(Entry::Starting {
            session: self.id,
            container: name.to_owned(),
        })
        .await
    }

    async fn serve(&mut self, running: Running) -> Result<(), JournalClosed> {
        tracing::info!(session = %self.id, container = %running.container, address = %running.address, "serving");
        self.failed_starts = 0;
        self.next_start = None;
        let came = self.record().came;
        if came.is_some() {
            // After this it can't be handed back: requests will have changed it.
            self.append(Entry::Routed { session: self.id }).await?;
        }
        let gone = launch::exit(&self.parts.engine, &running);
        let (gate, address) = (self.slot.gate.clone(), running.address);
        let exit = AbortOnDropHandle::new(tokio::spawn(async move {
            gone.await;
            // At once, not when this session's task has time: the engine may give the address to another container.
            gate.close(address);
        }));
        self.live = Some(Live { running, exit });
        self.has_served = true;
        self.slot.gate.set(Route::Local(address));
        if let Some((from, _)) = came {
            self.tell_serving(from);
        }
        Ok(())
    }

    async fn start_failed(&mut self, service: &Service, error: LaunchError) -> Result<(), JournalClosed> {
        self.failed_starts += 1;
        tracing::warn!(session = %self.id, tries = self.failed_starts, %error, "the container does not serve");
        let backoff = Duration::from_millis(200) * self.failed_starts.min(25);
        self.next_start = Some(Instant::now() + backoff);
        let record = self.record();
        if let Some((from, root)) = record.came {
            return self.hand_back(service, from, root, error.engine_answered()).await;
        }
        if !error.engine_answered() {
            return Ok(());
        }
        let lost = matches!(error, LaunchError::Absent(_))
            && record
                .container
                .as_ref()
                .is_none_or(|container| container.started || container.epoch > 0);
        // A container that never served holds nothing that a client was told.
        let stillborn = record.owned_epoch() == Some(0)
            && !self.has_served
            && !self.ran_before
            && self.failed_starts >= MAX_FIRST_STARTS;
        if lost || stillborn {
            tracing::error!(session = %self.id, %error, "the session's state is lost; it is closed");
            self.close(ReleaseReason::StateLost).await?;
        }
        Ok(())
    }

    /// The container's first process has ended, and nobody here asked for it.
    pub(super) fn on_exit(&mut self) {
        if let Some(live) = self.live.take() {
            tracing::warn!(session = %self.id, container = %live.running.container, "the container ended; starting it again");
        }
        self.slot.gate.hold();
        self.next_start = None;
        self.grants.end_live(&self.id);
    }

    /// The chain has moved: it may hold a newer fact than the journal.
    pub(super) async fn on_chain(&mut self) -> Result<(), JournalClosed> {
        let view = self.chain.borrow_and_update().clone();
        let record = self.record();
        let sealed = view.state.session(&self.id).cloned();
        match record.standing {
            Standing::Owner { .. } => match self.adoption() {
                // Admitted again after an eviction.
                Adoption::Mine { .. } if self.source.is_none() => self.begin_ownership(),
                Adoption::Mine { .. } => {}
                Adoption::NotMine if view.state.members().evicted(&self.parts.me).is_some() => {
                    self.lose("this node was evicted").await?
                }
                Adoption::NotMine => self.lose("the chain holds a newer owner").await?,
                Adoption::Closed => self.lose("the session is closed on the chain").await?,
            },
            Standing::Gave => self.reclaim(&record, sealed.as_ref(), &view).await?,
            Standing::Visitor | Standing::Closed => {}
        }
        // Rule 4: a hand-over to this node may also come in a block, and so may a hand-back.
        if let Some(sealed) = &sealed
            && sealed.owner == self.parts.me
            && !record.may_run()
            && (record
                .applied
                .as_ref()
                .is_some_and(|applied| applied.epoch + 1 == sealed.epoch)
                || record
                    .gave
                    .as_ref()
                    .is_some_and(|gave| gave.epoch + 1 == sealed.epoch && !gave.served))
            && let Some(found) = self.parts.chain.sealed(sealed.since).await
        {
            let taken = self.acquire(pending(&found.transaction), Vec::new()).await?;
            tracing::info!(session = %self.id, ?taken, "hand-over found in a block");
        }
        // What was applied here waits for a signature that no longer counts, and its signer may never say so.
        if let (Some(sealed), Some(applied)) = (&sealed, &self.record().applied)
            && sealed.epoch > applied.epoch
            && sealed.owner != self.parts.me
        {
            self.discard_applied(applied.attempt).await?;
        }
        Ok(())
    }

    /// This node ran a session that is another's: stop, keep, route on.
    async fn lose(&mut self, why: &str) -> Result<(), JournalClosed> {
        if self.source.take().is_none() && self.live.is_none() {
            return Ok(());
        }
        tracing::warn!(session = %self.id, why, "no longer the owner; the container is stopped and kept");
        self.slot.gate.hold();
        let gone = matches!(self.adoption(), Adoption::Closed);
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
                self.source = Some(Source::new(self.timing(), self.owned_since));
                return Ok(());
            }
        }
        self.live = None;
        self.cut = None;
        self.slot
            .gate
            .set(if gone { Route::Gone } else { Route::Elsewhere });
        // An evicted node may come back, and its sessions with it.
        if self.parts.evicted().is_none() {
            self.release_booking();
        }
        Ok(())
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
        let Adoption::Mine { epoch } = self.adoption() else {
            return Ok(false);
        };
        if self.source.as_ref().is_some_and(Source::is_cut) {
            return Ok(false);
        }
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
        self.source = None;
        self.slot.gate.set(Route::Gone);
        self.slot.submit.notify_one();
        if let Some(container) = self.record().container.clone() {
            self.remove_container(&container.name, &container.image).await?;
        }
        self.release_booking();
        Ok(true)
    }

    /// Removes a container that nobody needs any more, with the image that was made for it.
    pub(super) async fn remove_container(&self, name: &str, image: &str) -> Result<(), JournalClosed> {
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

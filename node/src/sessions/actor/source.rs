//! The source's side of a hand-over: what [`blosm_migrate::session::Source`] decides, carried out.

use blosm_ledger::{Announce, Claim, HandOver, Hash, Metadata, Transaction};
use blosm_migrate::image::manifest_root;
use blosm_migrate::recreate;
use blosm_migrate::session::{Container, Effect, Gave, Refused};

use super::super::wire::{Announcement, SourceFigures, micros};
use super::super::{IMAGE_REPOSITORY, MigrationReport, notice};
use super::*;

/// Longest time for holding, draining, stopping, committing and exporting; below the time that the peer waits.
const CUT_LIMIT: Duration = Duration::from_secs(100);

impl Actor {
    /// A peer's request, answered. Nothing that it says is believed without the journal or the chain.
    pub(super) async fn on_peer(
        &mut self,
        from: PublicKey,
        request: SessionRequest,
    ) -> Result<SessionResponse, JournalClosed> {
        let answer = match request {
            SessionRequest::Want { token, .. } => self.want(from, token.is_some()).await,
            SessionRequest::Claim { claim } => self.claim(from, &claim),
            SessionRequest::Cut { attempt, .. } => return self.begin_cut(from, attempt).await,
            SessionRequest::Ready { attempt, root, .. } => return self.ready(from, attempt, root).await,
            SessionRequest::Alive { attempt, .. } => {
                self.tell_source(Input::Alive { attempt, from }).map(agreed)
            }
            SessionRequest::Cancel { attempt, .. } => return self.cancel(from, attempt).await,
            SessionRequest::HandOver {
                handover, pending, ..
            } => {
                return Ok(match self.acquire(handover, pending).await? {
                    Ok(serving) => SessionResponse::Taken { serving },
                    Err(refusal) => SessionResponse::Refused(refusal),
                });
            }
            SessionRequest::Serving { epoch, .. } => return self.noted(from, epoch).await,
            SessionRequest::Invite { attempt, reason, .. } => {
                self.visit(attempt, None, from, reason);
                Ok(SessionResponse::Agreed)
            }
            SessionRequest::Report { attempt, json, .. } => self.keep_report(from, attempt, &json),
            SessionRequest::Close { .. } => {
                // The token was checked where the request came in.
                let closed = self.close(ReleaseReason::Client).await?;
                Ok(if closed {
                    SessionResponse::Agreed
                } else {
                    SessionResponse::Refused(Refusal::NotOwner)
                })
            }
            SessionRequest::Room { .. } => Err(Refusal::Malformed),
        };
        Ok(answer.unwrap_or_else(SessionResponse::Refused))
    }

    fn tell_source(&mut self, input: Input) -> Result<Effect, Refusal> {
        let source = self.source.as_mut().ok_or(Refusal::NotOwner)?;
        source
            .handle(Instant::now(), input)
            .map_err(|refused| match refused {
                Refused::TooSoon => Refusal::TooSoon,
                Refused::Busy | Refused::Crowded => Refusal::Busy,
                Refused::Void => Refusal::Void,
                Refused::OtherRoot => Refusal::OtherRoot,
            })
    }

    /// Rule 2: the container's metadata for a destination to judge, announced on the chain at the same time.
    async fn want(&mut self, from: PublicKey, token_presented: bool) -> Result<SessionResponse, Refusal> {
        let Adoption::Mine { epoch } = self.adoption() else {
            return Err(Refusal::NotOwner);
        };
        let invited = self.invited.is_some_and(|(member, _)| member == from);
        if !token_presented && !invited {
            return Err(Refusal::NotAuthorised);
        }
        self.tell_source(Input::Want { invited })?;
        let record = self.record();
        let service = self.service().ok_or(Refusal::NotReady)?;
        let live = self.live.as_ref().ok_or(Refusal::NotReady)?;
        let announcement = self
            .announcement(&service, &live.running.container.clone(), epoch, from)
            .await;
        let (announce, running) = announcement.map_err(|error| {
            tracing::warn!(session = %self.id, %error, "the container can't be announced");
            Refusal::NotReady
        })?;
        let bytes = announce.encode();
        self.announced = Some(announce.hash());
        let chain = self.parts.chain.clone();
        // Staging waits for neither seal nor confirmations (rule 2).
        tokio::spawn(async move { chain.announce(announce).await });
        self.welcome.insert(from);
        Ok(SessionResponse::Announced(Announcement {
            pending: record.pending.clone(),
            announce: bytes,
            service: service.name.clone(),
            running,
        }))
    }

    async fn announcement(
        &self,
        service: &Service,
        container: &str,
        epoch: u64,
        to: PublicKey,
    ) -> Result<(Transaction, [u8; 32]), LaunchError> {
        let base = launch::base(&self.parts, service).await?;
        let usage = self.parts.docker.usage(container).await?;
        let sizes = self.parts.docker.sizes(container).await?;
        let (id, image) = self.running_image(container).await?;
        let (gpu_usage, gpu_memory) = self.gpu(service);
        let metadata = Metadata {
            source: self.parts.me,
            addresses: self
                .parts
                .config
                .net
                .advertise
                .iter()
                .map(ToString::to_string)
                .collect(),
            container_id: id,
            service: service.name.clone(),
            declaration_hash: service.declaration_hash(),
            total_size: sizes.total,
            writable_size: sizes.writable,
            memory: usage.memory,
            cpu_usage: u32::try_from(usage.cpu_milli).unwrap_or(u32::MAX),
            gpu_usage,
            gpu_memory,
            architecture: base.architecture.clone(),
            config_digest: base.identity.config_digest.0,
        }
        .rounded();
        let announce = Announce {
            session: self.id,
            epoch,
            metadata,
            invited: vec![to],
        };
        Ok((
            self.parts.sign(Payload::Announce(announce)),
            image.identity.config_digest.0,
        ))
    }

    /// The container's id and the image that it was created from.
    async fn running_image(&self, container: &str) -> Result<(String, Image), LaunchError> {
        let found = self.parts.docker.inspect(container).await?;
        let found = found.ok_or_else(|| LaunchError::Absent(container.to_owned()))?;
        let image = self.parts.docker.image(&found.image).await?;
        Ok((found.id, image.ok_or(LaunchError::Absent(found.image))?))
    }

    /// What the service uses of the GPUs, in thousandths of a device and bytes; nothing when it declares none.
    ///
    /// Devices are shared without accounting per container, so a service that uses GPUs is announced with the devices'
    /// own load: too much rather than too little.
    fn gpu(&self, service: &Service) -> (u32, u64) {
        if service.resources.gpu == 0 {
            return (0, 0);
        }
        match self.parts.readings() {
            Ok(readings) => (
                readings
                    .gpus
                    .iter()
                    .map(|gpu| 1000_u32.saturating_sub(gpu.free_milli))
                    .sum(),
                service.resources.gpu_memory,
            ),
            Err(_) => (1000 * service.resources.gpu, service.resources.gpu_memory),
        }
    }

    fn claim(&mut self, from: PublicKey, bytes: &[u8]) -> Result<SessionResponse, Refusal> {
        let Adoption::Mine { epoch } = self.adoption() else {
            return Err(Refusal::NotOwner);
        };
        let transaction = Transaction::decode(bytes).map_err(|_| Refusal::Malformed)?;
        transaction
            .verify(self.parts.chain_id())
            .map_err(|_| Refusal::Malformed)?;
        let claim: &Claim = match &transaction.payload {
            Payload::Claim(claim) if claim.session == self.id && transaction.sender == from => claim,
            _ => return Err(Refusal::Malformed),
        };
        if claim.epoch != epoch {
            return Err(Refusal::NotOwner);
        }
        if !claim.verdict.accepted {
            return Ok(SessionResponse::Agreed);
        }
        // A claim is public; the token, or the owner's own invitation, is what lets a member in.
        if !self.welcome.contains(&from) {
            return Err(Refusal::NotAuthorised);
        }
        let attempt = claim.attempt;
        self.tell_source(Input::Claim {
            attempt,
            destination: from,
            claim: transaction.hash(),
        })?;
        let record = self.record();
        let image = record
            .container
            .as_ref()
            .map(|container| container.image.clone())
            .unwrap_or_default();
        if !self.grants.allow(self.id, attempt, from, self.service(), image) {
            self.tell_source(Input::Cancel { attempt, from })?;
            return Err(Refusal::Busy);
        }
        self.parts.reports.event(&attempt, &self.id, "claim");
        Ok(SessionResponse::Agreed)
    }

    /// Rule 5, first half: hold, drain, stop and see the exit, commit.
    async fn begin_cut(
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
    async fn may_cut(&self) -> Result<(), Refusal> {
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
        // Alg. 1, line 23: c < n * 0.9
        let confirmed = u64::from(status.confirmations) * 10 >= u64::from(status.members) * 9;
        if confirmed {
            Ok(())
        } else {
            Err(Refusal::Unconfirmed)
        }
    }

    async fn cut(&mut self, attempt: Attempt) -> Result<Cut, LaunchError> {
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

    async fn cancel(&mut self, from: PublicKey, attempt: Attempt) -> Result<SessionResponse, JournalClosed> {
        match self.tell_source(Input::Cancel { attempt, from }) {
            Ok(Effect::RollBack { attempt }) => self.roll_back(attempt).await?,
            Ok(_) => self.grants.end(&attempt),
            Err(refusal) => return Ok(SessionResponse::Refused(refusal)),
        }
        Ok(SessionResponse::Agreed)
    }

    /// Rule 3, the point of no return. What is asked twice is answered with the same bytes.
    async fn ready(
        &mut self,
        from: PublicKey,
        attempt: Attempt,
        root: Hash,
    ) -> Result<SessionResponse, JournalClosed> {
        let record = self.record();
        if let Some(gave) = &record.gave
            && gave.attempt == attempt
            && gave.destination == from
        {
            return Ok(if gave.root == root {
                self.handed_over(&record, gave)
            } else {
                SessionResponse::Refused(Refusal::OtherRoot)
            });
        }
        if !matches!(self.adoption(), Adoption::Mine { .. }) {
            return Ok(SessionResponse::Refused(Refusal::NotOwner));
        }
        match self.tell_source(Input::Ready { attempt, from, root }) {
            Ok(Effect::Sign {
                attempt,
                destination,
                claim,
                root,
            }) => {
                self.sign_over(attempt, destination, Some(claim), root).await?;
                let record = self.record();
                Ok(match &record.gave {
                    Some(gave) => self.handed_over(&record, gave),
                    None => SessionResponse::Refused(Refusal::Busy),
                })
            }
            Ok(_) => Ok(SessionResponse::Refused(Refusal::Busy)),
            Err(refusal) => Ok(SessionResponse::Refused(refusal)),
        }
    }

    /// Signs the session away. The journal has it before one byte of it leaves the process.
    pub(super) async fn sign_over(
        &mut self,
        attempt: Attempt,
        destination: PublicKey,
        claim: Option<Hash>,
        root: Hash,
    ) -> Result<(), JournalClosed> {
        let Some(epoch) = self.record().owned_epoch() else {
            return Ok(());
        };
        let handover = HandOver {
            session: self.id,
            epoch,
            claim,
            destination,
            manifest_root: root,
        };
        let transaction = self.parts.sign(Payload::HandOver(handover));
        self.append(Entry::Signed {
            session: self.id,
            epoch: epoch + 1,
            destination,
            attempt,
            root,
            handover: pending(&transaction),
        })
        .await?;
        self.parts.reports.event(&attempt, &self.id, "signed");
        self.source = None;
        self.cut = None;
        self.live = None;
        self.invited = None;
        self.slot.gate.set(Route::Elsewhere);
        self.slot.submit.notify_one();
        self.release_booking();
        Ok(())
    }

    fn handed_over(&self, record: &Record, gave: &Gave) -> SessionResponse {
        SessionResponse::HandedOver {
            handover: gave.handover.clone(),
            pending: before(record, gave),
        }
    }

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
            pending: before(&record, gave),
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

    /// The new owner says that it serves; it is told what the hand-over did to the requests here.
    async fn noted(&mut self, from: PublicKey, epoch: u64) -> Result<SessionResponse, JournalClosed> {
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
    async fn remove_given(
        &self,
        container: &Container,
        given: Option<(u64, Attempt)>,
    ) -> Result<(), JournalClosed> {
        // Never by force: what runs is not ours to remove here.
        if let Err(error) = self.parts.docker.remove(&container.name, false).await {
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

    /// `blosm migrate`: names the member in the next announcement and asks it to come.
    pub(super) async fn invite(&mut self, to: PublicKey) -> Result<Attempt, Refusal> {
        if !matches!(self.adoption(), Adoption::Mine { .. }) {
            return Err(Refusal::NotOwner);
        }
        self.tell_source(Input::Want { invited: true })?;
        let attempt = super::super::random();
        self.invited = Some((to, attempt));
        let request = SessionRequest::Invite {
            session: self.id,
            attempt,
            reason: super::super::wire::MoveReason::Operator,
        };
        match notice::ask(&self.parts, to, &request).await {
            Ok(SessionResponse::Agreed) => {
                // Into the book at once, so that the operator can follow it; the destination's replaces it.
                let reason = super::super::wire::MoveReason::Operator;
                let mut report = MigrationReport::begin(&attempt, self.id, self.parts.me, to, reason);
                report.service = self.record().service.clone();
                self.parts.reports.put(report);
                Ok(attempt)
            }
            Ok(SessionResponse::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(Refusal::Malformed),
            Err(_) => Err(Refusal::NotReady),
        }
    }

    /// The destination's report, for this end's books. Only of an attempt that this node took part in.
    fn keep_report(
        &self,
        from: PublicKey,
        attempt: Attempt,
        json: &[u8],
    ) -> Result<SessionResponse, Refusal> {
        let report: MigrationReport = serde_json::from_slice(json).map_err(|_| Refusal::Malformed)?;
        let ours = report.id == hex::encode(attempt)
            && report.session == self.id.to_string()
            && report.destination == from.to_string()
            && report.source == self.parts.me.to_string();
        if !ours {
            return Err(Refusal::Malformed);
        }
        self.parts.reports.put(report);
        Ok(SessionResponse::Agreed)
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

fn agreed(_: Effect) -> SessionResponse {
    SessionResponse::Agreed
}

/// The image that a cut makes of a session's container.
fn committed_image(session: &SessionId, epoch: u64, attempt: &Attempt) -> String {
    format!("{IMAGE_REPOSITORY}:{}-out", launch::name(session, epoch, attempt))
}

/// What the new owner submits before the hand-over itself.
fn before(record: &Record, gave: &Gave) -> Vec<Pending> {
    record
        .pending
        .iter()
        .filter(|pending| pending.hash != gave.handover.hash)
        .cloned()
        .collect()
}

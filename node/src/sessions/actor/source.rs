//! The source's side of a hand-over: what [`blosm_migrate::session::Source`] decides, carried out.

use blosm_ledger::{Claim, Hash};
use blosm_migrate::docker::EngineError;
use blosm_migrate::engine::SourceLayer;
use blosm_migrate::helper::HelperError;
use blosm_migrate::service::StopSignal;
use blosm_migrate::session::{Gave, Ready};

use super::super::grants::Leaving;
use super::super::rounds::{RoundError, Rounds, Way};
use super::super::wire::{FinalState, NoLive};
use super::super::{MigrationOutcome, MigrationReport};
use super::*;

/// A helper that hangs must not hold up the session; who claims it waits little longer than this for the answer.
const HOLD_LIMIT: Duration = Duration::from_secs(4);
/// Between two tries to stop a stateless container that was handed over.
const RETIRE_AGAIN: Duration = Duration::from_secs(5);

impl Actor {
    /// A peer's request, answered. Nothing that it says is believed without the journal or the chain.
    pub(super) async fn on_peer(
        &mut self,
        from: PublicKey,
        request: SessionRequest,
    ) -> Result<SessionResponse, JournalClosed> {
        let answer = match request {
            SessionRequest::Want { token, .. } => self.want(from, token.is_some()).await,
            SessionRequest::Claim { claim, method } => self.claim(from, &claim, method).await,
            SessionRequest::Cut { attempt, .. } => return self.begin_cut(from, attempt).await,
            SessionRequest::Ready { attempt, root, .. } => return self.ready(from, attempt, root).await,
            SessionRequest::Alive { attempt, step, .. } => {
                let known = self.tell_source(Input::Alive { attempt, from });
                if let (Ok(_), Some(step)) = (&known, step) {
                    self.parts.reports.told(&attempt, &self.id, step);
                }
                known.map(agreed)
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
            SessionRequest::Invite {
                attempt,
                reason,
                method,
                force,
                ..
            } => {
                let how = MoveOrder {
                    reason,
                    method,
                    force,
                };
                if self.visit(attempt, None, from, how) {
                    Ok(SessionResponse::Agreed)
                } else if self.parts.drain.is_on() {
                    Err(Refusal::Drained)
                } else {
                    Err(Refusal::Busy)
                }
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
            SessionRequest::Room { .. }
            | SessionRequest::Assess { .. }
            | SessionRequest::Status
            | SessionRequest::Drain => Err(Refusal::Malformed),
        };
        Ok(answer.unwrap_or_else(SessionResponse::Refused))
    }

    pub(super) fn tell_source(&mut self, input: Input) -> Result<Effect, Refusal> {
        Ok(self.keeper.tell(Instant::now(), input)?)
    }

    async fn claim(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        wanted: Method,
    ) -> Result<SessionResponse, Refusal> {
        if !self.is_mine() {
            return Err(Refusal::NotOwner);
        }
        let transaction = self.parts.transaction(bytes).ok_or(Refusal::Malformed)?;
        let claim: &Claim = match &transaction.payload {
            Payload::Claim(claim) if claim.session == self.id && transaction.sender == from => claim,
            _ => return Err(Refusal::Malformed),
        };
        let (now, looked, hash) = (Instant::now(), self.look(), transaction.hash());
        let Some(attempt) = self.keeper.claim(now, &looked.known(), from, claim, hash)? else {
            return Ok(SessionResponse::Agreed);
        };
        let agreed = match self.grants.way(&attempt) {
            // Said again, because the first answer was lost.
            Some(way) if way.method() == wanted => Ok((way, None)),
            _ => self.way(wanted).await,
        };
        let (way, no_live) = match agreed {
            Ok(agreed) => agreed,
            Err(refusal) => {
                self.tell_source(Input::Cancel { attempt, from })?;
                self.grants.end(&attempt);
                return Err(refusal);
            }
        };
        let record = self.record();
        let image = record
            .container
            .as_ref()
            .map(|container| container.image.clone())
            .unwrap_or_default();
        let method = way.method();
        let leaving = Leaving {
            session: self.id,
            service: self.service(),
            running: image,
            way,
        };
        if !self.grants.allow(&self.parts.slots, attempt, from, leaving) {
            self.tell_source(Input::Cancel { attempt, from })?;
            return Err(Refusal::Busy);
        }
        self.parts.reports.event(&attempt, &self.id, "claim");
        Ok(SessionResponse::Accepted { method, no_live })
    }

    /// How this node gives the container to a member that wants it in that way. As an image only if that leaves no volume
    /// behind.
    async fn way(&self, wanted: Method) -> Result<(Way, Option<NoLive>), Refusal> {
        let service = self.service();
        let volumes = match &service {
            Some(service) => launch::copied_volumes(&self.parts, service).await,
            None => Ok(Vec::new()),
        };
        let volumes = volumes.map_err(|error| {
            tracing::warn!(session = %self.id, %error, "its volumes are not known now");
            Refusal::NotReady
        })?;
        let running = self.live.as_ref().map(|live| &live.running);
        let mut no_live = None;
        match (wanted, running) {
            (Method::Stateless, _) if service.as_ref().is_some_and(|service| service.stateless) => {
                return Ok((Way::Stateless, None));
            }
            (Method::Live, Some(running)) => match self.hold(running, &volumes).await {
                Ok(layer) => return Ok((Way::live(Rounds::new(layer)), None)),
                Err(error) => {
                    tracing::info!(session = %self.id, %error, "can't be given live");
                    no_live = Some(RoundError::no_live(&error));
                }
            },
            _ => {}
        }
        if !self.parts.engine.has_images() {
            Err(Refusal::NotReady)
        } else if volumes.is_empty() {
            Ok((Way::Image, no_live))
        } else {
            Err(Refusal::Volumes(no_live))
        }
    }

    /// Has the helper take hold of the container's layer and volumes.
    async fn hold(&self, running: &Running, volumes: &[String]) -> Result<SourceLayer, HelperError> {
        let held = async {
            let layer = self.parts.engine.source(&running.id).await?;
            layer.take_volumes(volumes).await?;
            Ok(layer)
        };
        let late = |_| Err(HelperError::Failed("it took too long".into()));
        tokio::time::timeout(HOLD_LIMIT, held).await.unwrap_or_else(late)
    }

    async fn cancel(&mut self, from: PublicKey, attempt: Attempt) -> Result<SessionResponse, JournalClosed> {
        // It may give up before it has claimed.
        self.invited
            .take_if(|(to, invited, _)| *to == from && *invited == attempt);
        match self.tell_source(Input::Cancel { attempt, from }) {
            Ok(Effect::RollBack { attempt }) => self.roll_back(attempt).await?,
            Ok(_) => {
                self.grants.end(&attempt);
                self.settle(attempt);
            }
            Err(refusal) => return Ok(SessionResponse::Refused(refusal)),
        }
        Ok(SessionResponse::Agreed)
    }

    /// An attempt has ended without a signature. If its destination has not said how, this end's book says what it knows.
    pub(super) fn settle(&mut self, attempt: Attempt) {
        self.invited.take_if(|(_, invited, _)| *invited == attempt);
        if self
            .record()
            .gave
            .as_ref()
            .is_some_and(|gave| gave.attempt == attempt)
        {
            return;
        }
        self.close_book(
            attempt,
            MigrationOutcome::Aborted,
            "the destination gave up or fell silent; see its log",
        );
    }

    /// Ends the report of an attempt that nobody else ends.
    pub(super) fn close_book(&self, attempt: Attempt, outcome: MigrationOutcome, why: &str) {
        self.parts.reports.update(&hex::encode(attempt), |report| {
            if report.outcome == MigrationOutcome::Running {
                report.outcome = outcome;
                report.error = Some(why.to_owned());
            }
        });
    }

    /// Rule 3, the point of no return. What is asked twice is answered with the same bytes.
    async fn ready(
        &mut self,
        from: PublicKey,
        attempt: Attempt,
        root: Hash,
    ) -> Result<SessionResponse, JournalClosed> {
        let (now, looked) = (Instant::now(), self.look());
        match self.keeper.ready(now, &looked.known(), from, attempt, root) {
            Ok(Ready::Again) => {}
            Ok(Ready::Sign(signing)) => self.sign_over(signing).await?,
            Err(no) => return Ok(SessionResponse::Refused(no.into())),
        }
        let record = self.record();
        Ok(match &record.gave {
            Some(gave) => self.handed_over(&record, gave),
            None => SessionResponse::Refused(Refusal::Busy),
        })
    }

    /// Signs the session away. The journal has it before one byte of it leaves the process.
    pub(super) async fn sign_over(&mut self, signing: Signing) -> Result<(), JournalClosed> {
        let Some(handover) = self.keeper.hand_over(&self.record(), &signing) else {
            return Ok(());
        };
        let attempt = signing.attempt;
        let transaction = self.parts.sign(Payload::HandOver(handover.clone()));
        let entry = self.keeper.signed(&handover, attempt, pending(&transaction));
        self.append(entry).await?;
        self.parts.reports.event(&attempt, &self.id, "signed");
        let runs_on = self
            .cut
            .take()
            .is_some_and(|cut| matches!(cut.stopped.state, FinalState::Stateless));
        if signing.claim.is_some() {
            // What is handed back had not come.
            let owned_for = self.keeper.owned_for(Instant::now());
            self.parts.metrics.session_left(owned_for);
        }
        self.live = None;
        self.prepared = None;
        self.invited = None;
        self.slot.gate.set(Route::Elsewhere);
        if runs_on {
            self.retire();
        }
        self.slot.submit.notify_one();
        self.release_booking();
        Ok(())
    }

    /// A stateless container whose place is taken: its last requests have their time, then it stops.
    fn retire(&self) {
        let (Some(container), Some(service)) = (self.record().container.clone(), self.service()) else {
            return;
        };
        let (parts, gate, session) = (self.parts.clone(), self.slot.gate.clone(), self.id);
        tokio::spawn(async move {
            gate.drain(service.request.timeout).await;
            let signal = service.stop.signal.unwrap_or(StopSignal::SigTerm);
            // It may be handed back meanwhile, and serve again.
            let is_given = || {
                let record = parts.journal.record(&session);
                record.is_some_and(|record| record.standing == Standing::Gave)
            };
            // Nobody removes it before it has stopped.
            while is_given() {
                let (name, grace) = (&container.name, service.stop.grace);
                match parts.engine.stop(name, signal, grace).await {
                    Ok(_) | Err(EngineError::NotFound { .. }) => return,
                    Err(error) => {
                        tracing::warn!(%session, container = name, %error, "a stateless container that was handed over runs on");
                    }
                }
                tokio::select! {
                    () = parts.stop.cancelled() => return,
                    () = tokio::time::sleep(RETIRE_AGAIN) => {}
                }
            }
        });
    }

    fn handed_over(&self, record: &Record, gave: &Gave) -> SessionResponse {
        SessionResponse::HandedOver {
            handover: gave.handover.clone(),
            pending: record.pending_before(gave),
        }
    }

    /// The destination's report, for this end's books. Only of an attempt that this node took part in.
    fn keep_report(
        &self,
        from: PublicKey,
        attempt: Attempt,
        json: &[u8],
    ) -> Result<SessionResponse, Refusal> {
        let mut report: MigrationReport = serde_json::from_slice(json).map_err(|_| Refusal::Malformed)?;
        let ours = report.id == hex::encode(attempt)
            && report.session == self.id.to_string()
            && report.destination == from.to_string()
            && report.source == self.parts.me.to_string();
        if !ours {
            return Err(Refusal::Malformed);
        }
        // What this end has seen sealed meanwhile stands.
        if let Some(known) = self.parts.reports.get(&report.id) {
            report.ledger.keep_heights(&known.ledger.transactions);
            if report.ledger.sealed_ms == 0.0 {
                report.ledger.sealed_ms = known.ledger.sealed_ms;
            }
        }
        self.parts.reports.put(report);
        Ok(SessionResponse::Agreed)
    }
}

fn agreed(_: Effect) -> SessionResponse {
    SessionResponse::Agreed
}

//! The source's side of a hand-over: what [`blosm_migrate::session::Source`] decides, carried out.

use blosm_ledger::{Claim, HandOver, Hash};
use blosm_migrate::session::{Gave, Refused};

use super::super::MigrationReport;
use super::*;

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
                if self.visit(attempt, None, from, reason) {
                    Ok(SessionResponse::Agreed)
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
            SessionRequest::Room { .. } => Err(Refusal::Malformed),
        };
        Ok(answer.unwrap_or_else(SessionResponse::Refused))
    }

    pub(super) fn tell_source(&mut self, input: Input) -> Result<Effect, Refusal> {
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

    fn claim(&mut self, from: PublicKey, bytes: &[u8]) -> Result<SessionResponse, Refusal> {
        let Adoption::Mine { epoch } = self.adoption() else {
            return Err(Refusal::NotOwner);
        };
        let transaction = self.parts.transaction(bytes).ok_or(Refusal::Malformed)?;
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

fn agreed(_: Effect) -> SessionResponse {
    SessionResponse::Agreed
}

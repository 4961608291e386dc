//! The destination's side of a hand-over: from the staged container to the owned one, and back if it does not start.

use blosm_ledger::{HandOver, Transaction};
use blosm_migrate::placement::BookingKey;
use blosm_migrate::service::StopSignal;

use super::super::{incoming, notice};
use super::*;

/// Transactions that a new owner is given to submit, beside the hand-over itself.
pub(super) const MAX_PENDING: usize = 128;
/// The attempt that a session handed back is signed under: none.
const HANDED_BACK: Attempt = [0; 16];
/// A session that has just come is handed back after this many starts that failed.
const MAX_FRESH_STARTS: u32 = 3;

impl Actor {
    /// Starts an attempt to take the session, unless one runs or the session is here.
    ///
    /// Whether one was started.
    pub(super) fn visit(
        &mut self,
        attempt: Attempt,
        token: Option<String>,
        from: PublicKey,
        how: MoveOrder,
    ) -> bool {
        let record = self.record();
        let busy = self
            .incoming
            .as_ref()
            .is_some_and(|(_, task)| !task.is_finished());
        // A container that waits for its signature is settled first: the source may have signed already.
        if busy || record.may_run() || record.applied.is_some() || record.standing == Standing::Closed {
            return false;
        }
        if self.parts.drain.is_on() {
            return false;
        }
        let Some(place) = self.parts.slots.incoming() else {
            return false;
        };
        let visit = incoming::Visit {
            session: self.id,
            attempt,
            token,
            source: from,
            how,
        };
        let run = incoming::run(self.parts.clone(), self.slot.clone(), visit);
        let task = tokio::spawn(async move {
            let _place = place;
            run.await;
        });
        self.incoming = Some((attempt, task));
        true
    }

    /// Rule 4: the signed hand-over of the state that was applied here makes this node the owner.
    ///
    /// Answers whether requests are served already; says so again to whoever repeats the hand-over.
    pub(super) async fn acquire(
        &mut self,
        handover: Pending,
        others: Vec<Pending>,
    ) -> Result<Result<bool, Refusal>, JournalClosed> {
        let record = self.record();
        if let Standing::Owner { since, .. } = record.standing
            && since == handover.hash
        {
            return Ok(Ok(self.live.is_some()));
        }
        // Repeated by a signer that has not heard what came after it.
        if let Some(epoch) = epoch_of(&handover).map(|epoch| epoch + 1) {
            let later = match (&record.standing, &record.gave) {
                (Standing::Closed, _) => Some(true),
                (Standing::Owner { epoch: owned, .. }, _) if *owned > epoch => Some(true),
                // Handed back without having served: the signer must keep what it has.
                (_, Some(gave)) if gave.epoch == epoch + 1 && gave.attempt == HANDED_BACK => Some(false),
                (_, Some(gave)) if gave.epoch > epoch => Some(true),
                _ => None,
            };
            if let Some(served) = later {
                return Ok(Ok(served));
            }
        }
        let (sender, body) = match self.check(&handover, &others) {
            Ok(checked) => checked,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !record.accepts(body.epoch, body.manifest_root) {
            return Ok(Err(Refusal::Void));
        }
        let back = record.is_hand_back(body.epoch, body.manifest_root);
        let giver = if back {
            record.gave.as_ref().map(|gave| gave.destination)
        } else {
            record.applied.as_ref().map(|applied| applied.source)
        };
        if giver != Some(sender) {
            return Ok(Err(Refusal::NotAuthorised));
        }
        let attempt = record.applied.as_ref().map(|applied| applied.attempt);
        self.append(Entry::Acquired {
            session: self.id,
            epoch: body.epoch + 1,
            handover,
            pending: others,
        })
        .await?;
        if let Some(attempt) = attempt {
            self.parts.reports.event(&attempt, &self.id, "acquired");
        }
        self.adopt_booking(attempt);
        self.served_at = None;
        self.failed_starts = 0;
        self.next_start = None;
        self.begin_ownership();
        self.slot.submit.notify_one();
        // The signer need not wait for our start; the next beat is the latest, this is the earliest.
        let id = self.id;
        let commands = self.slot.commands.clone();
        tokio::spawn(async move {
            if commands.send(Command::Start).await.is_err() {
                tracing::debug!(session = %id, "the session's task has ended");
            }
        });
        Ok(Ok(false))
    }

    fn check(&self, handover: &Pending, others: &[Pending]) -> Result<(PublicKey, HandOver), Refusal> {
        if others.len() > MAX_PENDING {
            return Err(Refusal::Malformed);
        }
        for other in others {
            let transaction = self.verified(other)?;
            let fits = matches!(&transaction.payload, Payload::Open(_) | Payload::HandOver(_))
                && transaction.payload.session() == Some(self.id);
            if !fits {
                return Err(Refusal::Malformed);
            }
        }
        let transaction = self.verified(handover)?;
        match transaction.payload {
            Payload::HandOver(body) if body.session == self.id && body.destination == self.parts.me => {
                Ok((transaction.sender, body))
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn verified(&self, pending: &Pending) -> Result<Transaction, Refusal> {
        let transaction = self.parts.transaction(&pending.bytes).ok_or(Refusal::Malformed)?;
        if transaction.hash() == pending.hash {
            Ok(transaction)
        } else {
            Err(Refusal::Malformed)
        }
    }

    fn adopt_booking(&self, attempt: Option<Attempt>) {
        let mut bookings = self.parts.bookings();
        let key = BookingKey::Session(self.id.0);
        let passed =
            attempt.is_some_and(|attempt| bookings.pass(Instant::now(), BookingKey::Claim(attempt), key));
        if !passed && let Some(service) = self.service() {
            bookings.adopt(key, super::super::amount(&service));
        }
    }

    /// A container waits for the signature and nobody works on the attempt: READY is said again (after a lost answer or a
    /// restart), until the source signs, or says that it has rolled back.
    pub(super) fn ask_for_signature(&mut self) {
        let record = self.record();
        let Some(applied) = record.applied.clone().filter(|_| !record.may_run()) else {
            return;
        };
        let busy = |task: &JoinHandle<()>| !task.is_finished();
        if self.incoming.as_ref().is_some_and(|(_, task)| busy(task))
            || self.notice.as_ref().is_some_and(busy)
        {
            return;
        }
        let (parts, slot) = (self.parts.clone(), self.slot.clone());
        let request = SessionRequest::Ready {
            session: self.id,
            attempt: applied.attempt,
            root: applied.root,
        };
        self.notice = Some(tokio::spawn(async move {
            let command = match notice::ask(&parts, applied.source, &request).await {
                Ok(SessionResponse::HandedOver { handover, pending }) => {
                    // Whether it was taken shows in the journal.
                    Command::Acquire {
                        handover,
                        pending,
                        reply: oneshot::channel().0,
                    }
                }
                Ok(SessionResponse::Refused(Refusal::Void | Refusal::NotOwner | Refusal::OtherRoot)) => {
                    Command::Void {
                        attempt: applied.attempt,
                    }
                }
                Ok(_) | Err(_) => return,
            };
            // The node may be stopping; the journal asks again.
            let _ = slot.commands.send(command).await;
        }));
    }

    /// The source will not sign for what was applied here.
    pub(super) async fn discard_applied(&mut self, attempt: Attempt) -> Result<(), JournalClosed> {
        let record = self.record();
        let Some(applied) = record
            .applied
            .as_ref()
            .filter(|applied| applied.attempt == attempt)
        else {
            return Ok(());
        };
        if record.may_run() {
            return Ok(());
        }
        tracing::info!(session = %self.id, attempt = %hex::encode(attempt), "the source keeps the session; the staged container is removed");
        self.slot.gate.set(Route::Elsewhere);
        {
            let mut bookings = self.parts.bookings();
            bookings.release(BookingKey::Claim(attempt));
        }
        self.remove_container(&applied.container.name, &applied.container.image)
            .await
    }

    /// Tells the former owner that its kept container has had its time, and gets what its requests went through.
    pub(super) fn tell_serving(&mut self, from: PublicKey) {
        let Some(epoch) = self.record().owned_epoch() else {
            return;
        };
        let (parts, slot, session) = (self.parts.clone(), self.slot.clone(), self.id);
        tokio::spawn(async move {
            let request = SessionRequest::Serving { session, epoch };
            // Unanswered it is asked for: the former owner repeats the hand-over until it hears that we serve.
            let figures = match notice::ask(&parts, from, &request).await {
                Ok(SessionResponse::Noted(figures)) => figures,
                Ok(_) | Err(_) => Default::default(),
            };
            slot.served.send_replace(Some((epoch, figures)));
        });
        self.slot.healthy.send_replace(Some((epoch, Instant::now())));
    }

    /// Rule 6: it does not start here and nothing was routed to it: the source has the same state, stopped and kept.
    pub(super) async fn hand_back(
        &mut self,
        service: &Service,
        from: PublicKey,
        root: Hash,
        engine_answers: bool,
    ) -> Result<(), JournalClosed> {
        let member = self.chain.borrow().state.members().contains(&from);
        if self.failed_starts < MAX_FRESH_STARTS || !member {
            return Ok(());
        }
        let container = self.record().container.clone();
        let never_ran = container.as_ref().is_none_or(|container| !container.started);
        if !never_ran {
            // Only a seen exit allows a signature (rule 3), and an engine that does not answer shows none.
            if !engine_answers {
                return Ok(());
            }
            let name = container.map(|container| container.name).unwrap_or_default();
            let signal = service.stop.signal.unwrap_or(StopSignal::SigTerm);
            if let Err(error) = self.stop_or_absent(&name, signal, service.stop.grace).await {
                tracing::warn!(session = %self.id, %error, "the container that did not become healthy can't be stopped yet");
                return Ok(());
            }
        }
        tracing::error!(session = %self.id, "the container does not start here; handing it back");
        self.sign_over(HANDED_BACK, from, None, root).await
    }
}

fn epoch_of(handover: &Pending) -> Option<u64> {
    match Transaction::decode(&handover.bytes).ok()?.payload {
        Payload::HandOver(body) => Some(body.epoch),
        _ => None,
    }
}

//! The destination's side of a hand-over: from the staged container to the owned one, and back if it does not start.

use blosm_migrate::placement::BookingKey;
use blosm_migrate::service::StopSignal;
use blosm_migrate::session::Taking;

use super::super::{incoming, notice};
use super::*;

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
        let busy = self
            .incoming
            .as_ref()
            .is_some_and(|(_, task)| !task.is_finished());
        if busy || !self.keeper.may_visit(&self.record()) {
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
        let (entry, attempt) = match self.keeper.take(&self.record(), handover, others) {
            Ok(Taking::Known { served }) => return Ok(Ok(served.unwrap_or(self.live.is_some()))),
            Ok(Taking::Take { entry, attempt }) => (entry, attempt),
            Err(no) => return Ok(Err(no.into())),
        };
        self.append(*entry).await?;
        if let Some(attempt) = attempt {
            self.parts.reports.event(&attempt, &self.id, "acquired");
        }
        self.adopt_booking(attempt);
        self.slot.gate.set(Route::Held);
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
        let Some(applied) = self.keeper.unsigned(&self.record()).cloned() else {
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
        let Some(applied) = self.keeper.void(&record, attempt) else {
            return Ok(());
        };
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
        stop: Option<String>,
        signing: Signing,
    ) -> Result<(), JournalClosed> {
        if let Some(name) = stop {
            let signal = service.stop.signal.unwrap_or(StopSignal::SigTerm);
            if let Err(error) = self.stop_or_absent(&name, signal, service.stop.grace).await {
                tracing::warn!(session = %self.id, %error, "the container that did not become healthy can't be stopped yet");
                return Ok(());
            }
        }
        tracing::error!(session = %self.id, "the container does not start here; handing it back");
        self.sign_over(signing).await
    }
}

//! The cut at the source, up to the signature, and the way back from it (rule 5).

use blosm_migrate::docker::{EngineError, Opened};
use blosm_migrate::image::{live_root, manifest_root};
use blosm_migrate::recreate::{self, Base};
use blosm_migrate::service::StopSignal;
use blosm_migrate::transfer::RoundManifest;
use blosm_migrate::transfer::wire::MAX_INLINE;
use tokio::sync::Mutex;

use super::super::rounds::{RoundError, Rounds, Way};
use super::super::wire::{FinalState, micros};
use super::super::{IMAGE_REPOSITORY, measure};
use super::*;

/// How long a process may outlive SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);

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
        if !again && let Err(refusal) = self.may_cut() {
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
                let (answer, root) = (cut.answer(), cut.root);
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
    fn may_cut(&self) -> Result<(), Refusal> {
        let epoch = self.keeper.may_cut(&self.look().known())?;
        // Alg. 1, line 23
        if self.requires_confirmation() && !self.is_confirmed(epoch) {
            return Err(Refusal::Unconfirmed);
        }
        Ok(())
    }

    async fn cut(&mut self, attempt: Attempt) -> Result<Cut, LaunchError> {
        let service = self
            .service()
            .ok_or_else(|| LaunchError::Absent("of a service that is not declared".into()))?;
        let running = match &self.live {
            Some(live) => live.running.clone(),
            None => return Err(LaunchError::Absent("that runs".into())),
        };
        // Whatever takes the engine's time is asked before the service is held up.
        let base = launch::base(&self.parts, &service).await?;
        let (_, image) = measure::running_image(&self.parts, &running.container).await?;
        let going = Going {
            attempt,
            epoch: self.record().owned_epoch().unwrap_or_default(),
            signal: recreate::stop_signal(&service, &base.config)?,
            service,
            running,
            base,
            image,
        };
        match self.grants.way(&attempt) {
            Some(Way::Stateless) => Ok(self.cut_nothing(&going)),
            Some(Way::Live(rounds)) => self.cut_live(&going, rounds).await,
            Some(Way::Image) => self.cut_image(&going).await,
            None => Err(LaunchError::Absent("of an attempt that has ended".into())),
        }
    }

    /// A stateless service runs on until the destination has taken over.
    fn cut_nothing(&self, going: &Going) -> Cut {
        self.slot.gate.begin_figures();
        let identity = &going.base.identity;
        Cut {
            attempt: going.attempt,
            root: manifest_root(&self.id, going.epoch, identity),
            last_answer: Instant::now(),
            stopped: Stopped {
                state: FinalState::Stateless,
                drain_us: 0,
                stop_us: 0,
                commit_us: 0,
                since_last_answer_us: 0,
                writable_bytes: 0,
                image_bytes: going.image.size,
            },
        }
    }

    /// The last look at the writable layer, once the first process is seen to be gone. The engine is not asked: it
    /// clears up by itself afterwards.
    async fn cut_live(&mut self, going: &Going, rounds: Arc<Mutex<Rounds>>) -> Result<Cut, LaunchError> {
        let mut rounds = rounds.lock().await;
        let (pid, id) = (going.running.pid, &going.running.id);
        if rounds.pid() != pid {
            // It has been started anew since: what the rounds brought is of another run.
            return Err(LaunchError::Ended(going.running.container.clone()));
        }
        let watch = self.parts.engine.watch(pid, id);
        let watch = match watch.map_err(|source| EngineError::Watch { pid, source })? {
            Opened::Watching(watch) => watch,
            Opened::NotThere => return Err(LaunchError::Ended(going.running.container.clone())),
        };
        let (begin, last_answer) = self.hold_and_drain(going).await;
        self.parts.reports.event(&going.attempt, &self.id, "stop");
        let unseen = |source| EngineError::Watch { pid, source };
        self.note_signal();
        rounds.signal(going.signal).await?;
        match tokio::time::timeout(going.service.stop.grace, watch.exited()).await {
            Ok(exited) => exited.map_err(unseen)?,
            Err(_) => {
                rounds.signal(StopSignal::SigKill).await?;
                tokio::time::timeout(KILL_WAIT, watch.exited())
                    .await
                    .map_err(|_| LaunchError::Late)?
                    .map_err(unseen)?;
            }
        }
        // From here on the container is known to be down; `wants_start` is kept off by the source's machine.
        self.live = None;
        let stop = last_answer.elapsed();
        self.parts.reports.event(&going.attempt, &self.id, "last");
        let looking = Instant::now();
        let (number, blob) = rounds.last().await?;
        let last = RoundManifest::of(number, &blob, MAX_INLINE).map_err(RoundError::Io)?;
        self.grants.offer(&going.attempt, number, blob);
        Ok(Cut {
            attempt: going.attempt,
            root: live_root(&self.id, going.epoch, &going.image.identity, rounds.roots()),
            last_answer,
            stopped: Stopped {
                state: FinalState::Live(last),
                drain_us: micros(last_answer - begin),
                stop_us: micros(stop),
                commit_us: micros(looking.elapsed()),
                since_last_answer_us: 0,
                writable_bytes: rounds.bytes(),
                image_bytes: going.image.size,
            },
        })
    }

    /// The paper's way: the stopped container becomes an image.
    async fn cut_image(&mut self, going: &Going) -> Result<Cut, LaunchError> {
        let name = &going.running.container;
        let (begin, last_answer) = self.hold_and_drain(going).await;
        self.parts.reports.event(&going.attempt, &self.id, "stop");
        let grace = going.service.stop.grace;
        self.note_signal();
        let stopping = self.parts.engine.stop(name, going.signal, grace).await;
        if stopping.is_ok() {
            // As in `cut_live`.
            self.live = None;
        }
        stopping?;
        let stop = last_answer.elapsed();
        self.parts.reports.event(&going.attempt, &self.id, "commit");
        let committing = Instant::now();
        let reference = committed_image(&self.id, going.epoch, &going.attempt);
        let tag = reference
            .trim_start_matches(IMAGE_REPOSITORY)
            .trim_start_matches(':');
        self.parts.engine.settled(name).await?;
        let real = (&going.base.config.entrypoint, &going.base.config.cmd);
        let image = self
            .parts
            .engine
            .commit(name, IMAGE_REPOSITORY, tag, real.0, real.1)
            .await?;
        let layers = self
            .grants
            .finish(&self.parts, going.attempt, &reference, &image)
            .await?;
        Ok(Cut {
            attempt: going.attempt,
            root: manifest_root(&self.id, going.epoch, &image.identity),
            last_answer,
            stopped: Stopped {
                state: FinalState::Image {
                    config_digest: image.identity.config_digest.0,
                    diff_ids: image.identity.diff_ids.iter().map(|digest| digest.0).collect(),
                },
                drain_us: micros(last_answer - begin),
                stop_us: micros(stop),
                commit_us: micros(committing.elapsed()),
                since_last_answer_us: 0,
                writable_bytes: layers,
                image_bytes: image.size,
            },
        })
    }

    /// No further request reaches the container, and those that are on their way have their time. When that began and
    /// when it was over.
    async fn hold_and_drain(&self, going: &Going) -> (Instant, Instant) {
        self.parts.reports.event(&going.attempt, &self.id, "drain");
        self.slot.gate.hold();
        let begin = Instant::now();
        self.slot.gate.drain(going.service.stop.drain).await;
        (begin, Instant::now())
    }

    /// From now on the container may end at any time, whatever becomes of the cut.
    fn note_signal(&mut self) {
        if let Some(live) = &mut self.live {
            live.told_to_stop = true;
        }
    }

    /// A cut that failed after the signal has left a container that ends some time, or never: it ends now, so that it can be
    /// started. One that can't be seen to end is adopted if it serves.
    async fn end_half_stopped(&mut self) {
        let Some(live) = self.live.take_if(|live| live.told_to_stop) else {
            return;
        };
        let name = live.running.container;
        let ended = async {
            self.stop_or_absent(&name, StopSignal::SigKill, Duration::ZERO)
                .await?;
            self.parts.engine.settled(&name).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(session = %self.id, container = name, %error, "half stopped, and not seen to end");
        }
    }

    /// Before the signature the source may roll back freely (rule 3): the container starts where it stopped.
    pub(super) async fn roll_back(&mut self, attempt: Attempt) -> Result<(), JournalClosed> {
        self.parts.reports.event(&attempt, &self.id, "aborted");
        self.cut = None;
        self.grants.end(&attempt);
        self.settle(attempt);
        let epoch = self.record().owned_epoch().unwrap_or_default();
        self.drop_image(&committed_image(&self.id, epoch, &attempt)).await;
        self.keeper.start_at_once();
        self.end_half_stopped().await;
        match &self.live {
            // It was never told to stop: requests go on to it.
            Some(live) => self.slot.gate.set(Route::Local(live.running.address)),
            None if self.is_mine() => self.ensure_running().await?,
            // The chain has moved during the cut, and is looked at next.
            None => {}
        }
        Ok(())
    }
}

/// A container that is about to be cut, and all that is known of it before.
struct Going {
    attempt: Attempt,
    epoch: u64,
    service: Arc<Service>,
    running: Running,
    signal: StopSignal,
    /// The pinned base.
    base: Base,
    /// What it was created from.
    image: Image,
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

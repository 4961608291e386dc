//! The live method: rounds of the source's writable layer into a container that waits at its gate.
//!
//! ```text
//! gated container ──> round 0 (everything) ──> round 1 (what changed meanwhile) ──> ... ──> Cut ──> last delta
//!                       pull ═══ apply             the source runs                          the source is down
//! ```
//! A round is applied while it arrives. What was applied is made durable beside the next question, and what the engine has
//! staged beside the rounds, so that only the last delta's own bytes are left for the cut.

use std::io::{PipeWriter, Write};

use blosm_migrate::engine::GatedRoot;
use blosm_migrate::image::live_root;
use blosm_migrate::precopy::{self, Next, Precopy};
use blosm_migrate::recreate;
use blosm_migrate::transfer::RoundManifest;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::Progress;
use super::stage::Puller;
use super::*;

/// Pieces between the transfer and the pipe to the helper; when it is full the transfer waits.
const PIECES: usize = 16;
/// Bytes per second of a link over which nothing has gone yet.
const NO_RATE: f64 = 1e6;

/// The description of the first round, on its way while the gated container is prepared.
type First = AbortOnDropHandle<Result<(RoundManifest, Instant), PullError>>;

/// Has the source look for a round. Gives its description, and when the source had looked.
async fn look(pull: &Puller, number: u32) -> Result<(RoundManifest, Instant), PullError> {
    let manifest = pull.round(number, true).await?;
    Ok((manifest, Instant::now()))
}

/// A container that waits at its gate, ready to be written into.
struct Gated {
    running: Running,
    image: String,
    /// What it was created from: the same at both ends.
    identity: Identity,
    root: GatedRoot,
}

/// The deltas that were applied so far.
#[derive(Default)]
struct Applied {
    roots: Vec<[u8; 32]>,
}

impl Incoming {
    /// By this method; as an image where a gated container can't be prepared here, or where rounds can't carry what is there.
    pub(super) async fn by_live_or_image(
        &mut self,
        service: &Arc<Service>,
        base: &Base,
        epoch: u64,
        running: Digest,
    ) -> Result<Arrived, Ended> {
        let first = self.first_round().await?;
        let (why, error) = match self.gated(service, base, epoch, running).await {
            Err(error) => (NoLive::NoGate, error),
            Ok(gated) => match self.by_live(gated, first, epoch).await {
                // The source says so when it looks for a round: it serves still.
                Err(error) if error.is_unsupported() => (NoLive::OverlayFeature, error),
                ended => return ended,
            },
        };
        if self.parts.methods.no_images().is_some() {
            return Err(error);
        }
        tracing::warn!(%error, "it can't be taken live; taking the image method");
        self.drop_container(&self.container_name(epoch)).await;
        // The container had it.
        self.staged.extend(self.container_image.take());
        self.fall_back(why);
        let Some(Method::Image) = self.agree(Method::Image).await? else {
            return Err(Ended::OtherAnswer);
        };
        self.by_image(service, base, epoch).await
    }

    /// Has the source look for the first time, at once: reading the whole layer takes it as long as preparing the container
    /// takes here.
    async fn first_round(&mut self) -> Result<First, Ended> {
        let pull = self.puller().await?;
        let first = tokio::spawn(async move { look(&pull, 0).await });
        Ok(AbortOnDropHandle::new(first))
    }

    /// Creates and starts the gated container, and attaches the helper to it. Nothing of the service runs.
    async fn gated(
        &mut self,
        service: &Service,
        base: &Base,
        epoch: u64,
        running: Digest,
    ) -> Result<Gated, Ended> {
        let (name, session) = (self.container_name(epoch), self.visit.session);
        let image = self.parts.engine.image(&running.to_string()).await?;
        let image = image.ok_or_else(|| LaunchError::Absent(running.to_string()))?;
        let gate = launch::new_gate(&self.parts, &name)?;
        let id = launch::create(
            &self.parts,
            service,
            base,
            &session,
            &name,
            &image.id,
            Some(&gate),
        )
        .await?;
        let running = launch::start_gated(&self.parts, service, &name, id).await?;
        let root = self.parts.engine.gated(&running.id).await?;
        root.take_volumes(&recreate::copied_volumes(service, &base.config))
            .await?;
        // A staged image that the container stands on stays as long as the container.
        self.container_image = self.staged.pop();
        let image_name = self.container_image.clone().unwrap_or(image.id);
        Ok(Gated {
            running,
            image: image_name,
            identity: image.identity,
            root,
        })
    }

    /// Copies in rounds while the source serves, then cuts.
    async fn by_live(&mut self, gated: Gated, first: First, epoch: u64) -> Result<Arrived, Ended> {
        let mut applied = Applied::default();
        self.event("precopy");
        let begin = Instant::now();
        let pull = self.puller().await?;
        // The helper syncs what it writes; what that stands on is the engine's.
        let engine = self.parts.engine.clone();
        let (copied, durable) = tokio::join!(
            self.rounds(&pull, &gated.root, first, &mut applied),
            engine.sync()
        );
        copied?;
        durable?;
        self.report.phases_ms.precopy = millis(begin);

        // What the newest round has brought is made durable while the source stops.
        let (cut, synced) = tokio::join!(self.cut(), gated.root.sync());
        synced?;
        let (stopped, last_answer_before) = cut?;
        self.event("transfer");
        let begin = Instant::now();
        let FinalState::Live(last) = stopped.state else {
            return Err(Ended::OtherAnswer);
        };
        if last.number != applied.next() {
            return Err(Ended::OtherAnswer);
        }
        self.apply_round(&pull, &gated.root, &mut applied, last).await?;
        gated.root.sync().await?;
        // Lets go of the container, as it has to before its gate opens.
        drop(gated.root);
        self.report.phases_ms.transfer = millis(begin);
        let session = self.visit.session;
        Ok(Arrived {
            container: gated.running.container.clone(),
            image: gated.image,
            root: live_root(&session, epoch, &gated.identity, &applied.roots),
            prepared: Some(gated.running),
            last_answer_before,
        })
    }

    /// Round after round, until little is left or no progress is made.
    async fn rounds(
        &mut self,
        pull: &Puller,
        root: &GatedRoot,
        first: First,
        applied: &mut Applied,
    ) -> Result<(), Ended> {
        let limit = self.parts.config.migration.max_downtime;
        let mut precopy = Precopy::new(limit, self.visit.how.force);
        let mut looked_before: Option<Instant> = None;
        // The source looks just before it answers.
        let (mut manifest, mut looked) = first
            .await
            .map_err(std::io::Error::other)
            .map_err(Ended::Pipe)??;
        loop {
            let wire = self.apply_round(pull, root, applied, manifest).await?;
            let round = precopy::Round {
                wire_bytes: wire,
                gathered: looked_before.map(|before| looked - before),
                since_look: looked.elapsed(),
            };
            looked_before = Some(looked);
            match precopy.after(round, self.rate.unwrap_or(NO_RATE)) {
                Next::Cut => return Ok(()),
                Next::Again => {}
                Next::GiveUp => {
                    let left_ms = precopy.left().unwrap_or_default().as_millis();
                    return Err(Ended::TooFast { left_ms });
                }
            }
            // The source looks again while this end's disk takes what came.
            let (next, synced) = tokio::join!(look(pull, applied.next()), root.sync());
            synced?;
            (manifest, looked) = next?;
        }
    }

    /// Tells the operator how far a round of `size` bytes is.
    fn teller(&self, number: u32, size: u64) -> impl Fn(u64) + Send + 'static {
        let (parts, attempt, session) = (self.parts.clone(), self.visit.attempt, self.visit.session);
        let begin = Instant::now();
        move |passed| {
            let progress = Progress::of(passed, size, begin.elapsed()).in_round(number.saturating_add(1));
            parts.reports.progress(&attempt, &session, progress);
        }
    }

    /// Pulls one round and applies it while it comes. Gives the bytes that it took on the wire.
    async fn apply_round(
        &mut self,
        pull: &Puller,
        root: &GatedRoot,
        applied: &mut Applied,
        manifest: RoundManifest,
    ) -> Result<u64, Ended> {
        self.parts.budget.may_take(&self.parts, manifest.may_bring())?;
        let begin = Instant::now();
        let (number, delta, size) = (manifest.number, manifest.root, manifest.size);
        let (reader, writer) = std::io::pipe().map_err(Ended::Pipe)?;
        let (sink, pieces) = mpsc::channel(PIECES);
        let tell = self.teller(number, size);
        let passing = tokio::task::spawn_blocking(move || pass(pieces, writer, tell));
        let (pulled, done) = tokio::join!(pull.stream(manifest, sink), root.apply(reader.into()));
        let figures = match pulled {
            Ok(figures) => figures,
            // The helper gave up and closed its end: its own word says why.
            Err(PullError::Sink) => return Err(done.err().map_or(PullError::Sink.into(), Ended::from)),
            Err(error) => return Err(error.into()),
        };
        done?;
        passing
            .await
            .map_err(std::io::Error::other)
            .map_err(Ended::Pipe)?
            .map_err(Ended::Pipe)?;
        applied.roots.push(delta);
        self.count(&figures);
        self.report.rounds.push(Round {
            bytes: size,
            wire_bytes: figures.wire_bytes,
            ms: millis(begin),
            pull_ms: figures.time.as_secs_f64() * 1000.0,
        });
        Ok(figures.wire_bytes)
    }
}

/// From the transfer into the pipe of the helper, which reads as fast as its disk takes it. `tell` hears how many bytes
/// have passed.
fn pass(
    mut pieces: mpsc::Receiver<Bytes>,
    mut writer: PipeWriter,
    tell: impl Fn(u64),
) -> std::io::Result<()> {
    let mut passed = 0;
    while let Some(piece) = pieces.blocking_recv() {
        writer.write_all(&piece)?;
        passed += piece.len() as u64;
        tell(passed);
    }
    Ok(())
}

impl Applied {
    /// The number of the next round.
    fn next(&self) -> u32 {
        u32::try_from(self.roots.len()).unwrap_or(u32::MAX)
    }
}

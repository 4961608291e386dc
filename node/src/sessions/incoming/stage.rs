//! Fetching, checking and loading images, and creating the container that does not run yet.

use blosm_migrate::transfer::Figures;

use super::*;
use crate::sessions::link::{self, Fetch};

/// A pull that takes less says nothing of the link's rate.
const RATE_SPAN: Duration = Duration::from_millis(50);

/// How an attempt fetches from its source.
pub(super) type Puller = Pull<Fetch>;

impl Incoming {
    /// Fetches and loads, while the source serves, what its container was created from.
    pub(super) async fn stage(&mut self, service: &Service, running: Digest) -> Result<Base, Ended> {
        let mut round = Round::default();
        let begin = Instant::now();
        if let Err(error) = self.parts.engine.pinned(&service.image).await {
            let reference = match error {
                ImageError::Absent { .. } => service.image.reference.clone(),
                // The operator's name means another image here: it is not touched.
                ImageError::OtherDigest { .. } => budget::base_name(&service.image.config_digest.0),
                error => return Err(error.into()),
            };
            self.load(
                WhichImage::Base,
                service.image.config_digest,
                &reference,
                None,
                &mut round,
            )
            .await?;
            self.parts
                .brought
                .remember(&reference, service.image.config_digest)
                .await;
        }
        let base = launch::base(&self.parts, service).await?;
        let held = self.parts.engine.image(&running.to_string()).await?;
        if running != base.identity.config_digest && held.is_none() {
            let reference = format!("{IMAGE_REPOSITORY}:{}-base", hex::encode(self.visit.attempt));
            self.load(
                WhichImage::Running,
                running,
                &reference,
                Some((service, &base)),
                &mut round,
            )
            .await?;
            self.staged.push(reference);
        }
        round.ms = millis(begin);
        self.report.rounds.push(round);
        Ok(base)
    }

    /// Pulls the layers of an image that this engine lacks, and loads it under `reference`.
    pub(super) async fn load(
        &mut self,
        which: WhichImage,
        digest: Digest,
        reference: &str,
        committed: Option<(&Service, &Base)>,
        round: &mut Round,
    ) -> Result<Identity, Ended> {
        let pull = self.puller().await?;
        let asked = Instant::now();
        let (manifest, identity, manifest_bytes) = loop {
            match pull.manifest(which).await {
                // The source is still exporting it; signs of life keep the claim meanwhile.
                Err(PullError::Refused(WireError::NotReady)) if asked.elapsed() < EXPORT_WAIT => {
                    tokio::time::sleep(EXPORT_LOOK).await;
                }
                answer => break answer?,
            }
        };
        if identity.config_digest != digest {
            return Err(Ended::OtherImage);
        }
        if let Some((service, base)) = committed {
            // Nothing of a container description is taken from a peer.
            check_committed_config(&manifest.config, service, base)?;
        }
        let rtt = asked.elapsed();
        let held = self.parts.engine.held_chains().await?;
        let lacking = held.lacking(&identity.diff_ids);
        let to_come = manifest.layers.iter();
        let to_come = to_come.filter(|layer| lacking.contains(&layer.diff_id));
        let bytes = to_come.fold(0_u64, |bytes, layer| bytes.saturating_add(layer.size));
        self.parts.budget.may_take(&self.parts, bytes)?;
        // In the cut nothing is worth the time of looking for it.
        let seeds = match which {
            WhichImage::Final => None,
            _ if lacking.is_empty() => None,
            _ => Some(seeds::seeds(&self.parts).await?),
        };
        let pulled = pull.layers(&manifest, &lacking, seeds).await?;
        if self.report.link.rtt_ms == 0.0 {
            self.report.link.rtt_ms = rtt.as_secs_f64() * 1000.0;
        }
        round.bytes += pulled.figures.bytes;
        round.wire_bytes += manifest_bytes + pulled.figures.wire_bytes;
        round.pull_ms += pulled.figures.time.as_secs_f64() * 1000.0;
        self.report.wire_bytes += manifest_bytes;
        self.count(&pulled.figures);
        let image = SparseImage::new(reference, manifest.config, &identity.diff_ids, &pulled.layers);
        self.parts.engine.load(image).await?;
        Ok(identity)
    }

    /// Counts what a pull took.
    pub(super) fn count(&mut self, figures: &Figures) {
        self.report.wire_bytes += figures.wire_bytes;
        self.report.chunks_sent += figures.chunks;
        self.report.chunks_reused += figures.reused;
        // Short transfers say nothing of a link.
        if figures.time >= RATE_SPAN {
            let rate = figures.wire_bytes as f64 / figures.time.as_secs_f64();
            self.rate = Some(rate);
            self.report.link.mbit = rate * 8.0 / 1e6;
        }
    }

    /// The one way in which this attempt fetches: what it learns of the link is kept, and so is every chunk, also for the
    /// next attempt.
    pub(super) async fn puller(&mut self) -> Result<Arc<Puller>, Ended> {
        if let Some(pull) = &self.pull {
            return Ok(pull.clone());
        }
        let failed = |source| PullError::Io {
            path: self.spool.clone(),
            source,
        };
        let pack = folders::open(&self.spool).await.map_err(failed)?;
        let fetch = link::fetch(self.parts.clone(), self.visit.source);
        let mut pull = Pull::new(self.visit.attempt, &self.spool, pack, fetch);
        if let Some(rate) = self.parts.config.migration.max_rate {
            pull = pull.capped(rate);
        }
        if let Some(round_trip) = link::round_trip(&self.parts, self.visit.source) {
            self.report.link.rtt_ms = round_trip.as_secs_f64() * 1000.0;
            pull = pull.over(round_trip);
        }
        let pull = Arc::new(pull);
        self.pull = Some(pull.clone());
        Ok(pull)
    }

    /// Loads the source's final image and creates the container, which does not run yet. Gives its name and its image's.
    pub(super) async fn apply(
        &mut self,
        service: &Service,
        base: &Base,
        epoch: u64,
        said: &Identity,
    ) -> Result<(String, String), Ended> {
        let begin = Instant::now();
        let mut round = Round::default();
        let reference = format!("{IMAGE_REPOSITORY}:{}-in", hex::encode(self.visit.attempt));
        let loaded = self
            .load(
                WhichImage::Final,
                said.config_digest,
                &reference,
                Some((service, base)),
                &mut round,
            )
            .await?;
        if loaded != *said {
            self.staged.push(reference);
            return Err(Ended::OtherImage);
        }
        let name = self.container_name(epoch);
        let session = self.visit.session;
        let created = launch::create(&self.parts, service, base, &session, &name, &reference, None).await;
        if let Err(error) = created {
            self.staged.push(reference);
            return Err(error.into());
        }
        self.container_image = Some(reference.clone());
        round.ms = millis(begin);
        self.report.rounds.push(round);
        Ok((name, reference))
    }
}

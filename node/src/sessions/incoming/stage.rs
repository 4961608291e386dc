//! Fetching, checking and loading images, and creating the container that does not run yet.

use super::*;

impl Incoming {
    /// Fetches and loads, while the source serves, what its container was created from.
    pub(super) async fn stage(&mut self, service: &Service, running: Digest) -> Result<Base, Ended> {
        let mut round = Round::default();
        let begin = Instant::now();
        if let Err(error) = self.parts.docker.pinned(&service.image).await {
            let reference = match error {
                ImageError::Absent { .. } => service.image.reference.clone(),
                // The operator's name means another image here: it is not touched.
                ImageError::OtherDigest { .. } => format!(
                    "{BASE_REPOSITORY}:{}",
                    hex::encode(&service.image.config_digest.0[..6])
                ),
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
        }
        let base = launch::base(&self.parts, service).await?;
        let held = self.parts.docker.image(&running.to_string()).await?;
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
        tokio::fs::create_dir_all(&self.spool)
            .await
            .map_err(|source| PullError::Io {
                path: self.spool.clone(),
                source,
            })?;
        let parts = self.parts.clone();
        let peer = peer_of_key(&self.visit.source.0);
        let fetch = move |request: TransferRequest| {
            let parts = parts.clone();
            async move {
                let bytes = borsh::to_vec(&request).expect("a request is plain data");
                let answer = parts.net.request(peer, Protocol::Transfer, bytes).await?;
                borsh::from_slice::<TransferResponse>(&answer)
                    .map_err(|_| Box::<dyn std::error::Error + Send + Sync>::from("the answer can't be read"))
            }
        };
        let asked = Instant::now();
        let (manifest, identity, manifest_bytes, pulled) = {
            let pull = Pull::new(self.visit.attempt, &self.spool, fetch);
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
            let held = self.parts.docker.held_chains().await?;
            let lacking = held.lacking(&identity.diff_ids);
            let pulled = pull.layers(&manifest, &lacking).await?;
            if self.report.link.rtt_ms == 0.0 {
                self.report.link.rtt_ms = rtt.as_secs_f64() * 1000.0;
            }
            (manifest, identity, manifest_bytes, pulled)
        };
        self.count(round, manifest_bytes, &pulled);
        let image = SparseImage::new(reference, manifest.config, &identity.diff_ids, &pulled.layers);
        load(&self.parts.docker, image).await?;
        Ok(identity)
    }

    pub(super) fn count(&mut self, round: &mut Round, manifest_bytes: u64, pulled: &Pulled) {
        let wire = manifest_bytes + pulled.wire_bytes;
        round.bytes += pulled.layer_bytes;
        round.wire_bytes += wire;
        self.report.wire_bytes += wire;
        self.report.chunks_sent += pulled.chunks;
        self.report.chunks_reused += pulled.chunks_reused;
        // Short transfers say nothing of a link.
        if pulled.ms >= 20 {
            self.report.link.mbit = pulled.wire_bytes as f64 * 8.0 / 1000.0 / pulled.ms as f64;
        }
    }

    /// Loads the source's final image and creates the container, which does not run yet.
    pub(super) async fn apply(
        &mut self,
        service: &Service,
        base: &Base,
        epoch: u64,
        stopped: &Stopped,
    ) -> Result<(String, String, Hash), Ended> {
        let begin = Instant::now();
        let mut round = Round::default();
        let reference = format!("{IMAGE_REPOSITORY}:{}-in", hex::encode(self.visit.attempt));
        let said = Identity {
            config_digest: Digest(stopped.config_digest),
            diff_ids: stopped.diff_ids.iter().map(|digest| Digest(*digest)).collect(),
        };
        let loaded = self
            .load(
                WhichImage::Final,
                said.config_digest,
                &reference,
                Some((service, base)),
                &mut round,
            )
            .await?;
        if loaded != said {
            self.staged.push(reference);
            return Err(Ended::OtherImage);
        }
        let name = launch::name(&self.visit.session, epoch + 1, &self.visit.attempt);
        let created =
            launch::create(&self.parts, service, base, &self.visit.session, &name, &reference).await;
        if let Err(error) = created {
            self.staged.push(reference);
            return Err(error.into());
        }
        self.container_image = Some(reference.clone());
        round.ms = millis(begin);
        self.report.rounds.push(round);
        Ok((name, reference, manifest_root(&self.visit.session, epoch, &said)))
    }
}

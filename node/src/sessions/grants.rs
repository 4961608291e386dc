//! What members may pull from this node: the layers of one session's images, in the course of one agreed attempt.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use blosm_ledger::PublicKey;
use blosm_migrate::docker::{Docker, Image};
use blosm_migrate::image::{Digest, ExportError, Wanted, export};
use blosm_migrate::service::Service;
use blosm_migrate::session::Attempt;
use blosm_migrate::transfer::{
    AttemptStores, LayerStore, TransferBody, TransferRequest, TransferResponse, WhichImage, WireError,
};

use super::launch::LaunchError;

/// Attempts that may pull at once; a further claim waits for one of them to end.
const MAX_GRANTS: usize = 64;

/// All open grants, and the folder with the exported layers.
#[derive(Debug)]
pub(super) struct Grants {
    spool: PathBuf,
    open: Mutex<HashMap<Attempt, Arc<Grant>>>,
}

#[derive(Debug)]
struct Grant {
    peer: PublicKey,
    service: Option<Arc<Service>>,
    /// The image that the container was created from.
    running: String,
    spool: PathBuf,
    /// Held while an export runs: a second question for it waits rather than exports again.
    stores: tokio::sync::Mutex<AttemptStores>,
}

impl Grants {
    /// Grants over an empty spool: what an earlier process left in it is of no use to anybody.
    pub(super) fn new(spool: PathBuf) -> Self {
        if let Err(error) = std::fs::remove_dir_all(&spool)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(spool = %spool.display(), %error, "the spool can't be emptied");
        }
        Self {
            spool,
            open: Mutex::default(),
        }
    }

    /// The folder for layers of an attempt.
    pub(super) fn folder(spool: &std::path::Path, attempt: &Attempt) -> PathBuf {
        spool.join(hex::encode(attempt))
    }

    /// From now on `peer` may pull for this attempt.
    pub(super) fn allow(
        &self,
        attempt: Attempt,
        peer: PublicKey,
        service: Option<Arc<Service>>,
        running: String,
    ) {
        let spool = Self::folder(&self.spool, &attempt);
        let mut open = self.lock();
        if open.len() >= MAX_GRANTS || open.contains_key(&attempt) {
            return;
        }
        open.insert(
            attempt,
            Arc::new(Grant {
                peer,
                service,
                running,
                spool,
                stores: Default::default(),
            }),
        );
    }

    /// Nobody may pull for this attempt any more; its layers are removed.
    pub(super) fn end(&self, attempt: &Attempt) {
        let grant = self.lock().remove(attempt);
        if let Some(grant) = grant
            && let Err(error) = std::fs::remove_dir_all(&grant.spool)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(spool = %grant.spool.display(), %error, "exported layers are left");
        }
    }

    /// The container was committed as `image`: the layers that the running image lacks can be pulled from now on.
    ///
    /// Returns their bytes.
    pub(super) async fn finish(
        &self,
        docker: &Docker,
        attempt: Attempt,
        reference: &str,
        image: &Image,
    ) -> Result<u64, LaunchError> {
        let grant = self
            .lock()
            .get(&attempt)
            .cloned()
            .ok_or_else(|| LaunchError::Absent("of an attempt that has ended".into()))?;
        let below = match docker.image(&grant.running).await? {
            Some(running) => running.identity.diff_ids.len(),
            None => 0,
        };
        let fresh = image.identity.diff_ids.iter().skip(below).copied().collect();
        let store = grant.export(docker, reference, Wanted::Only(fresh)).await?;
        let bytes = store.manifest().layers.iter().map(|layer| layer.size).sum();
        grant.stores.lock().await.last = Some(store);
        Ok(bytes)
    }

    /// Answers a question for a manifest or for chunks.
    pub(super) async fn answer(&self, docker: &Docker, from: PublicKey, bytes: &[u8]) -> Vec<u8> {
        let response = match borsh::from_slice::<TransferRequest>(bytes) {
            Err(_) => TransferResponse::Refused(WireError::BadRequest),
            Ok(request) => {
                let grant = self
                    .lock()
                    .get(&request.attempt)
                    .filter(|grant| grant.peer == from)
                    .cloned();
                match grant {
                    None => TransferResponse::Refused(WireError::UnknownAttempt),
                    Some(grant) => grant.answer(docker, request.body).await,
                }
            }
        };
        borsh::to_vec(&response).expect("a message is plain data")
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, Arc<Grant>>> {
        self.open
            .lock()
            .expect("nothing panics while it holds the grants")
    }
}

impl Grant {
    async fn answer(&self, docker: &Docker, body: TransferBody) -> TransferResponse {
        let mut stores = self.stores.lock().await;
        if let TransferBody::Manifest { which } = &body
            && let Err(error) = self.prepare(docker, *which, &mut stores).await
        {
            tracing::warn!(?which, %error, "an image can't be exported for a destination");
            return TransferResponse::Refused(WireError::Internal);
        }
        let stores = stores.clone();
        stores.answer(body).await
    }

    /// Exports an image when it is first asked for.
    async fn prepare(
        &self,
        docker: &Docker,
        which: WhichImage,
        stores: &mut AttemptStores,
    ) -> Result<(), LaunchError> {
        match which {
            WhichImage::Base if stores.base.is_none() => {
                let Some(service) = &self.service else {
                    return Ok(());
                };
                let base = docker.pinned(&service.image).await?;
                stores.base = Some(self.export(docker, &base.id, Wanted::All).await?);
            }
            WhichImage::Running if stores.running.is_none() => {
                let Some(running) = docker.image(&self.running).await? else {
                    return Ok(());
                };
                let base: Vec<Digest> = match &self.service {
                    Some(service) => docker.pinned(&service.image).await?.identity.diff_ids,
                    None => Vec::new(),
                };
                let above = running
                    .identity
                    .diff_ids
                    .iter()
                    .skip(base.len())
                    .copied()
                    .collect();
                stores.running = Some(self.export(docker, &running.id, Wanted::Only(above)).await?);
            }
            WhichImage::Base | WhichImage::Running | WhichImage::Final => {}
        }
        Ok(())
    }

    async fn export(
        &self,
        docker: &Docker,
        image: &str,
        wanted: Wanted,
    ) -> Result<Arc<LayerStore>, LaunchError> {
        tokio::fs::create_dir_all(&self.spool)
            .await
            .map_err(ExportError::Io)?;
        let exported = export(docker, image, &wanted, &self.spool).await?;
        Ok(Arc::new(LayerStore::open(&exported).await?))
    }
}

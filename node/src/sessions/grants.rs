//! What members may pull from this node: the layers of one session's images, in the course of one agreed attempt.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use blosm_ledger::{PublicKey, SessionId};
use blosm_migrate::docker::{Docker, Image};
use blosm_migrate::image::{ExportError, Wanted, export};
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Exporting {
    #[default]
    Fine,
    /// What failed once is not tried again in the same attempt.
    Failed,
}

#[derive(Debug)]
struct Grant {
    session: SessionId,
    peer: PublicKey,
    service: Option<Arc<Service>>,
    /// The image that the container was created from.
    running: String,
    spool: PathBuf,
    stores: Mutex<AttemptStores>,
    /// Held while an export runs, so that a second question does not start another.
    exporting: Arc<tokio::sync::Mutex<Exporting>>,
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

    /// From now on `peer` may pull for this attempt. False when too many attempts are open.
    pub(super) fn allow(
        &self,
        session: SessionId,
        attempt: Attempt,
        peer: PublicKey,
        service: Option<Arc<Service>>,
        running: String,
    ) -> bool {
        let spool = Self::folder(&self.spool, &attempt);
        let mut open = self.lock();
        if open.contains_key(&attempt) {
            return true;
        }
        if open.len() >= MAX_GRANTS {
            return false;
        }
        open.insert(
            attempt,
            Arc::new(Grant {
                session,
                peer,
                service,
                running,
                spool,
                stores: Mutex::default(),
                exporting: Arc::default(),
            }),
        );
        true
    }

    /// Ends the session's grants that are not wanted any more.
    pub(super) fn keep_only(&self, session: &SessionId, wanted: impl Fn(&Attempt, PublicKey) -> bool) {
        let ended: Vec<Attempt> = {
            let open = self.lock();
            let of = open.iter().filter(|(_, grant)| grant.session == *session);
            of.filter(|(attempt, grant)| !wanted(attempt, grant.peer))
                .map(|(attempt, _)| *attempt)
                .collect()
        };
        for attempt in ended {
            self.end(&attempt);
        }
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
        grant.stores().last = Some(store);
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
    async fn answer(self: Arc<Self>, docker: &Docker, body: TransferBody) -> TransferResponse {
        let stores = self.stores().clone();
        let missing = match &body {
            TransferBody::Manifest { which } if !stores.has(*which) => *which,
            _ => return stores.answer(body).await,
        };
        // An export may take longer than a request may wait: the peer asks again.
        let not_ready = TransferResponse::Refused(WireError::NotReady);
        let Ok(mut exporting) = self.exporting.clone().try_lock_owned() else {
            return not_ready;
        };
        if *exporting == Exporting::Failed {
            return TransferResponse::Refused(WireError::Internal);
        }
        let (grant, docker) = (self.clone(), docker.clone());
        tokio::spawn(async move {
            if let Err(error) = grant.prepare(&docker, missing).await {
                tracing::warn!(which = ?missing, %error, "an image can't be exported for a destination");
                *exporting = Exporting::Failed;
            }
        });
        not_ready
    }

    /// Exports an image that was asked for.
    async fn prepare(&self, docker: &Docker, which: WhichImage) -> Result<(), LaunchError> {
        let base = match &self.service {
            Some(service) => docker.pinned(&service.image).await?,
            None => return Ok(()),
        };
        match which {
            WhichImage::Base => {
                let store = self.export(docker, &base.id, Wanted::All).await?;
                self.stores().base = Some(store);
            }
            WhichImage::Running => {
                let running = docker.image(&self.running).await?;
                let running = running.ok_or_else(|| LaunchError::Absent(self.running.clone()))?;
                let below = base.identity.diff_ids.len();
                let above = running.identity.diff_ids.iter().skip(below).copied().collect();
                let store = self.export(docker, &running.id, Wanted::Only(above)).await?;
                self.stores().running = Some(store);
            }
            // Made by the cut, not by a question.
            WhichImage::Final => {}
        }
        Ok(())
    }

    fn stores(&self) -> MutexGuard<'_, AttemptStores> {
        self.stores
            .lock()
            .expect("nothing panics while it holds the stores")
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

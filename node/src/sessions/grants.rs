//! What members may pull from this node: the layers of one session's images, in the course of one agreed attempt.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use blosm_ledger::{PublicKey, SessionId};
use blosm_migrate::docker::Image;
use blosm_migrate::engine::Engine;
use blosm_migrate::image::{ExportError, Identity, Wanted};
use blosm_migrate::service::Service;
use blosm_migrate::session::Attempt;
use blosm_migrate::transfer::{
    AttemptStores, Chunked, LayerStore, TransferBody, TransferRequest, TransferResponse, WhichImage,
    WireError,
};

use super::launch::LaunchError;
use super::limits::{Permit, Slots};
use super::rounds::{RoundError, Way};
use crate::parts::Parts;

/// Attempts that may pull at once; a further claim waits for one of them to end.
const MAX_GRANTS: usize = 64;

/// All open grants, and the folder with the exported layers.
#[derive(Debug)]
pub(super) struct Grants {
    spool: PathBuf,
    /// Each with one of `max_out`: a session leaves as long as its destination may pull. An export that still runs when the
    /// attempt is over holds its grant, and no place.
    open: Mutex<HashMap<Attempt, (Arc<Grant>, Permit)>>,
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
    way: Mutex<Way>,
    spool: PathBuf,
    stores: Mutex<AttemptStores>,
    /// Held while an export runs, so that a second question does not start another.
    exporting: Arc<tokio::sync::Mutex<Exporting>>,
}

/// What a peer is to be given.
pub(super) struct Leaving {
    pub(super) session: SessionId,
    pub(super) service: Option<Arc<Service>>,
    /// The image that the container was created from.
    pub(super) running: String,
    pub(super) way: Way,
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

    /// From now on `peer` may pull for this attempt. False when too many attempts are open, or too many sessions leave.
    pub(super) fn allow(&self, slots: &Slots, attempt: Attempt, peer: PublicKey, leaving: Leaving) -> bool {
        let Leaving {
            session,
            service,
            running,
            way,
        } = leaving;
        let spool = self.spool.join(hex::encode(attempt));
        let mut open = self.lock();
        if let Some((grant, _)) = open.get(&attempt) {
            // Another method has to be taken after all.
            *grant.way() = way;
            return true;
        }
        if open.len() >= MAX_GRANTS {
            return false;
        }
        let Some(place) = slots.outgoing() else {
            return false;
        };
        let grant = Grant {
            session,
            peer,
            service,
            running,
            way: Mutex::new(way),
            spool,
            stores: Mutex::default(),
            exporting: Arc::default(),
        };
        open.insert(attempt, (Arc::new(grant), place));
        true
    }

    /// How the container of that attempt is given, while it stands.
    pub(super) fn way(&self, attempt: &Attempt) -> Option<Way> {
        let open = self.lock();
        let way = open.get(attempt)?.0.way().clone();
        Some(way)
    }

    /// From now on that round can be pulled; the destination has those before it.
    pub(super) fn offer(&self, attempt: &Attempt, number: u32, blob: Arc<Chunked>) {
        if let Some((grant, _)) = self.lock().get(attempt) {
            grant.offer(number, blob);
        }
    }

    /// Ends the session's live moves: the container has exited, and the helper must let go of it before its engine can
    /// start it again.
    pub(super) fn end_live(&self, session: &SessionId) {
        let ended: Vec<Attempt> = {
            let open = self.lock();
            let of = open.iter().filter(|(_, (grant, _))| grant.session == *session);
            of.filter(|(_, (grant, _))| matches!(*grant.way(), Way::Live(_)))
                .map(|(attempt, _)| *attempt)
                .collect()
        };
        for attempt in ended {
            self.end(&attempt);
        }
    }

    /// Ends the session's grants that are not wanted any more, and names them.
    pub(super) fn keep_only(
        &self,
        session: &SessionId,
        wanted: impl Fn(&Attempt, PublicKey) -> bool,
    ) -> Vec<Attempt> {
        let ended: Vec<Attempt> = {
            let open = self.lock();
            let of = open.iter().filter(|(_, (grant, _))| grant.session == *session);
            of.filter(|(attempt, (grant, _))| !wanted(attempt, grant.peer))
                .map(|(attempt, _)| *attempt)
                .collect()
        };
        for attempt in &ended {
            self.end(attempt);
        }
        ended
    }

    /// Nobody may pull for this attempt any more; its layers are removed.
    pub(super) fn end(&self, attempt: &Attempt) {
        let ended = self.lock().remove(attempt);
        if let Some((grant, _)) = ended
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
        parts: &Parts,
        attempt: Attempt,
        reference: &str,
        image: &Image,
    ) -> Result<u64, LaunchError> {
        let grant = self
            .lock()
            .get(&attempt)
            .map(|(grant, _)| grant.clone())
            .ok_or_else(|| LaunchError::Absent("of an attempt that has ended".into()))?;
        let engine = &parts.engine;
        let below = match engine.image(&grant.running).await? {
            Some(running) => running.identity.diff_ids.len(),
            None => 0,
        };
        let fresh = image.identity.diff_ids.iter().skip(below).copied().collect();
        let store = grant
            .export(engine, reference, &image.identity, Wanted::Only(fresh))
            .await?;
        let bytes = store.manifest().layers.iter().map(|layer| layer.size).sum();
        grant.stores().last = Some(store);
        Ok(bytes)
    }

    /// Answers a question for a manifest, for chunks, or for a sample.
    pub(super) async fn answer(&self, parts: &Parts, from: PublicKey, bytes: &[u8]) -> Vec<u8> {
        let response = match borsh::from_slice::<TransferRequest>(bytes) {
            Err(_) => TransferResponse::Refused(WireError::BadRequest),
            Ok(TransferRequest {
                body: TransferBody::Sample { bytes },
                ..
            }) => parts.links.give(from, bytes, Instant::now()),
            Ok(request) => {
                let grant = self
                    .lock()
                    .get(&request.attempt)
                    .map(|(grant, _)| grant.clone())
                    .filter(|grant| grant.peer == from);
                let response = match grant {
                    None => TransferResponse::Refused(WireError::UnknownAttempt),
                    Some(grant) => grant.answer(&parts.engine, request.body).await,
                };
                let bytes = encoded(&response);
                parts.metrics.given(bytes.len());
                return bytes;
            }
        };
        encoded(&response)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, (Arc<Grant>, Permit)>> {
        self.open
            .lock()
            .expect("nothing panics while it holds the grants")
    }
}

fn encoded(response: &TransferResponse) -> Vec<u8> {
    borsh::to_vec(response).expect("a message is plain data")
}

impl Grant {
    async fn answer(self: Arc<Self>, engine: &Engine, body: TransferBody) -> TransferResponse {
        if let TransferBody::Round { number, .. } = &body
            && let Err(error) = self.look(*number).await
        {
            tracing::warn!(round = number, %error, "the writable layer can't be read for a destination");
            return TransferResponse::Refused(error.wire());
        }
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
        let (grant, engine) = (self.clone(), engine.clone());
        tokio::spawn(async move {
            if let Err(error) = grant.prepare(&engine, missing).await {
                tracing::warn!(which = ?missing, %error, "an image can't be exported for a destination");
                *exporting = Exporting::Failed;
            }
        });
        not_ready
    }

    /// Has the helper look at the container's writable layer, if that round is due.
    async fn look(&self, number: u32) -> Result<(), RoundError> {
        let way = self.way().clone();
        let Way::Live(rounds) = way else {
            return Err(RoundError::Order {
                asked: number,
                due: 0,
            });
        };
        let blob = rounds.lock().await.round(number).await?;
        self.offer(number, blob);
        Ok(())
    }

    fn offer(&self, number: u32, blob: Arc<Chunked>) {
        let mut stores = self.stores();
        stores.put_round(number, blob);
        stores.drop_rounds(number);
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().expect("nothing panics while it holds the way")
    }

    /// Exports an image that was asked for.
    async fn prepare(&self, engine: &Engine, which: WhichImage) -> Result<(), LaunchError> {
        let base = match &self.service {
            Some(service) => engine.pinned(&service.image).await?,
            None => return Ok(()),
        };
        match which {
            WhichImage::Base => {
                let store = self.export(engine, &base.id, &base.identity, Wanted::All).await?;
                self.stores().base = Some(store);
            }
            WhichImage::Running => {
                let running = engine.image(&self.running).await?;
                let running = running.ok_or_else(|| LaunchError::Absent(self.running.clone()))?;
                let below = base.identity.diff_ids.len();
                let above = running.identity.diff_ids.iter().skip(below).copied().collect();
                let store = self
                    .export(engine, &running.id, &running.identity, Wanted::Only(above))
                    .await?;
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
        engine: &Engine,
        reference: &str,
        image: &Identity,
        wanted: Wanted,
    ) -> Result<Arc<LayerStore>, LaunchError> {
        tokio::fs::create_dir_all(&self.spool)
            .await
            .map_err(ExportError::Io)?;
        let exported = engine.export(reference, image, &wanted, &self.spool).await?;
        Ok(Arc::new(LayerStore::open(&exported).await?))
    }
}

//! This node's own judgement of a container: for a claim, and for a member that only asks (`blosm migrate --dry-run`).

use std::time::Instant;

use blosm_ledger::{Metadata, PublicKey, Verdict};
use blosm_migrate::evaluate::{SystemView, evaluate};
use blosm_migrate::image::Digest;
use blosm_migrate::recreate::MAX_LAYERS;
use blosm_migrate::resources::ResourceError;
use blosm_migrate::service::Service;

use super::report::VerdictDetail;
use super::wire::{Assessed, Refusal, SessionResponse};
use crate::parts::Parts;

/// Algorithm 2 on this node, now. `service` is this node's own declaration of that name, if there is one.
///
/// # Errors
/// This machine's resources can't be read: nothing may be claimed then.
pub(super) async fn judge(
    parts: &Parts,
    metadata: &Metadata,
    service: Option<&Service>,
) -> Result<Verdict, ResourceError> {
    let base_held = match service {
        Some(service) => parts.engine.pinned(&service.image).await.is_ok(),
        None => false,
    };
    let runtime = parts.engine.alive().await;
    let remaining = {
        let bookings = parts.bookings();
        bookings.remaining(Instant::now())
    };
    let readings = parts.readings()?;
    let config = &parts.config.migration;
    let system = SystemView::new(
        &readings,
        remaining,
        parts.engine.architecture(),
        runtime,
        base_held,
        super::budget::share(readings.disk_total, config.claim_free),
    );
    Ok(evaluate(metadata, service, &system, config.tolerance))
}

/// A verdict as reports have it.
pub(super) fn detail(verdict: &Verdict) -> VerdictDetail {
    VerdictDetail {
        memory: verdict.memory,
        cpu: verdict.cpu,
        gpu: verdict.gpu,
        service: verdict.service,
        hard: verdict.hard.map(|hard| format!("{hard:?}").to_lowercase()),
    }
}

/// Answers a member that asks whether this node would take its container. Books nothing.
pub(super) async fn answer(
    parts: &Parts,
    from: PublicKey,
    metadata: &Metadata,
    layers: &[[u8; 32]],
) -> SessionResponse {
    if metadata.source != from || layers.is_empty() || layers.len() > MAX_LAYERS {
        return SessionResponse::Refused(Refusal::Malformed);
    }
    if parts.drain.is_on() {
        return SessionResponse::Refused(Refusal::Drained);
    }
    let Some(_place) = parts.slots.assessing() else {
        return SessionResponse::Refused(Refusal::Busy);
    };
    let service = parts.config.services.get(&metadata.service);
    let verdict = match judge(parts, metadata, service.map(AsRef::as_ref)).await {
        Ok(verdict) => verdict,
        Err(error) => {
            tracing::warn!(%error, "this node can't read its own resources; it says nothing of a container");
            return SessionResponse::Refused(Refusal::NotReady);
        }
    };
    let held = match parts.engine.held_chains().await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "the engine does not say which layers it holds");
            return SessionResponse::Refused(Refusal::NotReady);
        }
    };
    let layers: Vec<Digest> = layers.iter().map(|layer| Digest(*layer)).collect();
    let lacking = held.lacking_at(&layers);
    SessionResponse::Assessed(Assessed {
        verdict,
        lacking: lacking
            .into_iter()
            .filter_map(|at| u32::try_from(at).ok())
            .collect(),
        methods: parts.methods.available(),
    })
}

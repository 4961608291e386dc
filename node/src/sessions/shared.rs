//! Containers of stateless services that all clients of this node share. No session, no ledger: nothing of them moves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blosm_ledger::{Hash, SessionId};
use blosm_migrate::placement::BookingKey;
use blosm_migrate::service::Service;

use super::launch::{self, LaunchError, Running};
use super::{eviction, handle::OpenError, room};
use crate::gateway::{Gate, Route};
use crate::parts::Parts;

/// Between two tries to start a container again.
const AGAIN: Duration = Duration::from_secs(1);

/// The shared containers of this node, by service.
#[derive(Debug, Default)]
pub(super) struct Shared {
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Shared {
    /// The gate of the service's container; starts one when there is none and room for it.
    pub(super) async fn gate(
        &self,
        parts: &Arc<Parts>,
        service: &Arc<Service>,
        ticket: Option<u64>,
    ) -> Result<Arc<Gate>, OpenError> {
        if let Some(gate) = self.lock().get(&service.name) {
            return Ok(gate.clone());
        }
        if parts.evicted().is_some() {
            return Err(OpenError::Evicted);
        }
        // What runs already goes on: it has no state, and its node is still there.
        if parts.drain.is_on() {
            return Err(OpenError::Drained);
        }
        launch::base(parts, service).await.map_err(OpenError::Image)?;
        let gate = {
            let mut gates = self.lock();
            if let Some(gate) = gates.get(&service.name) {
                return Ok(gate.clone());
            }
            if !room::book(parts, service, key(service), ticket) {
                return Err(OpenError::NoRoom);
            }
            let gateway = &parts.config.gateway;
            let gate = Gate::new(Route::Held, gateway.hold_max, gateway.hold_time);
            gates.insert(service.name.clone(), gate.clone());
            gate
        };
        tokio::spawn(keep(parts.clone(), service.clone(), gate.clone()));
        Ok(gate)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Gate>>> {
        self.gates
            .lock()
            .expect("nothing panics while it holds the gates")
    }
}

/// Under this name the engine's labels tell a shared container from those of sessions.
pub(super) fn label(service: &Service) -> SessionId {
    SessionId(Hash::digest("blosm/shared-container", service.name.as_bytes()).0)
}

fn key(service: &Service) -> BookingKey {
    let bytes = label(service).0;
    BookingKey::Shared(u64::from_le_bytes(
        bytes[..8].try_into().expect("a hash has 32 bytes"),
    ))
}

/// Keeps one container running until the node stops.
async fn keep(parts: Arc<Parts>, service: Arc<Service>, gate: Arc<Gate>) {
    while !parts.stop.is_cancelled() {
        parts.while_evicted().await;
        match run(&parts, &service).await {
            Ok(running) => {
                tracing::info!(service = service.name, address = %running.address, "serving to all");
                gate.set(Route::Local(running.address));
                tokio::select! {
                    () = launch::exit(&parts.engine, &running) => gate.hold(),
                    () = parts.stop.cancelled() => return,
                    () = parts.until_evicted() => {
                        gate.hold();
                        eviction::stop(&parts, &running.container, service.stop.grace).await;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(service = service.name, %error, "the shared container does not serve")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = parts.stop.cancelled() => return,
        }
    }
}

async fn run(parts: &Parts, service: &Service) -> Result<Running, LaunchError> {
    let id = label(service);
    let name = format!("blosm-shared-{}", service.name);
    if parts.engine.inspect(&name).await?.is_none() {
        let base = launch::base(parts, service).await?;
        let image = base.identity.config_digest.to_string();
        launch::create(parts, service, &base, &id, &name, &image, None).await?;
    }
    launch::start(parts, service, &name).await
}

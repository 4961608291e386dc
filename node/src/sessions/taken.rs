//! A container whose address somebody else answers for.
//!
//! An engine that was killed and started again stops the containers that it finds, and forgets their addresses at once.
//! The kernel takes their interfaces away when the last user of their network namespace has gone: a process that died
//! slowly, a tool that looks into it. Until then the old interface stays on the engine's bridge and refuses connections to
//! an address that the engine has given to the next container. Which one answers is the bridge's memory of frames, and it
//! lasts. So that address is left to a container that only waits at its gate, and the next free one is used.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blosm_ledger::SessionId;
use blosm_migrate::docker;
use blosm_migrate::service::Service;

use super::launch::{self, LaunchError, Running};
use crate::parts::Parts;

/// How long such an address is kept from being given out.
const OCCUPIED: Duration = Duration::from_secs(600);

/// Whether the container's own processes accept connections to its address. Unknown counts as no.
pub(super) fn listens(running: &Running) -> bool {
    match running.address {
        SocketAddr::V4(at) => docker::listens(running.pid, *at.ip(), at.port()),
        SocketAddr::V6(_) => false,
    }
}

/// Has a container wait at its gate at `address`, which nobody else has now, so that the engine gives it to no other. It
/// goes after a while, or with the next start of the node.
///
/// # Errors
/// It can't be created or started.
pub(super) async fn occupy(parts: &Parts, service: &Service, address: IpAddr) -> Result<(), LaunchError> {
    let name = format!("blosm-occupies-{}", hex::encode(super::random::<4>()));
    let occupied = wait_at(parts, service, &name, address).await;
    if !matches!(occupied, Ok(true)) {
        // Another container was faster: then the address is not free either.
        launch::remove(parts, &name, true).await?;
        return occupied.map(drop);
    }
    tracing::info!(container = name, %address, "keeps the address from being given out");
    let (engine, config, stop) = (parts.engine.clone(), parts.config.clone(), parts.stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(OCCUPIED) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = launch::remove_of(&engine, &config, &name, true).await {
            tracing::warn!(container = name, %error, "is left; the next start removes it");
        }
    });
    Ok(())
}

/// Whether the engine gave it that address.
async fn wait_at(parts: &Parts, service: &Service, name: &str, address: IpAddr) -> Result<bool, LaunchError> {
    let (base, image) = launch::waiting_image(parts, service).await?;
    // No session's: the label only has to be there.
    let session = SessionId(super::random());
    let gate = launch::new_gate(parts, name)?;
    let id = launch::create(parts, service, &base, &session, name, &image, Some(&gate)).await?;
    let running = launch::start_gated(parts, service, name, id).await?;
    Ok(running.address.ip() == address)
}

//! Which methods work on this node. The live one is proven by doing it: at the start, again until there is an image to do
//! it with, and again when its helper was gone.

use std::sync::RwLock;
use std::time::Duration;

use blosm_ledger::{Hash, SessionId};
use blosm_migrate::helper::Marker;
use blosm_migrate::service::Service;
use serde::Serialize;
use tokio::sync::watch;

use super::launch::{self, LaunchError};
use super::wire::NoLive;
use crate::config::Method;
use crate::parts::Parts;

/// Between two looks: at whether the helper answers, and at whether a service's image is here.
const AGAIN: Duration = Duration::from_secs(10);

/// What is known of the live method here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Live {
    /// Not tried yet: no image of a declared service is here.
    #[default]
    Unproven,
    /// A gated container was prepared, and what the engine wrote into it was seen in its writable layer.
    Works,
    /// It does not work.
    Off(NoLive),
}

/// The methods of this node, as they are known now.
#[derive(Debug)]
pub(crate) struct Methods {
    live: RwLock<Live>,
    /// Whether containers can move as images.
    images: bool,
}

/// Why nothing moves as an image where containers are simulated.
const NO_IMAGES: &str = "simulated containers have no images to move";

/// One method as the local API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MethodView {
    /// `live`, `stateless`, `image`.
    pub method: &'static str,
    /// Whether a container can come and go in this way.
    pub available: bool,
    /// Why not, or what is not known yet.
    pub why: Option<String>,
}

impl Methods {
    /// The methods of an engine; `images` tells whether containers can move as images.
    pub(crate) fn new(images: bool) -> Self {
        Self {
            live: RwLock::default(),
            images,
        }
    }

    /// The method for a container of that service, if nothing else stands against it: a stateless service is never
    /// copied.
    pub(super) fn fitting(&self, asked: Method, service: Option<&Service>) -> Method {
        match (asked, service) {
            (Method::Image, _) | (_, None) if self.images => Method::Image,
            (_, Some(service)) if service.stateless => Method::Stateless,
            _ => Method::Live,
        }
    }

    /// Why nothing moves as an image; none where that works. Another method is not taken in its place then either.
    pub(super) fn no_images(&self) -> Option<&'static str> {
        (!self.images).then_some(NO_IMAGES)
    }

    /// What is known of the live method.
    pub(crate) fn live(&self) -> Live {
        *self
            .live
            .read()
            .expect("nothing panics while it holds the methods")
    }

    fn set(&self, live: Live) {
        *self
            .live
            .write()
            .expect("nothing panics while it holds the methods") = live;
    }

    /// The words for the methods that work.
    pub(crate) fn available(&self) -> Vec<String> {
        let view = self.view().into_iter();
        view.filter(|method| method.available)
            .map(|method| method.method.to_owned())
            .collect()
    }

    /// All methods, the best first.
    pub(crate) fn view(&self) -> Vec<MethodView> {
        let (available, why) = match self.live() {
            Live::Works => (true, None),
            Live::Unproven => (
                false,
                Some("not proven yet: no image of a declared service is here".to_owned()),
            ),
            Live::Off(why) => (false, Some(why.to_string())),
        };
        vec![
            MethodView {
                method: "live",
                available,
                why,
            },
            MethodView {
                method: "stateless",
                available: true,
                why: None,
            },
            MethodView {
                method: "image",
                available: self.images,
                why: self.no_images().map(str::to_owned),
            },
        ]
    }
}

/// Proves the live method, and again after its helper was gone: from its end until then the method is off.
pub(super) async fn prove(parts: std::sync::Arc<Parts>) {
    let mut ended = parts.helper_ended.clone();
    loop {
        let live = match parts.methods.live() {
            Live::Works => still(&parts).await,
            Live::Unproven | Live::Off(_) => look(&parts).await,
        };
        note(&parts, live);
        if live == Live::Works && parts.engine.helper().is_none() {
            return;
        }
        tokio::select! {
            // A helper that is started later, or an image that comes later, is found; so is the end of a helper that
            // somebody else has started.
            () = tokio::time::sleep(AGAIN) => {}
            times = news(&mut ended) => {
                parts.metrics.helper_ended(times);
                // It was proven with another one.
                note(&parts, Live::Off(NoLive::NoHelper));
            }
            () = parts.stop.cancelled() => return,
        }
    }
}

/// What is known now.
fn note(parts: &Parts, live: Live) {
    if live != parts.methods.live() {
        match live {
            Live::Works => tracing::info!("the live method works here"),
            Live::Off(why) => match parts.methods.no_images() {
                None => tracing::warn!(%why, "the live method is off; containers move as images"),
                Some(_) => tracing::warn!(%why, "the live method is off"),
            },
            Live::Unproven => {}
        }
    }
    parts.methods.set(live);
    for method in parts.methods.view() {
        parts.metrics.method_available(method.method, method.available);
    }
}

/// Waits for news of the node's own helper, and gives how often it has ended. Without one: for ever.
async fn news(ended: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(ended) = ended
        && ended.changed().await.is_ok()
    {
        return *ended.borrow_and_update();
    }
    std::future::pending().await
}

/// What was proven holds while the helper answers.
async fn still(parts: &Parts) -> Live {
    let Some(helper) = parts.engine.helper() else {
        return Live::Works;
    };
    match helper.hello().await {
        Ok(_) => Live::Works,
        Err(error) => {
            tracing::debug!(%error, "no layer helper");
            Live::Off(NoLive::NoHelper)
        }
    }
}

async fn look(parts: &Parts) -> Live {
    if let off @ Live::Off(_) = still(parts).await {
        return off;
    }
    for service in parts.config.services.values() {
        if parts.engine.pinned(&service.image).await.is_err() {
            continue;
        }
        return match with(parts, service).await {
            Ok(true) => Live::Works,
            Ok(false) => Live::Off(NoLive::NotOverlay),
            // A declaration that no container can be built from says nothing of the method.
            Err(LaunchError::Spec(_)) => continue,
            Err(error) => {
                tracing::warn!(service = service.name, %error, "a gated container can't be prepared");
                Live::Off(NoLive::NoGate)
            }
        };
    }
    Live::Unproven
}

/// A gated container of the service: is what the engine writes into it seen in its writable layer?
async fn with(parts: &Parts, service: &Service) -> Result<bool, LaunchError> {
    let marker = Marker(super::random());
    let name = format!("blosm-proof-{}", hex::encode(&marker.0[..4]));
    let proven = write_and_see(parts, service, &name, marker).await;
    if let Err(error) = launch::remove(parts, &name, true).await {
        tracing::warn!(container = name, %error, "is left; the next start removes it");
    }
    proven
}

async fn write_and_see(
    parts: &Parts,
    service: &Service,
    name: &str,
    marker: Marker,
) -> Result<bool, LaunchError> {
    let (base, image) = launch::waiting_image(parts, service).await?;
    // No session's: the label only has to be there.
    let session = SessionId(Hash::digest("blosm/proof-container", &marker.0).0);
    let gate = launch::new_gate(parts, name)?;
    let id = launch::create(parts, service, &base, &session, name, &image, Some(&gate)).await?;
    let running = launch::start_gated(parts, service, name, id).await?;
    let root = parts.engine.gated(&running.id).await?;
    parts.engine.put_marker(name, &marker.to_string()).await?;
    Ok(root.prove(marker).await?)
}

//! What the API shows of sessions, resources and the engine.

use serde::Serialize;

pub use crate::metrics::Amount as AmountView;

/// One session as this node knows it.
#[derive(Debug, Clone, Serialize)]
pub struct SessionView {
    /// The session.
    pub session: String,
    /// Name of the service.
    pub service: String,
    /// The owner by the newest fact known here.
    pub owner: Option<String>,
    /// Its label.
    pub owner_label: Option<String>,
    /// The epoch of that fact.
    pub epoch: u64,
    /// `open` or `closed`.
    pub status: &'static str,
    /// Whether this node owns it.
    pub mine: bool,
    /// The engine's name of the container that this node has of it.
    pub container: Option<String>,
    /// The same, under the key that tables use.
    pub container_name: Option<String>,
    /// Where that container listens.
    pub address: Option<String>,
    /// `starting`, `serving`, `cut`, `staging`, `applied`, `kept`, `given`, `relayed`, `closed`, or `elsewhere`.
    pub phase: &'static str,
    /// Transactions of it that the chain does not hold yet.
    pub unsealed: usize,
}

/// R_tot, what is reserved of it, and what is left.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ResourcesView {
    /// Bytes.
    pub memory: AmountView,
    /// Thousandths of a core.
    pub cpu: AmountView,
    /// Devices.
    pub gpu: AmountView,
}

/// The container engine.
#[derive(Debug, Clone, Serialize)]
pub struct EngineView {
    /// `docker`, or `sim`: simulated containers.
    pub runtime: &'static str,
    /// Whether it answers now.
    pub answers: bool,
    /// Its version.
    pub version: String,
    /// `classic` or `containerd`, or `none`.
    pub store: String,
    /// Its storage driver.
    pub storage_driver: String,
    /// Its architecture.
    pub architecture: String,
}

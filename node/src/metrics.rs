//! What Prometheus reads: one registry per node, passed around as [`Metrics`].
//!
//! Label sets are closed: a service that the node does not declare counts as `other`, and no label holds
//! a session, a client or a path. Gauges are set when they are read, so that no task has to report them.
//!
//! ```text
//! gateway, sessions, ledger thread, journal ──count──> Metrics <──read── api::metrics (a scrape)
//!                                                        └── set from snapshots: chain, swarm, bookings, machine, process
//! ```

mod gateway;
mod ledger;
mod machine;
mod migrate;
mod net;
mod process;
mod register;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blosm_ledger::StoreFigures;
use blosm_migrate::resources::Machine;
use blosm_net::{Counters, PeerInfo};
use prometheus::{Encoder, Error, Gauge, Histogram, Registry, TextEncoder};

use self::gateway::GatewayMetrics;
use self::ledger::LedgerMetrics;
use self::machine::MachineMetrics;
use self::migrate::MigrateMetrics;
use self::net::NetMetrics;
use self::process::ProcessMetrics;
use crate::admission::{PROTOCOL, SOFTWARE};
use crate::chain::{ChainView, LedgerMeter};
use crate::config::{Config, Coordinates, Method};
use crate::sessions::MigrationReport;

pub use self::machine::Amount;
pub(crate) use self::register::Register;

/// The node's metrics. Cheap to update from any task.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Where the ledger stands, and its store.
    ledger: LedgerMetrics,
    /// What happens on the ledger's thread.
    ledger_meter: LedgerMeter,
    /// The swarm's, but for what it counts in libp2p's registry.
    net: NetMetrics,
    /// Sessions and their moves.
    migrate: MigrateMetrics,
    /// Requests of clients.
    gateway: GatewayMetrics,
    /// What is offered to containers, and the machine below.
    machine: MachineMetrics,
    /// This process.
    process: ProcessMetrics,
    /// Whether new clients are welcome: 1 or 0.
    ready: Gauge,
    /// Whether the node is drained: 1 or 0.
    drained: Gauge,
    /// Whether what runs the containers answers: 1 or 0.
    engine_up: Gauge,
    /// Several may read at a time; what is brought up to a count of somebody else's is brought there by one at a time.
    raising: Mutex<()>,
}

impl Metrics {
    /// All metrics of the node of `config`, in a registry of their own.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let metrics = Self::register(config.services.keys().cloned().collect())?;
        metrics.identify(
            &config.network.genesis.name,
            config.engine.runtime.as_str(),
            config.is_authority(),
            config.node.location,
        )?;
        Ok(metrics)
    }

    fn register(services: BTreeSet<String>) -> Result<Self, Error> {
        let registry = Registry::new();
        let register = Register(&registry);
        let gateway = GatewayMetrics::register(register, services)?;
        let migrate = MigrateMetrics::register(register)?;
        for service in gateway.all_services() {
            migrate.may_come(service);
        }
        Ok(Self {
            ledger: LedgerMetrics::register(register)?,
            ledger_meter: LedgerMeter::register(&registry)?,
            net: NetMetrics::register(register)?,
            migrate,
            gateway,
            machine: MachineMetrics::register(register)?,
            process: ProcessMetrics::register(register)?,
            ready: register.gauge(
                "blosm_node_ready",
                "Whether new clients are welcome: the gateway serves, and the node is not drained",
            )?,
            drained: register.gauge(
                "blosm_node_drained",
                "Whether the node gives its sessions away and takes none",
            )?,
            engine_up: register.gauge(
                "blosm_engine_up",
                "Whether the container engine answers; always 1 with simulated containers",
            )?,
            raising: Mutex::new(()),
            registry,
        })
    }

    /// Registers what does not change while the node runs.
    fn identify(&self, network: &str, runtime: &str, authority: bool, at: Coordinates) -> Result<(), Error> {
        let register = Register(&self.registry);
        register.info(
            "blosm_node_info",
            "Version, network and runtime of the node; always 1",
            &[("version", SOFTWARE), ("network", network), ("runtime", runtime)],
        )?;
        register.info(
            "blosm_build_info",
            "What was built: version, the newest protocol that it speaks, and for what; always 1",
            &[
                ("version", SOFTWARE),
                ("protocol", &PROTOCOL.to_string()),
                ("os", std::env::consts::OS),
                ("arch", std::env::consts::ARCH),
            ],
        )?;
        for (name, help, value) in [
            (
                "blosm_node_authority",
                "Whether the node seals blocks",
                f64::from(u8::from(authority)),
            ),
            (
                "blosm_node_latitude_degrees",
                "Latitude of the node (WGS84)",
                at.latitude(),
            ),
            (
                "blosm_node_longitude_degrees",
                "Longitude of the node (WGS84)",
                at.longitude(),
            ),
        ] {
            register.gauge(name, help)?.set(value);
        }
        Ok(())
    }

    // === counted as it happens ===

    /// From now on a client's request for `service` is under way, until it is answered or denied, or dropped because its
    /// client has gone.
    pub(crate) fn request(&self, service: &str) -> UnderWay<'_> {
        self.gateway.begun();
        UnderWay {
            gateway: &self.gateway,
            service: service.to_owned(),
            since: Instant::now(),
            counted: false,
        }
    }

    /// The gateway has answered a client's request for `service` by `route` (a word of a small fixed set) with `code`,
    /// `took` after it had read it.
    pub(crate) fn answered(&self, service: &str, route: &'static str, code: u16, took: Duration) {
        self.gateway.answered(service, route, code, took);
    }

    /// No container has answered a client's request; `reason` is a word of the program.
    pub(crate) fn denied(&self, reason: &'static str) {
        self.gateway.denied(reason);
    }

    /// A migration to this node has ended as `report` says, by `method`, which was taken `instead_of` another one if that is
    /// named; `why` when it is not completed, in a word of the program.
    pub(crate) fn migration(
        &self,
        method: Method,
        instead_of: Option<Method>,
        report: &MigrationReport,
        why: Option<&'static str>,
    ) {
        let service = self.gateway.service(&report.service);
        self.migrate.ended(service, method, instead_of, report, why);
    }

    /// So many bytes of migrations have come from other nodes.
    pub(crate) fn fetched(&self, bytes: usize) {
        self.migrate.fetched(bytes as u64);
    }

    /// So many bytes of migrations were given to other nodes.
    pub(crate) fn given(&self, bytes: usize) {
        self.migrate.given(bytes as u64);
    }

    /// A session was handed over after it had been here for so long.
    pub(crate) fn session_left(&self, after: Duration) {
        self.migrate.left(after);
    }

    /// A session was opened here.
    pub(crate) fn session_opened(&self, service: &str) {
        self.migrate.opened(self.gateway.service(service));
    }

    /// Whether a method works here.
    pub fn method_available(&self, method: &'static str, available: bool) {
        self.migrate.method_available(method, available);
    }

    /// How often the node's own layer helper has ended.
    pub fn helper_ended(&self, times: u64) {
        self.migrate.helper_ended(times);
    }

    /// Where the ledger task counts.
    pub fn ledger_meter(&self) -> LedgerMeter {
        self.ledger_meter.clone()
    }

    /// Where the journal's thread notes how long it writes.
    pub(crate) fn journal_seconds(&self) -> Histogram {
        self.migrate.journal()
    }

    /// The ways in which a request can be denied, each with its reason and status: each gets a series from the start.
    pub(crate) fn requests_may_be_denied(&self, ways: &[(&'static str, u16)]) {
        self.gateway.may_be_denied(ways);
    }

    /// The causes for which a migration to this node can fail: each gets a series from the start.
    pub(crate) fn migrations_may_fail(&self, causes: &[&'static str]) {
        self.migrate.may_fail(causes);
    }

    // === set from snapshots, when somebody reads ===

    /// Where the ledger stands.
    pub(crate) fn chain(&self, view: &ChainView) {
        self.ledger.chain(view);
    }

    /// What the ledger's store says of itself.
    pub(crate) fn store(&self, figures: &StoreFigures) {
        let _one = self.raising();
        self.ledger.store(figures);
    }

    /// How far this node's clock is ahead of the authority's, if that is known.
    pub(crate) fn clock_offset(&self, seconds: Option<f64>) {
        self.net.clock_offset(seconds);
    }

    /// The connected peers, whether others can dial this node, and what the swarm has counted.
    pub(crate) fn net(&self, peers: &[PeerInfo], reachable: Option<bool>, counters: &Counters) {
        let _one = self.raising();
        self.net.set(peers, reachable, counters);
    }

    /// The sessions that are this node's, by service, and how many transactions of sessions are not sealed.
    pub(crate) fn sessions(&self, owned: &BTreeMap<String, usize>, unsealed: usize) {
        for service in self.gateway.services() {
            self.migrate
                .owned(service, owned.get(service).copied().unwrap_or(0));
        }
        self.migrate.unsealed(unsealed);
    }

    /// Migrations from and to this node that are under way, and requests that wait for a container.
    pub(crate) fn under_way(&self, outgoing: usize, incoming: usize, held: usize) {
        self.migrate.under_way(outgoing, incoming);
        self.gateway.held(held);
    }

    /// What is offered to containers: bytes of memory, thousandths of a core, devices.
    pub(crate) fn offered(&self, memory: Amount, cpu_milli: Amount, gpus: Amount) {
        self.machine.offered(memory, cpu_milli, gpus);
    }

    /// The machine as a whole.
    pub(crate) fn machine(&self, machine: &Machine) {
        let _one = self.raising();
        self.machine.machine(machine);
    }

    /// Whether the container engine answers.
    pub(crate) fn engine_up(&self, up: bool) {
        self.engine_up.set(f64::from(u8::from(up)));
    }

    /// Whether new clients are welcome, and whether the node is drained.
    pub(crate) fn readiness(&self, ready: bool, drained: bool) {
        self.ready.set(f64::from(u8::from(ready)));
        self.drained.set(f64::from(u8::from(drained)));
    }

    /// The registry in Prometheus' text format, with this process as it is now.
    ///
    /// # Errors
    /// Never in practice: all names and labels are the program's.
    pub fn render(&self) -> Result<String, Error> {
        {
            let _one = self.raising();
            self.process.read();
        }
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|error| Error::Msg(error.to_string()))
    }

    fn raising(&self) -> MutexGuard<'_, ()> {
        self.raising.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's request that is being answered.
#[derive(Debug)]
#[must_use = "a request whose client has gone is counted when this is dropped"]
pub(crate) struct UnderWay<'a> {
    gateway: &'a GatewayMetrics,
    service: String,
    since: Instant,
    counted: bool,
}

impl UnderWay<'_> {
    /// A container has answered it by `route` with `code`.
    pub(crate) fn answered(mut self, route: &'static str, code: u16) {
        self.count(route, code);
    }

    /// No container has answered it; `reason` is a word of the program.
    pub(crate) fn denied(mut self, reason: &'static str, code: u16) {
        self.deny(reason, code);
    }

    fn deny(&mut self, reason: &'static str, code: u16) {
        self.count("none", code);
        self.gateway.denied(reason);
    }

    fn count(&mut self, route: &'static str, code: u16) {
        self.counted = true;
        self.gateway
            .answered(&self.service, route, code, self.since.elapsed());
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.gateway.ended();
        // Nobody waits for the answer any more, so the gateway has let it fall.
        if !self.counted {
            let (reason, code) = gateway::CLIENT_GONE;
            self.deny(reason, code);
        }
    }
}

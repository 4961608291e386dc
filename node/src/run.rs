//! One node, from a checked configuration to its end.
//!
//! ```text
//! bind everything -> engine, journal, ledger (any failure ends here, with nothing half started)
//!   -> swarm -> ledger task -> sync to the best head -> take up the sessions -> gateway, API -> ready
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blosm_ledger::{Admit, Ledger, LedgerError, Payload};
use blosm_migrate::docker::EngineError;
use blosm_migrate::engine::{Engine, Runtime};
use blosm_migrate::placement::Bookings;
use blosm_migrate::resources::{Caps, Probe, ResourceError};
use blosm_migrate::session::JournalError;
use blosm_net::{NetConfig, NetError, Network, peer_of_key};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::{Desk, Invites, InvitesError, SOFTWARE, Standing};
use crate::api::{self, ApiState, BindError};
use crate::chain::{ChainHandle, ChainOptions, ChainTask};
use crate::code;
use crate::config::Config;
use crate::gateway::{Denied, Gateway, Recent, serve_http};
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::router::Router;
use crate::sessions::{
    Brought, Budget, Census, Drain, DrainError, JournalHandle, Links, Methods, Reports, SessionsHandle,
    Slots, migration_failures,
};

/// How long a start waits for a better head than its own (rule 7).
const SYNC_LIMIT: Duration = Duration::from_secs(5);
/// How long answers under way may take when the node stops.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// What the start has run is over by then, the first greetings of the neighbours among it.
const STARTED: Duration = Duration::from_secs(5);
/// Between two tries of an authority to admit itself.
const ADMIT_AGAIN: Duration = Duration::from_millis(500);

/// What the command line says about a run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// An authority seals without having heard from half of the other members.
    pub alone: bool,
    /// An authority seals again although its key has sealed two blocks of one height.
    pub resume: bool,
    /// How often the layer helper that this process has started has ended, if it has started one. There is news also
    /// when another one listens.
    pub helper_ended: Option<watch::Receiver<u64>>,
}

/// Why a node did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address can't be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The container engine can't be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The session journal can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Whether the node is drained is not known.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// The authority's invites can't be used.
    #[error(transparent)]
    Invites(#[from] InvitesError),
    /// The ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The swarm can't be started.
    #[error(transparent)]
    Net(#[from] NetError),
    /// This machine's resources can't be read.
    #[error(transparent)]
    Resources(#[from] ResourceError),
    /// The metrics can't be registered.
    #[error("the metrics can't be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system failed this process.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The journal failed while the node ran.
    #[error("the session journal failed; the containers run on, and are taken up again at the next start")]
    JournalFailed,
    /// Another process runs on the data directory.
    #[error("another blosm runs on {0}; stop it first, or use another --data-dir")]
    Locked(PathBuf),
}

/// The right to run on a data directory: one process has it, and it goes with the process, however that ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] std::fs::File);

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, with what to change; or what ended it.
pub async fn run(config: Config, options: RunOptions, _lock: Lock) -> Result<(), RunError> {
    let config = Arc::new(config);
    let listeners = api::bind(&config).await?;
    let gateway_listener = api::listen(config.gateway.listen, "gateway").await?;
    let caps = Caps {
        memory: config.resources.memory,
        cpu_milli: config.resources.cpu_milli,
        gpus: None,
    };
    let (engine, mut probe) = engine(&config, caps).await?;
    let bookings = Bookings::new(probe.read()?.total(&caps));
    look_for_helper(&engine).await;
    let journal_failed = CancellationToken::new();
    let metrics = Arc::new(Metrics::new(&config)?);
    metrics.requests_may_be_denied(&Denied::ALL.map(|denied| (denied.word(), denied.status().0.as_u16())));
    metrics.migrations_may_fail(&migration_failures());
    let journal = JournalHandle::open(
        &config.data_dir.join("sessions.journal"),
        journal_failed.clone(),
        metrics.journal_seconds(),
    )?;
    let drain = Drain::open(&config.data_dir)?;
    let invites = match config.is_authority() {
        true => Some(Arc::new(Invites::open(&config.data_dir)?)),
        false => None,
    };
    let ledger = open_ledger(&config, options.resume).await?;

    let (net, events) = Network::spawn(net_config(&config)).await?;
    let chain = ChainTask::spawn(
        ledger,
        net.clone(),
        config.key.clone(),
        ChainOptions {
            alone: options.alone,
            meter: metrics.ledger_meter(),
            ..ChainOptions::default()
        },
    )
    .map_err(|source| RunError::System {
        what: "starting the ledger's thread",
        source,
    })?;
    let (services, ready) = watch::channel(None);
    let census = Arc::new(Census::default());
    let router = Router {
        chain: chain.clone(),
        desk: Arc::new(Desk::new(config.clone(), chain.clone(), invites.clone())),
        standing: Arc::new(Standing::new(config.public_key(), chain.clone(), net.clone())),
        census: census.clone(),
        services: ready,
    };
    let mut routed = tokio::spawn(router.run(events));

    let stop = CancellationToken::new();
    let recent = Arc::new(Recent::default());
    let parts = Arc::new(Parts {
        me: config.public_key(),
        config: config.clone(),
        chain: chain.clone(),
        net: net.clone(),
        methods: Methods::new(engine.has_images()),
        engine,
        helper_ended: options.helper_ended,
        journal,
        watcher: probe.watcher(),
        probe: Mutex::new(probe),
        bookings: Mutex::new(bookings),
        reports: Reports::default(),
        slots: Slots::new(config.migration.max_out, config.migration.max_in),
        links: Links::default(),
        recent: recent.clone(),
        drain,
        census,
        budget: Budget::default(),
        brought: Brought::open(&config.data_dir),
        metrics: metrics.clone(),
        stop: stop.clone(),
    });
    chain.sync_to_best(SYNC_LIMIT).await;
    warn_of_images(&parts).await;
    let sessions = SessionsHandle::start(parts.clone()).await?;
    let gateway = Gateway {
        parts: parts.clone(),
        sessions: sessions.clone(),
    };
    services.send_replace(Some((sessions.clone(), gateway.clone())));
    if config.is_authority() {
        tokio::spawn(admit_itself(parts.clone()));
    }
    let state = ApiState {
        config: config.clone(),
        chain: chain.clone(),
        sessions,
        net: net.clone(),
        invites,
        metrics,
        recent,
        stopping: stop.clone(),
    };
    let mut gateway_task = tokio::spawn(serve_http(gateway_listener, gateway, stop.clone()));
    let mut api_task = tokio::spawn(api::serve(listeners, state));
    tracing::info!(
        label = config.node.label,
        node = %config.public_key(),
        gateway = %config.gateway.listen,
        api = %config.api.listen,
        height = chain.snapshot().height,
        runtime = %config.engine.runtime,
        "ready"
    );
    tokio::spawn(async {
        tokio::time::sleep(STARTED).await;
        // An error means that it panicked, which it does not.
        let _ = tokio::task::spawn_blocking(code::give_back).await;
    });

    // A part that ends takes the node with it: never half alive.
    let outcome = tokio::select! {
        signal = stop_signal() => signal,
        () = journal_failed.cancelled() => Err(RunError::JournalFailed),
        ended = &mut gateway_task => Err(ended_early("the gateway", ended)),
        ended = &mut api_task => Err(ended_early("the API", ended)),
        _ = &mut routed => Err(ended_early("the swarm", Ok(Ok(())))),
        () = chain.stopped() => Err(ended_early("the ledger", Ok(Ok(())))),
    };
    match config.engine.runtime {
        Runtime::Docker => tracing::info!("stopping; containers run on"),
        Runtime::Sim => tracing::info!("stopping; the simulated containers end, their layers stay"),
    }
    stop.cancel();
    let ending = async {
        // Their own errors do not matter any more.
        let _ = gateway_task.await;
        let _ = api_task.await;
        chain.shutdown().await;
        net.shutdown().await;
    };
    if tokio::time::timeout(STOP_LIMIT, ending).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    outcome
}

fn ended_early(what: &'static str, ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> RunError {
    let source = match ended {
        Ok(Ok(())) => std::io::Error::other("ended by itself"),
        Ok(Err(source)) => source,
        Err(error) => std::io::Error::other(error),
    };
    RunError::System { what, source }
}

/// Name of the file in a data directory that its one process holds.
pub const LOCK_FILE: &str = "blosm.lock";

/// Takes a data directory.
///
/// # Errors
/// [`RunError::Locked`] when another process has it.
pub fn lock(data_dir: &Path) -> Result<Lock, RunError> {
    let path = data_dir.join(LOCK_FILE);
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| RunError::System {
            what: "locking the data directory",
            source,
        })?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunError::Locked(data_dir.to_owned())),
        Err(errno) => Err(RunError::System {
            what: "locking the data directory",
            source: errno.into(),
        }),
    }
}

async fn open_ledger(config: &Config, resume: bool) -> Result<Ledger, RunError> {
    let (path, genesis) = (config.data_dir.join("ledger"), config.network.genesis.clone());
    let key = config
        .is_authority()
        .then(|| blosm_ledger::SecretKey::from_seed(config.key.seed()));
    // RocksDB's recovery is disk work.
    let open = move || {
        let mut ledger = Ledger::open(&path, genesis, key)?;
        if resume {
            ledger.resume()?;
        }
        Ok::<_, LedgerError>(ledger)
    };
    tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| RunError::System {
            what: "opening the ledger",
            source: std::io::Error::other(error),
        })?
        .map_err(RunError::from)
}

fn net_config(config: &Config) -> NetConfig {
    let me = peer_of_key(&config.public_key().0);
    let own = |address: &blosm_net::Multiaddr| address.to_string().ends_with(&format!("/p2p/{me}"));
    NetConfig {
        seed: *config.key.seed(),
        net8: config.network.chain_id.short(8),
        listen: config.net.listen.clone(),
        bootstrap: config
            .network
            .bootstrap
            .iter()
            .filter(|address| !own(address))
            .cloned()
            .collect(),
        authorities: config
            .network
            .genesis
            .authorities
            .iter()
            .map(|key| peer_of_key(&key.0))
            .collect(),
        advertise: config.net.advertise.clone(),
        strangers: if config.is_authority() {
            config.net.strangers
        } else {
            0
        },
        per_address: config.net.per_address,
        mdns: config.net.mdns,
        kad: config.net.kad,
        agent: format!("blosm/{SOFTWARE}"),
    }
}

/// What runs the containers here, and what reads this machine's resources.
async fn engine(config: &Config, caps: Caps) -> Result<(Engine, Probe), EngineError> {
    match config.engine.runtime {
        Runtime::Docker => {
            let engine = Engine::docker(&config.engine.socket, &config.helper.socket).await?;
            let probe = Probe::new(&engine.root_dir());
            Ok((engine, probe))
        }
        Runtime::Sim => {
            tracing::warn!(
                "engine.runtime is \"sim\": NO REAL CONTAINER RUNS HERE, every session is a built-in counter"
            );
            let images = config.services.values().map(|service| service.image.clone());
            let engine = Engine::sim(&config.data_dir.join("sim"), images.collect())?;
            let probe = Probe::simulated(&engine.root_dir(), caps);
            Ok((engine, probe))
        }
    }
}

/// A service whose image is absent can still come here by a hand-over: say so, and go on.
async fn warn_of_images(parts: &Parts) {
    for service in parts.config.services.values() {
        if let Err(error) = parts.engine.pinned(&service.image).await {
            tracing::warn!(service = service.name, %error, "new sessions of this service can't start here");
        }
    }
}

/// Without a helper containers move as images: say which it is, and go on.
async fn look_for_helper(engine: &Engine) {
    let Some(helper) = engine.helper() else { return };
    match helper.hello().await {
        Ok(facts) => tracing::info!(
            kernel = facts.kernel,
            privileged = facts.privileged,
            "a layer helper is there"
        ),
        Err(error) => tracing::info!(%error, "containers can't move while they run"),
    }
}

/// The authority of a new network is its first member, by its own signature.
async fn admit_itself(parts: Arc<Parts>) {
    let config = &parts.config;
    while !parts.stop.is_cancelled() && !is_admitted(&parts.chain, parts.me) {
        let admit = Admit {
            key: parts.me,
            admission: blosm_ledger::Hash(crate::sessions::random()),
            addresses: config.net.advertise.iter().map(ToString::to_string).collect(),
            gateway: config.gateway.url.clone(),
            metrics: config.metrics.url.clone(),
            location: config.node.location.into(),
            radius_m: config.node.radius_m,
            label: config.node.label.clone(),
        };
        match parts.chain.submit(parts.sign(Payload::Admit(admit))).await {
            Ok(height) => tracing::info!(height, "the authority has admitted itself"),
            Err(error) => {
                tracing::warn!(%error, "the authority can't admit itself yet");
                tokio::time::sleep(ADMIT_AGAIN).await;
            }
        }
    }
}

fn is_admitted(chain: &ChainHandle, me: blosm_ledger::PublicKey) -> bool {
    let view = chain.snapshot();
    // An evicted authority stays evicted until its operator admits it again.
    view.state.members().ever_admitted(&me)
}

async fn stop_signal() -> Result<(), RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |source| RunError::System {
        what: "listening for signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

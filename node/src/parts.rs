//! The handles that the node's services share. No logic: each of them is owned by the module that it comes from.

use std::sync::{Arc, Mutex, MutexGuard};

use blosm_ledger::{Evicted, Hash, Payload, PublicKey, Transaction};
use blosm_migrate::engine::Engine;
use blosm_migrate::placement::{Bookings, Position};
use blosm_migrate::resources::{Probe, Readings, ResourceError, Watcher};
use blosm_migrate::session::Pending;
use blosm_net::NetHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::ChainHandle;
use crate::config::Config;
use crate::gateway::Recent;
use crate::metrics::Metrics;
use crate::sessions::{Brought, Budget, Census, Drain, JournalHandle, Links, Methods, Reports, Slots};

/// What every service of the node may use.
#[derive(Debug)]
pub(crate) struct Parts {
    /// This node's name.
    pub me: PublicKey,
    /// Checked configuration.
    pub config: Arc<Config>,
    /// The ledger task.
    pub chain: ChainHandle,
    /// The swarm task.
    pub net: NetHandle,
    /// What runs the containers.
    pub engine: Engine,
    /// How often the layer helper has ended, if this process has started it; news also when another one listens.
    pub helper_ended: Option<watch::Receiver<u64>>,
    /// Which methods work here.
    pub methods: Methods,
    /// The session journal.
    pub journal: JournalHandle,
    /// Reads this machine's resources. Locked for single readings only.
    pub probe: Mutex<Probe>,
    /// Reads the machine as a whole, for those who watch it.
    pub watcher: Watcher,
    /// Who holds which part of this node's resources. Locked for single steps only.
    pub bookings: Mutex<Bookings>,
    /// Reports of the migrations that this node took part in.
    pub reports: Reports,
    /// Places for migrations out of and into this node.
    pub slots: Slots,
    /// What the links to other members carry.
    pub links: Links,
    /// What cars asked for lately.
    pub recent: Arc<Recent>,
    /// Whether this node is drained, and how far that is.
    pub drain: Drain,
    /// When the other members were here, and what they said of themselves.
    pub census: Arc<Census>,
    /// Keeps the disk under the engine from filling up.
    pub budget: Budget,
    /// Images that this node has loaded under names that are not its own.
    pub brought: Brought,
    /// This node's metrics.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the node stops.
    pub stop: CancellationToken,
}

impl Parts {
    /// The network's id.
    pub(crate) fn chain_id(&self) -> Hash {
        self.config.network.chain_id
    }

    /// Value of the label that marks this network's containers.
    pub(crate) fn network_label(&self) -> String {
        self.chain_id().short(16)
    }

    /// Signs a transaction of this node.
    pub(crate) fn sign(&self, payload: Payload) -> Transaction {
        let head = self.chain.snapshot().height;
        Transaction::sign(&self.config.key, self.chain_id(), head, payload)
    }

    /// How this node was evicted, if its chain says so.
    pub(crate) fn evicted(&self) -> Option<Evicted> {
        self.chain.snapshot().state.members().evicted(&self.me).cloned()
    }

    /// Waits until this node is evicted, for ever if it never is.
    pub(crate) async fn until_evicted(&self) {
        self.until(|evicted| evicted).await;
    }

    /// Waits while this node is evicted.
    pub(crate) async fn while_evicted(&self) {
        self.until(|evicted| !evicted).await;
    }

    async fn until(&self, wanted: impl Fn(bool) -> bool) {
        let mut view = self.chain.subscribe();
        let seen = view
            .wait_for(|view| wanted(view.state.members().evicted(&self.me).is_some()))
            .await
            .is_ok();
        if !seen {
            // The ledger has stopped, and the node stops with it.
            std::future::pending::<()>().await;
        }
    }

    /// What this machine has and has left, now.
    ///
    /// # Errors
    /// The kernel's figures can't be read.
    pub(crate) fn readings(&self) -> Result<Readings, ResourceError> {
        self.probe
            .lock()
            .expect("nothing panics while it holds the probe")
            .read()
    }

    /// The book of this node's resources. For single steps only: never held over an await.
    pub(crate) fn bookings(&self) -> MutexGuard<'_, Bookings> {
        self.bookings
            .lock()
            .expect("nothing panics while it holds the bookings")
    }

    /// Reads a transaction that a peer has sent. `None` when it is malformed, of another network or not signed by its
    /// sender: the peer's fault.
    pub(crate) fn transaction(&self, bytes: &[u8]) -> Option<Transaction> {
        let transaction = Transaction::decode(bytes).ok()?;
        transaction.verify(self.chain_id()).ok()?;
        Some(transaction)
    }

    /// Where this node stands.
    pub(crate) fn position(&self) -> Position {
        position_of(self.config.node.location.into())
    }
}

/// A location of the ledger as a position.
pub(crate) fn position_of(location: blosm_ledger::Location) -> Position {
    Position::from_e7(location.lat_e7, location.lon_e7)
        .expect("the ledger refuses locations that are not on Earth")
}

/// A transaction as the journal keeps it.
pub(crate) fn pending(transaction: &Transaction) -> Pending {
    Pending::from(transaction)
}

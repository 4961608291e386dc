//! A simulated container while it runs: a task that waits at the gate, then serves until it is told to stop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::counter::{self, Counter};
use super::spec::{Folder, Spec};
use crate::gate::GateFolder;
use crate::service::StopSignal;

/// Connections that wait to be taken up.
const BACKLOG: u32 = 1024;

/// One run of a container.
#[derive(Debug)]
pub(super) struct Run {
    number: u32,
    id: String,
    address: SocketAddr,
    signals: Arc<watch::Sender<Option<StopSignal>>>,
    ended: watch::Receiver<bool>,
}

/// What others may know and ask of a run.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    number: u32,
    signals: Arc<watch::Sender<Option<StopSignal>>>,
    ended: watch::Receiver<bool>,
}

impl Run {
    /// Starts the container's task. It has its port at once, and listens there once its gate, if it has one, is open.
    pub(super) fn start(number: u32, folder: &Folder) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let (signals, told) = watch::channel(None);
        let (ending, ended) = watch::channel(false);
        let gate = folder.spec.gate.clone().map(GateFolder::at);
        let (spec, upper) = (folder.spec.clone(), folder.upper());
        tokio::spawn(async move {
            if let Err(error) = live(socket, gate, upper, &spec, told).await {
                tracing::warn!(container = spec.name, %error, "a simulated container ended");
            }
            // Nobody may be left who watches.
            ending.send_replace(true);
        });
        Ok(Self {
            number,
            id: folder.spec.id.clone(),
            address,
            signals: Arc::new(signals),
            ended,
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.ended)
    }

    pub(super) fn handle(&self) -> Handle {
        Handle {
            number: self.number,
            signals: self.signals.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl Handle {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn signal(&self, signal: StopSignal) {
        self.signals.send_replace(Some(signal));
    }

    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.ended)
    }

    /// Returns once the task has ended: nothing of it touches the layer any more.
    pub(super) async fn ended(&self) {
        // A task that panicked has ended too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// What [`ended`](Self::ended) waits for.
    pub(super) fn told(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }
}

fn has_ended(ended: &watch::Receiver<bool>) -> bool {
    *ended.borrow() || ended.has_changed().is_err()
}

async fn live(
    socket: TcpSocket,
    gate: Option<GateFolder>,
    upper: PathBuf,
    spec: &Spec,
    mut signals: watch::Receiver<Option<StopSignal>>,
) -> io::Result<()> {
    if let Some(gate) = gate {
        tokio::select! {
            opened = gate.opened() => opened?,
            // The gate ends at any signal.
            _ = signals.wait_for(Option::is_some) => return Ok(()),
        }
    }
    let counter = Counter::open(&upper.join("data"), spec)?;
    counter::serve(socket.listen(BACKLOG)?, counter, signals).await
}

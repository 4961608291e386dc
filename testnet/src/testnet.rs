//! A testnet: hosts, engines, nodes; brought up, broken, mended and taken down.

mod raise;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use toml::Table;

use crate::api::NodeClient;
use crate::cleanup;
use crate::config::{self, Runtime};
use crate::engine::Engine;
use crate::hosts::{LinkQuality, MAX_HOSTS, MAX_SEATS, Rate};
use crate::instances::{self, Instance};
use crate::monitor::Monitor;
use crate::node::{self, Node};
use crate::offers::Resources;
use crate::ports;
use crate::shell;
use crate::state::{Ground, HostState, Lock, State, new_dir, new_id};

/// The most nodes of one machine's loopback: a cell of about 200, and some that come and go.
pub const MAX_LOCAL: usize = 250;

/// What to bring up.
#[derive(Clone, Debug)]
pub struct Spec {
    /// An empty or absent folder; default: one below the system's folder for temporary files.
    pub dir: Option<PathBuf>,
    /// The capacity of each host's link, in both directions.
    pub rate: Rate,
    /// One per host; the first one's node is the authority.
    pub hosts: Vec<HostSpec>,
    /// The declarations of every node, made from the pinned image.
    pub services: fn(image: &str) -> Vec<Table>,
    /// Laid over every node's configuration.
    pub extra: Table,
    /// False: hosts, engines and images only.
    pub nodes: bool,
    /// What runs the containers. With [`Runtime::Sim`] no engine is started and no image built.
    pub runtime: Runtime,
    /// Whether the genesis says `confirmation = "required"`.
    pub confirmation_required: bool,
    /// Where the nodes stand. On loopback there are no engines, links and clocks of their own.
    pub ground: Ground,
}

/// What to bring up on one host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its engine has the base image from the start.
    pub image: bool,
    /// Laid over this node's configuration.
    pub extra: Table,
    /// `high` or `low`, where nodes differ in what they offer.
    pub class: Option<&'static str>,
    /// What this host believes that the time is when its node starts, in the words of libfaketime's `FAKETIME`; none: the machine's.
    pub clock: Option<String>,
    /// The `blosm` that its node runs; none: the one of all.
    pub program: Option<PathBuf>,
    /// It is behind a router that translates its address, and nobody can open a connection to it.
    pub hidden: bool,
    /// Latitude and longitude in degrees; none: the next place along the road.
    pub location: Option<(f64, f64)>,
    /// What its node covers, in metres; none: as all along the road.
    pub radius: Option<f64>,
}

impl Default for HostSpec {
    fn default() -> HostSpec {
        HostSpec {
            image: true,
            extra: Table::new(),
            class: None,
            clock: None,
            program: None,
            hidden: false,
            location: None,
            radius: None,
        }
    }
}

impl Spec {
    /// That many equal hosts on links of 40 Mbit/s, with the demo's two services.
    pub fn hosts(count: usize) -> Spec {
        Spec {
            dir: None,
            rate: Rate::mbit(40),
            hosts: vec![HostSpec::default(); count],
            services: |image| vec![config::counter(image), config::echo(image)],
            extra: Table::new(),
            nodes: true,
            runtime: Runtime::Docker,
            confirmation_required: false,
            ground: Ground::Road,
        }
    }

    /// That many nodes with simulated containers as processes on this machine, of which the share `high_share`, spread
    /// evenly along the road, offers `high` and the others `low`.
    pub fn local(count: usize, high_share: f64, high: &Resources, low: &Resources) -> Spec {
        let host = |index: usize| {
            // Rises by one at each node that is high.
            let before = (index as f64 * high_share).floor();
            let is_high = ((index + 1) as f64 * high_share).floor() > before;
            let (class, offers) = if is_high { ("high", high) } else { ("low", low) };
            HostSpec {
                extra: offers.table(),
                class: Some(class),
                ..HostSpec::default()
            }
        };
        Spec {
            hosts: (0..count).map(host).collect(),
            runtime: Runtime::Sim,
            ground: Ground::Loopback,
            ..Spec::hosts(0)
        }
    }

    /// What is laid over the configuration of a host's node, counted from 0.
    pub(crate) fn settings(&self, index: usize) -> Table {
        let mut settings = self.extra.clone();
        if let Some(host) = self.hosts.get(index) {
            config::overlay(&mut settings, &host.extra);
        }
        settings
    }
}

/// The most nodes that a testnet may have.
pub fn most(ground: Ground, runtime: Runtime) -> usize {
    match (ground, runtime) {
        (Ground::Road, Runtime::Docker) => MAX_HOSTS,
        (Ground::Road, Runtime::Sim) => MAX_SEATS,
        (Ground::Loopback, _) => MAX_LOCAL,
    }
}

/// A testnet. Dropping one that was brought up here takes it down, unless it was told to stay.
#[derive(Debug)]
pub struct Testnet {
    state: State,
    owned: bool,
}

impl Testnet {
    /// Brings everything up. `say` is told each step as it is done.
    ///
    /// # Errors
    /// A step failed; everything is removed again.
    pub async fn up(spec: &Spec, say: &(dyn Fn(&str) + Sync)) -> Result<Testnet> {
        if spec.ground == Ground::Road {
            shell::preflight(spec.runtime == Runtime::Docker)?;
        }
        if spec.nodes {
            node::binary()?;
        }
        let most = most(spec.ground, spec.runtime);
        if !(1..=most).contains(&spec.hosts.len()) {
            bail!("a testnet has 1 to {most} nodes there");
        }
        let base = match spec.ground {
            Ground::Road => None,
            Ground::Loopback => Some(ports::find(spec.hosts.len())?),
        };
        let id = new_id()?;
        let hosts = spec.hosts.iter().enumerate();
        let hosts = hosts.map(|(index, host)| {
            let along = HostState::of(index + 1, base, host.class);
            HostState {
                clock: host.clock.clone(),
                program: host.program.clone(),
                location: host.location.unwrap_or(along.location),
                radius: host.radius.unwrap_or(along.radius),
                ..along
            }
        });
        let hosts = hosts.collect();
        cleanup::attend();
        let state = cleanup::begin(|| {
            let state = State {
                dir: new_dir(spec.dir.as_deref(), &id)?,
                id,
                rate: spec.rate,
                image: None,
                ground: spec.ground,
                runtime: spec.runtime,
                hosts,
                monitor: Monitor::default(),
            };
            state.save()?;
            cleanup::watch(&state.dir);
            Ok(state)
        })?;
        let mut testnet = Testnet { state, owned: true };
        testnet.raise(spec, say).await?;
        Ok(testnet)
    }

    /// The testnet that runs in `dir`, whoever brought it up. It stays when this value goes.
    ///
    /// # Errors
    /// There is none.
    pub fn attach(dir: &Path) -> Result<Testnet> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("there is no testnet in {}", dir.display()))?;
        Ok(Testnet {
            state: State::load(&dir)?,
            owned: false,
        })
    }

    /// As it stands in `testnet.json`.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The engine of a host.
    pub fn engine(&self, number: usize) -> Engine {
        Engine::of(&self.state, number)
    }

    /// A client of a host's node.
    ///
    /// # Errors
    /// There is no such host.
    pub fn client(&self, number: usize) -> Result<NodeClient> {
        self.state.host(number)?;
        Ok(Node::of(&self.state, number)?.client())
    }

    /// Does `change` to the state as it is now: another command may have changed it meanwhile.
    fn change<T>(&mut self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _lock = Lock::take(&self.state.dir)?;
        self.state = State::load(&self.state.dir)?;
        let done = change(&mut self.state)?;
        self.state.save()?;
        Ok(done)
    }

    /// Notes what watches it, so that it goes with the testnet.
    pub(crate) fn monitored(&mut self, change: impl FnOnce(&mut Monitor)) -> Result<()> {
        self.change(|state| {
            change(&mut state.monitor);
            Ok(())
        })
    }

    /// Starts a host's node, unless it runs, and returns at once.
    ///
    /// # Errors
    /// There is no such host, or the process cannot be started.
    pub fn spawn_node(&mut self, number: usize) -> Result<()> {
        self.change(|state| {
            let node = Node::of(state, number)?;
            let host = state.host_mut(number)?;
            if !host.node.is_some_and(|known| known.alive()) {
                host.node = Some(node.spawn()?);
            }
            Ok(())
        })
    }

    /// Gives a host another `blosm`, for its node's next start and for what is typed there; none: the one of all.
    ///
    /// # Errors
    /// There is no such host.
    pub fn install(&mut self, number: usize, program: Option<&Path>) -> Result<()> {
        self.change(|state| {
            state.host_mut(number)?.program = program.map(Path::to_owned);
            Ok(())
        })
    }

    /// Whether a host's node is there: it was started and has not ended, in whichever way.
    pub fn node_runs(&self, number: usize) -> bool {
        let host = self.state.host(number).ok();
        host.and_then(|host| host.node)
            .is_some_and(|process| process.alive())
    }

    /// Waits until a host's node serves.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn wait_ready(&self, number: usize) -> Result<()> {
        let process = self
            .state
            .host(number)?
            .node
            .with_context(|| format!("node {number} was not started"))?;
        Node::of(&self.state, number)?.wait_ready(process).await
    }

    /// Starts a host's node, unless it runs, and waits until it serves.
    ///
    /// # Errors
    /// As [`Testnet::spawn_node`] and [`Testnet::wait_ready`].
    pub async fn start_node(&mut self, number: usize) -> Result<()> {
        self.spawn_node(number)?;
        self.wait_ready(number).await
    }

    /// Kills a host's node (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// There is no such host.
    pub fn kill_node(&mut self, number: usize) -> Result<()> {
        self.change(|state| {
            state.host(number)?.node.into_iter().for_each(Node::kill);
            Ok(())
        })
    }

    /// Stops a host's node as it stands (SIGSTOP): it is there and does nothing, like a machine that hangs.
    ///
    /// # Errors
    /// There is no such host.
    pub fn pause_node(&self, number: usize) -> Result<()> {
        self.signal_node(number, Signal::STOP)
    }

    /// Lets a host's node go on (SIGCONT).
    ///
    /// # Errors
    /// There is no such host.
    pub fn resume_node(&self, number: usize) -> Result<()> {
        self.signal_node(number, Signal::CONT)
    }

    fn signal_node(&self, number: usize, signal: Signal) -> Result<()> {
        let host = self.state.host(number)?;
        host.node.iter().for_each(|node| node.signal(signal));
        Ok(())
    }

    /// Ends a host's node in good order (SIGTERM) and waits until it is gone.
    ///
    /// # Errors
    /// There is no such host.
    pub fn stop_node(&mut self, number: usize) -> Result<()> {
        self.change(|state| {
            state.host(number)?.node.into_iter().for_each(Node::stop);
            Ok(())
        })
    }

    /// Kills a host's engine (SIGKILL to its API process). Its containers run on, as after a crash.
    ///
    /// # Errors
    /// There is no such host.
    pub fn kill_engine(&mut self, number: usize) -> Result<()> {
        self.has_hosts()?;
        self.change(|state| {
            Engine::of(state, number).kill(&state.host(number)?.engine);
            Ok(())
        })
    }

    /// Stops a host's engine and its containers in good order.
    ///
    /// # Errors
    /// There is no such host.
    pub fn stop_engine(&mut self, number: usize) -> Result<()> {
        self.has_hosts()?;
        self.change(|state| {
            Engine::of(state, number).stop(&state.host(number)?.engine);
            Ok(())
        })
    }

    /// Starts what does not run of a host's engine and waits until it answers.
    ///
    /// # Errors
    /// There is no such host, or the engine does not answer.
    pub async fn start_engine(&mut self, number: usize) -> Result<()> {
        self.has_hosts()?;
        let _lock = Lock::take(&self.state.dir)?;
        self.state = State::load(&self.state.dir)?;
        let engine = Engine::of(&self.state, number);
        let started = engine.start(&self.state.host(number)?.engine).await?;
        self.state.host_mut(number)?.engine = started;
        self.state.save()
    }

    /// Links and engines are there only where each node has a host.
    fn has_hosts(&self) -> Result<()> {
        match self.state.ground {
            Ground::Road => Ok(()),
            Ground::Loopback => bail!(
                "the nodes of this testnet share this machine's network and have no engines; links and engines are for --runtime docker"
            ),
        }
    }

    /// Takes a host's link down.
    ///
    /// # Errors
    /// There is no such host.
    pub fn cut(&mut self, number: usize) -> Result<()> {
        self.set_cut(number, true)
    }

    /// Takes a host's link up.
    ///
    /// # Errors
    /// There is no such host.
    pub fn heal(&mut self, number: usize) -> Result<()> {
        self.set_cut(number, false)
    }

    /// Gives a host's link another capacity, both ways.
    ///
    /// # Errors
    /// There is no such host.
    pub fn reshape(&mut self, number: usize, rate: Rate) -> Result<()> {
        self.state.host(number)?;
        self.state.road().reshape(number, rate)
    }

    /// Takes a host's link its bound, both ways: it is as fast as the machine then.
    ///
    /// # Errors
    /// There is no such host, or its link has no bound.
    pub fn unshape(&mut self, number: usize) -> Result<()> {
        self.has_hosts()?;
        self.state.host(number)?;
        self.state.road().unshape(number)
    }

    /// Gives a host's link delay, jitter, loss, or a cut in one direction, beside its rate; or none of it any more.
    ///
    /// # Errors
    /// There is no such host, or the kernel has no TAP devices.
    pub fn impair(&mut self, number: usize, link: LinkQuality) -> Result<()> {
        self.has_hosts()?;
        self.change(|state| {
            let (road, dir) = (state.road(), state.host_dir(number));
            let host = state.host_mut(number)?;
            host.link = link;
            if !link.is_clear() {
                host.relay = Some(road.impair(number, &link, &dir, host.relay)?);
            } else if let Some(relay) = host.relay.take() {
                road.mend(number, relay)?;
            }
            Ok(())
        })
    }

    fn set_cut(&mut self, number: usize, cut: bool) -> Result<()> {
        self.has_hosts()?;
        self.change(|state| {
            state.host_mut(number)?.cut = cut;
            if cut {
                state.road().cut(number)
            } else {
                state.road().heal(number)
            }
        })
    }

    /// Every container whose own program runs on any host, by the kernel's process list.
    pub fn live_instances(&self) -> Vec<Instance> {
        instances::live(&self.state)
    }

    /// Leaves everything running when this value goes and when the process ends.
    pub fn detach(mut self) -> State {
        self.owned = false;
        cleanup::release(&self.state.dir);
        self.state.clone()
    }

    /// Removes everything.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        cleanup::teardown(&self.state.dir)
    }
}

impl Drop for Testnet {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = cleanup::teardown(&self.state.dir)
        {
            tracing::error!("{error:#}");
        }
    }
}

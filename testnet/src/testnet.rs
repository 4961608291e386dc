//! A testnet: hosts, engines, nodes; brought up, broken, mended and taken down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use serde_json::Value;
use tokio::time::Instant;
use toml::Table;

use crate::api::NodeClient;
use crate::cleanup;
use crate::config::{self, Runtime};
use crate::engine::Engine;
use crate::hosts::{LinkQuality, MAX_HOSTS, Rate, address};
use crate::image::BaseImage;
use crate::instances::{self, Instance};
use crate::node::{self, Node};
use crate::road;
use crate::shell;
use crate::state::{EngineState, HostState, Lock, State, new_dir, new_id};

/// All nodes with one head: a late joiner syncs first.
const AGREE: Duration = Duration::from_secs(60);

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
}

/// What to bring up on one host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its engine has the base image from the start.
    pub image: bool,
    /// Laid over this node's configuration.
    pub extra: Table,
    /// What this host believes that the time is when its node starts, in the words of libfaketime's `FAKETIME`; none: the machine's.
    pub clock: Option<String>,
    /// It is behind a router that translates its address, and nobody can open a connection to it.
    pub hidden: bool,
}

impl Default for HostSpec {
    fn default() -> HostSpec {
        HostSpec {
            image: true,
            extra: Table::new(),
            clock: None,
            hidden: false,
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
        }
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
        shell::preflight()?;
        if spec.nodes {
            node::binary()?;
        }
        if !(1..=MAX_HOSTS).contains(&spec.hosts.len()) {
            bail!("a testnet has 1 to {MAX_HOSTS} hosts");
        }
        let id = new_id()?;
        let dir = new_dir(spec.dir.as_deref(), &id)?;
        let hosts = (1..=spec.hosts.len()).map(|number| HostState {
            number,
            label: format!("host{number}"),
            address: address(number),
            location: road::location(road::stand(number)),
            radius: road::RADIUS_M,
            engine: EngineState::default(),
            key: None,
            node: None,
            cut: false,
            relay: None,
            link: LinkQuality::default(),
            clock: spec.hosts[number - 1].clock.clone(),
        });
        let state = State {
            id,
            dir,
            rate: spec.rate,
            image: None,
            hosts: hosts.collect(),
        };
        state.save()?;
        cleanup::watch(&state.dir);
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

    async fn raise(&mut self, spec: &Spec, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let count = spec.hosts.len();
        self.state.road().build(count, spec.rate)?;
        for number in (1..=count).filter(|number| spec.hosts[number - 1].hidden) {
            self.state.road().hide(number, spec.rate)?;
        }
        say(&format!("{count} hosts on links of {}", spec.rate));
        if spec.runtime == Runtime::Sim {
            return self.add_nodes(spec, &(spec.services)(""), say).await;
        }
        let engines: Vec<Engine> = (1..=count)
            .map(|number| Engine::of(&self.state, number))
            .collect();
        let fresh = EngineState::default();
        let started = try_join_all(engines.iter().map(|engine| engine.start(&fresh))).await?;
        for (host, engine) in self.state.hosts.iter_mut().zip(started) {
            host.engine = engine;
        }
        self.state.save()?;
        say(&format!("{count} private engines answer"));
        let image = self.place_image(spec, &engines).await?;
        say(&format!("base image {image}"));
        if spec.nodes {
            self.add_nodes(spec, &(spec.services)(&image), say).await
        } else {
            Ok(())
        }
    }

    /// Builds the base image on the first engine and loads it into the others that are to have it.
    async fn place_image(&mut self, spec: &Spec, engines: &[Engine]) -> Result<String> {
        let builder = engines.first().context("a testnet has a host")?;
        let image = BaseImage::build(builder, &self.state.dir.join("base.tar")).await?;
        let others = engines
            .iter()
            .zip(&spec.hosts)
            .skip(1)
            .filter(|(_, host)| host.image);
        try_join_all(others.map(|(engine, _)| image.load(engine))).await?;
        self.state.image = Some(image.pinned());
        self.state.save()?;
        Ok(image.pinned())
    }

    /// Makes and starts the nodes of a testnet that was brought up without, each with these services declared.
    ///
    /// # Errors
    /// A node cannot be made or started, or they do not agree in time.
    pub async fn add_nodes(
        &mut self,
        spec: &Spec,
        services: &[Table],
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        let network = Node::new_network(&self.state, spec.confirmation_required)?;
        let authority_key = self.state.dir.join("authority.key");
        for (index, host_spec) in spec.hosts.iter().enumerate() {
            let number = index + 1;
            let node = Node::of(&self.state, number)?;
            let key = node.init(&network, (number == 1).then_some(authority_key.as_path()))?;
            self.state.host_mut(number)?.key = Some(key);
            let mut extra = spec.extra.clone();
            config::overlay(&mut extra, &host_spec.extra);
            let engine = Engine::of(&self.state, number).url();
            let engine = (spec.runtime == Runtime::Docker).then_some(engine.as_str());
            let text = config::render(self.state.host(number)?, &network, engine, services, &extra)?;
            let file = self.state.data_dir(number).join("blosm.toml");
            std::fs::write(&file, text).with_context(|| format!("{}", file.display()))?;
        }
        self.state.save()?;
        self.start_node(1).await?;
        say("the authority runs");
        let authority = Node::of(&self.state, 1)?;
        for host in self.state.hosts.iter().skip(1) {
            authority.admit(host)?;
        }
        for number in 2..=spec.hosts.len() {
            self.spawn_node(number)?;
        }
        for number in 2..=spec.hosts.len() {
            self.wait_ready(number).await?;
        }
        let height = self.wait_agreed().await?;
        say(&format!("{} members agree on block {height}", spec.hosts.len()));
        Ok(())
    }

    /// Waits until all nodes know all members and have one head; gives its height.
    ///
    /// # Errors
    /// They do not agree in time.
    pub async fn wait_agreed(&self) -> Result<u64> {
        let deadline = Instant::now() + AGREE;
        loop {
            let seen = match self.heads().await {
                Ok(heads) => {
                    let members = self.state.hosts.len() as u64;
                    let first = heads.first().cloned().unwrap_or_default();
                    if heads
                        .iter()
                        .all(|head| head.hash == first.hash && head.members == members)
                    {
                        return Ok(first.height);
                    }
                    format!("{heads:?}")
                }
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("the nodes do not agree after {AGREE:?}: {seen}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        let heads = self.state.hosts.iter().map(|host| async move {
            let client = self.client(host.number)?;
            let (head, status) = tokio::try_join!(client.get("/v1/chain/head"), client.get("/v1/status"))?;
            Ok::<_, anyhow::Error>(Head {
                hash: head["hash"].as_str().context("a head has a hash")?.to_owned(),
                height: head["height"].as_u64().context("a head has a height")?,
                members: count(&status["members"]),
            })
        });
        try_join_all(heads).await
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
        let _lock = Lock::take(&self.state.dir)?;
        self.state = State::load(&self.state.dir)?;
        let engine = Engine::of(&self.state, number);
        let started = engine.start(&self.state.host(number)?.engine).await?;
        self.state.host_mut(number)?.engine = started;
        self.state.save()
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

    /// Gives a host's link delay, jitter, loss, or a cut in one direction, beside its rate; or none of it any more.
    ///
    /// # Errors
    /// There is no such host, or the kernel has no TAP devices.
    pub fn impair(&mut self, number: usize, link: LinkQuality) -> Result<()> {
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

/// What one node says of the chain.
#[derive(Clone, Debug, Default)]
struct Head {
    hash: String,
    height: u64,
    members: u64,
}

/// A count, or the length of a list.
fn count(value: &Value) -> u64 {
    value
        .as_u64()
        .or_else(|| value.as_array().map(|list| list.len() as u64))
        .unwrap_or(0)
}

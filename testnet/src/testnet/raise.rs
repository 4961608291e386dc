//! Bringing a testnet up: hosts, engines, the image, the nodes, and one head on all of them.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use toml::Table;

use super::{MAX_LOCAL, Spec, Testnet};
use crate::cleanup;
use crate::config::{self, Runtime, SIM_IMAGE};
use crate::engine::Engine;
use crate::image::BaseImage;
use crate::node::Node;
use crate::state::{EngineState, Ground, HostState};

/// All nodes with one head: a late joiner syncs first.
const AGREE: Duration = Duration::from_secs(60);
/// Nodes that start at the same time: a start is mostly work for a processor, and more of them only take longer each.
const STARTING: usize = 8;
/// A large testnet's start is told in steps of so many nodes.
const STEP: usize = 10;
/// One with more nodes than this takes seconds to be made.
const LARGE: usize = 20;

impl Testnet {
    pub(super) async fn raise(&mut self, spec: &Spec, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        if spec.ground == Ground::Road {
            self.raise_hosts(spec, say)?;
        }
        let image = match spec.runtime {
            Runtime::Docker => self.raise_engines(spec, say).await?,
            Runtime::Sim => {
                self.state.image = Some(SIM_IMAGE.to_owned());
                SIM_IMAGE.to_owned()
            }
        };
        if spec.nodes {
            self.add_nodes(spec, &(spec.services)(&image), say).await
        } else {
            Ok(())
        }
    }

    fn raise_hosts(&mut self, spec: &Spec, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let count = spec.hosts.len();
        self.state.road().build(count, spec.rate)?;
        for number in (1..=count).filter(|number| spec.hosts[number - 1].hidden) {
            self.state.road().hide(number, spec.rate)?;
        }
        say(&format!("{count} hosts on links of {}", spec.rate));
        Ok(())
    }

    async fn raise_engines(&mut self, spec: &Spec, say: &(dyn Fn(&str) + Sync)) -> Result<String> {
        let count = spec.hosts.len();
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
        Ok(image)
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
        let total = spec.hosts.len();
        let told = |number: usize, what: &str| {
            if total > LARGE && (number.is_multiple_of(STEP) || number == total) {
                say(&format!("{number} of {total} nodes are {what}"));
            }
        };
        // One after the other: they wait for the disk, not for a processor.
        for number in 1..=total {
            let node = Node::of(&self.state, number)?;
            let key = node.init(&network, (number == 1).then_some(authority_key.as_path()))?;
            self.state.host_mut(number)?.key = Some(key);
            self.configure(number, services, &spec.settings(number - 1))?;
            told(number, "made");
        }
        self.state.save()?;
        self.start_node(1).await?;
        say("the authority runs");
        let authority = Node::of(&self.state, 1)?;
        for host in self.state.hosts.iter().skip(1) {
            authority.admit(host)?;
            told(host.number, "admitted");
        }
        self.start_nodes((2..=total).collect(), say).await?;
        let height = self.wait_agreed().await?;
        say(&format!("{total} members agree on block {height}"));
        Ok(())
    }

    /// Adds a node to a testnet that runs, as the host `like` of `spec` (counted from 0) is; gives its number.
    ///
    /// # Errors
    /// Nodes have hosts here, there is no room for another, or it cannot be made, admitted or started.
    pub async fn join(&mut self, spec: &Spec, like: usize) -> Result<usize> {
        let (Ground::Loopback, Some(first)) = (self.state.ground, self.state.hosts.first()) else {
            bail!("only a testnet without hosts takes further nodes");
        };
        let (number, base) = (self.state.hosts.len() + 1, first.ports.peer);
        if number > MAX_LOCAL {
            bail!("a testnet of this runtime has at most {MAX_LOCAL} nodes");
        }
        let like = spec.hosts.get(like).context("a node like one of the first")?;
        let host = HostState::of(number, Some(base), like.class);
        self.change(|state| {
            state.hosts.push(host);
            Ok(())
        })?;
        let network = self.state.dir.join("network.toml");
        let key = Node::of(&self.state, number)?.init(&network, None)?;
        self.change(|state| {
            state.host_mut(number)?.key = Some(key);
            Ok(())
        })?;
        let services = (spec.services)(SIM_IMAGE);
        self.configure(number, &services, &like.extra)?;
        Node::of(&self.state, 1)?.admit(self.state.host(number)?)?;
        self.start_node(number).await?;
        Ok(number)
    }

    /// Writes a node's `blosm.toml`.
    pub(crate) fn configure(&self, number: usize, services: &[Table], extra: &Table) -> Result<()> {
        let engine = match self.state.runtime {
            Runtime::Docker => Some(Engine::of(&self.state, number).url()),
            Runtime::Sim => None,
        };
        let network = self.state.dir.join("network.toml");
        let host = self.state.host(number)?;
        let text = config::render(host, &network, engine.as_deref(), services, extra)?;
        let file = self.state.data_dir(number).join("blosm.toml");
        cleanup::begin(|| std::fs::write(&file, text).with_context(|| format!("{}", file.display())))
    }

    /// Starts these nodes, a few at a time, and waits until all of them serve.
    async fn start_nodes(&mut self, mut left: VecDeque<usize>, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let (total, mut ready) = (left.len() + 1, 1);
        let mut starting = FuturesUnordered::new();
        loop {
            while starting.len() < STARTING
                && let Some(number) = left.pop_front()
            {
                self.spawn_node(number)?;
                let process = self.state.host(number)?.node.context("it was started")?;
                let node = Node::of(&self.state, number)?;
                starting.push(async move { node.wait_ready(process).await });
            }
            match starting.next().await {
                Some(started) => started?,
                None => return Ok(()),
            }
            ready += 1;
            if ready % STEP == 0 || (ready == total && total > STEP) {
                say(&format!("{ready} of {total} nodes are ready"));
            }
        }
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
                    let others: Vec<&Head> = heads
                        .iter()
                        .filter(|head| head.hash != first.hash || head.members != members)
                        .collect();
                    if others.is_empty() {
                        return Ok(first.height);
                    }
                    format!(
                        "{first:?} at the first, and at {} others: {others:?}",
                        others.len()
                    )
                }
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("the nodes do not agree after {AGREE:?}: {seen}");
            }
            // Many nodes are asked less often: the question itself is work for them.
            let pause = 100.max(4 * self.state.hosts.len() as u64);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        let heads = self.state.hosts.iter().map(|host| async move {
            let status = self.client(host.number)?.get("/v1/status").await?;
            Ok::<_, anyhow::Error>(Head {
                hash: status["hash"].as_str().context("a head has a hash")?.to_owned(),
                height: status["height"].as_u64().context("a head has a height")?,
                members: status["members"].as_u64().context("members are counted")?,
            })
        });
        try_join_all(heads).await
    }
}

/// What one node says of the chain.
#[derive(Clone, Debug, Default)]
struct Head {
    hash: String,
    height: u64,
    members: u64,
}

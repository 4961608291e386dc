//! The same container once more, without any of ours: stop, commit, `save` piped into `load` over the same link, run.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::models::{ContainerConfig, ContainerCreateBody};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use reqwest::Client;
use serde::Serialize;
use tokio::time::Instant;

use super::drive::short;
use crate::bench::pipe;
use crate::engine::Engine;
use crate::hosts::Namespace;
use crate::service_log::ServiceLog;
use crate::teller::Teller;
use crate::testnet::Testnet;

/// The committed image, and the container that is made of it.
const NAME: &str = "by-hand";
/// What a stop waits for before it kills, in seconds.
const GRACE: i32 = 2;
/// Between two questions whether the service answers there.
const ASK: Duration = Duration::from_millis(2);
const START: Duration = Duration::from_secs(30);

/// What a person's commands took, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ByHand {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) stop_ms: f64,
    pub(super) commit_ms: f64,
    pub(super) transfer_ms: f64,
    pub(super) start_ms: f64,
    /// From the last answer here to the first one there.
    pub(super) down_ms: f64,
    /// What the source's host has sent meanwhile.
    pub(super) wire_bytes: u64,
    /// Numbers in the container's log when it has come.
    pub(super) numbers: u64,
}

/// Moves the session's container. The nodes are stopped before, so that none of them starts what a person stops.
///
/// # Errors
/// An engine refused, or the service does not answer.
pub(super) async fn by_hand(
    testnet: &mut Testnet,
    session: &str,
    from: usize,
    to: usize,
    teller: &Teller,
) -> Result<ByHand> {
    for number in 1..=testnet.state().hosts.len() {
        testnet.stop_node(number)?;
    }
    teller.say(&format!(
        "all nodes are stopped; moving the container of {} from host{from} to host{to} by save and load",
        short(session)
    ));
    let (source, destination) = (testnet.engine(from), testnet.engine(to));
    let road = testnet.state().road();
    let containers = source.containers().await?;
    let ours = containers
        .iter()
        .find(|container| container.running && container.session.as_deref() == Some(session))
        .with_context(|| format!("host{from}'s engine runs the session's container"))?;

    let (here, there) = (road.host(from), road.host(to));
    answer(&here, &url(&source, &ours.id, "/healthz").await?).await?;
    let (last, sent) = (Instant::now(), road.sent_bytes(from)?);
    let stop = StopContainerOptionsBuilder::default().t(GRACE).build();
    source.client()?.stop_container(&ours.id, Some(stop)).await?;
    let stopped = Instant::now();
    let options = CommitContainerOptionsBuilder::default()
        .container(&ours.id)
        .repo(NAME)
        .tag("1");
    let client = source.client()?;
    client
        .commit_container(options.build(), ContainerConfig::default())
        .await?;
    let committed = Instant::now();
    pipe::save_load(testnet, from, to, &format!("{NAME}:1")).await?;
    let (loaded, sent) = (Instant::now(), road.sent_bytes(from)? - sent);
    run(&destination).await?;
    answer(&there, &url(&destination, NAME, "/healthz").await?).await?;
    let answered = Instant::now();

    let log = answer(&there, &url(&destination, NAME, "/log").await?).await?;
    Ok(ByHand {
        from,
        to,
        stop_ms: millis(last, stopped),
        commit_ms: millis(stopped, committed),
        transfer_ms: millis(committed, loaded),
        start_ms: millis(loaded, answered),
        down_ms: millis(last, answered),
        wire_bytes: sent,
        numbers: ServiceLog::parse(&log)?.numbers.len() as u64,
    })
}

fn millis(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1000.0
}

async fn run(engine: &Engine) -> Result<()> {
    let client = engine.client()?;
    let body = ContainerCreateBody {
        image: Some(format!("{NAME}:1")),
        // A container of a node's may have waited for its turn in another program.
        entrypoint: Some(vec!["/counter".to_owned()]),
        cmd: Some(Vec::new()),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(NAME).build();
    client.create_container(Some(options), body).await?;
    client.start_container(NAME, None).await?;
    Ok(())
}

/// Where a container's service answers on its host's own bridge.
async fn url(engine: &Engine, container: &str, path: &str) -> Result<String> {
    let inspect = engine.client()?.inspect_container(container, None).await?;
    let networks = inspect.network_settings.and_then(|settings| settings.networks);
    let address = networks
        .into_iter()
        .flatten()
        .find_map(|(_, network)| network.ip_address.filter(|address| !address.is_empty()))
        .context("the engine gave the container an address")?;
    Ok(format!("http://{address}:8080{path}"))
}

/// Asks until there is an answer.
async fn answer(host: &Namespace, url: &str) -> Result<String> {
    let asked = url.to_owned();
    let job = move || async move {
        let client = Client::builder().no_proxy().timeout(START).build()?;
        let deadline = Instant::now() + START;
        loop {
            match client.get(&asked).send().await {
                Ok(response) if response.status().is_success() => return Ok(response.text().await?),
                Ok(response) if Instant::now() > deadline => bail!("{asked}: {}", response.status()),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                _ => tokio::time::sleep(ASK).await,
            }
        }
    };
    host.run(job).await?
}

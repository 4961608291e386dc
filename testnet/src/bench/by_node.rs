//! One run in which `blosm` moves the container.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::query_parameters::RemoveImageOptions;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::figures::Gap;
use super::layer::{Floor, Layer};
use super::plan::Turn;
use super::ride::Ride;
use super::row::{self, Run};
use super::site::Site;
use super::{AFTER, QUIET};
use crate::node::Node;
use crate::reports;
use crate::service_log::ServiceLog;
use crate::teller::unix_ms;

/// The session of the car beside it.
const TRAFFIC: &str = "counter";
/// The longest that a move may take, and one with a base image.
const MOVE: Duration = Duration::from_secs(300);
const COLD_MOVE: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(200);
/// The longest that a closed session's container may take to go.
const GONE: Duration = Duration::from_secs(60);

/// Opens two sessions at the source, moves one of them, and closes both.
///
/// # Errors
/// A session could not be opened, or the container did not move.
pub(super) async fn run(site: &Site, turn: &Turn) -> Result<Value> {
    let service = site.images[turn.image].service(turn.method);
    if !turn.base_cached {
        without_base(site, turn).await?;
    }
    let car = Ride::through_gateways(site, &service, turn.from, turn.to).await?;
    let contact = car.contact.clone();
    let session = contact.session().await?;
    let measured = async {
        let traffic = traffic(site, turn).await?;
        let beside = traffic.contact.clone();
        let measured = measure(site, turn, car, traffic, &session).await;
        // It is closed whatever came of it, and the first error is the one that matters.
        let closed = beside.close(false).await;
        measured.and_then(|measured| closed.map(|()| measured))
    };
    let measured = Box::pin(measured).await;
    let closed = contact.close(true).await;
    let row = measured?;
    closed?;
    gone(site, turn, &session).await?;
    Ok(row)
}

/// A session that stays at the source while its car asks the destination.
///
/// # Errors
/// It could not be opened.
pub(super) async fn traffic(site: &Site, turn: &Turn) -> Result<Ride> {
    let traffic = Ride::through_gateways(site, TRAFFIC, turn.from, turn.to).await?;
    traffic.leave_source();
    traffic.until_answered_there().await?;
    Ok(traffic)
}

async fn measure(site: &Site, turn: &Turn, car: Ride, traffic: Ride, session: &str) -> Result<Value> {
    let contact = car.contact.clone();
    if turn.base_cached {
        contact.put_to_work().await?;
    }
    let quiet = unix_ms();
    sleep(QUIET).await;
    let engine = site.engine(turn.from);
    let containers = engine.containers().await?;
    let container = containers
        .iter()
        .find(|container| container.running && container.session.as_deref() == Some(session))
        .with_context(|| format!("host{} runs the session's container", turn.from))?;
    // Reading tens of thousands of files takes seconds: only what moves is read.
    let layer_moves = turn.method.keeps_state() && turn.base_cached;
    let start = match layer_moves {
        true => Some(Layer::of(&engine, &container.id).await?),
        false => None,
    };
    let road = site.testnet.state().road();
    let sent = road.sent_bytes(turn.from)?;
    let report = order(site, turn, session).await?;
    let link_bytes = road.sent_bytes(turn.from)? - sent;
    let began = report["started_unix_ms"].as_f64().unwrap_or_else(unix_ms);
    // The former owner's container is stopped now, and stays for a few seconds.
    let cut = match layer_moves {
        true => Layer::of(&engine, &container.id).await.ok(),
        false => None,
    };
    sleep(AFTER).await;
    let (seen, beside) = tokio::try_join!(car.finish(), traffic.finish())?;
    let label = |host: usize| format!("host{host}");
    let (source, destination) = (label(turn.from), label(turn.to));
    let gap = Gap::of(
        &seen.records,
        |record| record.node.as_deref() == Some(&source),
        |record| record.node.as_deref() == Some(&destination),
    );
    let layers = start.zip(cut);
    let floor = move || layers.map(|(start, cut)| Floor::of(&start, &cut)).transpose();
    let floor = tokio::task::spawn_blocking(floor);
    let run = Run {
        report,
        began,
        quiet,
        gap: gap.context("both hosts answered the car")?,
        car: seen,
        traffic: beside,
        floor: floor.await??,
        link_bytes: Some(link_bytes),
        log: ServiceLog::parse(&contact.log().await?)?,
    };
    Ok(row::completed(&site.subject(turn), run))
}

/// `blosm migrate`, until it is over; gives the report.
async fn order(site: &Site, turn: &Turn, session: &str) -> Result<Value> {
    let state = site.testnet.state();
    let (node, data_dir) = (Node::of(state, turn.from)?, state.data_dir(turn.from));
    let (to, method, id) = (
        format!("host{}", turn.to),
        turn.method.as_str(),
        session.to_owned(),
    );
    let command = move || {
        let data_dir = data_dir.display().to_string();
        let words = [
            "migrate", &id, "--to", &to, "--method", method, "--detach", "--json",
        ];
        node.command(&[&words[..], &["--data-dir", &data_dir]].concat())
    };
    let answer: Value = serde_json::from_str(&tokio::task::spawn_blocking(command).await??)?;
    let id = answer["id"]
        .as_str()
        .context("`blosm migrate --json` names the attempt")?;
    let longest = if turn.base_cached { MOVE } else { COLD_MOVE };
    let deadline = Instant::now() + longest;
    while running(site, turn, id).await {
        if Instant::now() > deadline {
            bail!("attempt {id} is not over after {longest:?}");
        }
        sleep(LOOK).await;
    }
    let report = reports::all(&site.testnet).await.remove(id);
    let report = report.with_context(|| format!("no node knows attempt {id} any more"))?;
    match report["outcome"].as_str() {
        Some("completed") => Ok(report),
        other => bail!("attempt {id} ended {other:?}: {}", report["error"]),
    }
}

/// Whether neither end says that the attempt is over. One that has no report of it yet, or is busy, says nothing.
async fn running(site: &Site, turn: &Turn, id: &str) -> bool {
    let ask = |host| async move {
        let report = site
            .testnet
            .client(host)?
            .get(&format!("/v1/migrations/{id}"))
            .await?;
        Ok::<_, anyhow::Error>(
            report["outcome"]
                .as_str()
                .is_some_and(|outcome| outcome != "running"),
        )
    };
    let (source, destination) = tokio::join!(ask(turn.from), ask(turn.to));
    ![source, destination]
        .into_iter()
        .any(|over| over.unwrap_or(false))
}

/// Removes from the destination the base image that an earlier run has brought there.
async fn without_base(site: &Site, turn: &Turn) -> Result<()> {
    let (engine, tag) = (site.engine(turn.to), &site.images[turn.image].tag);
    let deadline = Instant::now() + GONE;
    while engine.images().await?.contains(tag) {
        let removed = engine
            .client()?
            .remove_image(tag, None::<RemoveImageOptions>, None)
            .await;
        match removed {
            Ok(_) => {}
            // Containers of an earlier run are still going.
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("host{} keeps {tag}", turn.to));
            }
            Err(_) => sleep(LOOK).await,
        }
    }
    Ok(())
}

/// Waits until no container of the session runs at the host that took it.
async fn gone(site: &Site, turn: &Turn, session: &str) -> Result<()> {
    let deadline = Instant::now() + GONE;
    loop {
        let left = site.engine(turn.to).containers().await?;
        if !left
            .iter()
            .any(|container| container.session.as_deref() == Some(session))
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("host{} still has a container of a closed session", turn.to);
        }
        sleep(LOOK).await;
    }
}

//! A car's requests: opening a session, and one after the other at its rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reqwest::Client;
use reqwest::header::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{CarState, NODE, POSITION, Record, SESSION, Shared};
use crate::road::nearest;

/// A request that has no answer by then has failed. Longer than any node holds one.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two tries to open a session.
const OPEN_AGAIN: Duration = Duration::from_millis(500);

/// Sends until it is stopped, then waits for what is under way.
pub(super) async fn drive(shared: Arc<Shared>, stop: CancellationToken) -> Result<()> {
    let client = Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .tcp_nodelay(true)
        .retry(reqwest::retry::never())
        .build()?;
    let Some(opened) = open(&shared, &client, &stop).await? else {
        return Ok(());
    };
    fill(&shared, &client).await?;
    let period = Duration::from_secs(1) / shared.plan.rate.max(1);
    let mut ticks = interval_at(Instant::now(), period);
    // A tick that comes late keeps its intended time: that is what makes the loop open.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    for number in opened + 1.. {
        let intended = tokio::select! {
            intended = ticks.tick() => intended,
            () = stop.cancelled() => break,
        };
        shared.state().motion.advance(period.as_secs_f64());
        let request = begin(&shared, number, intended)?;
        under_way.spawn(send(Arc::clone(&shared), client.clone(), request));
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    Ok(())
}

/// Sends one request after the other until a session is open; gives the last one's number. None if it is stopped before.
async fn open(shared: &Arc<Shared>, client: &Client, stop: &CancellationToken) -> Result<Option<u64>> {
    for number in 1.. {
        let request = begin(shared, number, Instant::now())?;
        send(Arc::clone(shared), client.clone(), request).await;
        if shared.plan.stateless || shared.state().token.is_some() {
            return Ok(Some(number));
        }
        if number >= u64::from(shared.plan.openings) {
            let last = shared.state().records.get(&number).cloned();
            let why = last.map(|record| {
                record
                    .error
                    .unwrap_or_else(|| format!("status {:?}", record.status))
            });
            let why = why.unwrap_or_default();
            return Err(anyhow!("no session was opened at {}: {why}", shared.plan.path));
        }
        tokio::select! {
            () = tokio::time::sleep(OPEN_AGAIN) => {}
            () = stop.cancelled() => break,
        }
    }
    Ok(None)
}

/// Gives the session's container something to carry.
async fn fill(shared: &Shared, client: &Client) -> Result<()> {
    let bytes = shared.plan.state_bytes;
    if bytes == 0 {
        return Ok(());
    }
    let (gateway, token) = {
        let state = shared.state();
        (choose(shared, &state, Instant::now())?.1, state.token.clone())
    };
    let url = format!("http://{gateway}{}fill?bytes={bytes}", shared.plan.path);
    let call = client.post(&url).header(SESSION, token.unwrap_or_default());
    let response = call.send().await.with_context(|| url.clone())?;
    let status = response.status();
    if !status.is_success() {
        let body = response.text().await.unwrap_or_default();
        return Err(anyhow!("{url}: status {status}: {}", body.trim()));
    }
    Ok(())
}

/// What one request is made of.
struct Outgoing {
    number: u64,
    gateway: SocketAddr,
    position: String,
    token: Option<String>,
}

/// The nearest node to where the car is: its index and its gateway.
fn choose(shared: &Shared, state: &CarState, at: Instant) -> Result<(usize, SocketAddr)> {
    let place = shared.place(state, at);
    let nodes = shared.plan.nodes.iter().enumerate();
    let heard = nodes.filter(|(index, _)| state.avoid != Some(*index));
    nearest(
        place,
        heard.map(|(index, node)| ((index, node.gateway), node.location)),
    )
    .context("a road has nodes")
}

/// Chooses the node and puts the request on record.
fn begin(shared: &Shared, number: u64, intended: Instant) -> Result<Outgoing> {
    let mut state = shared.state();
    let (to, gateway) = choose(shared, &state, intended)?;
    let (latitude, longitude) = shared.place(&state, intended);
    let record = Record {
        number,
        intended_ms: millis(intended, shared.start),
        sent_ms: millis(Instant::now(), shared.start),
        done_ms: None,
        to,
        status: None,
        node: None,
        error: None,
    };
    state.records.insert(number, record);
    Ok(Outgoing {
        number,
        gateway,
        position: format!("{latitude:.6},{longitude:.6}"),
        token: state.token.clone(),
    })
}

async fn send(shared: Arc<Shared>, client: Client, request: Outgoing) {
    let mut call = client
        .post(format!("http://{}{}", request.gateway, shared.plan.path))
        .header("x-number", request.number)
        .header(POSITION, request.position)
        .body(request.number.to_string());
    if let Some(token) = request.token {
        call = call.header(SESSION, token);
    }
    let answer = async {
        let response = call.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok::<_, reqwest::Error>((status, headers, response.text().await?))
    };
    let answer = answer.await;
    let reported = match (&shared.reporter, &answer) {
        (Some(reporter), Ok((status, _, body))) if (200..300).contains(status) => reporter.acknowledged(body),
        _ => Ok(()),
    };
    let mut state = shared.state();
    let done = millis(Instant::now(), shared.start);
    if let Err(error) = reported {
        state.unreported.get_or_insert(format!("{error:#}"));
    }
    if let Ok((_, headers, _)) = &answer
        && let Some(token) = text(headers, SESSION)
    {
        state.token = Some(token);
    }
    if let Some(record) = state.records.get_mut(&request.number) {
        record.done_ms = Some(done);
        match answer {
            Ok((status, headers, body)) => {
                record.status = Some(status);
                record.node = text(&headers, NODE);
                record.error = (!record.ok()).then(|| body.trim().to_owned());
            }
            Err(error) => record.error = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn millis(at: Instant, start: Instant) -> f64 {
    at.saturating_duration_since(start).as_secs_f64() * 1000.0
}

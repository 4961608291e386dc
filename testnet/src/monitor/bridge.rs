//! A way from this machine's own network into the hosts': an HTTP proxy on loopback whose requests leave from the cars'
//! host. Nothing else of a testnet can be reached from outside, and this one passes nothing on but readings of nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rustix::process::Signal;

use crate::hosts::{ROAD, Seat};
use crate::process::{Process, tail};
use crate::state::State;

/// What is passed on of a host.
const PATHS: [&str; 2] = ["/metrics", "/v1/prometheus/targets"];

/// The hidden command that runs it.
pub(crate) const COMMAND: &str = "monitor-bridge";

/// Starts the proxy as a process of its own.
///
/// # Errors
/// It cannot be started.
pub(super) fn spawn(port: u16, dir: &Path) -> Result<Process> {
    let program = std::env::current_exe()?;
    let arguments = [COMMAND, &port.to_string(), &dir.to_string_lossy()].map(str::to_owned);
    Process::spawn_at(&Seat::Here, &program, &arguments, &log(dir))
}

fn log(dir: &Path) -> PathBuf {
    dir.join("bridge.log")
}

/// Waits until the proxy listens.
///
/// # Errors
/// It does not; the text holds what it said.
pub(super) async fn listens(process: Process, port: u16, dir: &Path) -> Result<()> {
    let listens = super::until(|| async move {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        tokio::net::TcpStream::connect(address).await.is_ok() || !process.alive()
    })
    .await;
    if listens && process.alive() {
        return Ok(());
    }
    process.signal(Signal::KILL);
    bail!(
        "the way into the hosts' network did not open: {}",
        tail(&log(dir), 5)
    )
}

/// Passes requests on until it is killed. `dir` is the monitor's folder in that of the testnet.
///
/// # Errors
/// The port is taken, or the hosts' network cannot be entered.
pub(crate) fn run(port: u16, dir: &Path) -> Result<()> {
    let state = State::load(dir.parent().context("a testnet's folder is around it")?)?;
    // Bound before the thread moves: it listens here, and asks there.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    let seat = Seat::Host(state.road().cars());
    let serve = move || {
        seat.block_on(|| async move {
            let client = reqwest::Client::builder()
                .no_proxy()
                // It could lead to what is not passed on.
                .redirect(reqwest::redirect::Policy::none())
                .build()?;
            let router = Router::new().fallback(pass_on).with_state(client);
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await?;
            Ok::<_, anyhow::Error>(())
        })?
    };
    // A thread that has moved to another network cannot serve a runtime that others use.
    std::thread::spawn(serve)
        .join()
        .map_err(|_| anyhow!("the thread inside the hosts' network panicked"))?
}

async fn pass_on(Shared(client): Shared<reqwest::Client>, method: Method, uri: Uri, _: Bytes) -> Response {
    match answer(&client, &method, &uri).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")).into_response(),
    }
}

async fn answer(client: &reqwest::Client, method: &Method, uri: &Uri) -> Result<Response> {
    if *method != Method::GET || !is_reading(uri) {
        return Ok((
            StatusCode::FORBIDDEN,
            format!(
                "only GET of {} of http:// addresses in {ROAD} is passed on\n",
                PATHS.join(" and ")
            ),
        )
            .into_response());
    }
    let response = client.get(uri.to_string()).send().await?;
    let status = StatusCode::from_u16(response.status().as_u16()).context("a status")?;
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let body = response.bytes().await?;
    let mut answer = (status, body).into_response();
    if let Some(kind) = kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(answer)
}

/// Whether a request is for what Prometheus reads of a host of a testnet, as a proxy gets it: with scheme and address.
fn is_reading(uri: &Uri) -> bool {
    let address = uri.host().and_then(|host| host.parse::<Ipv4Addr>().ok());
    let [a, b, c, _] = crate::hosts::address(1).octets();
    uri.scheme_str() == Some("http")
        && PATHS.contains(&uri.path())
        && address.is_some_and(|address| address.octets().starts_with(&[a, b, c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readings_of_a_testnets_hosts_are_asked_for() {
        for (uri, is) in [
            ("http://10.77.0.1:9480/metrics", true),
            ("http://10.77.0.200:1/v1/prometheus/targets", true),
            ("http://10.77.0.1:4480/v1/status", false),
            ("http://10.77.0.200/", false),
            ("http://10.77.1.1/metrics", false),
            ("https://10.77.0.1/metrics", false),
            ("http://127.0.0.1:9480/metrics", false),
            ("http://example.org/metrics", false),
            ("/metrics", false),
        ] {
            assert_eq!(is_reading(&uri.parse().unwrap()), is, "{uri}");
        }
    }
}

//! The client of a running node's local API.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::config::{TOKEN_FILE, read_token};

/// An answer of the local API that takes longer is none: an admission waits for a seal at most this long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that a stream is read: longer than any migration takes.
const STREAM: Duration = Duration::from_secs(24 * 3600);
/// Connecting on one machine takes no time; a filtered port should not look like a slow node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Talks to one node.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    address: SocketAddr,
    data_dir: PathBuf,
}

/// Runs a command's future; commands need no more than one thread.
pub(super) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(command)
}

impl Client {
    pub(super) fn new(listen: SocketAddr, data_dir: &Path) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self {
            http,
            address: reachable(listen),
            data_dir: data_dir.to_owned(),
        })
    }

    /// What stands at `path`.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        match self.try_get(path).await? {
            Ok(value) => Ok(value),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Like [`Client::get`], with the node's refusal as a value.
    pub(super) async fn try_get(&self, path: &str) -> anyhow::Result<Result<Value, Refusal>> {
        self.send(self.http.request(Method::GET, self.url(path))).await
    }

    /// Asks for a change of state, with the token of the data directory.
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.post_within(path, body, TIMEOUT).await
    }

    /// Like [`Client::post`], for an answer that takes longer.
    pub(super) async fn post_within(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let token = read_token(&self.data_dir.join(TOKEN_FILE))?;
        let request = self
            .http
            .request(Method::POST, self.url(path))
            .timeout(limit)
            .bearer_auth(token.reveal());
        match self.send(request.json(body)).await? {
            Ok(value) => Ok(value),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Asks for the end of something, with the token of the data directory.
    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let token = read_token(&self.data_dir.join(TOKEN_FILE))?;
        let request = self.http.request(Method::DELETE, self.url(path));
        match self.send(request.bearer_auth(token.reveal())).await? {
            Ok(value) => Ok(value),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// An answer that goes on as long as the node does.
    pub(super) async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let request = self.http.request(Method::GET, self.url(path)).timeout(STREAM);
        let response = request.send().await.context("the node gives no stream")?;
        response.error_for_status().context("the node gives no stream")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Result<Value, Refusal>> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => bail!(
                "no blosm answers at {}; start it with `blosm run --data-dir {}`",
                self.address,
                self.data_dir.display()
            ),
            Err(error) if error.is_timeout() => {
                bail!(
                    "the blosm at {} did not answer in time; see its log",
                    self.address
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("what answers at {} is no blosm", self.address));
            }
        };
        let status = response.status();
        let body = response
            .bytes()
            .await
            .with_context(|| format!("the answer of {} broke off", self.address))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map(Ok)
                .with_context(|| format!("what answers at {} is no blosm", self.address));
        }
        Ok(Err(Refusal::new(status, &body)))
    }
}

/// An answer of the node that is an error.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = match (value["error"].as_str(), value["hint"].as_str()) {
            (Some(error), Some(hint)) => format!("{error}; {hint}"),
            (Some(error), None) => error.to_owned(),
            (None, _) => format!("the node answered {status}"),
        };
        Self { status, text }
    }
}

/// Where to connect to for a listener on `listen`: the wildcard address is one to listen on only.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

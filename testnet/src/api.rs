//! A node's local API and its metrics, called from where the node runs: they listen on its host's loopback only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::Value;

use crate::config::Ports;
use crate::hosts::Seat;

/// One call: a node that is busy with a migration still answers within this.
const CALL: Duration = Duration::from_secs(5);
/// A call that moves a session answers when it is under way or over.
const CHANGE: Duration = Duration::from_secs(120);

/// A client of one node.
#[derive(Clone, Debug)]
pub struct NodeClient {
    seat: Seat,
    api: SocketAddr,
    metrics: SocketAddr,
    token: PathBuf,
}

impl NodeClient {
    /// The client of a node at `seat`, where its API and its metrics listen, whose token lies in `data_dir`.
    pub fn new(seat: Seat, ports: Ports, data_dir: &std::path::Path) -> NodeClient {
        NodeClient {
            seat,
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.api)),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.metrics)),
            token: data_dir.join("api.token"),
        }
    }

    /// The page that Prometheus reads.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let (status, body) = self
            .call(self.metrics, Method::GET, "/metrics", None, CALL)
            .await?;
        if status != 200 {
            bail!("/metrics: status {status}: {body}");
        }
        Ok(body)
    }

    /// GET; the path begins with a slash.
    ///
    /// # Errors
    /// The node does not answer, or with another status than 200.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.call(self.api, Method::GET, path, None, CALL).await?;
        if status != 200 {
            bail!("{path}: status {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }

    /// POST of a JSON document, with the node's token.
    ///
    /// # Errors
    /// The node does not answer, or refuses.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self
            .call(self.api, Method::POST, path, Some(body.clone()), CHANGE)
            .await?;
        if !(200..300).contains(&status) {
            bail!("{path}: status {status}: {answer}");
        }
        serde_json::from_str(&answer).with_context(|| format!("{path}: {answer}"))
    }

    /// DELETE, with the node's token.
    ///
    /// # Errors
    /// The node does not answer, or refuses.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let (status, answer) = self.call(self.api, Method::DELETE, path, None, CHANGE).await?;
        if !(200..300).contains(&status) {
            bail!("{path}: status {status}: {answer}");
        }
        Ok(())
    }

    /// Whether `/readyz` says that the gateway serves.
    pub async fn ready(&self) -> bool {
        matches!(
            self.call(self.api, Method::GET, "/readyz", None, CALL).await,
            Ok((200, _))
        )
    }

    async fn call(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        body: Option<Value>,
        limit: Duration,
    ) -> Result<(u16, String)> {
        let url = format!("http://{address}{path}");
        // Whoever can reach a node may read there.
        let token = if method == Method::GET {
            None
        } else {
            let text =
                std::fs::read_to_string(&self.token).with_context(|| format!("{}", self.token.display()))?;
            Some(text.trim().to_owned())
        };
        let ask = move |client: reqwest::Client| async move {
            let mut request = client.request(method, url).timeout(limit);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(&body);
            }
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        };
        let answer = match &self.seat {
            Seat::Here => ask(here()).await,
            // A client holds on to the network in which it was made.
            Seat::Host(namespace) => namespace.run(move || async move { ask(fresh()?).await }).await?,
        };
        answer.with_context(|| format!("the node at {address} on {}", self.seat))
    }
}

/// A client of the network that the calling thread sees.
pub(crate) fn fresh() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build()
}

/// The client of this machine's own network, made once: its connections are used again.
fn here() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        fresh().expect("a client without TLS and proxies needs nothing that could be missing")
    });
    CLIENT.clone()
}

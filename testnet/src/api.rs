//! A node's local API, called from inside its host's namespace: it listens on that host's loopback only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::Value;

use crate::hosts::Namespace;

/// Where every node of a testnet has it. The hosts' loopbacks are apart, so one port does for all.
pub const LISTEN: &str = "127.0.0.1:4480";
/// One call: a node that is busy with a migration still answers within this.
const CALL: Duration = Duration::from_secs(5);
/// A call that moves a session answers when it is under way or over.
const CHANGE: Duration = Duration::from_secs(120);

/// A client of one node.
#[derive(Clone, Debug)]
pub struct NodeClient {
    namespace: Namespace,
    token: PathBuf,
}

impl NodeClient {
    /// The client of the node in `namespace` whose token lies in `data_dir`.
    pub fn new(namespace: Namespace, data_dir: &std::path::Path) -> NodeClient {
        NodeClient {
            namespace,
            token: data_dir.join("api.token"),
        }
    }

    /// GET; the path begins with a slash.
    ///
    /// # Errors
    /// The node does not answer, or with another status than 200.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.call(Method::GET, path, None, CALL).await?;
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
        let (status, answer) = self.call(Method::POST, path, Some(body.clone()), CHANGE).await?;
        if !(200..300).contains(&status) {
            bail!("{path}: status {status}: {answer}");
        }
        serde_json::from_str(&answer).with_context(|| format!("{path}: {answer}"))
    }

    /// Whether `/readyz` says that the gateway serves.
    pub async fn ready(&self) -> bool {
        matches!(self.call(Method::GET, "/readyz", None, CALL).await, Ok((200, _)))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        limit: Duration,
    ) -> Result<(u16, String)> {
        let url = format!("http://{LISTEN}{path}");
        let token = if body.is_some() {
            let text =
                std::fs::read_to_string(&self.token).with_context(|| format!("{}", self.token.display()))?;
            Some(text.trim().to_owned())
        } else {
            None
        };
        let job = move || async move {
            let client = reqwest::Client::builder().no_proxy().timeout(limit).build()?;
            let mut request = client.request(method, url);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(&body);
            }
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        };
        self.namespace
            .run(job)
            .await?
            .with_context(|| format!("the node in {}", self.namespace))
    }
}

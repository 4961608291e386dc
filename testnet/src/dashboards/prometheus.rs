//! A Prometheus' HTTP API.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A query over a hundred nodes takes a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time that a dashboard shows, in seconds since 1970, and how far its points are apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) step: f64,
}

/// A client of one Prometheus.
#[derive(Debug)]
pub(super) struct Prometheus {
    client: reqwest::Client,
    url: String,
}

impl Prometheus {
    /// The one at `url`.
    ///
    /// # Errors
    /// No client can be made.
    pub(super) fn at(url: &str) -> Result<Prometheus> {
        Ok(Prometheus {
            client: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?,
            url: url.to_owned(),
        })
    }

    /// Runs a query, for the end of the span or over it; what Prometheus says against it is the error.
    pub(super) async fn query(&self, expr: &str, instant: bool, span: Span) -> Result<Value, String> {
        let point = [("query", expr.to_owned()), ("time", span.to.to_string())];
        let range = [
            ("query", expr.to_owned()),
            ("start", span.from.to_string()),
            ("end", span.to.to_string()),
            ("step", span.step.to_string()),
        ];
        let answer = if instant {
            self.get("query", &point).await
        } else {
            self.get("query_range", &range).await
        };
        answer.map_err(|error| format!("{error:#}"))
    }

    /// The values of a label, of the series that `selector` names.
    ///
    /// # Errors
    /// Prometheus does not answer, or does not take the selector.
    pub(super) async fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let path = format!("label/{label}/values");
        strings(&self.get(&path, &[("match[]", selector.to_owned())]).await?)
    }

    /// The names of all metrics.
    ///
    /// # Errors
    /// Prometheus does not answer.
    pub(super) async fn names(&self) -> Result<BTreeSet<String>> {
        Ok(strings(&self.get("label/__name__/values", &[]).await?)?
            .into_iter()
            .collect())
    }

    async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value> {
        let url = format!("{}/api/v1/{path}", self.url);
        let response = self.client.get(&url).query(query).send().await?;
        let mut answer: Value = response.json().await.with_context(|| url)?;
        if answer["status"] != "success" {
            bail!("{}", answer["error"].as_str().unwrap_or("no success"));
        }
        Ok(answer["data"].take())
    }
}

fn strings(values: &Value) -> Result<Vec<String>> {
    let values = values.as_array().context("a list of strings")?;
    Ok(values
        .iter()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect())
}

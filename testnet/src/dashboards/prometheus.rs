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

/// An alert, as Prometheus evaluates it.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    pub(super) name: String,
    /// Its condition, in PromQL.
    pub(super) query: String,
    /// What is wrong with it.
    pub(super) against: Option<String>,
    /// Its condition holds now.
    pub(super) fires: bool,
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

    /// The alerts: each with its name, its query, and what Prometheus says against it, if it does.
    ///
    /// # Errors
    /// Prometheus does not answer, or has no rules.
    pub(super) async fn alerts(&self) -> Result<Vec<Alert>> {
        let found = self.get("rules", &[("type", "alert".to_owned())]).await?;
        let groups = found["groups"].as_array().context("groups of rules")?;
        let rules = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten();
        let word = |rule: &Value, field: &str| -> Result<String> {
            let word = rule[field].as_str();
            Ok(word
                .with_context(|| format!("a rule without its {field}"))?
                .to_owned())
        };
        rules
            .map(|rule| -> Result<Alert> {
                let against = match word(rule, "health")?.as_str() {
                    "ok" => None,
                    health => Some(format!(
                        "{health} {}",
                        rule["lastError"].as_str().unwrap_or_default()
                    )),
                };
                Ok(Alert {
                    name: word(rule, "name")?,
                    query: word(rule, "query")?,
                    against,
                    fires: rule["state"] == "firing",
                })
            })
            .collect()
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

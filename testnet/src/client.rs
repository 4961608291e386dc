//! Single requests of a client, sent from the cars' host.

use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Method;

use crate::car::SESSION;
use crate::hosts::Namespace;

/// Preparing a large tree of files takes a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends one request, with a session's token if there is one, and gives the answer's body.
///
/// # Errors
/// There is no answer in time, or its status is no success.
pub async fn ask(cars: &Namespace, method: Method, url: &str, token: Option<&str>) -> Result<String> {
    let (to, token) = (url.to_owned(), token.map(str::to_owned));
    let job = move || async move {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let mut call = client.request(method, to);
        if let Some(token) = token {
            call = call.header(SESSION, token);
        }
        let response = call.send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.text().await?))
    };
    let (status, body) = cars.run(job).await??;
    if !status.is_success() {
        bail!("{url}: status {status}: {}", body.trim());
    }
    Ok(body)
}

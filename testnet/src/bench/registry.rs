//! A registry beside the destination, as people use one today: Debian's docker-registry on a host of the road.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::auth::DockerCredentials;
use bollard::query_parameters::{CreateImageOptionsBuilder, PushImageOptionsBuilder, TagImageOptionsBuilder};
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use crate::engine::Engine;
use crate::hosts::address;
use crate::process::{Process, tail};
use crate::shell;
use crate::testnet::Testnet;

const PORT: u16 = 5000;
const START: Duration = Duration::from_secs(20);
/// Gigabytes are compressed before they are sent.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The registry of one host. It goes with its testnet.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    place: String,
}

impl Registry {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// The program is not installed, or does not start.
    pub(super) async fn start(testnet: &Testnet, host: usize) -> Result<Registry> {
        let program = shell::find("docker-registry")
            .context("docker-registry is not on the PATH: install that package")?;
        let place = format!("{}:{PORT}", address(host));
        let dir = testnet.state().dir.join("registry");
        std::fs::create_dir_all(&dir)?;
        let (config, log) = (dir.join("config.yml"), dir.join("registry.log"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {place}\n",
            dir.join("data").display()
        );
        std::fs::write(&config, text)?;
        let arguments = ["serve".to_owned(), config.display().to_string()];
        let namespace = testnet.state().namespace(host);
        let process = Process::spawn(&namespace, &program, &arguments, &log)?;
        let deadline = Instant::now() + START;
        let to = place.clone();
        let listens = || {
            let to = to.clone();
            namespace.run(move || async move { tokio::net::TcpStream::connect(to).await.is_ok() })
        };
        while !listens().await? {
            if !process.alive() || Instant::now() > deadline {
                bail!("the registry does not answer:\n{}", tail(&log, 5));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Registry { place })
    }

    /// What a repository of it is called.
    pub(super) fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// Makes base images known everywhere: pushed by one engine and pulled by the other, both of which have the
    /// layers already, so that later each sends and fetches only what is new.
    ///
    /// # Errors
    /// An engine or the registry refuses.
    pub(super) async fn seed(
        &self,
        source: &Engine,
        destination: &Engine,
        image: &str,
        name: &str,
    ) -> Result<()> {
        let repository = self.repository(name);
        let options = TagImageOptionsBuilder::default()
            .repo(&repository)
            .tag("base")
            .build();
        source.client()?.tag_image(image, Some(options)).await?;
        push(source, &repository, "base").await?;
        pull(destination, &repository, "base").await
    }
}

/// `docker push`.
///
/// # Errors
/// The engine or the registry refuses.
pub(super) async fn push(engine: &Engine, repository: &str, tag: &str) -> Result<()> {
    let client = engine.client()?.with_timeout(PATIENCE);
    let options = PushImageOptionsBuilder::default().tag(tag).build();
    let mut lines =
        std::pin::pin!(client.push_image(repository, Some(options), Some(DockerCredentials::default())));
    while let Some(line) = lines.next().await {
        let line = line.with_context(|| format!("pushing {repository}:{tag}"))?;
        if let Some(error) = line.error_detail {
            bail!(
                "pushing {repository}:{tag}: {}",
                error.message.unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// `docker pull`.
///
/// # Errors
/// The engine or the registry refuses.
pub(super) async fn pull(engine: &Engine, repository: &str, tag: &str) -> Result<()> {
    let client = engine.client()?.with_timeout(PATIENCE);
    let options = CreateImageOptionsBuilder::default()
        .from_image(repository)
        .tag(tag)
        .build();
    let mut lines = std::pin::pin!(client.create_image(Some(options), None, None));
    while let Some(line) = lines.next().await {
        let line = line.with_context(|| format!("pulling {repository}:{tag}"))?;
        if let Some(error) = line.error_detail {
            bail!(
                "pulling {repository}:{tag}: {}",
                error.message.unwrap_or_default()
            );
        }
    }
    Ok(())
}

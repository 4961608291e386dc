//! One network namespace, and work done inside it.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::shell::sh;

/// Where iproute2 keeps the names.
const NAMES: &str = "/var/run/netns";

/// A named network namespace, as `ip netns` makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of that name, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Namespace {
        Namespace { name: name.into() }
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.name)
    }

    /// All named namespaces of the machine.
    pub fn list() -> Vec<Namespace> {
        let entries = std::fs::read_dir(NAMES)
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .map(Namespace::named)
            .collect()
    }

    pub(super) fn create(&self) -> Result<()> {
        sh(&format!("ip netns add {self}"))?;
        sh(&format!("ip -n {self} link set lo up"))?;
        Ok(())
    }

    pub(super) fn remove(&self) -> Result<()> {
        sh(&format!("ip netns delete {self}")).map(drop)
    }

    /// Runs `job` on a thread of its own inside this namespace and waits for its result. The future and whatever it
    /// spawns stay on that thread, so every socket it opens belongs to this host.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the job panicked.
    pub async fn run<T, F, Fut>(&self, job: F) -> Result<T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
        T: Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let namespace = self.clone();
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                // Nobody listens any more when the caller was cancelled.
                let _ = answer.send(namespace.block_on(job));
            })?;
        result
            .await
            .map_err(|_| anyhow!("the work inside {self} panicked"))?
    }

    /// Moves the calling thread, which must be the caller's own, into this namespace and runs `job` there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn block_on<T, F, Fut>(&self, job: F) -> Result<T>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = T>,
    {
        let file = File::open(self.path()).with_context(|| format!("there is no namespace {self}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering {self} needs root"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(async { job().await }))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

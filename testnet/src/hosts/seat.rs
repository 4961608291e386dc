//! Where a node or a car runs: on a host of its own, or on this machine as it is.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Namespace;
use crate::shell;

/// The network that a process or a thread sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// A namespace of its own.
    Host(Namespace),
    /// This machine's own network; the nodes tell each other apart by their ports on loopback.
    Here,
}

impl Seat {
    /// A command that runs `program` there.
    ///
    /// # Errors
    /// `nsenter` is needed and not on the PATH.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let Seat::Host(namespace) = self else {
            return Ok(Command::new(program));
        };
        let mut command = Command::new(shell::find("nsenter").context("nsenter is not on the PATH")?);
        command
            .arg(format!("--net={}", namespace.path().display()))
            .arg("--")
            .arg(program);
        Ok(command)
    }

    /// Moves the calling thread, which must be the caller's own, to that network and runs `job` there.
    ///
    /// # Errors
    /// The network cannot be entered.
    pub fn block_on<T, F, Fut>(&self, job: F) -> Result<T>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = T>,
    {
        match self {
            Seat::Host(namespace) => namespace.block_on(job),
            Seat::Here => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                Ok(runtime.block_on(async { job().await }))
            }
        }
    }
}

impl From<Namespace> for Seat {
    fn from(namespace: Namespace) -> Seat {
        Seat::Host(namespace)
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seat::Host(namespace) => namespace.fmt(f),
            Seat::Here => f.write_str("this machine"),
        }
    }
}

//! Starting the oracle's process, and knowing that it has heard everything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::hosts::Seat;
use crate::process::{Process, tail};
use crate::shell;

/// How long it may take until it listens.
const START: Duration = Duration::from_secs(10);
/// Nothing more comes when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(500);
/// How long it may take to read what was told.
const CATCH_UP: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// An oracle's process. It ends with its testnet, on whose folder its socket lies.
#[derive(Debug)]
pub struct Oracle {
    socket: PathBuf,
    records: PathBuf,
    log: PathBuf,
    process: Process,
}

impl Oracle {
    /// Starts one for the testnet in `dir` that writes to `records`, and waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub async fn start(dir: &Path, records: &Path) -> Result<Oracle> {
        let program =
            shell::beside("blosm-testnet").context("there is no blosm-testnet beside this program")?;
        let (socket, log) = (dir.join("oracle.sock"), dir.join("oracle.log"));
        let words = ["oracle", &socket.to_string_lossy(), &records.to_string_lossy()].map(str::to_owned);
        let process = Process::spawn_at(&Seat::Here, &program, &words, &log)?;
        let oracle = Oracle {
            socket,
            records: records.to_owned(),
            log,
            process,
        };
        let deadline = Instant::now() + START;
        while !oracle.socket.exists() {
            oracle.check()?;
            if Instant::now() > deadline {
                bail!("the oracle does not listen: {}", tail(&oracle.log, 5));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(oracle)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether it still listens.
    ///
    /// # Errors
    /// It has ended; the text says why.
    pub fn check(&self) -> Result<()> {
        if self.process.alive() {
            Ok(())
        } else {
            bail!("the oracle has ended: {}", tail(&self.log, 5))
        }
    }

    /// Waits until it has written down everything that was told: for when nobody tells anything more.
    ///
    /// # Errors
    /// It has ended, or what it writes does not end.
    pub async fn caught_up(&self) -> Result<()> {
        let length = || std::fs::metadata(&self.records).map_or(0, |meta| meta.len());
        let deadline = Instant::now() + CATCH_UP;
        let (mut seen, mut since) = (length(), Instant::now());
        while since.elapsed() < QUIET {
            self.check()?;
            if Instant::now() > deadline {
                bail!("the oracle is still told things {CATCH_UP:?} after the cars have stopped");
            }
            tokio::time::sleep(LOOK).await;
            let now = length();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

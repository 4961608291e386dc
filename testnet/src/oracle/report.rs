//! A car's end of the line to the oracle.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::record::Report;

/// How long the oracle may leave what it is told unread once the socket is full.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom a car tells what it was told is done, and as whom.
#[derive(Clone, Debug)]
pub struct Hears {
    /// The oracle's socket.
    pub socket: PathBuf,
    /// The car's name: whatever it is told has to come from one session.
    pub car: String,
}

/// Tells the oracle what a car was told is done.
#[derive(Debug)]
pub struct Reporter {
    car: String,
    stream: Mutex<UnixStream>,
}

/// What the service says of a number that is in its state.
#[derive(Deserialize)]
struct Answer {
    n: u64,
    count: u64,
    instance: String,
}

impl Reporter {
    /// Connects to the oracle.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(hears: &Hears) -> Result<Reporter> {
        let socket = &hears.socket;
        let stream =
            UnixStream::connect(socket).with_context(|| format!("the oracle at {}", socket.display()))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Reporter {
            car: hears.car.clone(),
            stream: Mutex::new(stream),
        })
    }

    /// Passes on the body of an answer with a success.
    ///
    /// # Errors
    /// It is no answer of the service, or the oracle is gone.
    pub fn acknowledged(&self, body: &str) -> Result<()> {
        let answer: Answer = serde_json::from_str(body)
            .with_context(|| format!("{:?} is no answer of a counter", body.trim()))?;
        let report = Report::Acknowledged {
            car: self.car.clone(),
            instance: answer.instance,
            count: answer.count,
            number: answer.n,
        };
        let mut line = serde_json::to_vec(&report)?;
        line.push(b'\n');
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&line).context("the oracle is gone")
    }
}

//! Where a node logs: stderr, or a file that never grows beyond its bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use tracing_subscriber::EnvFilter;

/// The bound of a log file unless it is given.
const MAX: ByteSize = ByteSize::mib(8);

/// The flags of a log file.
#[derive(Debug, Default, Args)]
pub(super) struct LogFile {
    /// Log to this file instead of stderr
    #[arg(long, env = "BLOSM_LOG_FILE", value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// When the log file is this long it becomes FILE.1, in the place of an older one, and a new one begins [default: 8MiB]
    #[arg(long, env = "BLOSM_LOG_MAX", value_name = "SIZE")]
    log_max: Option<ByteSize>,
}

impl LogFile {
    pub(super) fn is_given(&self) -> bool {
        self.log_file.is_some()
    }
}

/// From now on what is logged goes where `to` says.
///
/// # Errors
/// The filter cannot be read, or the file cannot be written.
pub(super) fn begin(filter: &str, to: &LogFile) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?} is no log filter; try info or info,blosm_net=debug"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    match &to.log_file {
        Some(path) => {
            let file = Bounded::open(path, to.log_max.unwrap_or(MAX).as_u64())
                .with_context(|| format!("cannot log to {}", path.display()))?;
            log.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
        None => log
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .init(),
    }
    Ok(())
}

/// A log of two files, of which neither is longer than `max` but for its last line.
struct Bounded {
    path: PathBuf,
    file: File,
    length: u64,
    max: u64,
}

impl Bounded {
    fn open(path: &Path, max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            length: file.metadata()?.len(),
            file,
            max,
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        fs::rename(&self.path, older)?;
        *self = Self::open(&self.path, self.max)?;
        Ok(())
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length >= self.max
            && let Err(error) = self.turn()
        {
            // Nothing is logged rather than more than was allowed.
            return Err(error);
        }
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_its_newest_lines_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blosm.log");
        for run in 0..3 {
            let mut log = Bounded::open(&path, 100).unwrap();
            for n in 0..50 {
                log.write_all(format!("{run} {n:02}\n").as_bytes()).unwrap();
            }
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let (now, older) = (read(&path), read(&path.with_extension("log.1")));
        assert!(
            now.len() <= 105 && older.len() <= 105,
            "{} {}",
            now.len(),
            older.len()
        );
        let all: Vec<String> = (older + &now).lines().map(str::to_owned).collect();
        let newest: Vec<String> = (0..50).map(|n| format!("2 {n:02}")).collect();
        assert!(newest.ends_with(&all), "{all:?}");
        assert!(all.len() > 20);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}

//! What an oracle is told and what it writes down.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One line of the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When the oracle read it: the kernel's monotonic clock, nanoseconds.
    pub at_ns: u64,
    /// The process that told it, as the kernel says.
    pub pid: i32,
    /// What was told.
    pub report: Report,
}

/// What can be told. Times are the kernel's monotonic clock in nanoseconds: one for all processes of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase", deny_unknown_fields)]
pub enum Report {
    /// By an instance: it has read its state and answers from now on.
    Start {
        /// The session by its container's label.
        session: String,
        /// The epoch for which the container was made; one that was handed back keeps it.
        epoch: u64,
        /// The run's own random name.
        instance: String,
        /// The container's name in the engine.
        container: String,
        /// How many numbers the state holds.
        count: u64,
        /// When it began to read the state.
        time_ns: u64,
        /// Which numbers these are: spans, both ends included.
        numbers: Vec<(u64, u64)>,
    },
    /// By an instance: a number is in the state, and its request is about to be answered.
    Answer {
        /// As at the start.
        session: String,
        /// As at the start.
        epoch: u64,
        /// As at the start.
        instance: String,
        /// How many numbers the state holds now.
        count: u64,
        /// The request's number.
        number: u64,
        /// When it was written.
        time_ns: u64,
    },
    /// By an instance: nothing is answered any more.
    Stop {
        /// As at the start.
        session: String,
        /// As at the start.
        epoch: u64,
        /// As at the start.
        instance: String,
        /// How many numbers the state holds.
        count: u64,
        /// When it stopped.
        time_ns: u64,
    },
    /// By a car: it was told that a number is done.
    Acknowledged {
        /// The car's name.
        car: String,
        /// The instance that the answer names.
        instance: String,
        /// The count that the answer names.
        count: u64,
        /// The request's number.
        number: u64,
    },
    /// By the oracle: the instance's connection has ended, so its run has.
    Gone {
        /// Which.
        instance: String,
    },
    /// By the oracle: somebody told what is none of the above.
    Unreadable {
        /// As it came.
        line: String,
    },
}

impl Report {
    /// The instance that it is by, if it is by one.
    pub fn by(&self) -> Option<&str> {
        match self {
            Report::Start { instance, .. }
            | Report::Answer { instance, .. }
            | Report::Stop { instance, .. } => Some(instance),
            Report::Acknowledged { .. } | Report::Gone { .. } | Report::Unreadable { .. } => None,
        }
    }

    /// What a line says that somebody has told.
    pub fn read(line: &str) -> Report {
        match serde_json::from_str(line) {
            // These are the oracle's own.
            Ok(Report::Gone { .. } | Report::Unreadable { .. }) | Err(_) => Report::Unreadable {
                line: line.trim_end().to_owned(),
            },
            Ok(report) => report,
        }
    }
}

/// Reads an oracle's records, in the order in which they were written.
///
/// # Errors
/// There are none, or a line is none of theirs; the text names it.
pub fn read(file: &Path) -> Result<Vec<Entry>> {
    let lines = BufReader::new(File::open(file).with_context(|| format!("{}", file.display()))?).lines();
    let entries = lines.enumerate().map(|(index, line)| {
        let entry = line
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok(serde_json::from_str(&line)?));
        entry.with_context(|| format!("{}:{}", file.display(), index + 1))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_speaks_for_the_oracle() {
        let told =
            r#"{"what":"answer","session":"s","epoch":2,"instance":"i","count":3,"number":7,"time_ns":5}"#;
        assert_eq!(Report::read(told).by(), Some("i"));
        for line in [
            r#"{"what":"gone","instance":"i"}"#,
            r#"{"what":"unreadable","line":"x"}"#,
            r#"{"what":"stop","session":"s","epoch":2,"instance":"i","count":3,"time_ns":5,"more":1}"#,
            "hello\n",
        ] {
            let expected = Report::Unreadable {
                line: line.trim_end().to_owned(),
            };
            assert_eq!(Report::read(line), expected);
        }
    }
}

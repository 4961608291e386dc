//! Following a node's log for the steps of its migrations: where a test wants to strike, and what the demo tells.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The word before the fields of a line that tells a step.
const MARK: &str = " migration ";
/// A log that was written faster than it is followed is read in pieces of this size.
const PIECE: u64 = 1024 * 1024;

/// A step of a migration, as a node has logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `announce`, `stage`, `stop`, `commit`, `signed`, ...
    pub phase: String,
    /// The attempt's name.
    pub attempt: String,
    /// The session's id.
    pub session: String,
}

impl Step {
    /// Reads `... migration phase="stop" attempt=... session=...`; none for any other line.
    pub fn parse(line: &str) -> Option<Step> {
        let (_, fields) = line.split_once(MARK)?;
        let field = |name: &str| {
            let word = fields
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
            Some(word.trim_matches('"').to_owned())
        };
        Some(Step {
            phase: field("phase")?,
            attempt: field("attempt")?,
            session: field("session")?,
        })
    }
}

/// A place in a growing log.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    offset: u64,
}

impl Follow {
    /// From what is written from now on.
    pub fn from_end(path: &Path) -> Follow {
        let offset = std::fs::metadata(path).map_or(0, |meta| meta.len());
        Follow {
            path: path.to_owned(),
            offset,
        }
    }

    /// From the log's first line.
    pub fn from_start(path: &Path) -> Follow {
        Follow {
            path: path.to_owned(),
            offset: 0,
        }
    }

    /// Whole lines that were written since the last call.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut file = File::open(&self.path).with_context(|| format!("{}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(PIECE).read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        self.offset += whole as u64;
        Ok(String::from_utf8_lossy(&bytes[..whole])
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Steps that were logged since the last call.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn steps(&mut self) -> Result<Vec<Step>> {
        Ok(self
            .lines()?
            .iter()
            .filter_map(|line| Step::parse(line))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn steps_are_found_among_other_lines() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut follow = Follow::from_end(&path);
        writeln!(file, "2026 INFO blosm_node::run: ready listen=1").unwrap();
        write!(
            file,
            "2026  INFO blosm_node::sessions: migration phase=\"stop\" attempt=ab12 ses"
        )
        .unwrap();
        assert_eq!(follow.steps().unwrap(), []);
        writeln!(file, "sion=cd34").unwrap();
        let step = Step {
            phase: "stop".into(),
            attempt: "ab12".into(),
            session: "cd34".into(),
        };
        assert_eq!(follow.steps().unwrap(), [step]);
        assert_eq!(follow.steps().unwrap(), []);
    }
}

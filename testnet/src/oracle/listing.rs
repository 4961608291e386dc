//! The engines' own container lists, read where the engines keep them: never asked of a node.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::engine::SESSION_LABEL;
use crate::state::State;

/// A container as its engine lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The number of the node.
    pub node: usize,
    /// The node's process, if it runs.
    pub pid: Option<i32>,
    /// The container's name.
    pub container: String,
    /// The session by its label.
    pub session: String,
    /// It was started at least once.
    pub started: bool,
}

/// All sessions' containers of all nodes with simulated containers: each is a folder of its node.
///
/// # Errors
/// A list cannot be read.
pub fn simulated(state: &State) -> Result<Vec<Listed>> {
    let mut all = Vec::new();
    for host in &state.hosts {
        let pid = host.node.filter(|node| node.alive()).map(|node| node.pid);
        let folder = state.data_dir(host.number).join("sim");
        for (container, session, started) in folders(&folder)? {
            all.push(Listed {
                node: host.number,
                pid,
                container,
                session,
                started,
            });
        }
    }
    Ok(all)
}

/// Name, session and whether it was started, of each container in a folder.
fn folders(folder: &Path) -> Result<Vec<(String, String, bool)>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        // One that is being removed has another name already, or no files any more.
        let Some(text) = (!hidden).then(|| fs::read(path.join("spec.json")).ok()).flatten() else {
            continue;
        };
        let spec: Value = serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
        let (Some(name), Some(session)) = (spec["name"].as_str(), spec["labels"][SESSION_LABEL].as_str())
        else {
            continue;
        };
        found.push((name.to_owned(), session.to_owned(), path.join("started").exists()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_sessions_are_listed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (name, spec, started) in [
            (
                "blosm-a",
                r#"{"name":"blosm-a","labels":{"io.blosm.session":"aa"}}"#,
                true,
            ),
            (
                "blosm-b",
                r#"{"name":"blosm-b","labels":{"io.blosm.session":"bb"}}"#,
                false,
            ),
            ("shared", r#"{"name":"shared","labels":{}}"#, true),
            (
                ".gone",
                r#"{"name":"gone","labels":{"io.blosm.session":"cc"}}"#,
                true,
            ),
        ] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("spec.json"), spec).unwrap();
            if started {
                fs::write(folder.join("started"), "").unwrap();
            }
        }
        fs::create_dir(dir.path().join("half")).unwrap();
        let mut found = folders(dir.path()).unwrap();
        found.sort();
        let expected = [("blosm-a", "aa", true), ("blosm-b", "bb", false)];
        assert_eq!(
            found,
            expected.map(|(name, session, started)| (name.to_owned(), session.to_owned(), started))
        );
        assert!(folders(&dir.path().join("absent")).is_err());
    }
}

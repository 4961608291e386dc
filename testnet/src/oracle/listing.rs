//! The engines' own container lists, read where the engines keep them: never asked of a node.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::engine::SESSION_LABEL;
use crate::service_log::ServiceLog;
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
    /// It was made to tell an oracle what it does: those of a service without state are not.
    pub tells: bool,
    /// The numbers in its log, in their order; or why it cannot be read.
    pub numbers: Result<Vec<u64>, String>,
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
        all.extend(folders(&folder)?.into_iter().map(|found| Listed {
            node: host.number,
            pid,
            ..found
        }));
    }
    Ok(all)
}

/// Each session's container in a folder, whosever it is.
fn folders(folder: &Path) -> Result<Vec<Listed>> {
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
        found.push(Listed {
            node: 0,
            pid: None,
            container: name.to_owned(),
            session: session.to_owned(),
            started: path.join("started").exists(),
            tells: spec["oracle"].is_string(),
            numbers: numbers(&path.join("upper/data/log")).map_err(|error| format!("{error:#}")),
        });
    }
    Ok(found)
}

/// What the container's program has written down, by the file itself.
fn numbers(log: &Path) -> Result<Vec<u64>> {
    let text = fs::read_to_string(log).with_context(|| format!("{}", log.display()))?;
    Ok(ServiceLog::parse(&text)?.numbers)
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
                r#"{"name":"blosm-a","labels":{"io.blosm.session":"aa"},"oracle":"/o"}"#,
                true,
            ),
            (
                "blosm-b",
                r#"{"name":"blosm-b","labels":{"io.blosm.session":"bb"},"oracle":null}"#,
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
        let data = dir.path().join("blosm-a/upper/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("log"), "start i 1 1\n7 i 2\n7 i 3\nstop i 4 1\n").unwrap();
        let mut found = folders(dir.path()).unwrap();
        found.sort_by(|a, b| a.container.cmp(&b.container));
        let what: Vec<_> = found
            .iter()
            .map(|one| {
                (
                    one.container.as_str(),
                    one.session.as_str(),
                    one.started,
                    one.tells,
                )
            })
            .collect();
        assert_eq!(
            what,
            [("blosm-a", "aa", true, true), ("blosm-b", "bb", false, false)]
        );
        assert_eq!(found[0].numbers, Ok(vec![7, 7]));
        assert!(found[1].numbers.is_err());
        fs::write(data.join("log"), "start i 1 1\nseven\n").unwrap();
        assert!(
            folders(dir.path())
                .unwrap()
                .iter()
                .all(|one| one.numbers.is_err())
        );
        assert!(folders(&dir.path().join("absent")).is_err());
    }
}

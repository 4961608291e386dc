//! Which containers really run, by the kernel's process list: true also while an engine or a node is dead, and never
//! by what the ledger says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::engine::SESSION_LABEL;
use crate::state::State;
use crate::sweep::{Place, pids};

/// The real entrypoint of the demo's service, as `/proc/PID/exe` shows it.
const ENTRYPOINT: &str = "/counter";

/// A container whose real entrypoint runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Instance {
    /// The host that it runs on.
    pub host: usize,
    /// The engine's id of it.
    pub container: String,
    /// The session by the container's label, read from the engine's files.
    pub session: Option<String>,
}

/// All containers of a testnet whose real entrypoint runs now.
pub fn live(state: &State) -> Vec<Instance> {
    let Some(place) = Place::of(&state.dir) else {
        return Vec::new();
    };
    let running =
        pids().filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| is_entrypoint(&exe)));
    let found: BTreeSet<Instance> = running
        .filter_map(|pid| instance(state, &place.container_of(pid)?))
        .collect();
    found.into_iter().collect()
}

/// A replaced or deleted image layer leaves a mark behind the name.
fn is_entrypoint(exe: &Path) -> bool {
    exe.to_str()
        .is_some_and(|exe| exe.trim_end_matches(" (deleted)") == ENTRYPOINT)
}

/// `file` is `h<host>/engine/data/containers/<container>/hostname`.
fn instance(state: &State, file: &str) -> Option<Instance> {
    let mut parts = file.split('/');
    let host = parts.next()?.strip_prefix('h')?.parse().ok()?;
    let container = parts.skip_while(|part| *part != "containers").nth(1)?.to_owned();
    let folder = state.dir.join(Path::new(file).parent()?);
    let config = fs::read(folder.join("config.v2.json")).ok();
    let config: Option<Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let session = config.and_then(|config| {
        config["Config"]["Labels"][SESSION_LABEL]
            .as_str()
            .map(str::to_owned)
    });
    Some(Instance {
        host,
        container,
        session,
    })
}

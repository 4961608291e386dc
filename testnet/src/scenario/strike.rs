//! Doing to a node what the timeline says.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::plan::{Act, Event};
use crate::testnet::Testnet;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Struck {
    /// As it was planned.
    #[serde(flatten)]
    pub(crate) event: Event,
    /// When it was done, in milliseconds after the beginning.
    pub(crate) done_ms: f64,
    /// Why it was not.
    pub(crate) error: Option<String>,
}

/// Does it. A node that is started is not waited for: the timeline goes on.
///
/// # Errors
/// It cannot be done, or has nobody to be done to: a dead process takes any signal.
pub(super) fn strike(testnet: &mut Testnet, event: Event) -> Result<()> {
    let node = event.node;
    match event.act {
        Act::Kill | Act::Pause | Act::Resume if !testnet.node_runs(node) => {
            bail!("{}: it had ended by itself", say(event));
        }
        Act::Start if testnet.node_runs(node) => bail!("{}: it runs", say(event)),
        _ => {}
    }
    let done = match event.act {
        Act::Kill => testnet.kill_node(node),
        Act::Start => testnet.spawn_node(node),
        Act::Cut => testnet.cut(node),
        Act::Heal => testnet.heal(node),
        Act::Pause => testnet.pause_node(node),
        Act::Resume => testnet.resume_node(node),
    };
    done.with_context(|| say(event))
}

/// It, in words.
pub(super) fn say(event: Event) -> String {
    let node = event.node;
    match event.act {
        Act::Kill => format!("node {node} is killed"),
        Act::Start => format!("node {node} is started again"),
        Act::Cut => format!("node {node} is cut off"),
        Act::Heal => format!("node {node} is reached again"),
        Act::Pause => format!("node {node} hangs"),
        Act::Resume => format!("node {node} goes on"),
    }
}

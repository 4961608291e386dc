//! The tables of a scenario's file as they are written.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Spanned, Table};

use crate::hosts::{Percent, Rate};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) duration: Spanned<Time>,
    #[serde(default = "settle")]
    pub(super) settle: Time,
    pub(super) nodes: Nodes,
    #[serde(default)]
    pub(super) node: Vec<NodeTable>,
    #[serde(default)]
    pub(super) link: Vec<LinkTable>,
    #[serde(default)]
    pub(super) service: Vec<ServiceTable>,
    #[serde(default)]
    pub(super) cars: Vec<CarsTable>,
    #[serde(default)]
    pub(super) fault: Vec<FaultTable>,
    #[serde(default)]
    pub(super) checks: Limits,
}

/// `[nodes]`: what is the same for all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nodes {
    pub(super) count: Spanned<usize>,
    #[serde(default = "link")]
    pub(super) link: Rate,
    #[serde(default)]
    pub(super) settings: Table,
}

/// `[[node]]`: one that is not like the others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeTable {
    pub(super) number: Spanned<usize>,
    pub(super) location: Option<Spanned<String>>,
    pub(super) radius: Option<Spanned<f64>>,
    #[serde(default)]
    pub(super) settings: Table,
}

/// `[[link]]`: what a node's link does beside its rate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkTable {
    pub(super) node: Spanned<usize>,
    pub(super) rate: Option<Rate>,
    pub(super) delay: Option<Time>,
    pub(super) jitter: Option<Time>,
    /// Of a hundred packets.
    #[serde(default)]
    pub(super) loss: Percent,
}

/// `[[service]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTable {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) stateless: bool,
    #[serde(default)]
    pub(super) settings: Table,
}

/// `[[cars]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CarsTable {
    pub(super) service: Spanned<String>,
    pub(super) count: Option<Spanned<usize>>,
    /// Metres a second.
    pub(super) speed: Option<Spanned<f64>>,
    /// A file beside the scenario's.
    pub(super) routes: Option<Spanned<String>>,
    /// Requests a second.
    pub(super) rate: Spanned<u32>,
    #[serde(default)]
    pub(super) state_bytes: u64,
}

/// `[[fault]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultTable {
    pub(super) kind: Spanned<Kind>,
    pub(super) nodes: Option<Vec<Spanned<usize>>>,
    pub(super) at: Option<Spanned<Time>>,
    pub(super) between: Option<Spanned<[Time; 2]>>,
    pub(super) times: Option<usize>,
    #[serde(rename = "for")]
    pub(super) lasts: Spanned<Time>,
}

/// What goes wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SIGKILL; it is started again when the fault is over.
    Kill,
    /// Its link is down: silence, not a reset.
    Cut,
    /// SIGSTOP, then SIGCONT: a machine that hangs and comes back.
    Pause,
}

/// `[checks]`: what a run has to reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// At least so many moves a second of all sessions together, over the whole duration.
    pub moves_per_second: Option<f64>,
    /// At least this share of the requests is answered with a success, 0 to 1.
    pub answered: Option<f64>,
}

/// A time as `500ms`, `30s`, `9m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Time(pub(super) Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Time, String> {
        let time = humantime::parse_duration(&text);
        time.map(Time)
            .map_err(|error| format!("{text:?} is no time ({error}): write it as 500ms, 30s or 9m 30s"))
    }
}

fn settle() -> Time {
    Time(Duration::from_secs(20))
}

fn link() -> Rate {
    Rate::mbit(40)
}

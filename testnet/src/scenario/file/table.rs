//! The tables of a scenario's file as they are written.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Spanned, Table};

use crate::hosts::{Percent, Rate, millis};

/// No time in a scenario is longer: their sums stay far below what a clock can hold.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) duration: Spanned<Time>,
    pub(super) settle: Option<Spanned<Time>>,
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
    pub(super) checks: ChecksTable,
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
    #[serde(default)]
    pub(super) delay: Wait,
    #[serde(default)]
    pub(super) jitter: Wait,
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
    pub(super) state_bytes: Option<Spanned<u64>>,
}

/// `[[fault]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultTable {
    pub(super) kind: Spanned<Kind>,
    pub(super) nodes: Option<Vec<Spanned<usize>>>,
    pub(super) at: Option<Spanned<Time>>,
    pub(super) between: Option<Spanned<[Time; 2]>>,
    pub(super) times: Option<Spanned<usize>>,
    #[serde(rename = "for")]
    pub(super) lasts: Spanned<Time>,
}

/// What goes wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// SIGKILL; it is started again when the fault is over.
    Kill,
    /// Its link is down: silence, not a reset.
    Cut,
    /// SIGSTOP, then SIGCONT: a machine that hangs and comes back.
    Pause,
}

/// `[checks]`: what a run has to reach.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChecksTable {
    pub(super) moves_per_second: Option<Spanned<f64>>,
    pub(super) answered: Option<Spanned<f64>>,
}

/// A time as `500ms`, `30s`, `9m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Time(pub(super) Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Time, String> {
        let time = humantime::parse_duration(&text)
            .map_err(|error| format!("{text:?} is no time ({error}): write it as 500ms, 30s or 9m 30s"))?;
        if time > LONGEST {
            return Err(format!("{text:?} is longer than a week"));
        }
        Ok(Time(time))
    }
}

/// What a packet waits: whole milliseconds, `20ms` or `1s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Wait(pub(super) u32);

impl TryFrom<String> for Wait {
    type Error = String;

    fn try_from(text: String) -> Result<Wait, String> {
        millis(&text).map(Wait).map_err(|error| format!("{error:#}"))
    }
}

fn link() -> Rate {
    Rate::mbit(40)
}

//! What became of one cell, and the bars that it is held against.

use serde::Serialize;

use super::figures::Seen;
use super::plan::{Cell, Component, Method, Phase};
use crate::instances::Instance;
use crate::service_log::Contiguity;

/// Service is back within this after the fault is healed, in milliseconds.
const AGAIN_MS: f64 = 5000.0;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was hit.
    pub component: Component,
    /// When.
    pub phase: Phase,
    /// In which kind of migration.
    pub method: Method,
    /// What became of it; none, if it could not be told.
    pub found: Option<Found>,
    /// The bars that are broken, in words.
    pub broken: Vec<String>,
    /// What both nodes logged, if a bar is broken.
    pub log: Vec<String>,
}

/// What was found out about a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Steps that were logged by the time of the strike, host by host.
    pub steps: Vec<String>,
    /// How the migration ended, as the nodes report it, and why.
    pub outcome: String,
    /// The reports' error, if there is one.
    pub error: Option<String>,
    /// From the fault until it was healed, in milliseconds.
    pub healed_ms: f64,
    /// From the fault until a request that was sent after it was answered, in milliseconds.
    pub served_from_fault_ms: Option<f64>,
    /// From the healing until a request was answered that was sent after it and with which a calm second began, in
    /// milliseconds.
    pub served_from_heal_ms: Option<f64>,
    /// The longest time without any answer from the healing on, in milliseconds.
    pub stall_after_heal_ms: f64,
    /// Whether service went on, or was back, before anything was healed.
    pub served_unhealed: bool,
    /// What the car saw.
    pub car: Seen,
    /// The owner by the authority's chain at the end: the host's number.
    pub chain_owner: Option<usize>,
    /// The session's epoch there.
    pub chain_epoch: Option<u64>,
    /// The containers of the session that run at the end, by the process list.
    pub live: Vec<Instance>,
    /// The instance that wrote last, by the service's own log.
    pub instance: String,
    /// The service's runs, by its own log.
    pub runs: usize,
    /// Its log, held against what the car was promised.
    pub contiguity: Contiguity,
    /// Every answered number once in the log, and every other missing one known to have failed.
    pub intact: bool,
    /// The most containers of the session that ran at once, by the process list.
    pub most_live: Vec<Instance>,
    /// How often the process list was looked at.
    pub looks: u64,
}

impl Row {
    /// A cell with what was found.
    pub(super) fn of(cell: Cell, found: anyhow::Result<Found>, log: Vec<String>) -> Row {
        let (found, broken) = match found {
            Ok(found) => {
                let broken = found.broken(cell.component);
                (Some(found), broken)
            }
            Err(error) => (None, vec![format!("not told: {error:#}")]),
        };
        Row {
            component: cell.component,
            phase: cell.phase,
            method: cell.method,
            found,
            log: if broken.is_empty() { Vec::new() } else { log },
            broken,
        }
    }
}

impl Found {
    /// The host that serves at the end.
    pub fn serves(&self) -> Option<usize> {
        match self.live.as_slice() {
            [one] => Some(one.host),
            _ => None,
        }
    }

    fn broken(&self, component: Component) -> Vec<String> {
        let mut broken = Vec::new();
        let mut bar = |holds: bool, what: String| {
            if !holds {
                broken.push(what);
            }
        };
        bar(
            self.most_live.len() <= 1,
            format!("{} containers at once", self.most_live.len()),
        );
        bar(
            self.contiguity.overlaps == 0,
            format!("{} runs overlap", self.contiguity.overlaps),
        );
        bar(
            self.intact,
            format!(
                "state: {} lost, {} twice, gaps {:?}",
                self.contiguity.lost.len(),
                self.contiguity.twice.len(),
                self.contiguity.gaps
            ),
        );
        let again = match self.served_from_heal_ms {
            Some(ms) => format!("served {ms:.0} ms after the healing"),
            None => "not served again".to_owned(),
        };
        bar(self.served_from_heal_ms.is_some_and(|ms| ms <= AGAIN_MS), again);
        bar(
            self.served_from_heal_ms.is_none() || self.stall_after_heal_ms <= AGAIN_MS,
            format!(
                "no answer for {:.0} ms after the healing",
                self.stall_after_heal_ms
            ),
        );
        bar(
            self.serves().is_some() && self.serves() == self.chain_owner,
            format!(
                "the chain says host {:?}, live are {:?}",
                self.chain_owner,
                self.live.iter().map(|instance| instance.host).collect::<Vec<_>>()
            ),
        );
        if component == Component::Authority {
            bar(
                self.served_unhealed && self.car.failed == 0,
                format!(
                    "service did not go on without the authority: {} failed",
                    self.car.failed
                ),
            );
            bar(
                self.outcome == "completed",
                format!("the migration ended {} without the authority", self.outcome),
            );
        }
        broken
    }
}

/// The table as Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| hit | in phase | migration | chain owner | serves | live at once | state | healed after | served from fault \
         | served from healing | car failed | longest stall | bars |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let bars = if row.broken.is_empty() {
            "hold".to_owned()
        } else {
            row.broken.join("; ").replace('\n', " ")
        };
        let line = match &row.found {
            None => format!(
                "| {} | {} |{} {bars} |\n",
                row.component,
                row.phase,
                " |".repeat(10)
            ),
            Some(found) => format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} of {} | {} | {bars} |\n",
                row.component,
                row.phase,
                found.outcome,
                found.chain_owner.map_or_else(|| "?".to_owned(), host),
                found.serves().map_or_else(|| "?".to_owned(), host),
                found.most_live.len(),
                if found.intact { "intact" } else { "DAMAGED" },
                seconds(Some(found.healed_ms)),
                seconds(found.served_from_fault_ms),
                seconds(found.served_from_heal_ms),
                found.car.failed,
                found.car.sent,
                seconds(Some(found.car.longest_stall_ms)),
            ),
        };
        text.push_str(&line);
    }
    text
}

fn host(number: usize) -> String {
    format!("host{number}")
}

fn seconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "never".to_owned(), |ms| format!("{:.2} s", ms / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let instance = Instance {
            host: 3,
            container: "c".to_owned(),
            session: Some("s".to_owned()),
        };
        Found {
            steps: Vec::new(),
            outcome: "completed".to_owned(),
            error: None,
            healed_ms: 4000.0,
            served_from_fault_ms: Some(10.0),
            served_from_heal_ms: Some(0.0),
            stall_after_heal_ms: 90.0,
            served_unhealed: true,
            car: Seen::default(),
            chain_owner: Some(3),
            chain_epoch: Some(1),
            live: vec![instance.clone()],
            instance: "i".to_owned(),
            runs: 2,
            contiguity: Contiguity::default(),
            intact: true,
            most_live: vec![instance],
            looks: 1,
        }
    }

    #[test]
    fn bars_hold_and_break() {
        assert_eq!(found().broken(Component::Authority), Vec::<String>::new());
        let mut bad = found();
        bad.served_from_heal_ms = Some(5001.0);
        bad.chain_owner = Some(2);
        bad.most_live.push(bad.most_live[0].clone());
        bad.car.failed = 1;
        let broken = bad.broken(Component::Link);
        assert_eq!(broken.len(), 3, "{broken:?}");
        assert_eq!(bad.broken(Component::Authority).len(), 4);
        bad.served_from_heal_ms = Some(300.0);
        bad.stall_after_heal_ms = 12_000.0;
        assert_eq!(bad.broken(Component::Link).len(), 3);
        bad.served_from_heal_ms = None;
        bad.live.clear();
        assert_eq!(bad.serves(), None);
        assert!(
            bad.broken(Component::Link)
                .contains(&"not served again".to_owned())
        );
    }

    #[test]
    fn every_cell_is_one_line_of_the_table() {
        let cell = Cell {
            component: Component::SourceEngine,
            phase: Phase::Stop,
            method: Method::Image,
        };
        let rows = [
            Row::of(cell, Ok(found()), vec!["a line".to_owned()]),
            Row::of(cell, Err(anyhow::anyhow!("no\nphase")), vec!["a line".to_owned()]),
        ];
        assert!(rows[0].log.is_empty() && rows[1].log.len() == 1);
        let table = markdown(&rows);
        let columns: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [14; 4], "{table}");
        assert!(
            table.contains("| source-engine | stop | completed | host3 | host3 | 1 | intact | 4.00 s |"),
            "{table}"
        );
    }
}

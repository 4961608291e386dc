//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::file::{Kind, Limits, Scenario};
use super::plan::Plan;
use crate::car::Record;
use crate::fleet::{FleetTally, Seen};
use crate::oracle::check::{self, Check};
use crate::oracle::history::History;
use crate::oracle::listing::Listed;

/// Of the places where something does not hold so many are printed; the file has all.
const SHOWN: usize = 5;

/// Everything that was seen of a run.
pub(super) struct Told {
    /// The cars, by their names.
    pub(super) cars: Vec<(String, Result<Seen>)>,
    /// The oracle's records.
    pub(super) history: History,
    /// The engines' own lists, in the end.
    pub(super) listed: Vec<Listed>,
    /// The timeline's beginning and end by the kernel's monotonic clock, in nanoseconds.
    pub(super) begin_ns: u64,
    /// See `begin_ns`.
    pub(super) end_ns: u64,
    /// The timeline's end by the wall clock, in milliseconds since 1970.
    pub(super) end_unix_ms: f64,
    /// When all nodes were ready again, likewise.
    pub(super) ready_unix_ms: f64,
}

/// What a run came to: `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The scenario's name.
    pub scenario: String,
    /// What it left to chance followed from this.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many cars.
    pub cars: usize,
    /// How long things went wrong.
    pub duration_s: f64,
    /// How often, by kind.
    pub faults: BTreeMap<Kind, usize>,
    /// Sessions that the oracle heard of.
    pub sessions: usize,
    /// Runs of their containers.
    pub runs: usize,
    /// How often a session went on in another container, during the timeline.
    pub moves: usize,
    /// The same each second.
    pub moves_per_second: f64,
    /// How often a container was started again.
    pub restarts: usize,
    /// What the cars saw during the timeline.
    pub requests: FleetTally,
    /// What they saw afterwards, once all nodes were ready.
    pub settled: FleetTally,
    /// What had to hold.
    pub checks: Vec<Check>,
}

impl Summary {
    /// Of what was seen; `left` is what the testnet left on the machine.
    pub(super) fn of(scenario: &Scenario, seed: u64, plan: &Plan, told: Told, left: Vec<String>) -> Summary {
        let (seen, broken) = part(told.cars);
        let within = |seen: &Seen, from: f64, to: f64| -> Vec<Record> {
            let at = |record: &&Record| (from..to).contains(&(seen.origin_unix_ms + record.intended_ms));
            seen.records.iter().filter(at).cloned().collect()
        };
        let during: Vec<Vec<Record>> = seen
            .iter()
            .map(|car| within(car, 0.0, told.end_unix_ms))
            .collect();
        let after: Vec<Vec<Record>> = seen
            .iter()
            .map(|car| within(car, told.ready_unix_ms, f64::INFINITY))
            .collect();
        let requests = FleetTally::of(during.iter().map(Vec::as_slice));
        let moves = told.history.moves(told.begin_ns, told.end_ns);
        let duration_s = scenario.duration.as_secs_f64();
        let moves_per_second = moves as f64 / duration_s;
        let mut checks = check::all(&told.history);
        checks.push(check::in_the_end(&told.history, &told.listed));
        checks.push(served(&seen, &after, broken));
        checks.extend(reached(&scenario.checks, &requests, moves_per_second));
        checks.push(Check {
            name: "nothing is left on the machine",
            seen: "processes, namespaces, mounts, control groups, folder".to_owned(),
            violations: left,
        });
        let kinds = [Kind::Kill, Kind::Cut, Kind::Pause].map(|kind| (kind, plan.count(kind)));
        Summary {
            scenario: scenario.name.clone(),
            seed,
            nodes: scenario.nodes.len(),
            cars: plan.cars.len(),
            duration_s,
            faults: BTreeMap::from(kinds),
            sessions: told.history.sessions.len(),
            runs: told.history.runs().count(),
            moves,
            moves_per_second,
            restarts: told.history.restarts(),
            requests,
            settled: FleetTally::of(after.iter().map(Vec::as_slice)),
            checks,
        }
    }

    /// How many checks do not hold.
    pub fn failed(&self) -> usize {
        self.checks.iter().filter(|check| !check.ok()).count()
    }
}

/// The cars that drove to the end, and why the others did not.
fn part(cars: Vec<(String, Result<Seen>)>) -> (Vec<Seen>, Vec<String>) {
    let (mut seen, mut broken) = (Vec::new(), Vec::new());
    for (name, car) in cars {
        match car {
            Ok(car) => seen.push(car),
            Err(error) => broken.push(format!("{name}: {error:#}")),
        }
    }
    (seen, broken)
}

/// When all nodes are ready again, each car is answered again.
fn served(seen: &[Seen], after: &[Vec<Record>], broken: Vec<String>) -> Check {
    let mut violations = broken;
    for (car, records) in seen.iter().zip(after) {
        if !records.iter().any(Record::ok) {
            let last = records.iter().rev().find_map(|record| record.error.as_deref());
            let why = last.unwrap_or("it sent nothing");
            violations.push(format!(
                "{}: {} requests, none answered ({why})",
                car.name,
                records.len()
            ));
        }
    }
    Check {
        name: "each car is answered when the faults are over",
        seen: format!("{} cars", seen.len()),
        violations,
    }
}

/// What the scenario asks for.
fn reached(limits: &Limits, requests: &FleetTally, moves_per_second: f64) -> Vec<Check> {
    let check = |name, what: f64, least: f64| Check {
        name,
        seen: format!("{what:.3}"),
        violations: (what.is_nan() || what < least)
            .then(|| format!("{what:.3} is less than {least}"))
            .into_iter()
            .collect(),
    };
    let share = requests.ok as f64 / requests.sent as f64;
    let moves = limits
        .moves_per_second
        .map(|least| check("checks.moves_per_second", moves_per_second, least));
    let answered = limits
        .answered
        .map(|least| check("checks.answered", share, least));
    moves.into_iter().chain(answered).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "scenario {}, seed {}: {} nodes, {} cars, {:.0} s",
            self.scenario, self.seed, self.nodes, self.cars, self.duration_s
        )?;
        let count = |kind| self.faults.get(&kind).copied().unwrap_or(0);
        writeln!(
            f,
            "faults     {} kills, {} cuts, {} pauses",
            count(Kind::Kill),
            count(Kind::Cut),
            count(Kind::Pause)
        )?;
        writeln!(
            f,
            "moves      {} ({:.2} a second); {} sessions in {} runs, {} of them in a container that had run before",
            self.moves, self.moves_per_second, self.sessions, self.runs, self.restarts
        )?;
        writeln!(f, "requests   {}", self.requests)?;
        for (reason, count) in &self.requests.reasons {
            writeln!(f, "           {count} failed: {reason}")?;
        }
        writeln!(f, "afterwards {}", self.settled)?;
        for check in &self.checks {
            let word = if check.ok() { "ok    " } else { "FAILED" };
            writeln!(f, "{word} {} ({})", check.name, check.seen)?;
            for violation in check.violations.iter().take(SHOWN) {
                writeln!(f, "         {violation}")?;
            }
            if check.violations.len() > SHOWN {
                writeln!(f, "         and {} more", check.violations.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn car(name: &str, statuses: &[Option<u16>]) -> Seen {
        let records = statuses.iter().enumerate().map(|(index, status)| Record {
            number: index as u64 + 1,
            intended_ms: index as f64 * 1000.0,
            sent_ms: index as f64 * 1000.0,
            done_ms: status.map(|_| index as f64 * 1000.0 + 5.0),
            to: 0,
            status: *status,
            node: Some("a".to_owned()),
            error: status
                .filter(|status| *status != 200)
                .map(|status| format!("refused {status}")),
        });
        Seen {
            name: name.to_owned(),
            records: records.collect(),
            origin_unix_ms: 1000.0,
        }
    }

    fn summary(limits: &str, cars: Vec<(String, Result<Seen>)>, left: Vec<String>) -> Summary {
        let text = format!(
            "duration = \"4s\"\nnodes = {{ count = 2 }}\ncars = [{{ service = \"counter\", count = 2, speed = 1.0, rate = 1 }}]\n[checks]\n{limits}"
        );
        let scenario = Scenario::parse("x", &text, |_| Err(anyhow!("none"))).unwrap();
        let plan = Plan::of(&scenario, &[(37.0, 126.0), (37.0, 126.01)], 3).unwrap();
        let told = Told {
            cars,
            history: History::default(),
            listed: Vec::new(),
            begin_ns: 0,
            end_ns: 4_000_000_000,
            end_unix_ms: 5000.0,
            ready_unix_ms: 6000.0,
        };
        Summary::of(&scenario, 3, &plan, told, left)
    }

    fn failed(summary: &Summary) -> Vec<&'static str> {
        let broken = summary.checks.iter().filter(|check| !check.ok());
        broken.map(|check| check.name).collect()
    }

    const OK: Option<u16> = Some(200);
    const SERVED: &str = "each car is answered when the faults are over";

    #[test]
    fn requests_count_for_the_time_in_which_they_were_to_be_sent() {
        // The fifth falls between the end of the faults and the last node's being ready.
        let one = car("car1", &[OK, Some(503), OK, OK, Some(503), OK]);
        let summary = summary("answered = 0.75", vec![("car1".to_owned(), Ok(one))], Vec::new());
        assert_eq!((summary.requests.sent, summary.requests.ok), (4, 3));
        assert_eq!((summary.settled.sent, summary.settled.ok), (1, 1));
        assert_eq!((failed(&summary), summary.failed()), (vec![], 0), "{summary}");
        assert!(
            summary.to_string().contains("ok     checks.answered (0.750)"),
            "{summary}"
        );
    }

    #[test]
    fn what_was_not_reached_is_told() {
        let one = || {
            (
                "car1".to_owned(),
                Ok(car("car1", &[OK, OK, OK, Some(503), OK, OK])),
            )
        };
        let found = summary("answered = 0.76\nmoves_per_second = 0.1", vec![one()], Vec::new());
        assert_eq!(failed(&found), ["checks.moves_per_second", "checks.answered"]);
        // Not answered again, and not even under way any more.
        let silent = car("car2", &[OK, OK, OK, OK, OK, Some(503)]);
        let broken = ("car3".to_owned(), Err(anyhow!("no session")));
        let found = summary(
            "",
            vec![one(), ("car2".to_owned(), Ok(silent)), broken],
            Vec::new(),
        );
        assert_eq!(failed(&found), [SERVED]);
        let text = found.to_string();
        assert!(
            text.contains("car2: 1 requests, none answered (refused 503)"),
            "{text}"
        );
        assert!(text.contains("car3: no session"), "{text}");
        let found = summary("", vec![one()], vec!["process 7".to_owned()]);
        assert_eq!(failed(&found), ["nothing is left on the machine"]);
        // Nobody sent anything: that is no share.
        assert_eq!(
            failed(&summary("answered = 0.1", Vec::new(), Vec::new())),
            ["checks.answered"]
        );
    }
}

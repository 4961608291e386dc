//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::file::{Kind, Limits, Scenario};
use super::plan::{Act, Plan};
use super::strike::Struck;
use crate::car::Record;
use crate::fleet::{FleetTally, Seen, part};
use crate::oracle::check::{self, Check};
use crate::oracle::history::History;
use crate::oracle::listing::Listed;
use crate::oracle::now_ns;
use crate::teller::unix_ms;

/// Of the places where something does not hold so many are printed; the file has all.
const SHOWN: usize = 5;
/// So many requests of each car, its last ones, have to be answered.
const LAST: usize = 3;

/// Everything that was seen of a run.
pub(super) struct Told {
    /// The cars, by their names.
    pub(super) cars: Vec<(String, Result<Seen>)>,
    /// The oracle's records.
    pub(super) history: History,
    /// The engines' own lists, in the end.
    pub(super) listed: Vec<Listed>,
    /// The timeline's beginning.
    pub(super) begin: Moment,
    /// Its end.
    pub(super) end: Moment,
    /// When all nodes were ready again.
    pub(super) ready: Moment,
    /// What was done to nodes.
    pub(super) struck: Vec<Struck>,
    /// What could not be done at all.
    pub(super) failures: Vec<String>,
    /// Nodes that had ended and that nobody had killed.
    pub(super) ended: Vec<usize>,
}

/// One time by two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The kernel's monotonic one, in nanoseconds: an oracle's.
    pub(super) ns: u64,
    /// The wall's, in milliseconds since 1970: the cars'.
    pub(super) unix_ms: f64,
}

impl Moment {
    pub(super) fn now() -> Moment {
        Moment {
            ns: now_ns(),
            unix_ms: unix_ms(),
        }
    }
}

/// What a run came to: `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// What it left to chance followed from this.
    pub(crate) seed: u64,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// How many cars.
    pub(crate) cars: usize,
    /// How long things went wrong, as it was measured.
    pub(crate) duration_s: f64,
    /// How often, by kind: those that were really begun.
    pub(crate) faults: BTreeMap<Kind, usize>,
    /// What was done to nodes, when, and with what outcome.
    pub(crate) events: Vec<Struck>,
    /// Sessions that the oracle heard of.
    pub(crate) sessions: usize,
    /// Runs of their containers.
    pub(crate) runs: usize,
    /// How often a session went on in a later epoch, during the timeline, by the oracle's records.
    pub(crate) moves: usize,
    /// The same each second.
    pub(crate) moves_per_second: f64,
    /// How often a container was started again.
    pub(crate) restarts: usize,
    /// What the cars saw during the timeline.
    pub(crate) requests: FleetTally,
    /// What they saw afterwards, once all nodes were ready.
    pub(crate) settled: FleetTally,
    /// What had to hold.
    pub(crate) checks: Vec<Check>,
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
            .map(|car| within(car, told.begin.unix_ms, told.end.unix_ms))
            .collect();
        let after: Vec<Vec<Record>> = seen
            .iter()
            .map(|car| within(car, told.ready.unix_ms, f64::INFINITY))
            .collect();
        let requests = FleetTally::of(during.iter().map(Vec::as_slice));
        let moves = told.history.moves(told.begin.ns, told.end.ns);
        let duration_s = told.end.ns.saturating_sub(told.begin.ns) as f64 / 1e9;
        let moves_per_second = moves as f64 / duration_s;
        let mut checks = Vec::new();
        // Without a session there is nobody whom an oracle would hear.
        if plan.stateful(scenario).next().is_some() {
            checks.extend(check::all(&told.history));
            checks.push(check::one_session(&told.history, plan.stateful(scenario)));
            checks.push(check::in_the_end(&told.history, &told.listed));
        }
        checks.extend(as_planned(plan, &told.struck, told.failures, &told.ended));
        checks.push(served(&seen, &after, broken));
        checks.extend(reached(&scenario.checks, &requests, moves_per_second));
        checks.push(Check {
            name: "nothing is left on the machine",
            seen: "processes, namespaces, mounts, control groups, folder".to_owned(),
            violations: left,
        });
        let begun = told.struck.iter().filter(|struck| struck.error.is_none());
        let begun: Vec<Act> = begun.map(|struck| struck.event.act).collect();
        let kinds = [Kind::Kill, Kind::Cut, Kind::Pause].map(|kind| {
            let [first, _] = kind.acts();
            (kind, begun.iter().filter(|act| **act == first).count())
        });
        Summary {
            scenario: scenario.name.clone(),
            seed,
            nodes: scenario.nodes.len(),
            cars: plan.cars.len(),
            duration_s,
            faults: BTreeMap::from(kinds),
            events: told.struck,
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
    pub(crate) fn failed(&self) -> usize {
        self.checks.iter().filter(|check| !check.ok()).count()
    }
}

/// Everything was done that was to be done to nodes, and nothing else happened to them.
fn as_planned(plan: &Plan, struck: &[Struck], failures: Vec<String>, ended: &[usize]) -> [Check; 2] {
    let mut violations = failures;
    violations.extend(struck.iter().filter_map(|struck| struck.error.clone()));
    let left = plan.events.len().saturating_sub(struck.len());
    if left > 0 {
        violations.push(format!("{left} things were not done to nodes any more"));
    }
    let done = Check {
        name: "the run took its course",
        seen: format!("{} of {} things done to nodes", struck.len(), plan.events.len()),
        violations,
    };
    let alone = Check {
        name: "no node ended by itself",
        seen: "before each kill and pause, and in the end".to_owned(),
        violations: ended.iter().map(|node| format!("node {node}")).collect(),
    };
    [done, alone]
}

/// When all nodes are ready again, each car is answered again, and not by chance.
fn served(seen: &[Seen], after: &[Vec<Record>], broken: Vec<String>) -> Check {
    let mut violations = broken;
    for (car, records) in seen.iter().zip(after) {
        let last = &records[records.len().saturating_sub(LAST)..];
        if last.is_empty() || !last.iter().all(Record::ok) {
            let why = last.iter().rev().find_map(|record| record.error.as_deref());
            let answered = last.iter().filter(|record| record.ok()).count();
            violations.push(format!(
                "{}: of the last {} requests {answered} were answered ({})",
                car.name,
                last.len(),
                why.unwrap_or("it sent nothing")
            ));
        }
    }
    Check {
        name: "each car is answered when the faults are over",
        seen: format!("the last {LAST} requests of {} cars", seen.len()),
        violations,
    }
}

/// What the scenario asks for.
fn reached(limits: &Limits, requests: &FleetTally, moves_per_second: f64) -> Vec<Check> {
    let check = |name, what: f64, least: f64| Check {
        name,
        seen: format!("{what:.3}"),
        violations: (!what.is_finite() || what < least)
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

    use super::super::plan::Event;
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

    /// Of the stateless service, which no oracle hears of, unless it is another.
    fn summary(limits: &str, cars: Vec<(String, Result<Seen>)>, left: Vec<String>) -> Summary {
        of("echo", "", limits, told(cars), left)
    }

    fn told(cars: Vec<(String, Result<Seen>)>) -> Told {
        // The second at which a car starts lies before the beginning.
        let moment = |seconds: u32| Moment {
            ns: u64::from(seconds) * 1_000_000_000,
            unix_ms: f64::from(seconds) * 1000.0,
        };
        Told {
            cars,
            history: History::default(),
            listed: Vec::new(),
            begin: moment(2),
            end: moment(6),
            ready: moment(7),
            struck: Vec::new(),
            failures: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn of(service: &str, faults: &str, limits: &str, told: Told, left: Vec<String>) -> Summary {
        let text = format!(
            "duration = \"40s\"\nnodes = {{ count = 2 }}\nservice = [{{ name = \"echo\", stateless = true }}, {{ name = \"counter\" }}]\n\
             cars = [{{ service = \"{service}\", count = 2, speed = 1.0, rate = 1 }}]\n{faults}[checks]\n{limits}"
        );
        let scenario = Scenario::parse("x", &text, |_| Err(anyhow!("none"))).unwrap();
        let plan = Plan::of(&scenario, &[(37.0, 126.0), (37.0, 126.01)], 3).unwrap();
        Summary::of(&scenario, 3, &plan, told, left)
    }

    fn failed(summary: &Summary) -> Vec<&'static str> {
        let broken = summary.checks.iter().filter(|check| !check.ok());
        broken.map(|check| check.name).collect()
    }

    const OK: Option<u16> = Some(200);
    const NO: Option<u16> = Some(503);
    const SERVED: &str = "each car is answered when the faults are over";
    const COURSE: &str = "the run took its course";

    #[test]
    fn requests_count_for_the_time_in_which_they_were_to_be_sent() {
        // The first was an opening. The sixth falls between the end of the faults and the last node's being ready.
        let one = car("car1", &[NO, OK, NO, OK, OK, NO, OK]);
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
        let one = || ("car1".to_owned(), Ok(car("car1", &[OK, OK, OK, OK, NO, OK, OK])));
        let found = summary("answered = 0.76\nmoves_per_second = 0.1", vec![one()], Vec::new());
        assert_eq!(failed(&found), ["checks.moves_per_second", "checks.answered"]);
        // Not answered again, and not even under way any more; and one that was answered by chance.
        let silent = car("car2", &[OK, OK, OK, OK, OK, OK, NO]);
        let broken = ("car3".to_owned(), Err(anyhow!("no session")));
        let lucky = car("car4", &[OK, OK, OK, OK, OK, OK, NO, OK, NO, OK]);
        let found = summary(
            "",
            vec![
                one(),
                ("car2".to_owned(), Ok(silent)),
                broken,
                ("car4".to_owned(), Ok(lucky)),
            ],
            Vec::new(),
        );
        assert_eq!(failed(&found), [SERVED]);
        let text = found.to_string();
        for line in [
            "car2: of the last 1 requests 0 were answered (refused 503)",
            "car3: no session",
            "car4: of the last 3 requests 2 were answered (refused 503)",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let found = summary("", vec![one()], vec!["process 7".to_owned()]);
        assert_eq!(failed(&found), ["nothing is left on the machine"]);
        // Nobody sent anything: that is no share.
        assert_eq!(
            failed(&summary("answered = 0.1", Vec::new(), Vec::new())),
            ["checks.answered"]
        );
    }

    #[test]
    fn sessions_that_no_oracle_heard_of_are_no_success() {
        let found = of("counter", "", "", told(Vec::new()), Vec::new());
        let silent = check::all(&History::default());
        assert_eq!(found.failed(), silent.len() + 2, "{found}");
        // A run of no length has no moves a second.
        let short = Told {
            end: told(Vec::new()).begin,
            ..told(Vec::new())
        };
        let found = of("echo", "", "moves_per_second = 0.1", short, Vec::new());
        assert_eq!(failed(&found), ["checks.moves_per_second"]);
    }

    #[test]
    fn faults_count_when_they_were_done() {
        let kill = "[[fault]]\nkind = \"kill\"\nnodes = [2]\nat = \"1s\"\nfor = \"4s\"\n";
        let struck = |at_ms, act, error: Option<&str>| Struck {
            event: Event { at_ms, node: 2, act },
            done_ms: at_ms as f64 + 0.5,
            error: error.map(str::to_owned),
        };
        let run = |struck: Vec<Struck>, ended: Vec<usize>| {
            let told = Told {
                struck,
                ended,
                ..told(Vec::new())
            };
            of("echo", kill, "", told, Vec::new())
        };
        let start = || struck(5000, Act::Start, None);
        let done = run(vec![struck(1000, Act::Kill, None), start()], Vec::new());
        assert_eq!((failed(&done), done.faults[&Kind::Kill]), (vec![], 1));
        let event = serde_json::to_value(&done.events[0]).unwrap();
        assert_eq!(
            event,
            serde_json::json!({"at_ms": 1000, "node": 2, "act": "kill", "done_ms": 1000.5, "error": null})
        );
        let dead = struck(1000, Act::Kill, Some("it had ended by itself"));
        let found = run(vec![dead, start()], vec![2]);
        assert_eq!(
            (failed(&found), found.faults[&Kind::Kill]),
            (vec![COURSE, "no node ended by itself"], 0)
        );
        // The run broke off.
        let found = run(vec![struck(1000, Act::Kill, None)], Vec::new());
        assert_eq!(failed(&found), [COURSE]);
        let told = Told {
            failures: vec!["blosm on host 2 is not ready".to_owned()],
            ..told(Vec::new())
        };
        assert_eq!(failed(&of("echo", "", "", told, Vec::new())), [COURSE]);
    }
}

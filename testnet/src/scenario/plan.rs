//! What a seed makes of a scenario: a route for each car, and a timeline.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::file::{Courses, Fault, Kind, Scenario};
use super::random::Random;
use crate::route::Route;

/// Between the end of a fault and the next one of the same node: it comes back in between.
const RECOVERY: Duration = Duration::from_secs(3);
/// How often a place on the timeline is drawn until one is free.
const DRAWS: usize = 1000;

/// A scenario with everything decided.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Who drives where.
    pub(crate) cars: Vec<PlannedCar>,
    /// In the order of their times.
    pub(crate) events: Vec<Event>,
}

/// One car.
#[derive(Clone, Debug)]
pub(crate) struct PlannedCar {
    /// Its name.
    pub(crate) name: String,
    /// Which of the scenario's cars it is one of.
    pub(crate) group: usize,
    /// Where it is at each time since its start.
    pub(crate) route: Route,
}

/// Something that is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Event {
    /// Milliseconds after the beginning.
    pub(crate) at_ms: u64,
    /// To which node.
    pub(crate) node: usize,
    /// What.
    pub(crate) act: Act,
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    /// SIGKILL.
    Kill,
    /// Started again.
    Start,
    /// Link down.
    Cut,
    /// Link up.
    Heal,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
}

impl Kind {
    /// How it begins and how it ends.
    pub(super) fn acts(self) -> [Act; 2] {
        match self {
            Kind::Kill => [Act::Kill, Act::Start],
            Kind::Cut => [Act::Cut, Act::Heal],
            Kind::Pause => [Act::Pause, Act::Resume],
        }
    }

    /// Whether the two make no sense with one node at one time: a dead process cannot be paused. A dead or paused one can be
    /// cut off.
    fn excludes(self, other: Kind) -> bool {
        (self == Kind::Cut) == (other == Kind::Cut)
    }
}

/// A fault with its time and its node.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    kind: Kind,
    node: usize,
    begin: Duration,
    end: Duration,
}

impl Drawn {
    fn clashes(&self, other: &Drawn) -> bool {
        self.node == other.node
            && self.kind.excludes(other.kind)
            && self.begin < other.end + RECOVERY
            && other.begin < self.end + RECOVERY
    }
}

impl Plan {
    /// What the seed makes of it, for nodes at these places.
    ///
    /// # Errors
    /// Its faults do not fit on the timeline; the text names the line.
    pub(crate) fn of(scenario: &Scenario, places: &[(f64, f64)], seed: u64) -> Result<Plan> {
        let mut random = Random::seeded(seed);
        let mut events = Vec::new();
        for fault in timeline(&scenario.faults, &mut random)? {
            let [first, last] = fault.kind.acts();
            for (at, act) in [(fault.begin, first), (fault.end, last)] {
                events.push(Event {
                    at_ms: at.as_millis().try_into().unwrap_or(u64::MAX),
                    node: fault.node,
                    act,
                });
            }
        }
        events.sort();
        Ok(Plan {
            cars: cars(scenario, places, &mut random)?,
            events,
        })
    }

    /// How often something is to go wrong in this way.
    #[cfg(test)]
    pub(crate) fn count(&self, kind: Kind) -> usize {
        let [first, _] = kind.acts();
        self.events.iter().filter(|event| event.act == first).count()
    }

    /// The cars that have a session, by their names.
    pub(crate) fn stateful<'a>(&'a self, scenario: &'a Scenario) -> impl Iterator<Item = &'a str> {
        let cars = self.cars.iter();
        cars.filter(|car| !scenario.cars[car.group].stateless)
            .map(|car| car.name.as_str())
    }
}

/// Each fault where it belongs: those whose time and node are given first, so that drawn ones make room for them.
fn timeline(faults: &[Fault], random: &mut Random) -> Result<Vec<Drawn>> {
    let mut taken: Vec<Drawn> = Vec::new();
    let given = |fault: &&Fault| fault.between.0 == fault.between.1 && fault.nodes.len() == 1;
    let (first, then): (Vec<&Fault>, Vec<&Fault>) = faults.iter().partition(given);
    for fault in first.into_iter().chain(then) {
        for _ in 0..fault.times {
            let drawn = (0..DRAWS).map(|_| draw(fault, random));
            let mut free = drawn.filter(|one| !taken.iter().any(|other| one.clashes(other)));
            let Some(free) = free.next() else {
                bail!(
                    "line {}: there is no room for it beside the other faults of its nodes, with {RECOVERY:?} between them",
                    fault.line
                );
            };
            taken.push(free);
        }
    }
    Ok(taken)
}

fn draw(fault: &Fault, random: &mut Random) -> Drawn {
    let (first, last) = fault.between;
    let width = u64::try_from((last - first).as_millis()).unwrap_or(u64::MAX);
    let begin = first + Duration::from_millis(random.below(width.saturating_add(1)));
    let index = random.below(fault.nodes.len() as u64);
    Drawn {
        kind: fault.kind,
        node: fault.nodes[usize::try_from(index).unwrap_or(0)],
        begin,
        end: begin + fault.lasts,
    }
}

fn cars(scenario: &Scenario, places: &[(f64, f64)], random: &mut Random) -> Result<Vec<PlannedCar>> {
    let mut cars = Vec::new();
    for (group, kind) in scenario.cars.iter().enumerate() {
        let names = kind.names(cars.len());
        for (index, name) in names.into_iter().enumerate() {
            let route = match &kind.courses {
                Courses::Shuttle { count, speed } => {
                    // Evenly over the way there and back, and none in step with another.
                    let phase = (index as f64 + random.part()) / *count as f64;
                    Route::shuttle(places, *speed, phase).context("a road has nodes")?
                }
                Courses::Routes(routes) => routes[index].1.clone(),
            };
            cars.push(PlannedCar { name, group, route });
        }
    }
    Ok(cars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::road::{location, stand};

    fn scenario(faults: &str) -> Scenario {
        let text = format!(
            "duration = \"10m\"\nnodes = {{ count = 4 }}\ncars = [{{ service = \"counter\", count = 3, speed = 20.0, rate = 1 }}]\n{faults}"
        );
        Scenario::parse("x", &text, |_| bail!("no tables")).unwrap()
    }

    fn plan(faults: &str, seed: u64) -> Result<Plan> {
        let places: Vec<(f64, f64)> = (1..=4).map(|number| location(stand(number))).collect();
        Plan::of(&scenario(faults), &places, seed)
    }

    const TEN: &str = "[[fault]]\nkind = \"kill\"\nbetween = [\"20s\", \"9m\"]\ntimes = 10\nfor = \"5s\"\n[[fault]]\nkind = \"cut\"\nnodes = [2]\nat = \"1m\"\nfor = \"10s\"\n";

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_one_another() {
        let (one, same, other) = (
            plan(TEN, 7).unwrap(),
            plan(TEN, 7).unwrap(),
            plan(TEN, 8).unwrap(),
        );
        assert_eq!(one.events, same.events);
        assert_ne!(one.events, other.events);
        let routes = |plan: &Plan| plan.cars.iter().map(|car| car.route.clone()).collect::<Vec<_>>();
        assert_eq!(routes(&one), routes(&same));
        assert_ne!(routes(&one), routes(&other));
        assert_eq!(
            (
                one.count(Kind::Kill),
                one.count(Kind::Cut),
                one.count(Kind::Pause)
            ),
            (10, 1, 0)
        );
        assert_eq!(one.events.len(), 22);
        assert!(one.events.is_sorted());
        let cut = Event {
            at_ms: 60_000,
            node: 2,
            act: Act::Cut,
        };
        assert!(one.events.contains(&cut));
    }

    #[test]
    fn scenarios_that_come_along_fit_whatever_the_seed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let counts = |plan: &Plan| [Kind::Kill, Kind::Cut, Kind::Pause].map(|kind| plan.count(kind));
        for (name, nodes, cars, faults) in [("road", 10, 20, [10, 3, 0]), ("short", 5, 8, [2, 1, 1])] {
            let scenario = Scenario::read(&folder.join(format!("{name}.toml"))).unwrap();
            assert_eq!((scenario.nodes.len(), scenario.name.as_str()), (nodes, name));
            let places: Vec<(f64, f64)> = (1..=nodes).map(|number| location(stand(number))).collect();
            for seed in 0..200 {
                let plan = Plan::of(&scenario, &places, seed).unwrap();
                assert_eq!(
                    (plan.cars.len(), counts(&plan)),
                    (cars, faults),
                    "{name}, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn a_node_is_back_before_it_is_struck_again() {
        let crowd = "[[fault]]\nkind = \"kill\"\nbetween = [\"0s\", \"2m\"]\ntimes = 30\nfor = \"4s\"\n[[fault]]\nkind = \"pause\"\nbetween = [\"0s\", \"2m\"]\ntimes = 10\nfor = \"2s\"\n";
        for seed in 0..50 {
            let plan = plan(crowd, seed).unwrap();
            for node in 1..=4 {
                let mine: Vec<&Event> = plan.events.iter().filter(|event| event.node == node).collect();
                for pair in mine.chunks(2) {
                    assert!(
                        matches!(
                            (pair[0].act, pair[1].act),
                            (Act::Kill, Act::Start) | (Act::Pause, Act::Resume)
                        ),
                        "{seed}: {mine:?}"
                    );
                }
                assert!(
                    mine.chunks(2)
                        .zip(mine.chunks(2).skip(1))
                        .all(|(a, b)| b[0].at_ms >= a[1].at_ms + 3000)
                );
            }
        }
    }

    #[test]
    fn faults_that_do_not_fit_are_refused_and_a_cut_of_a_dead_node_is_not() {
        let twice = "[[fault]]\nkind = \"kill\"\nnodes = [1]\nat = \"10s\"\nfor = \"5s\"\n";
        let error = plan(&format!("{twice}{twice}"), 1).unwrap_err();
        assert!(format!("{error}").contains("line 10"), "{error}");
        let cut = twice.replace("kill", "cut");
        assert_eq!(plan(&format!("{twice}{cut}"), 1).unwrap().events.len(), 4);
        let pause = twice.replace("kill", "pause");
        assert!(plan(&format!("{twice}{pause}"), 1).is_err());
    }
}

//! Running a scenario: everything that touches the machine.

mod settings;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use tokio::time::Instant;

use super::file::Scenario;
use super::plan::{Act, Event, Plan};
use super::strike::{Struck, say, strike};
use super::summary::{Moment, Summary, Told};
use crate::cleanup::{self, LastWord};
use crate::fleet::Fleet;
use crate::oracle::history::History;
use crate::oracle::listing::{self, Listed};
use crate::oracle::{Oracle, check, record};
use crate::teller::Teller;
use crate::testnet::Testnet;
use crate::web::Web;

/// How long it may take until each car has its first answer.
const OPENING: Duration = Duration::from_secs(60);
/// How often it is said how the cars fare.
const SAY: Duration = Duration::from_secs(10);
/// How long sessions may still be on their way when the cars have stopped: longer than a move that is given up takes.
const COME_TO_REST: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);

/// Drive cars past nodes of which some are killed, cut off or paused, and hold an oracle's records against the rules
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The scenario's file
    scenario: PathBuf,
    /// Whatever the scenario leaves to chance follows from this number
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// An empty or absent folder for the oracle's records, the plan, the nodes' logs and the summary
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// An empty or absent folder for the testnet [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Serve the live page there
    #[arg(long, value_name = "ADDR:PORT")]
    web: Option<SocketAddr>,
}

/// Runs it.
///
/// # Errors
/// The scenario cannot be run, or a check does not hold.
pub async fn run(options: Run) -> Result<()> {
    let scenario = Scenario::read(&options.scenario)?;
    let plan = Plan::of(&scenario, &stage::places(&scenario), options.seed)
        .with_context(|| format!("{}", options.scenario.display()))?;
    settings::check(&scenario)
        .await
        .with_context(|| format!("{}", options.scenario.display()))?;
    let out = new_folder(&options.out)?;
    let planned = json!({"scenario": scenario.name, "seed": options.seed, "events": plan.events,
        "cars": plan.cars.iter().map(|car| &car.name).collect::<Vec<_>>()});
    write(&out.join("plan.json"), &planned)?;
    let teller = Teller::begin();
    let spec = stage::spec(&scenario, options.dir.clone());
    let mut testnet = Testnet::up(&spec, &|line| teller.say(line)).await?;
    let state = testnet.state().clone();
    let told = Box::pin(tell(&scenario, &plan, &options, &out, &mut testnet, &teller)).await;
    stage::keep_logs(testnet.state(), &out.join("logs"));
    let logs = || format!("the nodes' logs are in {}", out.join("logs").display());
    // Kept until the summary is printed.
    let (told, _word) = told.with_context(logs)?;
    let down = testnet.down();
    let mut left = cleanup::leftovers(&state.id, &state.dir);
    left.extend(down.err().map(|error| format!("{error:#}")));
    let summary = Summary::of(&scenario, options.seed, &plan, told, left);
    write(&out.join("summary.json"), &serde_json::to_value(&summary)?)?;
    println!("\n{summary}");
    let failed = summary.failed();
    if failed > 0 {
        bail!(
            "{failed} of {} checks failed; see {}",
            summary.checks.len(),
            out.display()
        );
    }
    Ok(())
}

/// Everything between up and down. Once cars drive, whatever fails is told as part of the run: the worst runs are the ones
/// that have to be judged.
async fn tell(
    scenario: &Scenario,
    plan: &Plan,
    options: &Run,
    out: &Path,
    testnet: &mut Testnet,
    teller: &Teller,
) -> Result<(Told, LastWord)> {
    let records = out.join("oracle.jsonl");
    let oracle = Oracle::start(&testnet.state().dir, &records).await?;
    let services = stage::services(scenario, oracle.socket());
    let spec = stage::spec(scenario, None);
    testnet
        .add_nodes(&spec, &services, &|line| teller.say(line))
        .await?;
    stage::links(scenario, testnet)?;
    let fleet = stage::cars(scenario, plan, testnet.state(), oracle.socket())?;
    let _web = match options.web {
        Some(listen) => Some(show(listen, testnet, &fleet, teller).await?),
        None => None,
    };
    let mut stage = Stage {
        begin: Instant::now(),
        said: Instant::now(),
        oracle: &oracle,
        fleet: &fleet,
        teller,
        course: Course::default(),
    };
    let word = LastWord::keep();
    let driven = tokio::select! {
        driven = stage.drive(scenario, plan, testnet) => driven,
        () = word.asked() => Err(anyhow!("interrupted")),
    };
    if let Err(error) = driven {
        let error = format!("{error:#}");
        teller.say(&error);
        stage.course.failures.push(error);
    }
    let mut course = stage.course;
    let now = Moment::now();
    let begin = *course.begin.get_or_insert(now);
    let end = *course.end.get_or_insert(now);
    let ready = *course.ready.get_or_insert(now);
    let cars = fleet.finish().await;
    course.look(testnet);
    let sessions = plan.stateful(scenario).next().is_some();
    let (history, listed) = read(&oracle, &records, testnet, sessions, &mut course.failures).await;
    let told = Told {
        cars,
        history,
        listed,
        begin,
        end,
        ready,
        struck: course.struck,
        failures: course.failures,
        ended: course.ended.into_iter().collect(),
    };
    Ok((told, word))
}

/// What the oracle was told and what the engines list. Sessions may be on their way when the cars stop, and one is read after
/// the other: both are read until they fit twice, or it is clear that they do not.
async fn read(
    oracle: &Oracle,
    records: &Path,
    testnet: &Testnet,
    sessions: bool,
    failures: &mut Vec<String>,
) -> (History, Vec<Listed>) {
    let deadline = Instant::now() + COME_TO_REST;
    let mut fit = 0;
    loop {
        let caught_up = oracle.caught_up().await;
        let history = record::read(records).map(|entries| History::of(&entries));
        let listed = listing::simulated(testnet.state());
        let whole = caught_up.is_ok() && history.is_ok() && listed.is_ok();
        let errors = [
            caught_up.err(),
            history.as_ref().err().map(|error| anyhow!("{error:#}")),
            listed.as_ref().err().map(|error| anyhow!("{error:#}")),
        ];
        let (history, listed) = (history.unwrap_or_default(), listed.unwrap_or_default());
        let fits = whole && check::in_the_end(&history, &listed).ok();
        fit = if fits { fit + 1 } else { 0 };
        let over = Instant::now() > deadline || oracle.check().is_err();
        if fit == 2 || (whole && !sessions) || over {
            failures.extend(errors.into_iter().flatten().map(|error| format!("{error:#}")));
            return (history, listed);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The time that passes while cars drive.
struct Stage<'a> {
    begin: Instant,
    said: Instant,
    oracle: &'a Oracle,
    fleet: &'a Fleet,
    teller: &'a Teller,
    course: Course,
}

/// What became of the timeline.
#[derive(Default)]
struct Course {
    begin: Option<Moment>,
    end: Option<Moment>,
    ready: Option<Moment>,
    struck: Vec<Struck>,
    failures: Vec<String>,
    /// Nodes that were found dead and that nobody had killed.
    ended: BTreeSet<usize>,
}

impl Course {
    /// Looks for nodes that have ended, when none is to be dead.
    fn look(&mut self, testnet: &Testnet) {
        let dead = testnet.state().hosts.iter().map(|host| host.number);
        let dead = dead.filter(|number| !testnet.node_runs(*number));
        // Of one that was to be started again and was not, its start tells.
        let known: BTreeSet<usize> = self.down().collect();
        self.ended.extend(dead.filter(|number| !known.contains(number)));
    }

    /// Nodes that were killed and not started again.
    fn down(&self) -> impl Iterator<Item = usize> {
        let mut last: BTreeMap<usize, Act> = BTreeMap::new();
        for struck in self.struck.iter().filter(|struck| struck.error.is_none()) {
            if matches!(struck.event.act, Act::Kill | Act::Start) {
                last.insert(struck.event.node, struck.event.act);
            }
        }
        last.into_iter()
            .filter(|(_, act)| *act == Act::Kill)
            .map(|(node, _)| node)
    }
}

impl Stage<'_> {
    /// From the cars' first answers to the end of the time in which nothing goes wrong any more.
    async fn drive(&mut self, scenario: &Scenario, plan: &Plan, testnet: &mut Testnet) -> Result<()> {
        self.fleet.answered(OPENING).await?;
        self.teller.say(&format!(
            "{} cars drive, {} things will be done to nodes",
            plan.cars.len(),
            plan.events.len()
        ));
        (self.begin, self.said) = (Instant::now(), Instant::now());
        self.course.begin = Some(Moment::now());
        for event in &plan.events {
            self.until(Duration::from_millis(event.at_ms)).await?;
            self.strike(*event, testnet);
        }
        self.until(scenario.duration).await?;
        self.course.end = Some(Moment::now());
        for host in &testnet.state().hosts {
            if let Err(error) = testnet.wait_ready(host.number).await {
                self.course.failures.push(format!("{error:#}"));
            }
        }
        self.teller.say("nothing goes wrong any more");
        self.course.look(testnet);
        self.course.ready = Some(Moment::now());
        let settled = self.begin.elapsed().max(scenario.duration) + scenario.settle;
        self.until(settled).await
    }

    fn strike(&mut self, event: Event, testnet: &mut Testnet) {
        // One that is dead before it is killed was not killed.
        let signalled = matches!(event.act, Act::Kill | Act::Pause | Act::Resume);
        if signalled && !testnet.node_runs(event.node) {
            self.course.ended.insert(event.node);
        }
        let error = strike(testnet, event).err().map(|error| format!("{error:#}"));
        self.teller.say(error.as_deref().unwrap_or(&say(event)));
        self.course.struck.push(Struck {
            event,
            done_ms: self.begin.elapsed().as_secs_f64() * 1000.0,
            error,
        });
    }

    /// Waits until so much time has passed since the beginning, and says how the cars fare meanwhile.
    async fn until(&mut self, at: Duration) -> Result<()> {
        let end = self.begin + at;
        while Instant::now() < end {
            // Without the oracle nobody is answered, and the reason would be looked for in the wrong place.
            self.oracle.check()?;
            let next = self.said + SAY;
            tokio::time::sleep_until(end.min(next)).await;
            if Instant::now() >= next {
                self.said = next;
                self.teller.say(&format!("{}", self.fleet.tally()));
            }
        }
        Ok(())
    }
}

async fn show(listen: SocketAddr, testnet: &Testnet, fleet: &Fleet, teller: &Teller) -> Result<Web> {
    let web = Web::serve(listen, testnet.state()).await?;
    fleet.views().for_each(|car| web.show(car));
    teller.say(&format!("watch it live: {}", web.url()));
    Ok(web)
}

/// The folder, which must be empty or absent, by its whole path: other processes write there.
fn new_folder(dir: &Path) -> Result<PathBuf> {
    let whose = || format!("{}", dir.display());
    fs::create_dir_all(dir).with_context(whose)?;
    if fs::read_dir(dir).with_context(whose)?.next().is_some() {
        bail!("{} is not empty: choose another --out", dir.display());
    }
    dir.canonicalize().with_context(whose)
}

fn write(file: &Path, value: &serde_json::Value) -> Result<()> {
    fs::write(file, format!("{value:#}\n")).with_context(|| format!("{}", file.display()))
}

//! Running a scenario: everything that touches the machine.

mod stage;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::time::Instant;

use super::file::Scenario;
use super::plan::Plan;
use super::strike::{say, strike};
use super::summary::{Summary, Told};
use crate::cleanup;
use crate::fleet::Fleet;
use crate::oracle::history::History;
use crate::oracle::{Oracle, listing, now_ns, record};
use crate::teller::Teller;
use crate::testnet::Testnet;
use crate::web::Web;

/// How long it may take until each car has its first answer.
const OPENING: Duration = Duration::from_secs(60);
/// How often it is said how the cars fare.
const SAY: Duration = Duration::from_secs(10);

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
    let told = told.with_context(|| format!("the nodes' logs are in {}", out.join("logs").display()))?;
    testnet.down()?;
    let left = cleanup::leftovers(&state.id, &state.dir);
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

/// Everything between up and down.
async fn tell(
    scenario: &Scenario,
    plan: &Plan,
    options: &Run,
    out: &Path,
    testnet: &mut Testnet,
    teller: &Teller,
) -> Result<Told> {
    let oracle = Oracle::start(&testnet.state().dir, &out.join("oracle.jsonl")).await?;
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
    fleet.answered(OPENING).await?;
    teller.say(&format!(
        "{} cars drive, {} things will be done to nodes",
        plan.cars.len(),
        plan.events.len()
    ));
    let mut stage = Stage {
        begin: Instant::now(),
        said: Instant::now(),
        oracle: &oracle,
        fleet: &fleet,
        teller,
    };
    let begin_ns = now_ns();
    for event in &plan.events {
        stage.until(Duration::from_millis(event.at_ms)).await?;
        strike(testnet, *event)?;
        teller.say(&say(*event));
    }
    stage.until(scenario.duration).await?;
    let (end_ns, end_unix_ms) = (now_ns(), unix_ms());
    for host in &testnet.state().hosts {
        testnet.wait_ready(host.number).await?;
    }
    teller.say("nothing goes wrong any more, and all nodes are ready");
    let ready_unix_ms = unix_ms();
    let settled = stage.begin.elapsed().max(scenario.duration) + scenario.settle;
    stage.until(settled).await?;
    let cars = fleet.finish().await;
    oracle.caught_up().await?;
    let history = History::of(&record::read(&out.join("oracle.jsonl"))?);
    let listed = listing::simulated(testnet.state())?;
    Ok(Told {
        cars,
        history,
        listed,
        begin_ns,
        end_ns,
        end_unix_ms,
        ready_unix_ms,
    })
}

/// The time that passes while cars drive.
struct Stage<'a> {
    begin: Instant,
    said: Instant,
    oracle: &'a Oracle,
    fleet: &'a Fleet,
    teller: &'a Teller,
}

impl Stage<'_> {
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

fn unix_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() * 1000.0)
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

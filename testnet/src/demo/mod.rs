//! `blosm-testnet demo`: three roadside nodes, one car, and its container that follows it.
//!
//! ```text
//! up -> measure links -> docker ps -> drive 1 -> 2 -> 3 -> 2 -> read the service's log -> docker ps -> checks -> down
//!                                          |
//!                                          `- at 2, which is full now: a second car's stateless request
//! ```
//! The first move sends the changed layer only (host 2 has the base), the second base and changed layer (host 3 has
//! nothing), the third the changed layer only. With `--compare` a person moves the container once more, by save and load.

mod checks;
mod compare;
mod drive;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::car::Record;
use crate::cleanup;
use crate::engine::ContainerLine;
use crate::goodput::{self, Goodput};
use crate::hosts::Rate;
use crate::service_log::{Contiguity, ServiceLog};
use crate::state::State;
use crate::teller::Teller;
use crate::testnet::{HostSpec, Spec, Testnet};
use crate::web::{self, Web};
use checks::Check;
use compare::ByHand;

/// The stops of the drive, by host.
const DRIVE: [usize; 3] = [2, 3, 2];
/// How long a former owner keeps its stopped container.
const KEEP_SOURCE: &str = "15s";
/// Room on host 2: one container of the demo's fits, a second one does not.
const SMALL: &str = "48MiB";

/// Drive a car past three nodes and show what its container did
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Write the migrations' reports to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave everything running and print what to try
    #[arg(long)]
    keep: bool,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The capacity of each host's link, both ways
    #[arg(long, default_value = "40mbit")]
    rate: Rate,
    /// How containers move
    #[arg(long, default_value = "live")]
    method: Method,
    /// Where the live page is served
    #[arg(long, default_value = web::LISTEN, value_name = "ADDR:PORT")]
    web: SocketAddr,
    /// At the end, stop the nodes and move the same container once more by save and load over the same link
    #[arg(long, conflicts_with = "keep")]
    compare: bool,
}

/// A way to move a container that keeps its state, as nodes are configured with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// Copy the writable layer while the service runs, then only what is left
    Live,
    /// Stop, commit, send the missing layers, load, start: the paper's method
    Image,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Method::Live => "live",
            Method::Image => "image",
        }
    }
}

/// What the demo has seen.
#[derive(Debug, Serialize)]
struct Story {
    method: Method,
    migrations: Vec<Migration>,
    records: Vec<Record>,
    log: ServiceLog,
    contiguity: Contiguity,
    neighbour: Neighbour,
    goodput: Vec<Goodput>,
    before: Vec<EngineView>,
    after: Vec<EngineView>,
    session: String,
    owner: usize,
    by_hand: Option<ByHand>,
}

/// One migration: its report, and what was seen beside it.
#[derive(Debug, Serialize)]
struct Migration {
    from: usize,
    to: usize,
    report: Value,
    /// The image's identity on both engines, taken right after the move.
    identity: Identities,
    /// The longest latency that the car saw meanwhile, in milliseconds.
    worst_ms: f64,
}

/// An image on the engine that gave and on the one that took.
#[derive(Debug, Serialize)]
struct Identities {
    image: String,
    source: Option<crate::engine::Identity>,
    destination: Option<crate::engine::Identity>,
}

/// The second car's request.
#[derive(Debug, Serialize)]
struct Neighbour {
    /// The node that it asked.
    asked: String,
    status: u16,
    /// The node that served it.
    served: String,
    body: String,
}

/// An engine as `docker ps --all` and `docker images` show it.
#[derive(Debug, Serialize)]
struct EngineView {
    host: String,
    containers: Vec<ContainerLine>,
    images: Vec<String>,
}

/// Runs the demo.
///
/// # Errors
/// Something could not be done, or one of the checks at the end failed.
pub async fn run(demo: Demo) -> Result<()> {
    let teller = Teller::begin();
    let mut testnet = Testnet::up(&spec(&demo)?, &|line| teller.say(line)).await?;
    let state = testnet.state().clone();
    let told = Box::pin(tell(&demo, &mut testnet, &teller)).await;
    let mut checks = match told {
        Ok(checks) => checks,
        Err(error) if demo.keep => {
            testnet.detach();
            print!("{}", table::try_it(&state, None));
            return Err(error);
        }
        Err(error) => {
            for host in &state.hosts {
                let log = state.host_dir(host.number).join("blosm.log");
                eprintln!(
                    "--- {}, end of its log\n{}",
                    host.label,
                    crate::process::tail(&log, 15)
                );
            }
            return Err(error);
        }
    };
    if demo.keep {
        testnet.detach();
    } else {
        testnet.down()?;
        let left = cleanup::leftovers(&state.id, &state.dir);
        let detail = if left.is_empty() {
            "no process, namespace, mount, control group".to_owned()
        } else {
            left.join("; ")
        };
        checks.push(Check::new(
            "nothing is left on the machine",
            left.is_empty(),
            detail,
        ));
    }
    print!("{}", checks::render(&checks));
    teller.say("end");
    let failed = checks.iter().filter(|check| !check.ok).count();
    if failed > 0 {
        bail!("{failed} of {} checks failed", checks.len())
    } else {
        Ok(())
    }
}

fn spec(demo: &Demo) -> Result<Spec> {
    let mut spec = Spec {
        dir: demo.dir.clone(),
        rate: demo.rate,
        ..Spec::hosts(3)
    };
    let method = demo.method.as_str();
    spec.extra = format!("[migration]\nkeep_source = \"{KEEP_SOURCE}\"\nmethod = \"{method}\"")
        .parse()
        .context("the demo's settings")?;
    spec.hosts[1].extra = format!("[resources]\nmemory = \"{SMALL}\"")
        .parse()
        .context("host 2's settings")?;
    spec.hosts[2] = HostSpec {
        image: false,
        ..HostSpec::default()
    };
    Ok(spec)
}

/// Everything between up and down: drives, prints the tables, writes the file, and gives the checks.
async fn tell(demo: &Demo, testnet: &mut Testnet, teller: &Teller) -> Result<Vec<Check>> {
    let web = Web::offer(demo.web, testnet.state(), |line| teller.say(line)).await;
    let goodput = goodput::measure(testnet.state()).await?;
    for link in &goodput {
        teller.say(&format!(
            "{}'s link carries {:.1} Mbit/s up, {:.1} down",
            link.host, link.up_mbit, link.down_mbit
        ));
    }
    let before = engines(testnet).await?;
    let mut story = drive::drive(demo.method, testnet, teller, goodput, before, web.as_ref()).await?;
    if demo.compare {
        let (session, owner) = (&story.session, story.owner);
        let to = if owner == 3 { 2 } else { 3 };
        let by_hand = compare::by_hand(testnet, session, owner, to, teller).await;
        story.by_hand = Some(by_hand.context("moving the container by hand")?);
    }
    print!("{}", table::render(&story, testnet.state()));
    if let Some(file) = &demo.json {
        let reports: Vec<&Value> = story
            .migrations
            .iter()
            .map(|migration| &migration.report)
            .collect();
        let text = format!("{:#}\n", json!({"migrations": reports, "by_hand": story.by_hand}));
        std::fs::write(file, text).with_context(|| format!("{}", file.display()))?;
    }
    if demo.keep {
        print!("{}", table::try_it(testnet.state(), Some(&story)));
    }
    Ok(checks::all(&story))
}

async fn engines(testnet: &Testnet) -> Result<Vec<EngineView>> {
    let mut views = Vec::new();
    for host in &testnet.state().hosts {
        let engine = testnet.engine(host.number);
        let (containers, images) = tokio::try_join!(engine.containers(), engine.images())?;
        views.push(EngineView {
            host: host.label.clone(),
            containers,
            images,
        });
    }
    Ok(views)
}

/// The host that a report names.
fn host_of(state: &State, name: &Value) -> Option<usize> {
    state.find(name.as_str()?).map(|host| host.number)
}

//! One cell: a fresh session, a migration, the fault in the middle of it, the healing, and what became of all that.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use reqwest::Method as Verb;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::figures::{Seen, interrupted_until, longest_stall, served_after, served_calmly_after};
use super::plan::{AUTHORITY, Cell, Component, DESTINATION, SOURCE};
use super::row::{Found, Row};
use super::strike::{Watch, heal, strike};
use crate::car::{Car, CarPlan, Roadside};
use crate::client;
use crate::config::GATEWAY_PORT;
use crate::instances::Instance;
use crate::reports;
use crate::road::{location, stand};
use crate::service_log::ServiceLog;
use crate::testnet::Testnet;
use crate::witness::Witness;

/// Requests a second.
const RATE: u32 = 20;
/// The writable layer: seconds on the link where the phase is a long one, else as good as nothing.
const HEAVY: u64 = 20 * 1024 * 1024;
const LIGHT: u64 = 256 * 1024;
/// A fault lasts at least this long, and at most `LONG` if service does not come back by itself.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(8);
/// Service is there when nothing was interrupted for this long.
const CALM: Duration = Duration::from_secs(1);
/// For what has no bar of its own.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(50);

/// Runs one cell to its end. Whatever goes wrong is in the row.
pub(super) async fn run(testnet: &mut Testnet, cell: Cell) -> Row {
    let mut log = Vec::new();
    let found = match Drive::start(testnet, cell).await {
        Ok(drive) => drive.tell(testnet, &mut log).await,
        Err(error) => Err(error),
    };
    Row::of(cell, found, log)
}

/// A car with its session.
struct Drive {
    cell: Cell,
    car: Car,
    witness: Witness,
    token: String,
    session: String,
}

/// Where the nodes stand on the road that the car knows: without the authority.
const ROADSIDE: [usize; 2] = [SOURCE, DESTINATION];

impl Drive {
    async fn start(testnet: &Testnet, cell: Cell) -> Result<Drive> {
        let known = open_sessions(testnet, SOURCE).await?;
        let witness = Witness::start(testnet.state().clone())?;
        let mut nodes = Vec::new();
        for host in ROADSIDE {
            nodes.push(Roadside {
                location: location(stand(host)),
                gateway: (testnet.state().host(host)?.address, GATEWAY_PORT).into(),
            });
        }
        let plan = CarPlan {
            rate: RATE,
            start: stand(SOURCE),
            speed: 1.0,
            ..CarPlan::at("/counter/", nodes)
        };
        let car = Car::start(testnet.state().road().cars(), plan)?;
        let opened = until("the car's session opens", || async {
            Ok(car.token().or((!car.running()).then(String::new)))
        });
        let token = opened.await?;
        if token.is_empty() {
            bail!("no session: {:?}", car.records());
        }
        let opened = open_sessions(testnet, SOURCE).await?;
        let session = opened
            .difference(&known)
            .next()
            .context("the source does not list the car's session")?
            .clone();
        let drive = Drive {
            cell,
            car,
            witness,
            token,
            session,
        };
        drive.sealed(testnet).await?;
        let bytes = if cell.is_long() { HEAVY } else { LIGHT };
        drive
            .ask(
                testnet,
                SOURCE,
                Verb::POST,
                &format!("/counter/fill?bytes={bytes}"),
            )
            .await?;
        Ok(drive)
    }

    async fn tell(self, testnet: &mut Testnet, log: &mut Vec<String>) -> Result<Found> {
        let mut watch = Watch::begin(testnet, &self.session)?;
        let told = self.strike_and_heal(testnet, &mut watch).await;
        let found = match told {
            Ok(times) => self.find(testnet, times).await,
            Err(error) => Err(error),
        };
        *log = watch.into_lines();
        found
    }

    async fn strike_and_heal(&self, testnet: &mut Testnet, watch: &mut Watch) -> Result<Times> {
        let begin = self.now();
        // The node that is asked owns the session or will; until now it must not be asked, or it would ask for the
        // session itself.
        self.car
            .avoid(ROADSIDE.iter().position(|host| *host != self.cell.asked()));
        let order = migrate(testnet, &self.session, &self.cell)?;
        let moment = tokio::select! {
            moment = watch.moment(&self.cell) => moment,
            refused = refused(order) => Err(refused),
        };
        moment?;
        strike(testnet, self.cell.component)?;
        let fault = self.now();
        let steps: Vec<String> = watch
            .look()?
            .iter()
            .map(|(host, phase)| format!("host{host} {phase}"))
            .collect();
        // Both ends live, and only the new owner serves.
        if self.cell.component == Component::Link && steps.iter().any(|step| step.ends_with(" signed")) {
            self.ask_at(DESTINATION);
        }
        let served_unhealed = self.calm_or_long(testnet, fault).await;
        heal(testnet, self.cell.component).await?;
        let healed = self.now();
        let again = self.settled(testnet, healed).await;
        Ok(Times {
            begin,
            fault,
            healed,
            again,
            served_unhealed,
            steps,
        })
    }

    /// Lets the fault last until service is back by itself, or for long. With the authority dead the migration has its
    /// whole time. Whether service was there.
    async fn calm_or_long(&self, testnet: &Testnet, fault: f64) -> bool {
        let long = if self.cell.component == Component::Authority {
            PATIENCE
        } else {
            LONG
        };
        let deadline = Instant::now() + long;
        sleep(SHORT).await;
        loop {
            let calm = self.now() - interrupted_until(&self.car.records(), fault, self.now());
            let over =
                self.cell.component != Component::Authority || self.report(testnet).await.is_some_and(over);
            if calm >= millis(CALM) && over {
                return true;
            }
            if Instant::now() > deadline {
                return calm >= millis(CALM);
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until service is there again and nobody moves the session any more. When it was there, if it ever was.
    async fn settled(&self, testnet: &Testnet, healed: f64) -> Option<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            sleep(LOOK).await;
            let now = self.now();
            let again = served_calmly_after(&self.car.records(), healed, millis(CALM));
            let calm = now - interrupted_until(&self.car.records(), healed, now) >= millis(CALM);
            if (again.is_some() && calm && self.rests(testnet).await) || Instant::now() > deadline {
                return again;
            }
        }
    }

    /// Whether one node serves the session and no other one is about to take it.
    async fn rests(&self, testnet: &Testnet) -> bool {
        let mut phases = Vec::new();
        for host in ROADSIDE {
            let entry = session(testnet, host, &self.session).await.unwrap_or_default();
            phases.push(entry["phase"].as_str().unwrap_or("elsewhere").to_owned());
        }
        let moves = ["staging", "applied", "cut", "starting", "busy"];
        phases.iter().filter(|phase| *phase == "serving").count() == 1
            && !phases.iter().any(|phase| moves.contains(&phase.as_str()))
    }

    async fn find(self, testnet: &Testnet, times: Times) -> Result<Found> {
        let (owner, epoch) = self.owner_by_chain(testnet).await?;
        let report = self.report(testnet).await.unwrap_or_default();
        let live = self.live(testnet);
        let at = live.first().map_or(owner, |instance| instance.host);
        let (token, session) = (self.token.clone(), self.session.clone());
        // What is under way at the end is answered or given up by the nodes within their own limits.
        let records = timeout(PATIENCE, self.car.finish())
            .await
            .context("the car's last requests had no end")??;
        let seen = self.witness.stop();
        let text = ask(testnet, at, Verb::GET, "/counter/log", &token)
            .await
            .context("reading the service's log")?;
        let log = ServiceLog::parse(&text)?;
        let numbers = |wanted: fn(&crate::car::Record) -> bool| -> Vec<u64> {
            records
                .iter()
                .filter(|record| wanted(record))
                .map(|record| record.number)
                .collect()
        };
        let contiguity = log.check(&numbers(crate::car::Record::ok));
        let intact = contiguity.twice.is_empty()
            && contiguity.lost.is_empty()
            && contiguity
                .gaps
                .iter()
                .all(|gap| numbers(crate::car::Record::failed).contains(gap));
        let found = Found {
            steps: times.steps,
            outcome: report["outcome"].as_str().unwrap_or("unknown").to_owned(),
            error: report["error"].as_str().map(str::to_owned),
            healed_ms: times.healed - times.fault,
            served_from_fault_ms: served_after(&records, times.fault).map(|at| at - times.fault),
            served_from_heal_ms: times.again.map(|at| at - times.healed),
            stall_after_heal_ms: longest_stall(&records, times.healed),
            served_unhealed: times.served_unhealed,
            car: Seen::of(&records, times.begin),
            chain_owner: Some(owner),
            chain_epoch: epoch,
            live,
            instance: log
                .runs
                .last()
                .map(|run| run.instance.clone())
                .unwrap_or_default(),
            runs: log.runs.len(),
            contiguity,
            intact,
            most_live: seen.most,
            looks: seen.looks,
        };
        close(testnet, at, &token, &session).await?;
        Ok(found)
    }

    /// From now on the car asks that host's node.
    fn ask_at(&self, host: usize) {
        self.car.avoid(ROADSIDE.iter().position(|other| *other != host));
    }

    /// Milliseconds on the car's clock.
    fn now(&self) -> f64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since) - self.car.origin_unix_ms
    }

    async fn ask(&self, testnet: &Testnet, host: usize, verb: Verb, path: &str) -> Result<String> {
        ask(testnet, host, verb, path, &self.token).await
    }

    /// Waits until the chain has all that both nodes know of the session, and all have one chain.
    async fn sealed(&self, testnet: &Testnet) -> Result<()> {
        until("everything of the session is sealed", || async {
            for host in ROADSIDE {
                let unsealed = session(testnet, host, &self.session).await?["unsealed"].as_u64();
                if unsealed.unwrap_or(0) > 0 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        testnet.wait_agreed().await.map(drop)
    }

    async fn owner_by_chain(&self, testnet: &Testnet) -> Result<(usize, Option<u64>)> {
        self.sealed(testnet).await?;
        let entry = session(testnet, AUTHORITY, &self.session).await?;
        let owner = entry["owner_label"].as_str().unwrap_or_default();
        let host = testnet.state().find(owner).map(|host| host.number);
        let host = host.with_context(|| format!("the chain knows no owner: {entry}"))?;
        Ok((host, entry["epoch"].as_u64()))
    }

    /// The newest report of a migration of the session.
    async fn report(&self, testnet: &Testnet) -> Option<Value> {
        let all = reports::all(testnet).await.into_values();
        let mine =
            all.filter(|report| report["session"] == self.session.as_str() && report["reason"] == "operator");
        mine.max_by_key(|report| report["started_unix_ms"].as_u64())
    }

    fn live(&self, testnet: &Testnet) -> Vec<Instance> {
        live(testnet, &self.session)
    }
}

/// On the car's clock, in milliseconds.
struct Times {
    begin: f64,
    fault: f64,
    healed: f64,
    again: Option<f64>,
    served_unhealed: bool,
    steps: Vec<String>,
}

fn over(report: Value) -> bool {
    report["outcome"] != "running"
}

/// Starts the move, as `blosm migrate` does. The answer may never come: its node may be what is killed.
fn migrate(testnet: &Testnet, session: &str, cell: &Cell) -> Result<tokio::task::JoinHandle<Result<Value>>> {
    let client = testnet.client(SOURCE)?;
    let to = testnet.state().host(DESTINATION)?.label.clone();
    let order = json!({"session": session, "to": to, "method": cell.method.to_string()});
    Ok(tokio::spawn(async move {
        client.post("/v1/migrations", &order).await
    }))
}

/// Why the move was refused; waits for ever if it was not.
async fn refused(order: tokio::task::JoinHandle<Result<Value>>) -> anyhow::Error {
    match order.await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => std::future::pending().await,
    }
}

async fn ask(testnet: &Testnet, host: usize, verb: Verb, path: &str, token: &str) -> Result<String> {
    let state = testnet.state();
    let url = format!("http://{}:{GATEWAY_PORT}{path}", state.host(host)?.address);
    client::ask(&state.road().cars(), verb, &url, Some(token)).await
}

/// Ends a session, and sees its container go.
async fn close(testnet: &Testnet, at: usize, token: &str, session: &str) -> Result<()> {
    ask(testnet, at, Verb::DELETE, "/.blosm/session", token).await?;
    until("the session's container goes", || async {
        Ok(live(testnet, session).is_empty().then_some(()))
    })
    .await
}

fn live(testnet: &Testnet, session: &str) -> Vec<Instance> {
    let all = testnet.live_instances().into_iter();
    all.filter(|instance| instance.session.as_deref() == Some(session))
        .collect()
}

/// What a host's node says of a session; null, if it knows nothing of it.
async fn session(testnet: &Testnet, host: usize, session: &str) -> Result<Value> {
    let list = testnet.client(host)?.get("/v1/sessions").await?;
    let found = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["session"] == session);
    Ok(found.cloned().unwrap_or_default())
}

async fn open_sessions(testnet: &Testnet, host: usize) -> Result<BTreeSet<String>> {
    let list = testnet.client(host)?.get("/v1/sessions").await?;
    let open = list
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["status"] == "open");
    Ok(open
        .filter_map(|entry| entry["session"].as_str().map(str::to_owned))
        .collect())
}

/// Asks again and again until there is something.
async fn until<T, F, Fut>(what: &str, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        sleep(LOOK).await;
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

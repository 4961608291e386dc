//! The drive itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::{DRIVE, EngineView, Identities, Method as How, Migration, Neighbour, Story, engines, host_of};
use crate::car::{Car, CarPlan, NODE, POSITION, Record};
use crate::client;
use crate::config::GATEWAY_PORT;
use crate::events::Follow;
use crate::goodput::Goodput;
use crate::node::Node;
use crate::reports;
use crate::road::{location, metres, stand};
use crate::service_log::ServiceLog;
use crate::teller::Teller;
use crate::testnet::Testnet;
use crate::web::Web;

/// Requests a second.
const RATE: u32 = 20;
/// Metres a second: a fast road, so that the whole drive takes about a minute.
const SPEED: f64 = 40.0;
/// How long the car stands at each node before it drives on, so that each stop has plain requests too.
const DWELL: Duration = Duration::from_secs(4);
/// How long a migration may take once the car has left.
const MOVE: Duration = Duration::from_secs(60);
/// How long a former owner's container may stay beyond `keep_source`.
const GONE: Duration = Duration::from_secs(45);
/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often the car says where it is.
const SAY: Duration = Duration::from_secs(5);

pub(super) async fn drive(
    method: How,
    testnet: &Testnet,
    teller: &Teller,
    goodput: Vec<Goodput>,
    before: Vec<EngineView>,
    web: Option<&Web>,
) -> Result<Story> {
    let car = Car::start(
        testnet.state().road().cars(),
        CarPlan::past(testnet.state(), RATE, SPEED),
    )?;
    if let Some(web) = web {
        web.show(car.view());
    }
    let session = open(testnet, &car, teller).await?;
    let logs = testnet.state().hosts.iter().map(|host| {
        let node = Node::of(testnet.state(), host.number)?;
        Ok((host.number, Follow::from_end(node.log())))
    });
    let mut trip = Trip {
        testnet,
        teller,
        car,
        session,
        migrations: Vec::new(),
        logs: logs.collect::<Result<_>>()?,
        outcomes: BTreeMap::new(),
        owner: 1,
    };
    trip.stand_still().await?;
    let mut neighbour = None;
    for to in DRIVE {
        trip.go(to).await?;
        // The first time at host 2: the car's container fills it.
        if neighbour.is_none() {
            neighbour = Some(second_car(testnet, teller, to).await?);
        }
        trip.stand_still().await?;
    }
    let neighbour = neighbour.context("the drive has a stop")?;
    let Trip {
        car,
        session,
        migrations,
        owner,
        ..
    } = trip;
    let token = car.token().context("the session was opened")?;
    let origin = car.origin_unix_ms;
    let records = car.finish().await?;
    teller.say(&format!("the car stops after {} requests", records.len()));
    let log = ServiceLog::parse(&fetch_log(testnet, owner, &token).await?)?;
    let answered: Vec<u64> = records
        .iter()
        .filter(|record| record.ok())
        .map(|record| record.number)
        .collect();
    let contiguity = log.check(&answered);
    wait_former_gone(testnet, teller, &session, owner).await?;
    // The heights of the last transactions may have come in since.
    let migrations = refresh(testnet, migrations, &records, origin).await;
    let after = engines(testnet).await?;
    Ok(Story {
        method,
        migrations,
        records,
        log,
        contiguity,
        neighbour,
        goodput,
        before,
        after,
        session,
        owner,
        by_hand: None,
    })
}

/// Waits until the car's first request is answered; gives the session's id.
async fn open(testnet: &Testnet, car: &Car, teller: &Teller) -> Result<String> {
    let deadline = Instant::now() + MOVE;
    while car.token().is_none() {
        if !car.running() || Instant::now() > deadline {
            let why = car
                .records()
                .first()
                .and_then(|record| record.error.clone())
                .unwrap_or_default();
            bail!("the car's session was not opened: {why}");
        }
        tokio::time::sleep(LOOK).await;
    }
    let sessions = testnet.client(1)?.get("/v1/sessions").await?;
    let session = sessions
        .as_array()
        .into_iter()
        .flatten()
        .find(|session| session["service"] == "counter");
    let id = session
        .and_then(|session| session["session"].as_str())
        .context("host 1 shows the car's session")?;
    teller.say(&format!(
        "the car's first request opened session {} on host1 and started its container",
        short(id)
    ));
    Ok(id.to_owned())
}

/// A drive under way.
struct Trip<'a> {
    testnet: &'a Testnet,
    teller: &'a Teller,
    car: Car,
    session: String,
    migrations: Vec<Migration>,
    /// The logs of all nodes, by host.
    logs: Vec<(usize, Follow)>,
    /// The last outcome that was told of each migration.
    outcomes: BTreeMap<String, String>,
    owner: usize,
}

impl Trip<'_> {
    /// Drives to a host and waits until the container has followed.
    async fn go(&mut self, to: usize) -> Result<()> {
        let from = self.owner;
        self.teller
            .say(&format!("the car leaves host{from} for host{to}"));
        self.car.drive_to(stand(to));
        let deadline = Instant::now() + MOVE;
        let mut say = Instant::now() + SAY;
        let mut moved = None;
        while moved.is_none() || !self.car.arrived() {
            if !self.car.running() {
                bail!("the car broke down");
            }
            if Instant::now() > deadline {
                bail!("host{to} has not taken the container after {MOVE:?}");
            }
            if Instant::now() > say {
                self.say_where();
                say += SAY;
            }
            self.say_steps()?;
            if moved.is_none() {
                moved = self.look(to).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
        let report = moved.context("the loop ends with one")?;
        let identity = self.identities(from, to).await?;
        self.migrations.push(Migration {
            from,
            to,
            report,
            identity,
            worst_ms: 0.0,
        });
        self.owner = to;
        Ok(())
    }

    /// Tells what is new of the migrations; gives the report of a new completed one to that host.
    async fn look(&mut self, to: usize) -> Result<Option<Value>> {
        let known: Vec<&Value> = self
            .migrations
            .iter()
            .map(|migration| &migration.report["id"])
            .collect();
        let mut done = None;
        for (id, report) in reports::all(self.testnet).await {
            if report["session"] != self.session.as_str() || known.contains(&&report["id"]) {
                continue;
            }
            let outcome = report["outcome"].as_str().unwrap_or_default().to_owned();
            if self.outcomes.get(&id) != Some(&outcome) {
                let name = |key: &str| {
                    host_of(self.testnet.state(), &report[key])
                        .map_or_else(|| "?".to_owned(), |n| format!("host{n}"))
                };
                let why = report["error"]
                    .as_str()
                    .map(|why| format!(": {why}"))
                    .unwrap_or_default();
                let (from, to) = (name("source"), name("destination"));
                self.teller.say(&format!(
                    "migration {} {from} -> {to}: {outcome}{why}",
                    short(&id)
                ));
            }
            if outcome == "completed" && host_of(self.testnet.state(), &report["destination"]) == Some(to) {
                done = Some(report);
            }
            self.outcomes.insert(id, outcome);
        }
        Ok(done)
    }

    /// Tells the steps of migrations as the nodes log them.
    fn say_steps(&mut self) -> Result<()> {
        for (host, log) in &mut self.logs {
            for step in log.steps()? {
                self.teller.say(&format!(
                    "  host{host}: {} ({})",
                    step.phase,
                    short(&step.attempt)
                ));
            }
        }
        Ok(())
    }

    fn say_where(&self) {
        let tally = self.car.tally();
        let node = tally.last_node.as_deref().unwrap_or("nobody");
        self.teller.say(&format!(
            "the car is at {:.0} m, served by {node}: {} sent, {} answered, {} under way, {} failed, median {:.1} ms, worst {:.0} ms",
            metres(self.car.location()), tally.sent, tally.ok, tally.open, tally.failed, tally.median_ms, tally.max_ms
        ));
    }

    async fn stand_still(&self) -> Result<()> {
        let end = Instant::now() + DWELL;
        while Instant::now() < end {
            if !self.car.running() {
                bail!("the car broke down");
            }
            tokio::time::sleep(LOOK).await;
        }
        self.say_where();
        Ok(())
    }

    /// The image of the container that serves now, on the engine that took it and on the one that gave it.
    async fn identities(&self, from: usize, to: usize) -> Result<Identities> {
        let containers = self.testnet.engine(to).containers().await?;
        let serving = containers
            .iter()
            .find(|c| c.running && c.session.as_deref() == Some(&self.session));
        let image = serving
            .with_context(|| format!("host{to}'s engine runs the session's container"))?
            .image_id
            .clone();
        let (source, destination) = (self.testnet.engine(from), self.testnet.engine(to));
        let (source, destination) = tokio::join!(source.identity(&image), destination.identity(&image));
        Ok(Identities {
            image,
            source: source.ok(),
            destination: destination.ok(),
        })
    }
}

/// The second car asks the full node for the stateless service.
async fn second_car(testnet: &Testnet, teller: &Teller, number: usize) -> Result<Neighbour> {
    let host = testnet.state().host(number)?;
    let url = format!("http://{}:{GATEWAY_PORT}/echo/", host.address);
    let (latitude, longitude) = location(stand(number));
    let job = move || async move {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()?;
        let call = client
            .post(url)
            .header(POSITION, format!("{latitude:.6},{longitude:.6}"));
        let response = call.header("x-number", 1).body("1").send().await?;
        let served = response
            .headers()
            .get(NODE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("?")
            .to_owned();
        Ok::<_, reqwest::Error>((response.status().as_u16(), served, response.text().await?))
    };
    let (status, served, body) = testnet
        .state()
        .road()
        .cars()
        .run(job)
        .await?
        .context("the second car's request")?;
    teller.say(&format!(
        "a second car asks {} (full) for a stateless answer: status {status}, served by {served}",
        host.label
    ));
    Ok(Neighbour {
        asked: host.label.clone(),
        status,
        served,
        body: body.trim().to_owned(),
    })
}

async fn fetch_log(testnet: &Testnet, owner: usize, token: &str) -> Result<String> {
    let address = testnet.state().host(owner)?.address;
    let url = format!("http://{address}:{GATEWAY_PORT}/counter/log");
    client::ask(&testnet.state().road().cars(), Method::GET, &url, Some(token))
        .await
        .context("reading the service's log through the gateway")
}

/// Waits until no engine but the owner's has a container of the session.
async fn wait_former_gone(testnet: &Testnet, teller: &Teller, session: &str, owner: usize) -> Result<()> {
    teller.say(&format!(
        "waiting until the former owners' containers are gone (keep_source is {})",
        super::KEEP_SOURCE
    ));
    let deadline = Instant::now() + GONE;
    loop {
        let others = testnet.state().hosts.iter().filter(|host| host.number != owner);
        let lists =
            join_all(others.map(|host| async move { testnet.engine(host.number).containers().await })).await;
        let lists = lists.into_iter().collect::<Result<Vec<_>>>()?;
        let left = lists
            .iter()
            .flatten()
            .filter(|c| c.session.as_deref() == Some(session))
            .count();
        if left == 0 || Instant::now() > deadline {
            // The checks say whether one is left.
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The reports as they stand at the end, and what the car saw during each.
async fn refresh(
    testnet: &Testnet,
    migrations: Vec<Migration>,
    records: &[Record],
    origin: f64,
) -> Vec<Migration> {
    let reports = reports::all(testnet).await;
    let newest = |migration: Migration| {
        let report = migration.report["id"]
            .as_str()
            .and_then(|id| reports.get(id).cloned());
        let report = report.unwrap_or(migration.report);
        Migration {
            worst_ms: reports::worst_ms(records, origin, &report),
            report,
            ..migration
        }
    };
    migrations.into_iter().map(newest).collect()
}

pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

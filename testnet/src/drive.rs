//! `blosm-testnet drive`: cars on the road of a testnet that runs, back and forth past all of its nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::RangedU64ValueParser;
use serde_json::json;
use tokio::time::Instant;

use crate::car::{CarPlan, FASTEST, MOST_REQUESTS, MOST_STATE, OPENINGS, Roadside};
use crate::fleet::{Fleet, FleetTally, MOST, part};
use crate::route::Route;
use crate::state::State;
use crate::teller::Teller;
use crate::testnet::Testnet;
use crate::web::{self, Web};

/// How often it is said how the cars fare.
const SAY: Duration = Duration::from_secs(5);

/// Drive cars past the nodes of a testnet that runs, and show what they see
#[derive(Debug, clap::Args)]
pub struct Drive {
    /// How many cars, spread evenly over the road
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST as u64))]
    cars: usize,
    /// For how long, such as 10m [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
    /// Requests a second of each car
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_REQUESTS)))]
    rate: u32,
    /// Metres a second; the nodes stand 500 m apart
    #[arg(long, default_value_t = 25.0, value_name = "M", value_parser = speed)]
    speed: f64,
    /// The service that they ask, one that keeps a session's state
    #[arg(long, default_value = "counter", value_name = "NAME")]
    service: String,
    /// Incompressible bytes that each session's container holds, so that it has something to carry
    #[arg(long, default_value_t = 0, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=MOST_STATE))]
    state_bytes: u64,
    /// Where the live page is served
    #[arg(long, default_value = web::LISTEN, value_name = "ADDR:PORT")]
    web: SocketAddr,
    /// Write what the cars saw to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Drives them.
///
/// # Errors
/// No car is answered, or one broke down on the way.
pub async fn run(drive: Drive, testnet: &Testnet) -> Result<()> {
    let teller = Teller::begin();
    let fleet = Fleet::start(&testnet.state().cars(), plans(&drive, testnet.state())?)?;
    let web = Web::offer(drive.web, testnet.state(), |line| teller.say(line)).await;
    if let Some(web) = &web {
        fleet.views().for_each(|car| web.show(car));
    }
    let begin = Instant::now();
    let end = drive.lasts.map(|lasts| begin + lasts);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let next = Instant::now() + SAY;
        let until = end.map_or(next, |end| end.min(next));
        let stopped = tokio::select! {
            () = tokio::time::sleep_until(until) => false,
            _ = &mut stop => true,
        };
        teller.say(&fleet.tally().to_string());
        if fleet.stranded() == drive.cars {
            break;
        }
        if stopped || end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
    }
    let took = begin.elapsed();
    let cars = tokio::select! {
        cars = fleet.finish() => cars,
        // A request that is under way may take as long as a car has patience; whoever presses twice has none.
        _ = tokio::signal::ctrl_c() => std::process::exit(130),
    };
    let (seen, broken) = part(cars);
    let tally = FleetTally::of(seen.iter().map(|car| car.records.as_slice()));
    teller.say(&format!(
        "all answers are in: {tally}; {:.2} changes a second",
        tally.changes as f64 / took.as_secs_f64()
    ));
    if let Some(file) = &drive.json {
        let value = json!({"seconds": took.as_secs_f64(), "cars": tally, "broken": broken});
        std::fs::write(file, format!("{value:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    if !broken.is_empty() {
        bail!(
            "{} of {} cars broke down: {}",
            broken.len(),
            drive.cars,
            broken.join("; ")
        );
    }
    if tally.ok == 0 {
        bail!("no car was answered");
    }
    Ok(())
}

fn plans(drive: &Drive, state: &State) -> Result<Vec<(String, CarPlan)>> {
    let nodes = Roadside::all(state);
    let places: Vec<(f64, f64)> = nodes.iter().map(|node| node.location).collect();
    let plans = (0..drive.cars).map(|index| {
        let phase = index as f64 / drive.cars as f64;
        let route = Route::shuttle(&places, drive.speed, phase).context("this testnet has no nodes")?;
        let plan = CarPlan {
            rate: drive.rate,
            route: Some(route),
            openings: OPENINGS,
            state_bytes: drive.state_bytes,
            ..CarPlan::at(&format!("/{}/", drive.service), nodes.clone())
        };
        Ok((format!("car{}", index + 1), plan))
    });
    plans.collect()
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if speed > 0.0 && speed <= FASTEST {
        Ok(speed)
    } else {
        Err(format!(
            "a speed lies above 0 and is at most {FASTEST}: nodes do not believe in faster cars"
        ))
    }
}

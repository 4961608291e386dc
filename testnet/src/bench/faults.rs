//! `blosm-testnet bench faults`: every part of a testnet is killed in every phase of a migration.
//!
//! ```text
//!   host 1: the authority        host 2: source  ---- migration ---->  host 3: destination
//!                                     ^                                     ^
//!                                     '---------- a car asks one of them ---'
//! ```
//! A cell is a fresh session, a migration that is ordered, a fault at the moment when a node logs the phase, and the
//! healing: by then service has come back by itself, or it has had eight seconds for it. What became of the session is
//! asked of those that can't be wrong: the process list, the service's own log, the car. The bars: never more than one
//! container of a session, its state whole, service within five seconds of the healing, the chain and the world agree;
//! and without the authority everything goes on.

mod cell;
mod figures;
mod plan;
mod row;
mod strike;

pub use figures::Seen;
pub use plan::{Cell, Component, Method, Phase};
pub use row::{Found, Row, markdown};

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use toml::{Table, Value};

use crate::config;
use crate::teller::Teller;
use crate::testnet::{HostSpec, Spec, Testnet};

/// Sessions move when they are told to and never by themselves, former containers go soon, and no request waits for
/// longer than a fault and its healing take.
const SETTINGS: &str = r#"
    [migration]
    min_stay = "1h"
    keep_source = "5s"
    [gateway]
    hold_time = "30s"
"#;
/// Between two cells: nodes that were killed have found each other again.
const WHOLE: Duration = Duration::from_secs(30);

/// Kill each part of a testnet in each phase of a migration and see what becomes of the session
#[derive(Debug, clap::Args)]
pub struct Faults {
    /// Write the table with every figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to hit [default: everything]
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Component>,
    /// When to hit it [default: in every phase of the method]
    #[arg(long, value_delimiter = ',', value_name = "PHASE,...")]
    phases: Vec<Phase>,
    /// How the sessions are moved
    #[arg(long, default_value = "live")]
    method: Method,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the table and prints it.
///
/// # Errors
/// It could not be run, or a bar is broken.
pub async fn run(faults: Faults) -> Result<()> {
    let cells = Cell::all(faults.method, &faults.only, &faults.phases)?;
    let (begin, teller) = (Instant::now(), Teller::begin());
    let rows = walk(&cells, faults.dir, &|line| teller.say(line)).await?;
    for row in rows.iter().filter(|row| !row.broken.is_empty()) {
        println!(
            "\n{} in {}: {}\n{}",
            row.component,
            row.phase,
            row.broken.join("; "),
            row.log.join("\n")
        );
    }
    println!("\n{}", markdown(&rows));
    if let Some(file) = &faults.json {
        let seconds = begin.elapsed().as_secs_f64();
        let document = json!({"schema": 1, "method": faults.method, "seconds": seconds, "rows": rows});
        std::fs::write(file, format!("{document:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    let broken = rows.iter().filter(|row| !row.broken.is_empty()).count();
    if broken > 0 {
        bail!("{broken} of {} cells break a bar", rows.len());
    }
    teller.say(&format!("all {} cells hold", rows.len()));
    Ok(())
}

/// Runs these cells one after another on one testnet, which is made anew where a cell leaves it in pieces.
///
/// # Errors
/// A testnet could not be brought up or taken down. What goes wrong in a cell is in its row.
pub async fn walk(cells: &[Cell], dir: Option<PathBuf>, say: &(dyn Fn(&str) + Sync)) -> Result<Vec<Row>> {
    let spec = Spec { dir, ..spec()? };
    let mut testnet = Box::pin(Testnet::up(&spec, say)).await?;
    let mut rows = Vec::with_capacity(cells.len());
    for (index, cell) in cells.iter().enumerate() {
        let row = Box::pin(cell::run(&mut testnet, *cell)).await;
        say(&format!(
            "{:>2} of {}: {}",
            index + 1,
            cells.len(),
            sentence(&row)
        ));
        let lost = row.found.is_none();
        rows.push(row);
        if index + 1 == cells.len() {
            break;
        }
        let whole = if lost {
            Err(anyhow::anyhow!("the cell had no end"))
        } else {
            whole(&testnet).await
        };
        if let Err(error) = whole {
            say(&format!("a new testnet, since {error:#}"));
            testnet.down()?;
            testnet = Box::pin(Testnet::up(&spec, say)).await?;
        }
    }
    testnet.down()?;
    Ok(rows)
}

fn sentence(row: &Row) -> String {
    let bars = if row.broken.is_empty() {
        String::new()
    } else {
        format!("  BROKEN: {}", row.broken.join("; "))
    };
    let Some(found) = &row.found else {
        return format!("{} in {}{bars}", row.component, row.phase);
    };
    let ms = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "{} in {}: {}, host{} serves; again {} after the fault, {} after the healing; {} of {} failed{bars}",
        row.component,
        row.phase,
        found.outcome,
        found.serves().unwrap_or_default(),
        ms(found.served_from_fault_ms),
        ms(found.served_from_heal_ms),
        found.car.failed,
        found.car.sent,
    )
}

fn spec() -> Result<Spec> {
    let mut spec = Spec {
        services: |image| vec![config::counter(image)],
        extra: SETTINGS.parse().context("the settings of the nodes")?,
        ..Spec::hosts(plan::DESTINATION)
    };
    // The authority's node serves no cars.
    spec.hosts[plan::AUTHORITY - 1] = HostSpec {
        extra: Table::from_iter([("service".to_owned(), Value::Array(Vec::new()))]),
        ..HostSpec::default()
    };
    Ok(spec)
}

/// Every part runs and knows the others.
async fn whole(testnet: &Testnet) -> Result<()> {
    let deadline = tokio::time::Instant::now() + WHOLE;
    let others = testnet.state().hosts.len() - 1;
    for host in &testnet.state().hosts {
        testnet.engine(host.number).client()?.ping().await?;
        loop {
            let client = testnet.client(host.number)?;
            let peers = client.get("/v1/peers").await?;
            let known: BTreeSet<&str> = peers
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|peer| peer["label"].as_str())
                .collect();
            if client.ready().await && known.len() >= others {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} knows {known:?} only", host.label);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    testnet.wait_agreed().await.map(drop)
}

//! `blosm-testnet bench`: what a move costs, beside what people do today, on real engines and a shaped link.
//!
//! ```text
//! Site (authority | host 2 <== link ==> host 3) -> turns -> by_node (blosm migrate) | by_hand (registry, save | load,
//!                                                          restart) -> row -> document, table
//! ```
//! Each run begins with a fresh container that writes, and two cars: one whose container moves, and one whose
//! requests cross the same link meanwhile. Apart from that, [`faults`] tells what becomes of a session when a part dies,
//! [`gossip`] how a network of many processes confirms, and [`bandwidth`] what a link carries by whose word.

mod authority;
pub mod bandwidth;
mod bars;
mod by_hand;
mod by_node;
pub mod faults;
mod figures;
pub mod gossip;
mod layer;
mod link;
pub(crate) mod pipe;
mod plan;
mod registry;
mod ride;
mod row;
mod site;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cleanup;
use crate::hosts::Rate;
use crate::process::tail;
use crate::shell;
use crate::teller::Teller;
use bandwidth::Link;
use faults::Faults;
use figures::Case;
use gossip::Gossip;
use plan::{Method, Size, Turn, turns};
use site::{Needs, Site};

/// How long everything runs undisturbed before a move.
const QUIET: Duration = Duration::from_secs(2);
/// How long the cars drive on after it.
const AFTER: Duration = Duration::from_secs(1);

/// What can be measured.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Move a container that writes, by each method, and compare
    Migrate(Migrate),
    /// Kill each part of a testnet in each phase of a migration and see what becomes of the session
    Faults(Faults),
    /// Confirm blocks in a network of many processes, and flood bare messages through it
    Gossip(Gossip),
    /// Measure a link by `blosm bandwidth` and by iperf3
    Link(Link),
}

/// Move a container that writes, by each method, and compare
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// Write the document to this file, anew after each run
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The capacity of each host's link, both ways, in megabits a second
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    link_mbit: u64,
    /// Base images: small (100 MB), or a size such as 264MB or 2GB
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "small,264MB,2GB",
        value_name = "LIST"
    )]
    images: Vec<Size>,
    /// Runs of live and stateless for each image; of image, registry and restart 3, of save-load 1 at most
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// A base image that the destination does not have, whose coming is measured beside the live method
    #[arg(long, default_value = "264MB", value_name = "SIZE")]
    cold: Size,
    /// Runs with it
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    cold_runs: u32,
    /// Which methods [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    methods: Vec<Method>,
    /// How late everything from and to the authority arrives, one way
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    authority_delay_ms: u64,
    /// Stop the authority before anything moves
    #[arg(long)]
    authority_stopped: bool,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Measures.
///
/// # Errors
/// Something could not be done, a run did not complete, or a bar is broken.
pub async fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Migrate(options) => Box::pin(migrate(options)).await,
        Bench::Faults(options) => Box::pin(faults::run(options)).await,
        Bench::Gossip(options) => Box::pin(gossip::run(options)).await,
        Bench::Link(options) => Box::pin(bandwidth::run(options)).await,
    }
}

async fn migrate(options: Migrate) -> Result<()> {
    let teller = Teller::begin();
    let methods = if options.methods.is_empty() {
        Method::value_variants().to_vec()
    } else {
        options.methods.clone()
    };
    preflight(&methods)?;
    let cold_runs = match methods.contains(&Method::Live) {
        true => options.cold_runs,
        false => 0,
    };
    let needs = Needs {
        dir: options.dir.clone(),
        rate: Rate::mbit(options.link_mbit),
        images: sizes(&options.images),
        cold: (cold_runs > 0).then(|| options.cold.clone()),
        methods: methods.clone(),
        authority_delay: Duration::from_millis(options.authority_delay_ms),
        authority_stopped: options.authority_stopped,
    };
    let site = Site::up(&needs, &teller).await?;
    let bench = Measuring {
        options: &options,
        names: needs.images.iter().map(|size| size.name.clone()).collect(),
        site: &site,
        teller: &teller,
    };
    let mut turns = turns(needs.images.len(), &methods, options.runs);
    turns.extend(plan::cold(needs.images.len(), cold_runs));
    let rows = bench.all(&turns).await?;
    let ratios = figures::ratios(&rows, &bench.names);
    let bars = bars::bars(&rows, &ratios);
    print!("{}", table::render(&rows, &bench.cases(&methods), &ratios));
    print!("{}", bars::render(&bars));
    site.testnet.down()?;
    teller.say("end");
    let broken = rows.iter().filter(|row| row["outcome"] != "completed").count();
    let missed = bars.iter().filter(|bar| bar.holds() == Some(false)).count();
    if broken + missed > 0 {
        bail!(
            "{broken} of {} runs did not complete, and {missed} of {} bars are missed",
            rows.len(),
            bars.len()
        );
    }
    Ok(())
}

/// What the bench needs beyond a testnet.
fn preflight(methods: &[Method]) -> Result<()> {
    let mut needed = vec!["iperf3"];
    if methods.contains(&Method::Registry) {
        needed.push("docker-registry");
    }
    installed(&needed)
}

/// Refuses to begin without these programs; each has a package of its name.
fn installed(needed: &[&str]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|name| shell::find(name).is_none())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        bail!("not on the PATH; install the packages: {}", missing.join(" "))
    }
}

/// Each once, the smallest first.
fn sizes(wanted: &[Size]) -> Vec<Size> {
    let mut sizes = wanted.to_vec();
    sizes.sort_by(|a, b| a.bytes.cmp(&b.bytes).then_with(|| b.name.cmp(&a.name)));
    sizes.dedup_by(|a, b| a.bytes == b.bytes);
    sizes
}

struct Measuring<'a> {
    options: &'a Migrate,
    names: Vec<String>,
    site: &'a Site,
    teller: &'a Teller,
}

impl Measuring<'_> {
    /// The lines of the table.
    fn cases(&self, methods: &[Method]) -> Vec<Case> {
        let cold = Case {
            base_cached: false,
            ..Case::cached(&self.options.cold.name, Method::Live)
        };
        let of = self
            .names
            .iter()
            .flat_map(|name| methods.iter().map(move |method| Case::cached(name, *method)));
        of.chain([cold]).collect()
    }

    /// Does all runs and writes the document after each.
    async fn all(&self, turns: &[Turn]) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        let mut given_up: BTreeSet<(usize, Method)> = BTreeSet::new();
        for (index, turn) in turns.iter().enumerate() {
            if given_up.contains(&(turn.image, turn.method)) {
                continue;
            }
            let what = format!(
                "{}/{} {}{} by {}, run {}, host{} -> host{}",
                index + 1,
                turns.len(),
                self.site.images[turn.image].size,
                if turn.base_cached { "" } else { " cold" },
                turn.method.as_str(),
                turn.run,
                turn.from,
                turn.to
            );
            let done = if turn.method.by_node() {
                Box::pin(by_node::run(self.site, turn)).await
            } else {
                Box::pin(by_hand::run(self.site, turn)).await
            };
            match done {
                Ok(row) => {
                    self.teller.say(&format!("{what}: {}", summary(&row)));
                    rows.push(row);
                }
                // What breaks while everything is taken down is no finding.
                Err(_) if cleanup::interrupted() => bail!("interrupted"),
                Err(error) => {
                    self.teller.say(&format!("{what}: FAILED: {error:#}"));
                    self.show_logs(turn);
                    rows.push(row::failed(&self.site.subject(turn), &error));
                    // What fails at once would fail each time; a single failure among others is a finding.
                    if turn.run == 1 {
                        given_up.insert((turn.image, turn.method));
                    }
                }
            }
            if let Some(file) = &self.options.json {
                self.write(file, &rows)?;
            }
        }
        Ok(rows)
    }

    fn show_logs(&self, turn: &Turn) {
        for host in [turn.from, turn.to] {
            let log = self.site.testnet.state().host_dir(host).join("blosm.log");
            eprintln!("--- host{host}, end of its log\n{}", tail(&log, 8));
        }
    }

    fn write(&self, file: &Path, rows: &[Value]) -> Result<()> {
        let text = format!("{:#}\n", self.document(rows));
        std::fs::write(file, text).with_context(|| format!("{}", file.display()))
    }

    fn document(&self, rows: &[Value]) -> Value {
        let from = |host| self.site.goodput_mbit(host);
        let [a, b] = site::MOVERS;
        let ratios = figures::ratios(rows, &self.names);
        let bars = bars::bars(rows, &ratios);
        json!({
            "link_mbit": self.options.link_mbit,
            "link_delay_ms": self.site.link_delay_ms,
            "goodput_mbit": [from(a), from(b)],
            "authority_delay_ms": self.options.authority_delay_ms,
            "authority_stopped": self.options.authority_stopped,
            "rows": rows,
            "ratios": ratios,
            "bars": bars.iter().map(bars::Bar::json).collect::<Vec<_>>(),
        })
    }
}

fn summary(row: &Value) -> String {
    let figure = |field: &str| row[field].as_f64().unwrap_or(0.0);
    let staged = row["stage_goodput_mbit"].as_f64();
    let staged = staged.map(|mbit| format!(", the base came at {mbit:.1} Mbit/s"));
    format!(
        "downtime {:.0} ms, total {:.2} s (floor {:.2}), {:.1} MB on the wire, {} failed, {} interrupted{}",
        figure("downtime_ms"),
        figure("total_ms") / 1000.0,
        figure("floor_ms") / 1000.0,
        figure("wire_bytes") / 1e6,
        row["car"]["failed"],
        row["car"]["interrupted"],
        staged.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_smallest_first_and_once() {
        let wanted: Vec<Size> = ["2GB", "100MB", "264MB", "small"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let names: Vec<String> = sizes(&wanted).into_iter().map(|size| size.name).collect();
        assert_eq!(names, ["small", "264MB", "2GB"]);
    }
}

//! `blosm-testnet check-dashboards`: does every query of every dashboard have something to show? Against a small testnet
//! with cars and faults, and a real Prometheus that finds its nodes as an operator's would.
//!
//! ```text
//!  grafana/dashboards/*.json ──model──> queries ──fill(values)──> Prometheus ──judge──> data | empty | unknown | error
//!                                          variables ───────────────^
//! ```
//! A panel that is empty in health is filled by `load`, which makes what it shows happen. What it has made happen has to
//! have left 0.

mod fill;
mod judge;
mod load;
mod model;
mod page;
mod prometheus;
mod promql;
mod promtool;
mod rogue;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::{Instant, sleep};

use crate::cleanup;
use crate::monitor::{self, Wish, files};
use crate::teller::Teller;
use crate::testnet::{Spec, Testnet};
use fill::Values;
use judge::{Finding, judge};
use model::{Dashboard, Query, Source, Variable};
use prometheus::{Prometheus, Span};

/// Seconds between two readings of a node.
const EVERY_S: u32 = 1;
/// The window of rates: Grafana takes at least four readings.
const RATE: &str = "15s";
/// How far the points of a graph are apart, in seconds.
const STEP: f64 = 2.0;
/// How long Prometheus may take to find and read all nodes.
const FIND: Duration = Duration::from_secs(60);

/// Ask Prometheus everything that the dashboards ask, over a small testnet with load and faults
#[derive(Debug, clap::Args)]
pub struct CheckDashboards {
    /// Dashboards [default: those of the project, as they were when this program was built]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the testnet and Prometheus running at the end
    #[arg(long)]
    keep: bool,
}

/// Checks. The last line that it prints is `N queries, N with data`.
///
/// # Errors
/// A query has nothing to show, names a metric that there is not, or cannot be answered; or the testnet did not do what it
/// should.
pub async fn run(options: CheckDashboards) -> Result<()> {
    let teller = Teller::begin();
    monitor::prometheus()?;
    let dashboards = read(&options.files)?;
    let spec = Spec {
        dir: options.dir.clone(),
        ..load::spec()?
    };
    let mut testnet = Testnet::up(&spec, &|line| teller.say(line)).await?;
    let began = now();
    let how = Wish {
        every_s: Some(EVERY_S),
        with_grafana: false,
        alerts_at_once: true,
    };
    let watching = monitor::start(&mut testnet, &how).await?;
    let url = watching.prometheus.context("Prometheus was started")?.url;
    teller.say(&format!("Prometheus listens on {url}"));
    let prometheus = Prometheus::at(&url)?;
    found(&prometheus, spec.hosts.len()).await?;
    let driving = load::begin(&mut testnet, &prometheus, &teller).await?;
    promtool::check(&testnet).await?;
    teller.say("promtool has nothing against the metrics, the rules and the configuration");
    // What was counted last has to be read, and to lie within a rate's window.
    sleep(Duration::from_secs(u64::from(3 * EVERY_S))).await;
    let span = Span {
        from: began,
        to: now(),
        step: STEP,
    };
    let known = prometheus.names().await?;
    let broken_alerts = alerts(&prometheus, &known).await?;
    let unmoved = moved(&prometheus, span).await?;
    let tally = ask(&prometheus, &dashboards, span, &known).await?;
    drop(driving);
    if options.keep {
        println!("Prometheus: {url}");
        println!("blosm-testnet down --dir {}", testnet.state().dir.display());
        testnet.detach();
    } else {
        let state = testnet.state().clone();
        testnet.down()?;
        cleanup::check_gone(&state.id, &state.dir)?;
    }
    println!("{} queries, {} with data", tally.queries, tally.with_data);
    if tally.with_data < tally.queries || tally.broken > 0 {
        bail!("the dashboards do not hold");
    }
    if unmoved > 0 {
        bail!("{unmoved} of the faults are not seen");
    }
    if broken_alerts > 0 {
        bail!("{broken_alerts} alerts do not hold");
    }
    Ok(())
}

/// Looks for what the load has made go wrong; gives how much of it no series shows.
async fn moved(prometheus: &Prometheus, span: Span) -> Result<usize> {
    let (mut unmoved, seconds) = (0, (span.to - span.from).max(1.0));
    for series in load::MOVED {
        let over = |function: &str| format!("{function}_over_time({series}[{seconds:.0}s]) != 0");
        let expr = format!("{} or {}", over("max"), over("min"));
        let answer = prometheus.query(&expr, true, span).await;
        let answer = answer.map_err(|error| anyhow!("{expr}: {error}"))?;
        if answer["result"].as_array().is_none_or(Vec::is_empty) {
            unmoved += 1;
            println!("fault: {series} has stayed 0");
        }
    }
    println!(
        "faults: {} series, {} have moved",
        load::MOVED.len(),
        load::MOVED.len() - unmoved
    );
    Ok(unmoved)
}

/// Holds the alerts against real metrics; gives how many cannot be evaluated, or name metrics that there are not.
async fn alerts(prometheus: &Prometheus, known: &BTreeSet<String>) -> Result<usize> {
    let alerts = prometheus.alerts().await?;
    if alerts.is_empty() {
        bail!("Prometheus has no alerts");
    }
    let mut broken = 0;
    for alert in &alerts {
        let unknown: Vec<String> = promql::metrics(&alert.query)
            .into_iter()
            .filter(|name| !known.contains(name))
            .collect();
        let finding = match &alert.against {
            Some(error) => Finding::Error(error.clone()),
            None if !unknown.is_empty() => Finding::Unknown(unknown),
            None => continue,
        };
        broken += 1;
        tell(
            "rules.yml",
            &format!("alert {}", alert.name),
            &finding,
            &alert.query,
        );
    }
    println!(
        "rules.yml: {} alerts, {} hold",
        alerts.len(),
        alerts.len() - broken
    );
    Ok(broken)
}

fn read(files: &[PathBuf]) -> Result<Vec<Dashboard>> {
    if files.is_empty() {
        let own = files::DASHBOARDS.iter();
        return own.map(|(name, text)| Dashboard::parse(name, text)).collect();
    }
    let given = files.iter().map(|file| {
        let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        Dashboard::parse(&file.display().to_string(), &text)
    });
    given.collect()
}

/// Waits until Prometheus has found all nodes by the ledger and has read each of them.
async fn found(prometheus: &Prometheus, nodes: usize) -> Result<()> {
    let deadline = Instant::now() + FIND;
    loop {
        let labels = prometheus.label_values("blosm_node_info", "node").await?;
        if labels.len() == nodes {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("Prometheus has found {labels:?} after {FIND:?}, and there are {nodes} nodes");
        }
        sleep(Duration::from_millis(250)).await;
    }
}

#[derive(Debug, Default)]
struct Tally {
    queries: usize,
    with_data: usize,
    /// Annotations that cannot be answered; they need not have anything to show.
    broken: usize,
}

async fn ask(
    prometheus: &Prometheus,
    dashboards: &[Dashboard],
    span: Span,
    known: &BTreeSet<String>,
) -> Result<Tally> {
    let mut all = Tally::default();
    for dashboard in dashboards {
        let mut own = Tally::default();
        let mut values = Values::times(&format!("{:.0}s", (span.to - span.from).max(1.0)), RATE);
        for variable in &dashboard.variables {
            own.queries += usize::from(variable.source != Source::Datasource);
            match look_up(prometheus, variable, &mut values, known).await? {
                Some(Finding::Data) => own.with_data += 1,
                Some(finding) => tell(
                    &dashboard.file,
                    &format!("variable {}", variable.name),
                    &finding,
                    "",
                ),
                None => {}
            }
        }
        for query in &dashboard.queries {
            let (expr, finding) = asked(prometheus, query, &values, span, known).await;
            own.queries += 1;
            match finding {
                Finding::Data => own.with_data += 1,
                finding => tell(&dashboard.file, &query.place, &finding, &expr),
            }
        }
        for query in &dashboard.annotations {
            match asked(prometheus, query, &values, span, known).await {
                (_, Finding::Data | Finding::Empty) => {}
                (expr, finding) => {
                    own.broken += 1;
                    tell(&dashboard.file, &query.place, &finding, &expr);
                }
            }
        }
        println!(
            "{}: {} queries, {} with data",
            dashboard.file, own.queries, own.with_data
        );
        all.queries += own.queries;
        all.with_data += own.with_data;
        all.broken += own.broken;
    }
    Ok(all)
}

/// Asks for a variable's values and puts them in; none for one that Prometheus is not asked for.
async fn look_up(
    prometheus: &Prometheus,
    variable: &Variable,
    values: &mut Values,
    known: &BTreeSet<String>,
) -> Result<Option<Finding>> {
    let (selector, label) = match &variable.source {
        Source::Datasource => {
            values.put(&variable.name, &["prometheus".to_owned()], false);
            return Ok(None);
        }
        Source::LabelValues { selector, label } => (values.fill(selector)?, label),
    };
    let found = prometheus.label_values(&selector, label).await;
    let unknown: Vec<String> = promql::metrics(&selector)
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    let finding = match &found {
        Err(error) => Finding::Error(format!("{error:#}")),
        Ok(_) if !unknown.is_empty() => Finding::Unknown(unknown),
        Ok(found) if found.is_empty() => Finding::Empty,
        Ok(_) => Finding::Data,
    };
    values.put(&variable.name, &found.unwrap_or_default(), variable.multi);
    Ok(Some(finding))
}

/// Asks a query, and then all of it of which an `or` may hide that it has nothing to show; gives what was found wanting.
async fn asked(
    prometheus: &Prometheus,
    query: &Query,
    values: &Values,
    span: Span,
    known: &BTreeSet<String>,
) -> (String, Finding) {
    match values.fill(&query.expr) {
        Err(error) => (query.expr.clone(), Finding::Error(format!("{error:#}"))),
        Ok(expr) => {
            let answer = prometheus.query(&expr, query.instant, span).await;
            let finding = judge(&expr, &query.labels, &answer, known);
            if finding != Finding::Data {
                return (expr, finding);
            }
            for operand in promql::alternatives(&expr) {
                let answer = prometheus.query(operand, query.instant, span).await;
                let finding = judge(operand, &[], &answer, known);
                if finding != Finding::Data {
                    return (operand.to_owned(), finding);
                }
            }
            (expr, Finding::Data)
        }
    }
}

fn tell(file: &str, place: &str, finding: &Finding, expr: &str) {
    let word = match finding {
        Finding::Data => "has data".to_owned(),
        Finding::Empty => "has nothing to show".to_owned(),
        Finding::Unknown(names) => format!("names metrics that no node has: {}", names.join(", ")),
        Finding::Unlabelled(labels) => format!("shows labels that it does not have: {}", labels.join(", ")),
        Finding::Error(error) => format!("cannot be answered: {error}"),
    };
    println!("{file}: {place} {word}\n    {expr}");
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

//! `blosm-testnet bench gossip`: how fast a block is confirmed by a network of real processes, beside how fast the same
//! network floods a bare message, and how many messages that takes.
//!
//! ```text
//! up (sim) -> settle -> idle (counters) -> probes, one at a time -> blocks of one transaction, one at a time (counters)
//!          -> churn, if asked for -> document, bars
//! ```
//! All processes share one clock, so the time of a probe is the difference of two readings of it.

mod churn;
mod counters;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::figures::percentile;
use crate::node::metrics_url;
use crate::offers::Offers;
use crate::state::HostState;
use crate::status::{Summary, cpu_seconds, nodes};
use crate::teller::Teller;
use crate::testnet::{MAX_LOCAL, Spec, Testnet};
use counters::Counted;

/// The length of a probe: about a block with one transaction.
const PROBE_BYTES: usize = 500;
/// The share of the members that Algorithm 1 asks for.
const SHARE: f64 = 0.9;
/// Between two probes, and between two blocks, at least: as long as the shortest time between two statuses, so that every
/// block has one of its own.
const PAUSE: Duration = Duration::from_secs(1);
/// And up to so much more, at random: what nodes do once a second would else meet all of them at the same point, or none.
const MORE: Duration = Duration::from_secs(1);
/// Longest time until a block is confirmed; then the bench fails.
const CONFIRM: Duration = Duration::from_secs(30);
/// More than there can be: with it a node answers only when nine tenths have confirmed.
const ALL: u32 = 1_000_000;

/// The bars.
const RATIO: f64 = 6.0;
const MESSAGES: f64 = 1800.0;
const IDLE_CORES: f64 = 0.5;
const MEMORY_MIB: f64 = 40.0;
const READY_SECONDS: f64 = 60.0;

/// Confirm blocks in a network of many processes, and flood bare messages through it
#[derive(Debug, clap::Args)]
pub struct Gossip {
    /// How many nodes
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(4..=MAX_LOCAL as i64))]
    peers: u16,
    /// Write the document to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// An empty or absent folder on a disk [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    offers: Offers,
    /// Bare messages from the authority, and as many from other nodes
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    probes: u32,
    /// Blocks with one transaction
    #[arg(long, default_value_t = 150, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    blocks: u32,
    /// How long the network settles before anything is measured, in seconds
    #[arg(long, default_value_t = 20, value_name = "S")]
    settle: u64,
    /// How long it is watched while nothing happens, in seconds
    #[arg(long, default_value_t = 20, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle: u64,
    /// Afterwards let nodes join and leave, and see whether an honest one is held to be bad
    #[arg(long)]
    churn: bool,
    /// For how long, in minutes
    #[arg(long, default_value_t = 10, value_name = "N", requires = "churn", value_parser = clap::value_parser!(u64).range(1..=600))]
    churn_minutes: u64,
    /// So many join and so many leave in a minute
    #[arg(long, default_value_t = 5, value_name = "N", requires = "churn", value_parser = clap::value_parser!(u64).range(1..=60))]
    churn_rate: u64,
}

/// Measures.
///
/// # Errors
/// Something could not be done, a block was not confirmed, or a bar is missed.
pub async fn run(options: Gossip) -> Result<()> {
    let teller = Teller::begin();
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let store = store(&parent)?;
    let spec = Spec {
        dir: options.dir.clone(),
        ..options.offers.spec(options.peers.into())
    };
    let began = Instant::now();
    let mut testnet = Testnet::up(&spec, &|line| teller.say(line)).await?;
    let up = began.elapsed();
    teller.say(&format!(
        "up after {:.1} s; settling for {} s",
        up.as_secs_f64(),
        options.settle
    ));
    sleep(Duration::from_secs(options.settle)).await;
    let bench = Measuring {
        options: &options,
        teller: &teller,
    };
    let mut document = json!({
        "peers": options.peers,
        "processes": testnet.state().hosts.iter().filter(|host| host.node.is_some_and(|node| node.alive())).count(),
        "store": store,
        "link_delay_ms": 0,
        "up_s": up.as_secs_f64(),
    });
    let idle = bench.idle(&testnet).await?;
    add(&mut document, idle.figures());
    add(&mut document, bench.probes(&testnet).await?);
    add(&mut document, bench.blocks(&testnet, &idle).await?);
    let ratio = figure(&document, "confirm_p50_ms") / figure(&document, "raw_flood_p90_ms");
    add(&mut document, json!({ "ratio": ratio }));
    if options.churn {
        let lasting = Duration::from_secs(60 * options.churn_minutes);
        let report = churn::run(&mut testnet, &spec, lasting, options.churn_rate, &teller).await?;
        add(&mut document, json!({ "churn": report }));
    }
    let bars = bars(&document);
    add(&mut document, json!({ "bars": bars }));
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{document:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    print(&document);
    testnet.down()?;
    teller.say("end");
    match bars.iter().filter(|bar| bar["holds"] == false).count() {
        0 => Ok(()),
        missed => bail!("{missed} bars are missed"),
    }
}

struct Measuring<'a> {
    options: &'a Gossip,
    teller: &'a Teller,
}

/// What the network costs while nothing happens.
struct Idle {
    per_second: Counted,
    cores: f64,
    summary: Summary,
    links: Vec<u64>,
    nodes: usize,
}

impl Measuring<'_> {
    async fn idle(&self, testnet: &Testnet) -> Result<Idle> {
        // First what must not be disturbed by questions.
        let cpu = || -> f64 {
            let used = |host: &HostState| host.node.and_then(cpu_seconds);
            testnet.state().hosts.iter().filter_map(used).sum()
        };
        let (before, began) = (cpu(), Instant::now());
        sleep(Duration::from_secs(self.options.idle)).await;
        let cores = (cpu() - before) / began.elapsed().as_secs_f64();
        let (before, began) = (Counted::of(testnet).await?, Instant::now());
        sleep(Duration::from_secs(self.options.idle)).await;
        let lasted = began.elapsed().as_secs_f64();
        let per_second = Counted::of(testnet).await?.since(&before).over(lasted);
        let seen = nodes(testnet).await;
        let mut links: Vec<u64> = seen.iter().filter_map(|node| node.connected).collect();
        links.sort_unstable();
        self.teller.say(&format!(
            "idle: {cores:.2} cores, {:.0} messages and {:.0} bytes a second in all",
            per_second.messages(),
            per_second.bytes_sent
        ));
        Ok(Idle {
            per_second,
            cores,
            summary: Summary::of(&seen),
            links,
            nodes: seen.len(),
        })
    }

    /// Floods bare messages.
    async fn probes(&self, testnet: &Testnet) -> Result<Value> {
        let count = testnet.state().hosts.len();
        let mut times = [Vec::new(), Vec::new()];
        for n in 0..2 * self.options.probes as usize {
            // By turns from the authority, from which blocks come too, and from another node.
            let origin = if n % 2 == 0 { 1 } else { 2 + (n * 37) % (count - 1) };
            sleep(pause()?).await;
            times[n % 2].push(flood(testnet, origin).await?);
        }
        let [own, others] = times;
        self.teller.say(&format!(
            "{} bare messages from the authority reached nine tenths after {:.1} ms at the median, from other nodes {:.1} ms",
            own.len(),
            quantile(&own, 0.5),
            quantile(&others, 0.5)
        ));
        Ok(json!({
            "raw_flood_p90_ms": quantile(&own, 0.5),
            "raw_flood_p90_p25_ms": quantile(&own, 0.25),
            "raw_flood_p90_p75_ms": quantile(&own, 0.75),
            "raw_flood_p90_worst_ms": quantile(&own, 1.0),
            "raw_flood_p90_from_members_ms": quantile(&others, 0.5),
        }))
    }

    /// Has one transaction after the other sealed, and waits for its confirmation.
    async fn blocks(&self, testnet: &Testnet, idle: &Idle) -> Result<Value> {
        let members = &testnet.state().hosts;
        let (before, began) = (Counted::of(testnet).await?, Instant::now());
        let (mut confirmed, mut sealed) = (Vec::new(), Vec::new());
        for n in 0..self.options.blocks as usize {
            let member = &members[1 + n % (members.len() - 1)];
            sleep(pause()?).await;
            let (seal, confirm) = confirm(testnet, member).await?;
            sealed.push(seal);
            confirmed.push(confirm);
        }
        let lasted = began.elapsed().as_secs_f64();
        let all = Counted::of(testnet).await?.since(&before);
        let own = all
            .minus(&idle.per_second.times(lasted))
            .over(confirmed.len() as f64);
        self.teller.say(&format!(
            "{} blocks were confirmed after {:.1} ms at the median, {:.0} messages each",
            confirmed.len(),
            quantile(&confirmed, 0.5),
            own.messages()
        ));
        Ok(json!({
            "blocks": confirmed.len(),
            "seal_p50_ms": quantile(&sealed, 0.5),
            "confirm_p25_ms": quantile(&confirmed, 0.25),
            "confirm_p50_ms": quantile(&confirmed, 0.5),
            "confirm_p75_ms": quantile(&confirmed, 0.75),
            "confirm_p99_ms": quantile(&confirmed, 0.99),
            "messages_per_block": own.messages(),
            "messages": {
                "gossip": own.gossip_by_topic,
                "requests": own.requests,
                "responses": own.responses,
            },
            "bytes_per_block": own.bytes_sent,
        }))
    }
}

impl Idle {
    fn figures(&self) -> Value {
        json!({
            "idle_bytes_per_node_s": self.per_second.bytes_sent / self.nodes as f64,
            "idle_messages_s": self.per_second.messages(),
            "idle_cpu_cores": self.cores,
            "rss_bytes_p50": self.summary.rss_bytes_p50,
            "rss_bytes_max": self.summary.rss_bytes_max,
            "links_p50": self.links.get(self.links.len() / 2),
            "links_max": self.links.last(),
        })
    }
}

/// How long to wait before the next one.
fn pause() -> Result<Duration> {
    let random = getrandom::u32().map_err(|error| anyhow!("no randomness: {error}"))?;
    Ok(PAUSE + MORE.mul_f64(f64::from(random) / f64::from(u32::MAX)))
}

/// Milliseconds until nine tenths of the members, the origin among them, have a bare message.
async fn flood(testnet: &Testnet, origin: usize) -> Result<f64> {
    let report = testnet
        .client(origin)?
        .post("/v1/net/probe", &json!({ "bytes": PROBE_BYTES }))
        .await?;
    let sent = report["sent_unix_us"]
        .as_u64()
        .context("a probe has a beginning")?;
    let members = report["members"].as_u64().context("a probe counts the members")?;
    let mut times: Vec<f64> = report["arrivals"]
        .as_array()
        .context("a probe lists arrivals")?
        .iter()
        .filter_map(|arrival| arrival["unix_us"].as_u64())
        .map(|at| at.saturating_sub(sent) as f64 / 1000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    let needed = (members as f64 * SHARE).ceil() as usize;
    let last = needed.saturating_sub(2);
    times.get(last).copied().with_context(|| {
        format!(
            "a probe of node {origin} reached {} of {members} members",
            times.len() + 1
        )
    })
}

/// Milliseconds until a transaction was sealed, and until the authority said to whoever had submitted it that nine tenths
/// hold its block. The transaction gives a member the record that it has.
async fn confirm(testnet: &Testnet, member: &HostState) -> Result<(f64, f64)> {
    let authority = testnet.client(1)?;
    let (latitude, longitude) = member.location;
    let admission = json!({
        "key": member.key,
        "addresses": [format!("/ip4/{}/tcp/{}", member.address, member.ports.peer)],
        "gateway": format!("http://{}:{}", member.address, member.ports.gateway),
        "metrics": metrics_url(member),
        "location": format!("{latitude:.6},{longitude:.6}"),
        "radius": member.radius,
        "label": member.label,
    });
    let began = Instant::now();
    let ms = || began.elapsed().as_secs_f64() * 1000.0;
    let sealed = authority.post("/v1/members", &admission).await?;
    let seal = ms();
    let hash = sealed["hash"].as_str().context("an admission has a hash")?;
    let path = format!("/v1/chain/transactions/{hash}?wait_ms=4000&beyond={ALL}");
    loop {
        let status = authority.get(&path).await?;
        let count = |field: &str| status[field].as_u64().unwrap_or(0);
        let (confirmations, members) = (count("confirmations"), count("members"));
        if members > 0 && confirmations * 10 >= members * 9 {
            return Ok((seal, ms()));
        }
        if began.elapsed() > CONFIRM {
            bail!(
                "block {} was confirmed by {confirmations} of {members} only after {CONFIRM:?}",
                sealed["height"]
            );
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// What keeps the ledgers, in words.
///
/// # Errors
/// It is memory: syncing costs nothing there, which is not what is measured.
fn store(dir: &Path) -> Result<String> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let kind = rustix::fs::statfs(there)
        .with_context(|| format!("{}", there.display()))?
        .f_type as u64
        & 0xffff_ffff;
    let name = match kind {
        0x0102_1994 | 0x8584_58f6 => bail!(
            "{} is in memory, where syncing costs nothing: name a folder on a disk with --dir",
            there.display()
        ),
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        other => format!("file system {other:#x}"),
    };
    Ok(format!("rocksdb, synced, on {name}"))
}

/// The bars of a document that has their figures.
fn bars(document: &Value) -> Vec<Value> {
    let mib = figure(document, "rss_bytes_p50") / 1024.0 / 1024.0;
    let mut bars = vec![
        bar("ratio", figure(document, "ratio"), RATIO),
        bar(
            "messages_per_block",
            figure(document, "messages_per_block"),
            MESSAGES,
        ),
        bar("idle_cpu_cores", figure(document, "idle_cpu_cores"), IDLE_CORES),
        bar("rss_mib_p50", mib, MEMORY_MIB),
        bar("up_s", figure(document, "up_s"), READY_SECONDS),
    ];
    if let Some(churn) = document.get("churn") {
        bars.push(bar("churn_held_to_be_bad", figure(churn, "held_to_be_bad"), 0.0));
    }
    bars
}

fn bar(name: &str, value: f64, most: f64) -> Value {
    // What could not be measured does not hold.
    json!({ "name": name, "value": value, "most": most, "holds": value <= most })
}

/// NaN of none.
fn quantile(values: &[f64], share: f64) -> f64 {
    percentile(values, share * 100.0).unwrap_or(f64::NAN)
}

fn figure(document: &Value, field: &str) -> f64 {
    document[field].as_f64().unwrap_or(f64::NAN)
}

fn add(document: &mut Value, more: Value) {
    if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
        document.extend(more);
    }
}

fn print(document: &Value) {
    println!();
    for (name, value) in document.as_object().into_iter().flatten() {
        match value {
            Value::Number(_) | Value::String(_) => println!("{name:<32}{value}"),
            _ => {}
        }
    }
    println!();
    for bar in document["bars"].as_array().into_iter().flatten() {
        let word = if bar["holds"] == true { "holds" } else { "MISSED" };
        println!(
            "{word:<8}{:<24}{:.2} (at most {})",
            bar["name"].as_str().unwrap_or_default(),
            figure(bar, "value"),
            bar["most"]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_hold_at_their_value_and_not_without_one() {
        let mut document = json!({
            "ratio": 6.0, "messages_per_block": 1800.5, "idle_cpu_cores": 0.1, "rss_bytes_p50": 1024 * 1024,
        });
        let holds = |document: &Value| -> Vec<bool> {
            bars(document).iter().map(|bar| bar["holds"] == true).collect()
        };
        assert_eq!(holds(&document), [true, false, true, true, false]);
        add(
            &mut document,
            json!({ "up_s": 59, "churn": { "held_to_be_bad": 1 } }),
        );
        assert_eq!(holds(&document), [true, false, true, true, true, false]);
    }

    #[test]
    fn memory_is_no_store() {
        if Path::new("/dev/shm").exists() {
            assert!(store(Path::new("/dev/shm/absent/folder")).is_err());
        }
        assert!(store(Path::new("/proc")).unwrap().contains("file system"));
    }
}

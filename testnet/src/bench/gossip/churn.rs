//! Nodes that come and go: whether the others hold it against an honest one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::teller::Teller;
use crate::testnet::{Spec, Testnet};

/// How long the network has to become quiet afterwards.
const AFTER: Duration = Duration::from_secs(30);

/// How often a node has held something against a member, by what.
const MISDEEDS: &str = "blosm_net_misdeeds_total{";
/// How often a node has kept a member out, and turned one away for that.
const KEPT_OUT: [&str; 2] = [
    "blosm_net_events_total{event=\"peers_kept_out\"} ",
    "blosm_net_refused_total{reason=\"score\"} ",
];

/// Lets `rate` nodes leave and as many join in each minute. Who leaves is stopped in good order; who joins has left before,
/// or, every other time, is new. Then asks every node what it holds of the others.
///
/// # Errors
/// A node does not start.
pub(super) async fn run(
    testnet: &mut Testnet,
    spec: &Spec,
    lasting: Duration,
    rate: u64,
    teller: &Teller,
) -> Result<Value> {
    let step = Duration::from_secs(60) / u32::try_from(rate)?;
    let (began, mut away, mut joins, mut leaves) = (Instant::now(), Vec::new(), 0_u32, 0_u32);
    let mut blamed = Blamed::default();
    for number in running(testnet) {
        blamed.begin(number, misdeeds(&testnet.client(number)?.metrics().await?));
    }
    while began.elapsed() + step <= lasting {
        let next = began + step * (leaves + 1);
        let here: Vec<usize> = running(testnet)
            .into_iter()
            .filter(|number| *number != 1)
            .collect();
        let leaver = here[(leaves as usize * 31 + 7) % here.len()];
        // It counts from zero when it is back.
        blamed.end(leaver, misdeeds(&testnet.client(leaver)?.metrics().await?));
        testnet.stop_node(leaver)?;
        away.push(leaver);
        leaves += 1;
        sleep(step / 2).await;
        if joins % 2 == 0 {
            testnet.join(spec, (joins as usize / 2) % 2).await?;
        } else {
            let back = away.remove(0);
            testnet.start_node(back).await?;
        }
        joins += 1;
        if leaves % 5 == 0 {
            teller.say(&format!(
                "churn: {leaves} left, {joins} joined, {} run",
                running(testnet).len()
            ));
        }
        sleep_until(next).await;
    }
    sleep(AFTER).await;
    let verdict = verdict(testnet, blamed).await?;
    teller.say(&format!("churn: {leaves} left, {joins} joined; {verdict}"));
    let mut report =
        json!({ "minutes": began.elapsed().as_secs_f64() / 60.0, "left": leaves, "joined": joins });
    super::add(&mut report, verdict);
    Ok(report)
}

fn running(testnet: &Testnet) -> Vec<usize> {
    let alive = testnet
        .state()
        .hosts
        .iter()
        .filter(|host| host.node.is_some_and(|node| node.alive()));
    alive.map(|host| host.number).collect()
}

/// Misdeeds that nodes have counted since the churn began.
#[derive(Debug, Default)]
struct Blamed {
    /// What those that ran then had counted before.
    before: BTreeMap<usize, f64>,
    sum: f64,
}

impl Blamed {
    fn begin(&mut self, number: usize, counted: f64) {
        self.before.insert(number, counted);
    }

    /// The last that is read of this process.
    fn end(&mut self, number: usize, counted: f64) {
        self.sum += counted - self.before.remove(&number).unwrap_or(0.0);
    }
}

/// All misdeeds on a node's page, of all kinds.
fn misdeeds(page: &str) -> f64 {
    sum(page, &[MISDEEDS])
}

fn sum(page: &str, names: &[&str]) -> f64 {
    let of = page
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
    of.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// What the nodes that run hold of one another, and what all have held against others meanwhile.
async fn verdict(testnet: &Testnet, mut blamed: Blamed) -> Result<Value> {
    let (mut bad, mut lowest, mut scored, mut kept_out, mut heads) = (0, 0.0_f64, 0, 0.0, Vec::new());
    for number in running(testnet) {
        let client = testnet.client(number)?;
        let peers = client.get("/v1/peers").await?;
        for score in peers
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|peer| peer["score"].as_f64())
        {
            scored += 1;
            lowest = lowest.min(score);
            bad += usize::from(score < 0.0);
        }
        let page = client.metrics().await?;
        kept_out += sum(&page, &KEPT_OUT);
        blamed.end(number, misdeeds(&page));
        heads.push(client.get("/v1/status").await?["hash"].clone());
    }
    heads.dedup();
    Ok(json!({
        "scores": scored,
        "scored_down": bad,
        "lowest_score": lowest,
        "kept_out": kept_out,
        "misdeeds": blamed.sum,
        // A score that was lowered rises again: what is counted stays.
        "held_to_be_bad": bad as f64 + kept_out + blamed.sum,
        "heads_equal": heads.len() == 1,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misdeeds_are_those_of_every_process_since_the_beginning() {
        let page = |count: u32| {
            format!(
                "# TYPE blosm_net_misdeeds_total counter\nblosm_net_misdeeds_total{{kind=\"message\"}} {count}\n\
                 blosm_net_misdeeds_total{{kind=\"flood\"}} 1\nblosm_net_events_total{{event=\"peers_kept_out\"}} 3\n\
                 blosm_net_refused_total{{reason=\"score\"}} 2\nblosm_net_refused_total{{reason=\"stranger\"}} 9\n"
            )
        };
        assert_eq!((misdeeds(&page(4)), sum(&page(4), &KEPT_OUT)), (5.0, 5.0));
        let mut blamed = Blamed::default();
        blamed.begin(1, misdeeds(&page(4)));
        blamed.begin(2, misdeeds(&page(9)));
        blamed.end(2, misdeeds(&page(10)));
        // Started again.
        blamed.end(2, misdeeds(&page(1)));
        blamed.end(1, misdeeds(&page(4)));
        assert_eq!(blamed.sum, 3.0);
    }
}

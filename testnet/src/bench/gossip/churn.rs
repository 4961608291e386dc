//! Nodes that come and go: whether the others hold it against an honest one.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::teller::Teller;
use crate::testnet::{Spec, Testnet};

/// How long the network has to become quiet afterwards.
const AFTER: Duration = Duration::from_secs(30);

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
    while began.elapsed() + step <= lasting {
        let next = began + step * (leaves + 1);
        let here: Vec<usize> = running(testnet)
            .into_iter()
            .filter(|number| *number != 1)
            .collect();
        let leaver = here[(leaves as usize * 31 + 7) % here.len()];
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
    let verdict = verdict(testnet).await?;
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

/// What the nodes that run hold of one another.
async fn verdict(testnet: &Testnet) -> Result<Value> {
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
        let refusals = [
            "blosm_net_events_total{event=\"peers_kept_out\"} ",
            "blosm_net_refused_total{reason=\"score\"} ",
        ];
        for line in page.lines() {
            let count = refusals.iter().find_map(|name| line.strip_prefix(name));
            kept_out += count.and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0);
        }
        heads.push(client.get("/v1/status").await?["hash"].clone());
    }
    heads.dedup();
    Ok(json!({
        "scores": scored,
        "scored_down": bad,
        "lowest_score": lowest,
        "kept_out": kept_out,
        "held_to_be_bad": bad as f64 + kept_out,
        "heads_equal": heads.len() == 1,
    }))
}

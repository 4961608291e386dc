//! `blosm ping` and `blosm bandwidth`: what the link to another member is like, and how fast a message reaches all of them.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::Refusal;
use super::show::items;
use super::table::{bytes, lines, millis, text};
use super::{Output, Target};

/// Between two pings.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest bar of a histogram, in characters.
const WIDEST: usize = 40;

#[derive(Debug, Args)]
pub(super) struct Ping {
    /// Label, key prefix or peer id of the member; without it a message is flooded to all members
    node: Option<String>,
    /// How often the member is asked
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// The length of the message that is flooded
    #[arg(long, default_value_t = 500, value_name = "BYTES", conflicts_with = "node")]
    bytes: usize,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Bandwidth {
    /// Label, key prefix or peer id of the member
    peer: String,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn ping(ping: Ping) -> anyhow::Result<()> {
    let Some(node) = &ping.node else {
        return flood(ping).await;
    };
    let client = ping.target.client()?;
    let path = format!("/v1/peers/{node}/ping");
    let (mut pongs, mut lost) = (Vec::new(), 0);
    for n in 0..ping.count {
        if n > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match client.post(&path, &json!({})).await {
            Ok(pong) => {
                if !ping.output.json {
                    println!("{}", line(&pong));
                }
                pongs.push(pong);
            }
            Err(error) if is_lost(&error) => {
                eprintln!("{error:#}");
                lost += 1;
            }
            // No node here, or a name that means nobody: so it stays.
            Err(error) => return Err(error),
        }
    }
    let document = json!({ "sent": ping.count, "lost": lost, "pongs": pongs });
    ping.output.print(&document, || {
        format!("{} sent, {} answered, {lost} lost\n", ping.count, pongs.len())
    });
    if lost > 0 {
        bail!("{lost} of {} were lost", ping.count);
    }
    Ok(())
}

/// Whether the node here has asked, and no answer came.
fn is_lost(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refusal>()
        .is_some_and(|refusal| refusal.status == StatusCode::BAD_GATEWAY)
}

/// Floods a message and says when the members had it.
async fn flood(ping: Ping) -> anyhow::Result<()> {
    let client = ping.target.client()?;
    let report = client
        .post("/v1/net/probe", &json!({ "bytes": ping.bytes }))
        .await?;
    ping.output.print(&report, || {
        let time = |field: &str| match report[field].is_null() {
            true => "too few answered".to_owned(),
            false => millis(&report, field),
        };
        lines(&[
            (
                "reached",
                format!(
                    "{} of {} members",
                    text(&report, "reached"),
                    text(&report, "members")
                ),
            ),
            ("half", time("p50_ms")),
            ("90 %", time("p90_ms")),
            ("all", time("all_ms")),
            ("last", last(&report)),
        ])
    });
    // Fewer than Algorithm 1 wants is a network that cannot confirm.
    if report["p90_ms"].is_null() {
        bail!("fewer than 90 % of the members have answered");
    }
    Ok(())
}

/// The member that had it last.
fn last(report: &Value) -> String {
    let arrivals = report["arrivals"].as_array();
    arrivals.and_then(|arrivals| arrivals.last()).map_or_else(
        || "-".to_owned(),
        |last| format!("{}, {}", text(last, "label"), millis(last, "ms")),
    )
}

/// One answer, for people.
fn line(pong: &Value) -> String {
    let ahead = match pong["ahead"].as_i64() {
        Some(0) | None => String::new(),
        Some(ahead) if ahead > 0 => format!(", {ahead} ahead of this node"),
        Some(behind) => format!(", {} behind this node", -behind),
    };
    format!(
        "{} {:.2} ms, height {}{ahead}",
        text(pong, "label"),
        pong["rtt_ms"].as_f64().unwrap_or(0.0),
        text(pong, "height")
    )
}

pub(super) async fn bandwidth(command: Bandwidth) -> anyhow::Result<()> {
    let client = command.target.client()?;
    let path = format!("/v1/peers/{}/bandwidth", command.peer);
    let body = json!({ "seconds": command.seconds });
    let limit = Duration::from_secs(command.seconds + 30);
    let found = client.post_within(&path, &body, limit).await?;
    command.output.print(&found, || report(&found));
    Ok(())
}

fn report(found: &Value) -> String {
    let mbit = |field: &str| format!("{:.1} Mbit/s", found[field].as_f64().unwrap_or(0.0));
    let mut out = lines(&[
        ("from", text(found, "label")),
        (
            "came",
            format!("{} in {} s", bytes(found, "bytes"), text(found, "seconds")),
        ),
        ("mean", mbit("mean_mbit")),
        ("deviation", mbit("deviation_mbit")),
        ("least", mbit("least_mbit")),
        ("most", mbit("most_mbit")),
        (
            "round trip",
            found["rtt_ms"]
                .as_f64()
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        ),
    ]);
    out.push_str(&format!(
        "\nspans of {} ms, by their rate in Mbit/s\n",
        text(found, "span_ms")
    ));
    out.push_str(&histogram(items(&found["histogram"])));
    out
}

/// A bar for each range, the fullest one as wide as a bar may be.
fn histogram(bars: &[Value]) -> String {
    let count = |bar: &Value| bar["count"].as_u64().unwrap_or(0) as usize;
    let most = bars.iter().map(count).max().unwrap_or(0).max(1);
    let mut out = String::new();
    for bar in bars {
        let edge = |field: &str| bar[field].as_f64().unwrap_or(0.0);
        let width = (count(bar) * WIDEST).div_ceil(most);
        let line = format!(
            "{:>8.1} - {:<8.1} {:>5}  {}",
            edge("from_mbit"),
            edge("to_mbit"),
            count(bar),
            "#".repeat(width)
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_bar_is_the_widest_and_one_span_is_still_seen() {
        let bars = [
            json!({"from_mbit": 30.0, "to_mbit": 31.0, "count": 1}),
            json!({"from_mbit": 31.0, "to_mbit": 32.0, "count": 0}),
            json!({"from_mbit": 32.0, "to_mbit": 33.0, "count": 80}),
        ];
        let text = histogram(&bars);
        let widths: Vec<usize> = text.lines().map(|line| line.matches('#').count()).collect();
        assert_eq!(widths, [1, 0, WIDEST]);
    }

    #[test]
    fn a_pong_tells_who_is_behind() {
        let pong = |ahead: i64| line(&json!({"label": "b", "rtt_ms": 1.234, "height": 7, "ahead": ahead}));
        assert_eq!(pong(0), "b 1.23 ms, height 7");
        assert_eq!(pong(2), "b 1.23 ms, height 7, 2 ahead of this node");
        assert_eq!(pong(-3), "b 1.23 ms, height 7, 3 behind this node");
    }
}

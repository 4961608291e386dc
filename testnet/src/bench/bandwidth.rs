//! `blosm-testnet bench link`: what `blosm bandwidth` finds of a link, beside what iperf3 gets through the same one.
//!
//! iperf3 fills the link and the queue before it; `blosm` keeps about 35 ms of bytes on the way, as a container that moves
//! does beside a car's requests, and pays for noise and yamux. One after the other, never both at a time.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{installed, link};
use crate::config::Runtime;
use crate::hosts::Rate;
use crate::teller::Teller;
use crate::testnet::{Spec, Testnet};

/// Bytes go from the second host to the first, whose operator measures.
const FROM: usize = 2;
const TO: usize = 1;

/// Measure a link by `blosm bandwidth` and by iperf3
#[derive(Debug, clap::Args)]
pub struct Link {
    /// Capacities of each host's link, both ways; `none` leaves it as fast as the machine is
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "40mbit,none",
        value_name = "LIST"
    )]
    rates: Vec<Capacity>,
    /// How long each of the two measures, in seconds
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=60))]
    seconds: u32,
    /// Write the document to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What bounds a link, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capacity(Option<Rate>);

impl FromStr for Capacity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Capacity> {
        match text {
            "none" => Ok(Capacity(None)),
            rate => rate.parse().map(|rate| Capacity(Some(rate))),
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => rate.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// Measures.
///
/// # Errors
/// Something could not be done, or one of the two measured nothing.
pub async fn run(options: Link) -> Result<()> {
    installed(&["iperf3"])?;
    let teller = Teller::begin();
    let spec = Spec {
        dir: options.dir.clone(),
        runtime: Runtime::Sim,
        services: |_| Vec::new(),
        ..Spec::hosts(2)
    };
    let mut testnet = Testnet::up(&spec, &|line| teller.say(line)).await?;
    let mut links = Vec::new();
    for capacity in &options.rates {
        bound(&mut testnet, *capacity)?;
        let link = measure(&testnet, *capacity, options.seconds).await?;
        teller.say(line(&link).trim_end());
        // The next bound replaces one, and a link without a bound has none to be replaced.
        if capacity.0.is_none() {
            bound(&mut testnet, Capacity(Some(spec.rate)))?;
        }
        links.push(link);
    }
    let document = json!({ "seconds": options.seconds, "links": links });
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{document:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    print!("{}", table(&links));
    testnet.down()?;
    teller.say("end");
    Ok(())
}

fn bound(testnet: &mut Testnet, capacity: Capacity) -> Result<()> {
    for host in [FROM, TO] {
        match capacity.0 {
            Some(rate) => testnet.reshape(host, rate)?,
            None => testnet.unshape(host)?,
        }
    }
    Ok(())
}

async fn measure(testnet: &Testnet, capacity: Capacity, seconds: u32) -> Result<Value> {
    let iperf3 = link::goodput(testnet, FROM, TO, seconds).await?;
    let peer = &testnet.state().host(FROM)?.label;
    let path = format!("/v1/peers/{peer}/bandwidth");
    let client = testnet.client(TO)?;
    let found = client.post(&path, &json!({ "seconds": seconds })).await?;
    let mean = found["mean_mbit"]
        .as_f64()
        .context("`blosm bandwidth` has a mean")?;
    Ok(json!({
        "rate": capacity.to_string(),
        "iperf3_mbit": iperf3,
        "blosm_mbit": mean,
        "blosm_over_iperf3": mean / iperf3,
        "deviation_mbit": found["deviation_mbit"],
        "least_mbit": found["least_mbit"],
        "most_mbit": found["most_mbit"],
        "histogram": found["histogram"],
        "rtt_ms": found["rtt_ms"],
    }))
}

fn table(links: &[Value]) -> String {
    let head = format!(
        "\n{:<10}{:>15}{:>15}{:>11}{:>11}{:>10}{:>10}{:>15}\n",
        "LINK", "IPERF3 Mbit/s", "BLOSM Mbit/s", "OF IPERF3", "DEVIATION", "LEAST", "MOST", "ROUND TRIP ms"
    );
    links.iter().map(line).fold(head, |text, line| text + &line)
}

fn line(link: &Value) -> String {
    let figure = |field: &str, digits: usize| match link[field].as_f64() {
        Some(figure) => format!("{figure:.digits$}"),
        None => "-".to_owned(),
    };
    let share = link["blosm_over_iperf3"].as_f64().unwrap_or(0.0) * 100.0;
    format!(
        "{:<10}{:>15}{:>15}{:>11}{:>11}{:>10}{:>10}{:>15}\n",
        link["rate"].as_str().unwrap_or("-"),
        figure("iperf3_mbit", 1),
        figure("blosm_mbit", 1),
        format!("{share:.0} %"),
        figure("deviation_mbit", 1),
        figure("least_mbit", 1),
        figure("most_mbit", 1),
        figure("rtt_ms", 2),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_a_bound_or_none() {
        for text in ["40mbit", "none"] {
            assert_eq!(text.parse::<Capacity>().unwrap().to_string(), text);
        }
        assert!("40".parse::<Capacity>().is_err());
    }

    #[test]
    fn each_link_has_a_line() {
        let link = json!({"rate": "40mbit", "iperf3_mbit": 38.25, "blosm_mbit": 36.3, "blosm_over_iperf3": 0.949,
            "deviation_mbit": 0.5, "least_mbit": 35.0, "most_mbit": 37.25, "rtt_ms": null});
        let text = table(&[link.clone(), link]);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 3);
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(
            words,
            ["40mbit", "38.2", "36.3", "95", "%", "0.5", "35.0", "37.2", "-"]
        );
    }
}

//! Links: veth pairs, a bridge, and their shaping.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::Namespace;
use crate::shell::sh;

/// The name of a host's own end.
pub(super) const INSIDE: &str = "eth0";
/// What the bucket lets through at once, for rates up to about 60 Mbit/s. A larger bucket would flatter short bursts.
const BURST: u64 = 32 * 1024;
/// How long a packet may queue before it is dropped: the buffer of a small access router.
const QUEUE_MS: u32 = 50;

/// The capacity of a link in bits per second, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u64);

impl Rate {
    /// A rate of whole megabits per second.
    pub const fn mbit(mbit: u64) -> Rate {
        Rate(mbit * 1_000_000)
    }

    /// Bits per second.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// A bucket must hold at least what arrives between two ticks of the kernel's clock, else it throttles.
    fn burst(self) -> u64 {
        BURST.max(self.0 / 8 / 100)
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Rate> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            _ => bail!("{text:?} is no rate: write it as 500kbit, 40mbit or 1gbit"),
        };
        let number: u64 = number.parse().with_context(|| format!("{text:?} is no rate"))?;
        match number.checked_mul(factor) {
            Some(bits @ 100_000..=100_000_000_000) => Ok(Rate(bits)),
            _ => bail!("a rate lies between 100kbit and 100gbit"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000 == 0 => write!(f, "{}mbit", bits / 1_000_000),
            bits => write!(f, "{}kbit", bits / 1_000),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Rate> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

pub(super) fn bridge(namespace: &Namespace) -> Result<()> {
    sh(&format!("ip -n {namespace} link add road type bridge"))?;
    sh(&format!("ip -n {namespace} link set road up"))?;
    Ok(())
}

/// Lays a veth pair from the bridge to a host and gives the host its address.
pub(super) fn join(bridge: &Namespace, host: &Namespace, port: &str, address: Ipv4Addr) -> Result<()> {
    sh(&format!(
        "ip link add {port} netns {bridge} type veth peer name {INSIDE} netns {host}"
    ))?;
    sh(&format!("ip -n {bridge} link set {port} master road up"))?;
    sh(&format!("ip -n {host} addr add {address}/24 dev {INSIDE}"))?;
    sh(&format!("ip -n {host} link set {INSIDE} up"))?;
    Ok(())
}

/// Shapes what leaves through `device`.
pub(super) fn shape(namespace: &Namespace, device: &str, rate: Rate) -> Result<()> {
    let (bits, burst) = (rate.bits(), rate.burst());
    sh(&format!(
        "tc -n {namespace} qdisc replace dev {device} root tbf rate {bits}bit burst {burst} latency {QUEUE_MS}ms"
    ))
    .context("the kernel must have the tbf queueing discipline (module sch_tbf)")?;
    Ok(())
}

/// Lets everything that leaves through `device` pass as fast as the machine can.
pub(super) fn unshape(namespace: &Namespace, device: &str) -> Result<()> {
    sh(&format!("tc -n {namespace} qdisc del dev {device} root")).map(drop)
}

/// What has left through `device`, as the kernel counts it.
pub(super) fn sent_bytes(namespace: &Namespace, device: &str) -> Result<u64> {
    let text = sh(&format!("ip -n {namespace} -s -j link show dev {device}"))?;
    let links: serde_json::Value = serde_json::from_str(&text).context("`ip -j`")?;
    links[0]["stats64"]["tx"]["bytes"]
        .as_u64()
        .with_context(|| format!("`ip` counts nothing at {device}: {text}"))
}

pub(super) fn set(bridge: &Namespace, port: &str, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    sh(&format!("ip -n {bridge} link set {port} {state}"))?;
    Ok(())
}

/// A hardware address that no host has: what is sent there goes nowhere, and nobody is told.
const NOBODY: &str = "02:00:00:00:00:00";

/// Takes from a host the way to another one: silence, not an error.
pub(super) fn lose(host: &Namespace, other: Ipv4Addr) -> Result<()> {
    sh(&format!(
        "ip -n {host} neigh replace {other} lladdr {NOBODY} dev {INSIDE} nud permanent"
    ))
    .map(drop)
}

/// Gives it back.
pub(super) fn find(host: &Namespace, other: Ipv4Addr) -> Result<()> {
    sh(&format!("ip -n {host} neigh del {other} dev {INSIDE}")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_back() {
        for (text, bits) in [
            ("40mbit", 40_000_000),
            ("500kbit", 500_000),
            ("1gbit", 1_000_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits(), bits);
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }
        for text in [
            "",
            "40",
            "mbit",
            "40 mbit",
            "-1mbit",
            "1kbit",
            "999999999gbit",
            "40mbps",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn bucket_grows_with_the_rate() {
        assert_eq!(Rate::mbit(40).burst(), 50_000);
        assert_eq!(Rate::mbit(1).burst(), BURST);
    }
}

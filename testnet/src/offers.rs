//! What the nodes of a testnet with simulated containers offer: as in the paper, some have high resources and some low ones.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use toml::Table;

use crate::testnet::Spec;

/// What a node offers to containers.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources {
    /// Memory, as `[resources] memory` takes it.
    pub memory: String,
    /// Cores.
    pub cpu: f64,
}

impl Resources {
    /// As a node's configuration has it.
    pub fn table(&self) -> Table {
        let caps = Table::from_iter([
            ("memory".to_owned(), self.memory.as_str().into()),
            ("cpu".to_owned(), self.cpu.into()),
        ]);
        Table::from_iter([("resources".to_owned(), caps.into())])
    }
}

impl FromStr for Resources {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Resources> {
        let wanted = || format!("{text:?}: write memory and cores as 1GiB,2");
        let (memory, cpu) = text.split_once(',').with_context(wanted)?;
        let cpu: f64 = cpu.trim().parse().with_context(wanted)?;
        if !(cpu > 0.0 && cpu.is_finite()) || memory.trim().is_empty() {
            bail!(wanted());
        }
        Ok(Resources {
            memory: memory.trim().to_owned(),
            cpu,
        })
    }
}

/// What the nodes of a testnet with simulated containers offer.
#[derive(Debug, clap::Args)]
pub struct Offers {
    /// Memory and cores that a node with high resources offers (sim) [default: 512MiB,2]
    #[arg(long, value_name = "MEMORY,CORES")]
    high: Option<Resources>,
    /// Memory and cores that a node with low resources offers (sim) [default: 128MiB,0.5]
    #[arg(long, value_name = "MEMORY,CORES")]
    low: Option<Resources>,
    /// The share of nodes with high resources, 0 to 1 (sim) [default: 0.5]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    high_share: Option<f64>,
}

impl Offers {
    /// That many nodes which offer this.
    pub fn spec(&self, peers: usize) -> Spec {
        let or = |given: &Option<Resources>, memory: &str, cpu| {
            let memory = memory.to_owned();
            given.clone().unwrap_or(Resources { memory, cpu })
        };
        let (high, low) = (or(&self.high, "512MiB", 2.0), or(&self.low, "128MiB", 0.5));
        Spec::local(peers, self.high_share.unwrap_or(0.5), &high, &low)
    }

    /// The first of these options that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--high", self.high.is_some()),
            ("--low", self.low.is_some()),
            ("--high-share", self.high_share.is_some()),
        ];
        given.into_iter().find_map(|(name, given)| given.then_some(name))
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("a share lies between 0 and 1".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_memory_and_cores() {
        let read = "1GiB, 0.5".parse::<Resources>().unwrap();
        assert_eq!((read.memory.as_str(), read.cpu), ("1GiB", 0.5));
        for bad in ["1GiB", "1GiB,", ",2", "1GiB,0", "1GiB,-1", "1GiB,inf"] {
            assert!(bad.parse::<Resources>().is_err(), "{bad}");
        }
    }

    #[test]
    fn high_ones_are_spread_evenly() {
        let (high, low) = ("1GiB,2".parse().unwrap(), "1MiB,1".parse().unwrap());
        let classes = |share| -> Vec<bool> {
            let hosts = Spec::local(8, share, &high, &low).hosts;
            hosts.iter().map(|host| host.class == Some("high")).collect()
        };
        assert_eq!(classes(0.5), [false, true, false, true, false, true, false, true]);
        assert_eq!(classes(0.25).iter().filter(|high| **high).count(), 2);
        assert!(classes(0.0).iter().all(|high| !high) && classes(1.0).iter().all(|high| *high));
        let hosts = Spec::local(2, 0.5, &high, &low).hosts;
        assert_eq!(hosts[1].extra["resources"]["memory"].as_str(), Some("1GiB"));
    }
}

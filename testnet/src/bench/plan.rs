//! What is measured, in which order.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// The largest base image, in bytes.
const LARGEST: u64 = 8_000_000_000;
/// How often the slower methods run for each image.
const FEW: u32 = 3;

/// How a container comes to the other host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Method {
    /// `blosm migrate --method live`
    Live,
    /// `blosm migrate --method stateless`
    Stateless,
    /// `blosm migrate --method image`
    Image,
    /// Stop, commit, push to a registry beside the destination, pull, start
    Registry,
    /// Stop, commit, `save` piped into `load` over the link, start
    SaveLoad,
    /// Stop; start the same image at the destination, without what was written
    Restart,
}

impl Method {
    /// As on the command line and in documents.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Method::Live => "live",
            Method::Stateless => "stateless",
            Method::Image => "image",
            Method::Registry => "registry",
            Method::SaveLoad => "save-load",
            Method::Restart => "restart",
        }
    }

    /// Whether `blosm` moves the container, and not a person with an engine's commands.
    pub(super) fn by_node(self) -> bool {
        matches!(self, Method::Live | Method::Stateless | Method::Image)
    }

    /// Whether what the service wrote comes along.
    pub(super) fn keeps_state(self) -> bool {
        !matches!(self, Method::Stateless | Method::Restart)
    }

    /// Runs for each image.
    fn times(self, runs: u32) -> u32 {
        match self {
            Method::Live | Method::Stateless => runs,
            Method::Image | Method::Registry | Method::Restart => runs.min(FEW),
            Method::SaveLoad => runs.min(1),
        }
    }
}

/// A base image, named after its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// `small`, or as it was written.
    pub(super) name: String,
    /// All files of the image together.
    pub(super) bytes: u64,
}

impl Size {
    /// Of the image's bytes, those that do not compress: half of them, but of a large one less, since a registry's
    /// gzip would take minutes to find out.
    pub(super) fn random(&self) -> u64 {
        self.bytes / if self.bytes > 1_000_000_000 { 16 } else { 2 }
    }
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Size> {
        let bytes = match text {
            "small" => 100_000_000,
            _ => {
                let (number, factor) = match (text.strip_suffix("MB"), text.strip_suffix("GB")) {
                    (Some(number), _) => (number, 1_000_000),
                    (_, Some(number)) => (number, 1_000_000_000),
                    _ => bail!("{text:?} is no image: write it as small (100 MB), 264MB or 2GB"),
                };
                let number: u64 = number
                    .parse()
                    .with_context(|| format!("{text:?} is no image: write it as 264MB or 2GB"))?;
                number.saturating_mul(factor)
            }
        };
        if !(10_000_000..=LARGEST).contains(&bytes) {
            bail!("an image has 10MB to 8GB");
        }
        Ok(Size {
            name: text.to_owned(),
            bytes,
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// One run: one container moved once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The image, by its index.
    pub(super) image: usize,
    /// How.
    pub(super) method: Method,
    /// Which run of this method and image, from 1.
    pub(super) run: u32,
    /// The host that gives.
    pub(super) from: usize,
    /// The host that takes.
    pub(super) to: usize,
    /// The destination has the base image.
    pub(super) base_cached: bool,
}

/// Runs of the live method to a destination that does not have that base image. Only one host has it: they all go the
/// same way.
pub(super) fn cold(image: usize, runs: u32) -> impl Iterator<Item = Turn> {
    (1..=runs).map(move |run| Turn {
        image,
        method: Method::Live,
        run,
        from: 2,
        to: 3,
        base_cached: false,
    })
}

/// All runs with base images that both hosts have: image by image, the methods in turn, so that what drifts on the machine hits all of them. A node's moves
/// go there and back; a person's go to the host with the registry.
pub(super) fn turns(images: usize, methods: &[Method], runs: u32) -> Vec<Turn> {
    let mut turns = Vec::new();
    for image in 0..images {
        for run in 1..=runs {
            for &method in methods.iter().filter(|method| run <= method.times(runs)) {
                let back = method.by_node() && run % 2 == 0;
                let (from, to) = if back { (3, 2) } else { (2, 3) };
                turns.push(Turn {
                    image,
                    method,
                    run,
                    from,
                    to,
                    base_cached: true,
                });
            }
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let bytes = |text: &str| text.parse::<Size>().unwrap().bytes;
        assert_eq!(
            [bytes("small"), bytes("264MB"), bytes("2GB")],
            [100_000_000, 264_000_000, 2_000_000_000]
        );
        for text in ["", "large", "1MB", "9GB", "MB", "-1GB", "2gb"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("2GB".parse::<Size>().unwrap().random(), 125_000_000);
    }

    #[test]
    fn methods_are_interleaved_and_slow_ones_run_less() {
        let all = Method::value_variants();
        let turns = turns(2, all, 10);
        let count = |method: Method| turns.iter().filter(|turn| turn.method == method).count();
        assert_eq!(
            all.iter().map(|m| count(*m)).collect::<Vec<_>>(),
            [20, 20, 6, 6, 2, 6]
        );
        assert_eq!(turns[0].method, Method::Live);
        assert_eq!(turns[1].method, Method::Stateless);
        let second = turns
            .iter()
            .find(|t| t.run == 2 && t.method == Method::Live)
            .unwrap();
        assert_eq!((second.from, second.to), (3, 2));
        let pushes = turns.iter().filter(|t| t.method == Method::Registry);
        assert!(pushes.into_iter().all(|t| (t.from, t.to) == (2, 3)));
        assert_eq!(super::turns(1, all, 1).len(), 6);
        assert!(turns.iter().all(|turn| turn.base_cached));
        let cold: Vec<Turn> = cold(2, 2).collect();
        assert!(
            cold.iter()
                .all(|t| !t.base_cached && t.image == 2 && (t.from, t.to) == (2, 3))
        );
        assert_eq!(cold.iter().map(|t| t.run).collect::<Vec<_>>(), [1, 2]);
    }
}

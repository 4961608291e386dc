//! Where it is measured: an authority and two hosts between which containers move.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use toml::Table;

use super::authority::Delay;
use super::link;
use super::plan::{Method, Size, Turn};
use super::registry::Registry;
use super::row::Subject;
use crate::config;
use crate::engine::Engine;
use crate::hosts::Rate;
use crate::image::{BaseImage, Root, XorShift, pieces};
use crate::node;
use crate::teller::Teller;
use crate::testnet::{HostSpec, Spec, Testnet};

/// The hosts between which containers move; the first host is the authority and nothing else.
pub(super) const MOVERS: [usize; 2] = [2, 3];
/// While it is made ready, what both engines are to have does not crawl over the link that is measured.
const UNSHAPED: Rate = Rate::mbit(20_000);
/// One file of a base image.
const FILE: usize = 1_000_000;
/// Different text files of a base image that both hosts have. A registry's gzip looks back 32 KiB and does not see that they come again.
const TEXTS: usize = 16;
/// Sessions move when they are told to and never by themselves; former containers go before the next run. The disk is
/// shared by all hosts and may be rather full.
const SETTINGS: &str =
    "[migration]\nmin_stay = \"1h\"\nkeep_source = \"5s\"\nstage_free = 0.02\nclaim_free = 0.01";
/// The same share: with less free no node fetches anything.
const STAGE_FREE: f64 = 0.02;
/// What an image takes up, in times its size: in two engines and the registry, committed, saved, and while it moves.
const COPIES: u64 = 6;
/// The request that makes the service prepare its files is answered when they are there.
const REQUEST: &str = "request = { timeout = \"120s\" }";

/// What to bring up.
pub(super) struct Needs {
    /// An empty or absent folder; none: one below the folder for temporary files.
    pub(super) dir: Option<PathBuf>,
    /// The capacity of each host's link.
    pub(super) rate: Rate,
    /// Base images that both hosts have.
    pub(super) images: Vec<Size>,
    /// A base image that only the first of them has.
    pub(super) cold: Option<Size>,
    /// What is going to be measured.
    pub(super) methods: Vec<Method>,
    /// How late everything from and to the authority arrives, one way.
    pub(super) authority_delay: Duration,
    /// The authority is stopped before anything moves.
    pub(super) authority_stopped: bool,
}

/// The site, ready.
pub(super) struct Site {
    /// Hosts, engines, nodes.
    pub(super) testnet: Testnet,
    /// In the order of [`Needs::images`], and then [`Needs::cold`].
    pub(super) images: Vec<Image>,
    /// Beside the destination of a person's moves, if one is needed.
    pub(super) registry: Option<Registry>,
    /// Megabits per second from host 2 to host 3, and back.
    goodput: [f64; 2],
    /// How late packets arrive between them, one way, in milliseconds.
    pub(super) link_delay_ms: f64,
    _delay: Option<Delay>,
}

/// A base image.
pub(super) struct Image {
    /// What was asked for.
    pub(super) size: Size,
    /// Both engines have it.
    cached: bool,
    /// Its name on the engines.
    pub(super) tag: String,
    /// What it is called in the registry.
    pub(super) repository: String,
}

impl Image {
    /// The service of a session that moves by this method.
    pub(super) fn service(&self, method: Method) -> String {
        let name = self.size.name.to_lowercase();
        match method {
            Method::Stateless => format!("bench-{name}-stateless"),
            _ if self.cached => format!("bench-{name}"),
            _ => format!("bench-{name}-cold"),
        }
    }
}

impl Site {
    /// Brings it up.
    ///
    /// # Errors
    /// A step failed; everything is removed again.
    pub(super) async fn up(needs: &Needs, teller: &Teller) -> Result<Site> {
        let by_node = needs.methods.iter().any(|method| method.by_node());
        node::binary()?;
        let mut hosts = vec![HostSpec::default(); 1 + MOVERS.len()];
        hosts[0]
            .extra
            .insert("service".to_owned(), toml::Value::Array(Vec::new()));
        if !needs.authority_delay.is_zero() {
            config::overlay(&mut hosts[0].extra, &Delay::settings());
        }
        let spec = Spec {
            dir: needs.dir.clone(),
            rate: needs.rate,
            hosts,
            extra: SETTINGS.parse().context("the bench's settings")?,
            nodes: false,
            ..Spec::hosts(0)
        };
        let mut testnet = Testnet::up(&spec, &|line| teller.say(line)).await?;
        room(&testnet.state().dir, needs.images.iter().chain(&needs.cold))?;
        let mut services = Vec::new();
        // The traffic beside the moves.
        if let Some(image) = &testnet.state().image {
            services.push(config::counter(image));
        }
        let mut images = Vec::new();
        for size in &needs.images {
            teller.say(&format!(
                "building base image {size} and loading it into the other engine"
            ));
            let (image, declared) = place(&testnet, size, true).await?;
            services.extend(declared);
            images.push(image);
        }
        let registry = if needs.methods.contains(&Method::Registry) {
            Some(seed_registry(&mut testnet, &images, needs.rate, teller).await?)
        } else {
            None
        };
        if let Some(size) = &needs.cold {
            teller.say(&format!(
                "building another base image of {size}, on host{} only",
                MOVERS[0]
            ));
            let (image, declared) = place(&testnet, size, false).await?;
            services.extend(declared);
            images.push(image);
        }
        let delay = if needs.authority_delay.is_zero() {
            None
        } else {
            Some(Delay::start(&testnet, needs.authority_delay).await?)
        };
        testnet
            .add_nodes(&spec, &services, &|line| teller.say(line))
            .await?;
        if needs.authority_stopped {
            testnet.stop_node(1)?;
            teller.say("the authority is stopped");
        }
        // What was just written must not be on its way to the disk when the first container moves.
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        let [a, b] = MOVERS;
        let goodput = [
            link::goodput(&testnet, a, b, link::SECONDS).await?,
            link::goodput(&testnet, b, a, link::SECONDS).await?,
        ];
        teller.say(&format!(
            "the link carries {:.1} Mbit/s from host{a} to host{b}, {:.1} back, by iperf3{}",
            goodput[0],
            goodput[1],
            if by_node { "" } else { "; no node moves anything" }
        ));
        let link_delay_ms = link::delay_ms(&testnet, a, b).await?;
        Ok(Site {
            testnet,
            images,
            registry,
            goodput,
            link_delay_ms,
            _delay: delay,
        })
    }

    /// Megabits per second of payload from that host to the other one.
    pub(super) fn goodput_mbit(&self, from: usize) -> f64 {
        self.goodput[usize::from(from != MOVERS[0])]
    }

    /// A host's engine.
    pub(super) fn engine(&self, host: usize) -> Engine {
        self.testnet.engine(host)
    }

    /// What the rows of a run say it is about.
    pub(super) fn subject(&self, turn: &Turn) -> Subject {
        let image = &self.images[turn.image];
        let key = |host| self.testnet.state().host(host).ok()?.key.clone();
        Subject {
            image: image.size.name.clone(),
            service: image.service(turn.method),
            keys: [key(turn.from), key(turn.to)],
            goodput_mbit: self.goodput_mbit(turn.from),
            turn: *turn,
        }
    }
}

/// Whether the disk has room for what is measured; a node that does not have it would say so run after run.
fn room<'a>(dir: &Path, images: impl Iterator<Item = &'a Size>) -> Result<()> {
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("{}", dir.display()))?;
    let [free, total] = [disk.f_bavail, disk.f_blocks].map(|blocks| blocks * disk.f_frsize);
    let needed = (total as f64 * STAGE_FREE) as u64 + COPIES * images.map(|size| size.bytes).sum::<u64>();
    if free < needed {
        bail!(
            "{} MB are free at {}, and this measurement needs {} MB: remove something, or use --dir, --images or --cold",
            free / 1_000_000,
            dir.display(),
            needed / 1_000_000
        );
    }
    Ok(())
}

/// Builds a base image on one engine and, if both are to have it, loads it into the other; gives the declarations of its
/// services.
async fn place(testnet: &Testnet, size: &Size, cached: bool) -> Result<(Image, Vec<Table>)> {
    let [a, b] = MOVERS;
    let name = match cached {
        true => size.name.to_lowercase(),
        false => format!("{}-cold", size.name.to_lowercase()),
    };
    let tag = format!("blosm-bench/{name}:1");
    let (root, tar) = (
        testnet.state().dir.join("root.tar"),
        testnet.state().dir.join("image.tar"),
    );
    let (path, wanted) = (root.clone(), size.clone());
    tokio::task::spawn_blocking(move || write_root(&path, &wanted, cached)).await??;
    let file = tokio::fs::File::open(&root).await?;
    let base = BaseImage::import(&testnet.engine(a), &tag, pieces(file), &tar).await?;
    std::fs::remove_file(&root)?;
    if cached {
        base.load(&testnet.engine(b)).await?;
    }
    std::fs::remove_file(&tar)?;
    let image = Image {
        size: size.clone(),
        cached,
        tag,
        repository: format!("bench-{name}"),
    };
    let patient: Table = REQUEST.parse().context("the bench's settings")?;
    let declare = |method, stateless| {
        let mut declared = config::service(&image.service(method), &base.pinned(), stateless);
        config::overlay(&mut declared, &patient);
        declared
    };
    let mut services = vec![declare(Method::Live, false)];
    if cached {
        services.push(declare(Method::Stateless, true));
    }
    Ok((image, services))
}

/// The root file system as a tar: the service, and files of which some do not compress. Of an image that has to cross
/// the link no text comes twice, and nothing of it is in an image of the same size that both hosts have.
fn write_root(path: &Path, size: &Size, cached: bool) -> Result<()> {
    let file = File::create(path).with_context(|| format!("{}", path.display()))?;
    let mut root = Root::begin(BufWriter::new(file))?;
    let mut source = XorShift(if cached { size.bytes | 1 } else { !size.bytes | 1 });
    let repeated = if cached { TEXTS } else { 0 };
    let texts: Vec<Vec<u8>> = (0..repeated).map(|_| source.text(FILE)).collect::<Result<_>>()?;
    let (mut left, mut random) = (size.bytes as usize, size.random() as usize);
    for number in 0.. {
        let length = left.min(FILE);
        if length == 0 {
            break;
        }
        if random >= length {
            random -= length;
            root.file(&format!("pad/random-{number:04}"), &source.random(length))?;
        } else {
            let name = format!("pad/text-{number:04}");
            match texts.get(number % TEXTS) {
                Some(text) => root.file(&name, &text[..length])?,
                None => root.file(&name, &source.text(length)?)?,
            }
        }
        left -= length;
    }
    root.finish()?.flush()?;
    Ok(())
}

async fn seed_registry(
    testnet: &mut Testnet,
    images: &[Image],
    rate: Rate,
    teller: &Teller,
) -> Result<Registry> {
    let [a, b] = MOVERS;
    let registry = Registry::start(testnet, b).await?;
    for host in MOVERS {
        testnet.reshape(host, UNSHAPED)?;
    }
    for image in images {
        teller.say(&format!(
            "pushing base image {} to the registry on host{b}, over an unshaped link",
            image.size
        ));
        let (source, destination) = (testnet.engine(a), testnet.engine(b));
        registry
            .seed(&source, &destination, &image.tag, &image.repository)
            .await?;
    }
    for host in MOVERS {
        testnet.reshape(host, rate)?;
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_size_that_was_asked_for_and_compresses_by_half() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("root.tar");
        let size: Size = "10MB".parse().unwrap();
        let write = |cached| {
            write_root(&path, &size, cached).unwrap();
            std::fs::read(&path).unwrap()
        };
        let images = [true, false].map(write);
        for bytes in &images {
            // The service is in it, too; the rest beside the files is tar's headers.
            let files = bytes.len() - crate::image::COUNTER.len();
            assert!((10_000_000..10_100_000).contains(&files), "{files}");
            let packed = zstd::bulk::compress(bytes, 1).unwrap().len();
            assert!((5_000_000..8_500_000).contains(&packed), "{packed}");
        }
        // The last bytes of both are text; that of one is not in the other.
        let [cached, cold] = images.map(|bytes| bytes[bytes.len() - 100_000..][..64].to_vec());
        assert_ne!(cached, cold);
    }

    #[test]
    fn the_nodes_are_told_how_much_of_the_disk_stays_free() {
        let settings: Table = SETTINGS.parse().unwrap();
        assert_eq!(settings["migration"]["stage_free"].as_float(), Some(STAGE_FREE));
    }

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused_with_what_to_change() {
        let dir = tempfile::TempDir::new().unwrap();
        let huge = Size {
            name: "huge".into(),
            bytes: u64::MAX / 16,
        };
        let error = room(dir.path(), [huge].iter()).unwrap_err().to_string();
        assert!(error.contains("--dir"), "{error}");
    }
}

//! Hosts on one machine: a network namespace each, joined by a bridge in a namespace of its own (the road).
//!
//! ```text
//!   namespace ..-h1           namespace ..-road            namespace ..-h2
//!   eth0 10.77.0.1  ==veth==  h1 --+ bridge +-- h2  ==veth==  eth0 10.77.0.2
//!        (tbf: up)       (tbf: down)   |     (tbf: down)           (tbf: up)
//!                                     cars ==veth== eth0 10.77.0.200   (not shaped)
//! ```
//! Nothing of it is visible in the machine's own namespace, so nothing can collide with what runs there.

mod link;
mod namespace;
mod nat;
mod quality;
pub mod relay;
mod seat;

pub use link::Rate;
pub use namespace::Namespace;
pub use quality::{LinkQuality, Percent, Quality, millis};
pub use seat::Seat;

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;

use crate::process::Process;

/// The most hosts of one road with an engine each.
pub const MAX_HOSTS: usize = 10;
/// The most hosts of one road without engines: what is left is a process and a namespace for each.
pub const MAX_SEATS: usize = 40;
/// All addresses of a road.
pub const ROAD: &str = "10.77.0.0/24";
/// The last byte of the cars' address.
const CARS: u8 = 200;

/// The network of one testnet. Names follow from the id alone, so any process can take it down.
#[derive(Clone, Debug)]
pub struct Road {
    id: String,
}

impl Road {
    /// The road of the testnet `id`, whether it exists or not.
    pub fn of(id: &str) -> Road {
        Road { id: id.to_owned() }
    }

    /// The namespace that holds the bridge.
    pub fn bridge(&self) -> Namespace {
        Namespace::named(format!("blosm-{}-road", self.id))
    }

    /// The namespace of a host, counted from 1.
    pub fn host(&self, number: usize) -> Namespace {
        Namespace::named(format!("blosm-{}-h{number}", self.id))
    }

    /// The namespace of the cars.
    pub fn cars(&self) -> Namespace {
        Namespace::named(format!("blosm-{}-cars", self.id))
    }

    /// Builds the bridge, `hosts` shaped hosts and the unshaped one of the cars.
    ///
    /// # Errors
    /// A step of `ip` or `tc` failed; what was built stays for [`Road::remove`].
    pub fn build(&self, hosts: usize, rate: Rate) -> Result<()> {
        let bridge = self.bridge();
        bridge.create()?;
        link::bridge(&bridge)?;
        for number in 1..=hosts {
            let host = self.host(number);
            host.create()?;
            link::join(&bridge, &host, &port(number), address(number))?;
            self.reshape(number, rate)?;
        }
        let cars = self.cars();
        cars.create()?;
        link::join(&bridge, &cars, "cars", cars_address())
    }

    /// The namespace of the router that hides a host, if one does.
    fn router(&self, number: usize) -> Namespace {
        Namespace::named(format!("blosm-{}-r{number}", self.id))
    }

    /// Where a host's address on the road is: at the host itself, or at the router that hides it.
    fn edge(&self, number: usize) -> Namespace {
        let router = self.router(number);
        if router.path().exists() {
            router
        } else {
            self.host(number)
        }
    }

    /// Puts a host behind a router that translates its address: it reaches everyone, and nobody opens a connection to
    /// it. For a host on which nothing runs yet.
    ///
    /// # Errors
    /// A step of `ip`, `tc` or `iptables` failed.
    pub fn hide(&self, number: usize, rate: Rate) -> Result<()> {
        nat::hide(&self.host(number), &self.router(number), address(number))?;
        self.reshape(number, rate)
    }

    /// Gives a host's link another capacity.
    ///
    /// # Errors
    /// There is no such link.
    pub fn reshape(&self, number: usize, rate: Rate) -> Result<()> {
        link::shape(&self.bridge(), &port(number), rate)?;
        link::shape(&self.edge(number), link::INSIDE, rate)
    }

    /// Takes a host's link its bound: it is as fast as the machine then.
    ///
    /// # Errors
    /// There is no such link, or it has none.
    pub fn unshape(&self, number: usize) -> Result<()> {
        link::unshape(&self.bridge(), &port(number))?;
        link::unshape(&self.edge(number), link::INSIDE)
    }

    /// Bytes that a host has sent since its link was laid.
    ///
    /// # Errors
    /// There is no such link.
    pub fn sent_bytes(&self, number: usize) -> Result<u64> {
        link::sent_bytes(&self.edge(number), link::INSIDE)
    }

    /// Makes a host's link worse than its rate alone does, or changes that, while the node runs. Files go to `dir`.
    /// `known` is the relay that may be at work; gives the one that is.
    ///
    /// # Errors
    /// There is no such link, or the kernel has no TAP devices.
    pub fn impair(
        &self,
        number: usize,
        quality: &LinkQuality,
        dir: &Path,
        known: Option<Process>,
    ) -> Result<Process> {
        relay::set(self, number, quality, dir, known)
    }

    /// Takes such a relay away again.
    ///
    /// # Errors
    /// There is no such link.
    pub fn mend(&self, number: usize, relay: Process) -> Result<()> {
        relay::clear(self, number, relay)
    }

    /// Takes a host's link down: its peers see silence, not a reset.
    ///
    /// # Errors
    /// There is no such link.
    pub fn cut(&self, number: usize) -> Result<()> {
        link::set(&self.bridge(), &port(number), false)
    }

    /// Takes a host's link up again.
    ///
    /// # Errors
    /// There is no such link.
    pub fn heal(&self, number: usize) -> Result<()> {
        link::set(&self.bridge(), &port(number), true)
    }

    /// Cuts two hosts off from each other: both reach everyone else. Each sees silence from the other, not a reset.
    ///
    /// # Errors
    /// There is no such host.
    pub fn part(&self, one: usize, other: usize) -> Result<()> {
        link::lose(&self.edge(one), address(other))?;
        link::lose(&self.edge(other), address(one))
    }

    /// Takes from a host the way to another one, which still reaches it: it sends into silence.
    ///
    /// # Errors
    /// There is no such host.
    pub fn deafen(&self, from: usize, to: usize) -> Result<()> {
        link::lose(&self.edge(from), address(to))
    }

    /// Gives it back.
    ///
    /// # Errors
    /// There is no such host, or it had the way.
    pub fn hear(&self, from: usize, to: usize) -> Result<()> {
        link::find(&self.edge(from), address(to))
    }

    /// Lets two hosts that were parted reach each other again.
    ///
    /// # Errors
    /// There is no such host, or they were not parted.
    pub fn rejoin(&self, one: usize, other: usize) -> Result<()> {
        let found = link::find(&self.edge(one), address(other));
        found.and(link::find(&self.edge(other), address(one)))
    }

    /// Removes every namespace of this testnet, with the links in them.
    ///
    /// # Errors
    /// A namespace could not be removed; the others are.
    pub fn remove(&self) -> Result<()> {
        let mut result = Ok(());
        for namespace in self.existing() {
            result = result.and(namespace.remove());
        }
        result
    }

    /// The namespaces of this testnet that exist now.
    pub fn existing(&self) -> Vec<Namespace> {
        Namespace::list()
            .into_iter()
            .filter(|n| n.name().starts_with(&format!("blosm-{}-", self.id)))
            .collect()
    }
}

/// The address of a host, counted from 1.
pub fn address(number: usize) -> Ipv4Addr {
    let last = u8::try_from(number)
        .ok()
        .filter(|n| *n < CARS)
        .expect("hosts are at most MAX_SEATS");
    Ipv4Addr::new(10, 77, 0, last)
}

/// The address of the cars.
pub fn cars_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, CARS)
}

/// A host's end on the bridge.
fn port(number: usize) -> String {
    format!("h{number}")
}

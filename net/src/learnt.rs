//! Addresses of one peer that others have told, each of them for a while. They stand beside the ones of the operator and
//! of the ledger, never in their place. Pure.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::doors::ip_of;

/// More learnt addresses of one peer than this are not kept.
pub(crate) const MAX_LEARNT: usize = 8;
/// What a peer said of itself, which it says again every five minutes; or the local network, which takes back what it has not
/// heard again within six.
const LIFETIME: Duration = Duration::from_secs(3600);
/// What a third party said, which is looked for again when it is needed.
const KAD_LIFETIME: Duration = Duration::from_secs(300);

/// How a peer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// Its address stands in the network's file.
    Bootstrap,
    /// Its address stands on the ledger.
    Chain,
    /// It told its address when it was connected before.
    Identify,
    /// The local network told its address.
    Mdns,
    /// Another member knew its address.
    Kad,
    /// It dialled.
    Inbound,
}

impl Found {
    /// The word for it in answers and tables.
    pub fn name(self) -> &'static str {
        match self {
            Found::Bootstrap => "bootstrap",
            Found::Chain => "chain",
            Found::Identify => "identify",
            Found::Mdns => "mdns",
            Found::Kad => "kad",
            Found::Inbound => "inbound",
        }
    }

    fn lifetime(self) -> Duration {
        match self {
            Found::Kad => KAD_LIFETIME,
            Found::Bootstrap | Found::Chain | Found::Identify | Found::Mdns | Found::Inbound => LIFETIME,
        }
    }
}

/// The learnt addresses of one peer.
#[derive(Debug, Default)]
pub(crate) struct Learnt {
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    address: Multiaddr,
    found: Found,
    until: Instant,
}

impl Learnt {
    /// Notes an address. Returns whether it is news.
    pub(crate) fn note(&mut self, address: Multiaddr, found: Found, now: Instant) -> bool {
        let until = now + found.lifetime();
        if let Some(known) = self.known.iter_mut().find(|known| known.address == address) {
            known.until = known.until.max(until);
            return false;
        }
        if self.known.len() >= MAX_LEARNT {
            // The oldest goes: whoever changes its address has a newer one.
            let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.until);
            if let Some((index, _)) = oldest {
                self.known.remove(index);
            }
        }
        self.known.push(Known {
            address,
            found,
            until,
        });
        true
    }

    /// Drops what `found` had told of this address.
    pub(crate) fn take_back(&mut self, address: &Multiaddr, found: Found) {
        self.known
            .retain(|known| known.found != found || known.address != *address);
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.known.retain(|known| now < known.until);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The newest first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        self.known.iter().rev().map(|known| &known.address)
    }

    pub(crate) fn found(&self, address: &Multiaddr) -> Option<Found> {
        self.known
            .iter()
            .find(|known| known.address == *address)
            .map(|known| known.found)
    }
}

/// Whether an address that a peer told can be one to dial: IP and TCP port, and no loopback address but from a peer that
/// is on this machine itself.
pub(crate) fn is_usable(address: &Multiaddr, loopback: bool) -> bool {
    let port = match address.iter().nth(1) {
        Some(Protocol::Tcp(port)) => port,
        _ => return false,
    };
    let plain = match address.iter().nth(2) {
        None | Some(Protocol::P2p(_)) => address.iter().nth(3).is_none(),
        Some(_) => false,
    };
    let Some(ip) = ip_of(address) else { return false };
    plain && port != 0 && !ip.is_unspecified() && !ip.is_multicast() && (loopback || !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn few_are_kept_and_the_oldest_goes() {
        let (mut learnt, start) = (Learnt::default(), Instant::now());
        for n in 1..=20u16 {
            let now = start + Duration::from_secs(n.into());
            assert!(learnt.note(address(n), Found::Identify, now));
            assert!(!learnt.note(address(n), Found::Identify, now), "no news");
        }
        let kept: Vec<_> = learnt.addresses().cloned().collect();
        let newest: Vec<_> = (13..=20).rev().map(address).collect();
        assert_eq!(kept, newest);
    }

    #[test]
    fn what_is_not_repeated_expires() {
        let (mut learnt, start) = (Learnt::default(), Instant::now());
        learnt.note(address(1), Found::Kad, start);
        learnt.note(address(2), Found::Kad, start);
        let again = start + KAD_LIFETIME / 2;
        learnt.note(address(2), Found::Kad, again);
        learnt.expire(start + KAD_LIFETIME);
        assert_eq!(learnt.addresses().collect::<Vec<_>>(), [&address(2)]);
        learnt.expire(again + KAD_LIFETIME);
        assert!(learnt.is_empty());
    }

    #[test]
    fn only_who_told_takes_back() {
        let (mut learnt, now) = (Learnt::default(), Instant::now());
        learnt.note(address(1), Found::Identify, now);
        learnt.note(address(2), Found::Mdns, now);
        learnt.take_back(&address(1), Found::Mdns);
        learnt.take_back(&address(2), Found::Mdns);
        assert_eq!(learnt.addresses().collect::<Vec<_>>(), [&address(1)]);
        assert_eq!(learnt.found(&address(1)), Some(Found::Identify));
    }

    #[test]
    fn addresses_that_lead_nowhere_are_not_usable() {
        let usable = |text: &str| is_usable(&text.parse().unwrap(), false);
        assert!(usable("/ip4/10.0.0.1/tcp/4401"));
        assert!(usable("/ip6/fd00::1/tcp/4401"));
        for bad in [
            "/ip4/0.0.0.0/tcp/4401",
            "/ip4/127.0.0.1/tcp/4401",
            "/ip6/::1/tcp/4401",
            "/ip4/224.0.0.1/tcp/4401",
            "/ip4/10.0.0.1/tcp/0",
            "/ip4/10.0.0.1/udp/4401",
            "/dns4/example.org/tcp/4401",
            "/ip4/10.0.0.1/tcp/4401/ws",
            "/ip4/10.0.0.1",
        ] {
            assert!(!usable(bad), "{bad}");
        }
        assert!(is_usable(&"/ip4/127.0.0.1/tcp/1".parse().unwrap(), true));
    }
}

//! Whether others can dial this node: what they see of it, what came in by itself, and what a member found when it dialled
//! back. Pure.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::doors::ip_of;
use crate::learnt::is_usable;

/// The name of the protocol.
pub(crate) const REACH: &str = "reach";
/// Addresses of one question, and of one answer.
pub(crate) const MAX_ASKED: usize = 4;
/// Text of the longest question.
pub(crate) const MAX_QUESTION: usize = 1024;
/// Between two questions while nobody has reached this node.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// The same when somebody has: routers change their minds.
const ASK_SELDOM: Duration = Duration::from_secs(600);
/// The same when there is a new address to ask about.
const ASK_SOON: Duration = Duration::from_secs(5);

/// What is known of how others reach this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reachability {
    /// Whether a member has connected to this node by itself since the start.
    pub inbound: bool,
    /// Addresses under which others see this node, with its own ports: its own address, or that of a router before it.
    pub observed: Vec<Multiaddr>,
    /// Addresses at which a member has reached this node when asked to.
    pub reached: Vec<Multiaddr>,
    /// Addresses at which a member has tried to reach this node in vain.
    pub unreached: Vec<Multiaddr>,
}

impl Reachability {
    /// Whether others can dial this node, as far as anybody knows. A node that nobody can dial works over the connections
    /// that it opens itself.
    pub fn verdict(&self) -> Option<bool> {
        if self.inbound || !self.reached.is_empty() {
            Some(true)
        } else if self.unreached.is_empty() {
            None
        } else {
            Some(false)
        }
    }
}

/// What a member says about one of the addresses that it was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The address does not lead to where the connection comes from, so it was not tried.
    Untried = 0,
    /// This node has proven its name there.
    Reached = 1,
    /// Nobody answered, or somebody else.
    Unreached = 2,
}

/// Gathers what others see, and says when to ask and what.
#[derive(Debug)]
pub(crate) struct Reach {
    state: Reachability,
    advertised: Vec<Multiaddr>,
    asked: Option<Instant>,
    /// Whether an address has turned up since then.
    news: bool,
}

impl Reach {
    pub(crate) fn new(advertised: Vec<Multiaddr>) -> Self {
        Self {
            state: Reachability::default(),
            advertised,
            asked: None,
            news: false,
        }
    }

    pub(crate) fn state(&self) -> &Reachability {
        &self.state
    }

    /// A member has connected by itself. Returns whether that is news.
    pub(crate) fn on_inbound(&mut self) -> bool {
        !std::mem::replace(&mut self.state.inbound, true)
    }

    /// A member sees this node at `observed`, whose port is a passing one; our own are `listeners`'. Returns whether that is
    /// news.
    pub(crate) fn on_observed<'a>(
        &mut self,
        observed: &Multiaddr,
        listeners: impl Iterator<Item = &'a Multiaddr>,
    ) -> bool {
        let Some(ip) = ip_of(observed) else { return false };
        let mut news = false;
        for listener in listeners {
            let Some(candidate) = with_port_of(ip, listener) else {
                continue;
            };
            if is_usable(&candidate, true) && !self.state.observed.contains(&candidate) {
                // The newest few: an address that changed is not asked about for ever.
                if self.state.observed.len() >= MAX_ASKED {
                    let old = self.state.observed.remove(0);
                    self.state.reached.retain(|address| *address != old);
                    self.state.unreached.retain(|address| *address != old);
                }
                self.state.observed.push(candidate);
                self.news = true;
                news = true;
            }
        }
        news
    }

    /// What to ask a member that can be asked now; the question is noted as asked.
    pub(crate) fn question(&mut self, now: Instant) -> Option<Vec<Multiaddr>> {
        let wait = match (self.news, self.state.reached.is_empty()) {
            (true, _) => ASK_SOON,
            (false, true) => ASK_AGAIN,
            (false, false) => ASK_SELDOM,
        };
        if self.asked.is_some_and(|at| now.duration_since(at) < wait) {
            return None;
        }
        let mut addresses = self.advertised.clone();
        for address in self.state.observed.iter().rev() {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses.truncate(MAX_ASKED);
        if addresses.is_empty() {
            return None;
        }
        self.asked = Some(now);
        self.news = false;
        Some(addresses)
    }

    /// A member has answered. Returns whether something is new.
    pub(crate) fn on_answer(&mut self, asked: &[Multiaddr], answer: &[u8]) -> bool {
        let before = self.state.clone();
        for (address, finding) in asked.iter().zip(answer) {
            let (to, from) = match *finding {
                found if found == Finding::Reached as u8 => {
                    (&mut self.state.reached, &mut self.state.unreached)
                }
                found if found == Finding::Unreached as u8 => {
                    (&mut self.state.unreached, &mut self.state.reached)
                }
                _ => continue,
            };
            from.retain(|known| known != address);
            if !to.contains(address) {
                to.push(address.clone());
            }
        }
        before != self.state
    }
}

/// The same address with the listener's port, if they are of one family.
fn with_port_of(ip: IpAddr, listener: &Multiaddr) -> Option<Multiaddr> {
    let same = matches!(
        (ip, ip_of(listener)?),
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
    );
    let port = listener
        .iter()
        .nth(1)
        .filter(|part| matches!(part, Protocol::Tcp(_)))?;
    same.then(|| Multiaddr::from(ip).with(port))
}

/// A question as it crosses the wire: one address a line.
pub(crate) fn encode(addresses: &[Multiaddr]) -> Vec<u8> {
    let lines: Vec<String> = addresses.iter().map(Multiaddr::to_string).collect();
    lines.join("\n").into_bytes()
}

/// None when it is no question.
pub(crate) fn decode(question: &[u8]) -> Option<Vec<Multiaddr>> {
    let text = std::str::from_utf8(question).ok()?;
    let addresses: Option<Vec<Multiaddr>> = text
        .lines()
        .take(MAX_ASKED + 1)
        .map(|line| line.parse().ok())
        .collect();
    addresses.filter(|addresses| {
        (1..=MAX_ASKED).contains(&addresses.len()) && !addresses.iter().any(Multiaddr::is_empty)
    })
}

/// Whether an address that `from` names may be dialled for it: nobody is made to knock at a third party's door.
pub(crate) fn leads_back(address: &Multiaddr, from: IpAddr) -> bool {
    is_usable(address, from.is_loopback()) && ip_of(address) == Some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_others_see_takes_our_ports() {
        let mut reach = Reach::new(vec![]);
        let listeners = [address("/ip4/0.0.0.0/tcp/4401"), address("/ip6/::/tcp/4402")];
        assert!(reach.on_observed(&address("/ip4/203.0.113.7/tcp/53211"), listeners.iter()));
        assert!(!reach.on_observed(&address("/ip4/203.0.113.7/tcp/53999"), listeners.iter()));
        assert!(reach.on_observed(&address("/ip6/2001:db8::7/tcp/1"), listeners.iter()));
        let seen = [
            address("/ip4/203.0.113.7/tcp/4401"),
            address("/ip6/2001:db8::7/tcp/4402"),
        ];
        assert_eq!(reach.state().observed, seen);
        assert_eq!(reach.state().verdict(), None);
    }

    #[test]
    fn a_verdict_needs_a_witness() {
        let advertised = address("/ip4/203.0.113.7/tcp/9000");
        let mut reach = Reach::new(vec![advertised.clone()]);
        let now = Instant::now();
        let asked = reach.question(now).unwrap();
        assert_eq!(asked, std::slice::from_ref(&advertised));
        assert_eq!(reach.question(now), None, "not again so soon");
        assert!(!reach.on_answer(&asked, &[0]), "untried says nothing");
        assert!(reach.on_answer(&asked, &[2]));
        assert_eq!(reach.state().verdict(), Some(false));
        assert_eq!(reach.question(now + ASK_AGAIN), Some(asked.clone()));
        assert!(reach.on_answer(&asked, &[1]));
        assert_eq!(reach.state().verdict(), Some(true));
        assert!(reach.state().unreached.is_empty());
        assert_eq!(reach.question(now + 4 * ASK_AGAIN), None, "seldom");
        assert!(reach.question(now + ASK_AGAIN + ASK_SELDOM).is_some());
        assert!(!reach.on_answer(&asked, &[1, 1, 9, 9]));
    }

    #[test]
    fn whom_a_member_dials_is_reachable() {
        let mut reach = Reach::new(vec![]);
        assert!(reach.on_inbound());
        assert!(!reach.on_inbound());
        assert_eq!(reach.state().verdict(), Some(true));
    }

    #[test]
    fn only_few_addresses_are_remembered() {
        let mut reach = Reach::new(vec![]);
        let listeners = [address("/ip4/0.0.0.0/tcp/4401")];
        let mut now = Instant::now();
        for n in 1..200 {
            now += ASK_SOON;
            reach.on_observed(&address(&format!("/ip4/203.0.113.{n}/tcp/1")), listeners.iter());
            let asked = reach.question(now).unwrap();
            reach.on_answer(&asked, &[2; MAX_ASKED]);
        }
        assert_eq!(reach.state().observed.len(), MAX_ASKED);
        assert_eq!(reach.state().unreached.len(), MAX_ASKED);
    }

    #[test]
    fn questions_round_trip_and_nonsense_is_none() {
        let asked = vec![address("/ip4/10.0.0.1/tcp/1"), address("/ip6/fd00::1/tcp/2")];
        assert_eq!(decode(&encode(&asked)), Some(asked));
        let many = encode(&vec![address("/ip4/10.0.0.1/tcp/1"); MAX_ASKED + 1]);
        for bad in [&b""[..], b"\xff", b"hello", b"/ip4/10.0.0.1/tcp/1\n\n", &many] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nobody_is_sent_to_a_third_partys_door() {
        let from = "203.0.113.7".parse().unwrap();
        assert!(leads_back(&address("/ip4/203.0.113.7/tcp/4401"), from));
        for other in [
            "/ip4/203.0.113.8/tcp/4401",
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/203.0.113.7/udp/53",
        ] {
            assert!(!leads_back(&address(other), from), "{other}");
        }
    }
}

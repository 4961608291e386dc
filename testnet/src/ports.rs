//! Ports for nodes that share this machine's loopback.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

use crate::config::PORTS;

/// Below these are the ports of well-known services.
const LOWEST: u16 = 15_000;
/// Where the kernel takes ports for outgoing connections, unless it says otherwise: a node's port must not be one of them.
const OUTGOING: u16 = 32_768;
/// How many places are tried.
const TRIES: u16 = 50;

/// The first of as many free ports in a row as `count` nodes have. They are free now; nothing keeps them so.
///
/// # Errors
/// There is no such row.
pub fn find(count: usize) -> Result<u16> {
    let end = outgoing().unwrap_or(OUTGOING).max(LOWEST);
    let room = usize::from(end - LOWEST);
    let needed = count * PORTS;
    if needed > room {
        bail!("{count} nodes need {needed} ports, and {LOWEST} to {end} are {room}; start fewer");
    }
    // Two testnets that are started at the same time begin to look at different places.
    let places = room - needed + 1;
    let step = places.div_ceil(usize::from(TRIES)).max(1);
    let first = usize::try_from(std::process::id())? * needed;
    for n in 0..usize::from(TRIES) {
        let base = LOWEST + u16::try_from((first + n * step) % places)?;
        let mut row = (0..needed).map_while(|offset| Some(base + u16::try_from(offset).ok()?));
        if row.all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return Ok(base);
        }
    }
    bail!(
        "{needed} ports in a row are not free anywhere from {LOWEST} to {end}; end other testnets or start fewer nodes"
    )
}

fn outgoing() -> Option<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_that_was_found_is_free_and_one_that_is_taken_is_not_found() {
        let base = find(20).unwrap();
        let last = base + (20 * PORTS - 1) as u16;
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, last)).unwrap();
        let other = find(20).unwrap();
        assert!(
            !(other..other + (20 * PORTS) as u16).contains(&last),
            "{base} {other}"
        );
        assert!(find(20_000).is_err());
    }
}

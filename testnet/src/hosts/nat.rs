//! A router between a host and the road, as a mobile operator or an office has it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::Namespace;
use super::link::INSIDE;
use crate::shell::sh;

/// The router's port to the host.
const LAN: &str = "lan";
/// The host's address behind it, and the router's.
const HIDDEN: &str = "192.168.77.2";
const GATEWAY: &str = "192.168.77.1";

/// Moves the host's port on the road to the router, and lays a link between the two.
pub(super) fn hide(host: &Namespace, router: &Namespace, address: Ipv4Addr) -> Result<()> {
    router.create()?;
    sh(&format!("ip -n {host} link set {INSIDE} netns {router}"))?;
    sh(&format!("ip -n {router} addr add {address}/24 dev {INSIDE}"))?;
    sh(&format!("ip -n {router} link set {INSIDE} up"))?;
    sh(&format!(
        "ip link add {LAN} netns {router} type veth peer name {INSIDE} netns {host}"
    ))?;
    sh(&format!("ip -n {router} addr add {GATEWAY}/24 dev {LAN}"))?;
    sh(&format!("ip -n {router} link set {LAN} up"))?;
    sh(&format!("ip -n {host} addr add {HIDDEN}/24 dev {INSIDE}"))?;
    sh(&format!("ip -n {host} link set {INSIDE} up"))?;
    sh(&format!("ip -n {host} route add default via {GATEWAY}"))?;
    forward(router)?;
    let rules = [
        format!("-t nat -A POSTROUTING -o {INSIDE} -j MASQUERADE"),
        format!("-A FORWARD -i {INSIDE} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"),
        format!("-A FORWARD -i {INSIDE} -j DROP"),
    ];
    for rule in rules {
        sh(&format!(
            "nsenter --net={} iptables {rule}",
            router.path().display()
        ))
        .context("the kernel must have netfilter's address translation")?;
    }
    Ok(())
}

/// Lets the router pass packets on. The switch belongs to the namespace of the thread that turns it.
fn forward(router: &Namespace) -> Result<()> {
    let switch = || async { std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") };
    let turned = std::thread::scope(|scope| scope.spawn(|| router.block_on(switch)).join());
    match turned {
        Ok(turned) => turned?.with_context(|| format!("{router} does not forward")),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

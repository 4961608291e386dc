//! `blosm admit`: an authority lets a node in.

use anyhow::{Context, bail};
use blosm_ledger::PublicKey;
use blosm_net::{Multiaddr, PeerId, key_of_peer};
use clap::Args;
use serde_json::json;

use super::table::text;
use super::{Output, Target};
use crate::config::Coordinates;

#[derive(Debug, Args)]
pub(super) struct Admit {
    /// The node's key or peer id, as its `blosm init` printed it
    #[arg(value_name = "NODE-KEY")]
    node: String,
    /// libp2p address of the node, repeatable
    #[arg(long, value_name = "MULTIADDR")]
    address: Vec<Multiaddr>,
    /// URL of the node's gateway
    #[arg(long, value_name = "URL")]
    gateway: String,
    /// URL of the node's metrics, if it shows them
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// Position of the node in degrees
    #[arg(long, value_name = "LAT,LON", allow_hyphen_values = true)]
    location: Coordinates,
    /// Coverage of the node in metres
    #[arg(long, value_name = "METRES")]
    radius: f64,
    /// Name of the node for people
    #[arg(long)]
    label: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(admit: Admit) -> anyhow::Result<()> {
    let key = node_key(&admit.node)?;
    let body = json!({
        "key": key, "addresses": admit.address, "gateway": admit.gateway, "metrics": admit.metrics,
        "location": admit.location.to_string(), "radius": admit.radius, "label": admit.label,
    });
    let answer = admit.target.client()?.post("/v1/members", &body).await?;
    admit.output.print(&answer, || {
        format!(
            "{} ({}) is a member since block {}\n",
            admit.label,
            key.short(8),
            text(&answer, "height")
        )
    });
    Ok(())
}

fn node_key(node: &str) -> anyhow::Result<PublicKey> {
    if let Ok(key) = node.parse::<PublicKey>() {
        return Ok(key);
    }
    let peer: PeerId = node.parse().ok().with_context(|| {
        format!("{node:?} is no node key: 64 hex digits or a peer id, as `blosm init` prints them")
    })?;
    match key_of_peer(&peer) {
        Some(key) => Ok(PublicKey(key)),
        None => bail!("{peer} is not the peer id of an ed25519 key"),
    }
}

//! `blosm evict` and `blosm leave`: the end of a membership.

use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use serde_json::json;

use super::drain;
use super::table::text;
use super::{Output, Target};

/// Between two looks at a node that is drained.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Evict {
    /// Label, key prefix or peer id of the member
    #[arg(value_name = "NODE")]
    node: String,
    /// Why, for everybody to read on the chain
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Have it move its sessions away first, and wait for that
    #[arg(long, conflicts_with = "lost")]
    drain: bool,
    /// The machine is off and will not run its sessions again
    #[arg(long)]
    lost: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Leave {
    /// Why, for everybody to read on the chain
    #[arg(long, value_name = "TEXT", default_value = "left")]
    why: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn evict(evict: Evict) -> anyhow::Result<()> {
    let client = evict.target.client()?;
    let sessions = match (evict.drain, evict.lost) {
        (true, _) => Some("drain"),
        (_, true) => Some("lost"),
        (false, false) => None,
    };
    let body = json!({ "node": evict.node, "why": evict.why, "sessions": sessions });
    let mut told = None;
    let answer = loop {
        let answer = client.post("/v1/evictions", &body).await?;
        if answer["evicted"] == true {
            break answer;
        }
        let remaining = answer["remaining"].as_u64().unwrap_or(0);
        if answer["settled"] == true {
            bail!(
                "{} is drained, and {remaining} of its sessions were taken by nobody; it is not evicted. `blosm drain` there \
                 tells why; --lost evicts it with them",
                text(&answer, "label")
            );
        }
        if told != Some(remaining) {
            eprintln!("{} has {remaining} sessions to move", text(&answer, "label"));
            told = Some(remaining);
        }
        tokio::time::sleep(POLL).await;
    };
    evict.output.print(&answer, || {
        format!(
            "{} ({}) was evicted by block {}\n",
            text(&answer, "label"),
            super::table::short(&answer, "node", 8),
            text(&answer, "height")
        )
    });
    Ok(())
}

pub(super) async fn leave(leave: Leave) -> anyhow::Result<()> {
    let client = leave.target.client()?;
    // Before anything is moved.
    let status = client.get("/v1/status").await?;
    ensure!(
        status["authority"] != true,
        "this node is an authority of the network, and authorities stay"
    );
    ensure!(status["member"] == true, "this node is no member of its network");
    let view = drain::settle(&client, None).await?;
    match drain::remaining(&view) {
        0 => {}
        count => bail!(
            "{count} of this node's sessions were taken by nobody; it stays a member and drained. `blosm drain` tells why, \
             `blosm undrain` ends that"
        ),
    }
    let answer = client.post("/v1/leave", &json!({ "why": leave.why })).await?;
    leave.output.print(&answer, || {
        format!(
            "this node left by block {}; it serves nothing any more and can be stopped\n",
            text(&answer, "height")
        )
    });
    Ok(())
}

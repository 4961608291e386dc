//! `blosm chain head|block|tx|evidence`: a look at the ledger as this node holds it.

mod confirmed;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::table::{Table, lines, short, text};
use super::{Output, Target};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The newest block
    Head(Head),
    /// A block with its transactions
    Block(One),
    /// A transaction with its confirmations
    Tx(Tx),
    /// Proofs that the authority sealed two blocks of one height
    Evidence(Evidence),
}

#[derive(Debug, Args)]
pub(super) struct Evidence {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Head {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// Height or hash of a block, hash of a transaction
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Tx {
    #[command(flatten)]
    one: One,
    /// Print `K of N` as members confirm it; succeed when 90 % do
    #[arg(long)]
    wait_confirmed: bool,
    /// How long to wait for that
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "wait_confirmed", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// A height or a hash; nothing else may become part of a request's path.
fn id(text: &str) -> Result<String, &'static str> {
    let hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hash || text.parse::<u64>().is_ok() {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected a height or a hash of 64 hex digits")
    }
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Head(head) => {
            let value = head.target.client()?.get("/v1/chain/head").await?;
            head.output.print(&value, || {
                lines(
                    &["height", "hash", "timestamp_ms", "confirmed_height", "members"]
                        .map(|key| (key, text(&value, key))),
                )
            });
        }
        Command::Block(one) => {
            let value = one
                .target
                .client()?
                .get(&format!("/v1/chain/blocks/{}", one.id))
                .await?;
            one.output.print(&value, || block(&value));
        }
        Command::Evidence(which) => {
            let value = which.target.client()?.get("/v1/chain/evidence").await?;
            which.output.print(&value, || evidence(&value));
        }
        Command::Tx(tx) if tx.wait_confirmed => confirmed::wait(&tx.one, tx.timeout).await?,
        Command::Tx(Tx { one, .. }) => {
            let value = one
                .target
                .client()?
                .get(&format!("/v1/chain/transactions/{}", one.id))
                .await?;
            one.output.print(&value, || transaction(&value));
        }
    }
    Ok(())
}

fn evidence(value: &Value) -> String {
    let found = value["evidence"].as_array().map_or(&[][..], Vec::as_slice);
    if found.is_empty() {
        return "no height with two sealed blocks is known here\n".to_owned();
    }
    let mut table = Table::new(["HEIGHT", "IMPORTED HERE", "THE OTHER", "ITS TIME", "ITS PROPOSER"]);
    for one in found {
        table.row([
            text(one, "height"),
            short(one, "ours", 12),
            short(one, "theirs", 12),
            text(one, "header.timestamp_ms"),
            short(one, "header.proposer", 8),
        ]);
    }
    let halted = if value["halted"] == true {
        "this authority seals nothing until it is started with --resume\n"
    } else {
        ""
    };
    format!("{}{halted}", table.render())
}

fn block(value: &Value) -> String {
    let header = [
        "height",
        "hash",
        "previous_hash",
        "timestamp_ms",
        "proposer",
        "nonce",
        "tx_root",
        "sessions_root",
        "members_root",
        "member_count",
        "confirmed_height",
    ];
    let mut table = Table::new(["TRANSACTION", "KIND", "SENDER", "SESSION", "EPOCH"]);
    for tx in value["transactions"].as_array().map_or(&[][..], Vec::as_slice) {
        table.row([
            text(tx, "hash"),
            text(tx, "payload.kind"),
            short(tx, "sender", 8),
            short(tx, "payload.session", 12),
            text(tx, "payload.epoch"),
        ]);
    }
    format!(
        "{}\n{}",
        lines(&header.map(|key| (key, text(value, key)))),
        table.render()
    )
}

fn transaction(value: &Value) -> String {
    let confirmations = format!("{} of {}", text(value, "confirmations"), text(value, "members"));
    let mut pairs = vec![
        ("hash", text(value, "hash")),
        (
            "block",
            format!("{}, position {}", text(value, "height"), text(value, "index")),
        ),
        ("confirmations", confirmations),
        ("sender", text(value, "transaction.sender")),
    ];
    let payload = value["transaction"]["payload"].as_object();
    for key in payload.iter().flat_map(|payload| payload.keys()) {
        pairs.push((key, text(&value["transaction"]["payload"], key)));
    }
    lines(&pairs)
}

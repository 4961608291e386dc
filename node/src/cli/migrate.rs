//! `blosm migrate`: moves a session's container and waits for the outcome.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{bytes, millis, short, text};
use super::{Output, Target};
use crate::config::Method;

/// Between two looks at a running migration; a look costs the node next to nothing.
const POLL: Duration = Duration::from_millis(200);
/// Looks that may find no report yet before the migration counts as unknown to the node.
const MAX_MISSES: u32 = 50;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The session's id or a prefix of it
    session: String,
    /// Label, key prefix or peer id of the destination; else the nearest member with room
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// How to move the container, if not as migration.method says
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Print the migration's id and return at once
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(migrate: Migrate) -> anyhow::Result<()> {
    let client = migrate.target.client()?;
    let body = json!({ "session": migrate.session, "to": migrate.to, "method": migrate.method });
    let started = client.post("/v1/migrations", &body).await?;
    let id = started["id"].as_str().context("the node named no migration")?;
    if migrate.detach {
        migrate.output.print(&started, || format!("{id}\n"));
        return Ok(());
    }
    if stderr().is_terminal() {
        eprintln!("migration {id} runs; its end is shown here, Ctrl-C does not stop it");
    }
    let report = outcome(&client, id).await?;
    migrate.output.print(&report, || {
        format!(
            "{} {} of {} to {}: {} on the wire for an image of {}, downtime {}, total {}\n",
            text(&report, "outcome"),
            short(&report, "session", 12),
            text(&report, "service"),
            short(&report, "destination", 8),
            bytes(&report, "wire_bytes"),
            bytes(&report, "image_bytes"),
            millis(&report, "downtime_ms"),
            millis(&report, "total_ms"),
        )
    });
    if report["outcome"] != "completed" {
        bail!(
            "the migration ended {}: {}",
            text(&report, "outcome"),
            text(&report, "error")
        );
    }
    Ok(())
}

/// Waits until the migration has ended.
async fn outcome(client: &Client, id: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/migrations/{id}");
    let mut misses = 0;
    loop {
        match client.try_get(&path).await? {
            Ok(report) if report["outcome"] != "running" => return Ok(report),
            Ok(_) => {}
            // The report of a migration that has only just begun may not be there yet.
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND && misses < MAX_MISSES => misses += 1,
            Err(refusal) => return Err(refusal.into()),
        }
        tokio::time::sleep(POLL).await;
    }
}

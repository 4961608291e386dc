//! `blosm migrate`: moves a session's container and waits for the outcome, or says what that would be like.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{bytes, lines, millis, short, text};
use super::{Output, Target, progress};
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
    /// How to move the container, if not as the destination's migration.method says
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Move it even if that stops the service for longer than the destination's migration.max_downtime
    #[arg(long)]
    force: bool,
    /// Print the migration's id and return at once
    #[arg(long)]
    detach: bool,
    /// Say what would happen: the destination's judgement, what would travel, how long it may take
    #[arg(long, conflicts_with = "detach")]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(migrate: Migrate) -> anyhow::Result<()> {
    let client = migrate.target.client()?;
    let body = json!({
        "session": migrate.session,
        "to": migrate.to,
        "method": migrate.method.map(Method::as_str),
        "force": migrate.force,
        "dry_run": migrate.dry_run,
    });
    if migrate.dry_run {
        return dry_run(&client, &body, migrate.output).await;
    }
    let started = client.post("/v1/migrations", &body).await?;
    let id = started["id"].as_str().context("the node named no migration")?;
    if migrate.detach {
        migrate.output.print(&started, || format!("{id}\n"));
        return Ok(());
    }
    if stderr().is_terminal() {
        eprintln!("migration {id} runs; its end is shown here, Ctrl-C does not stop it");
    }
    let report = {
        let ended = outcome(&client, id);
        let shown = progress::show(&client, id);
        tokio::pin!(ended, shown);
        tokio::select! {
            report = &mut ended => report?,
            () = &mut shown => ended.await?,
        }
    };
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

/// Shows what a migration would be like; a session that would not move is a failure, as it would be then.
async fn dry_run(client: &Client, body: &Value, output: Output) -> anyhow::Result<()> {
    let assessment = client.post("/v1/migrations", body).await?;
    output.print(&assessment, || assessed(&assessment));
    if assessment["verdict"] != true {
        bail!(
            "{} would not take the session now",
            text(&assessment, "destination_label")
        );
    }
    if assessment["method"] == "none" {
        bail!("the session would not move: {}", text(&assessment, "why"));
    }
    Ok(())
}

fn assessed(assessment: &Value) -> String {
    let can = |key: &str| match &assessment["verdict_detail"][key] {
        Value::Bool(true) => "yes",
        _ => "no",
    };
    let known = |key: &str, otherwise: &str| match millis(assessment, key).as_str() {
        "-" => otherwise.to_owned(),
        time => format!("about {time}"),
    };
    let link = match assessment["link_mbit"].as_f64() {
        Some(mbit) => format!("{mbit:.1} Mbit/s when last measured"),
        None => "unknown link".to_owned(),
    };
    let hard = match text(assessment, "verdict_detail.hard").as_str() {
        "-" => "none".to_owned(),
        hard => hard.to_owned(),
    };
    lines(&[
        (
            "session",
            format!(
                "{} of {}",
                short(assessment, "session", 12),
                text(assessment, "service")
            ),
        ),
        ("to", text(assessment, "destination_label")),
        ("takes it", text(assessment, "verdict")),
        (
            "resources",
            format!("memory {}, cpu {}, gpu {}", can("memory"), can("cpu"), can("gpu")),
        ),
        ("same service", can("service").to_owned()),
        ("hard failure", hard),
        (
            "method",
            format!("{}: {}", text(assessment, "method"), text(assessment, "why")),
        ),
        (
            "missing there",
            format!(
                "{} ({} of {} layers, and {} that the container wrote)",
                bytes(assessment, "missing_bytes"),
                text(assessment, "missing_layers"),
                text(assessment, "layers"),
                bytes(assessment, "writable_bytes")
            ),
        ),
        ("link", link),
        ("time", known("expected_ms", "not known: unknown link")),
        (
            "downtime",
            known(
                "expected_downtime_ms",
                "not known: nothing like it was measured yet",
            ),
        ),
    ])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_what_is_known_and_what_is_not() {
        let mut assessment = json!({
            "session": "0123456789abcdef", "service": "counter", "destination_label": "host2", "verdict": false,
            "verdict_detail": { "memory": true, "cpu": false, "gpu": true, "service": true, "hard": "disk" },
            "method": "image", "why": "both nodes have it", "layers": 3, "missing_layers": 1,
            "missing_bytes": 2048, "writable_bytes": 1024,
            "link_mbit": null, "expected_ms": null, "expected_downtime_ms": null,
        });
        let text = assessed(&assessment);
        for part in [
            "memory yes, cpu no, gpu yes",
            "takes it       no",
            "disk",
            "2.0 KiB (1 of 3 layers, and 1.0 KiB that the container wrote)",
            "unknown link",
            "not known: nothing like it",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assessment["link_mbit"] = 40.04.into();
        assessment["expected_ms"] = 1234.4.into();
        let text = assessed(&assessment);
        assert!(
            text.contains("40.0 Mbit/s") && text.contains("about 1234 ms"),
            "{text}"
        );
    }
}

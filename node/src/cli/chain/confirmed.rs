//! `blosm chain tx HASH --wait-confirmed`: the paper's Algorithm 1 at the command line.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::bail;
use reqwest::StatusCode;
use serde_json::Value;

use super::super::table::text;
use super::One;

/// The longest that one question waits at the node; then it is asked again.
const ROUND: Duration = Duration::from_secs(5);

/// Asks until 90 % of the members hold the transaction's block, or `limit` is over.
pub(super) async fn wait(one: &One, limit: Duration) -> anyhow::Result<()> {
    let client = one.target.client()?;
    let begin = Instant::now();
    let mut last: Option<Value> = None;
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        let wait_ms = left.min(ROUND).as_millis().max(1);
        let beyond = last.as_ref().map_or(0, acked);
        let path = format!(
            "/v1/chain/transactions/{}?wait_ms={wait_ms}&beyond={beyond}",
            one.id
        );
        match client.try_get(&path).await? {
            Ok(value) => {
                if last.as_ref().map(count).as_ref() != Some(&count(&value)) && !one.output.json {
                    say(&count(&value));
                }
                last = Some(value);
            }
            // It is not sealed, or not here yet.
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND && !left.is_zero() => {}
            Err(refusal) => return Err(refusal.into()),
        }
        if let Some(value) = &last
            && value["confirmed"] == true
        {
            one.output.print(value, || "confirmed\n".to_owned());
            return Ok(());
        }
        if left.is_zero() {
            break;
        }
    }
    let Some(value) = last else {
        bail!("no transaction {} was sealed within {limit:?}", one.id);
    };
    if one.output.json {
        one.output.print(&value, String::new);
    }
    bail!(
        "not confirmed within {limit:?}: {} members hold it, {} are needed",
        count(&value),
        text(&value, "needed")
    );
}

/// `K of N`.
fn count(value: &Value) -> String {
    format!("{} of {}", text(value, "confirmations"), text(value, "members"))
}

fn acked(value: &Value) -> u64 {
    value["confirmations"].as_u64().unwrap_or_default()
}

fn say(line: &str) {
    // A reader that has gone away is no failure of the command.
    let _ = writeln!(std::io::stdout(), "{line}");
}

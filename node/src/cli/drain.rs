//! `blosm drain` and `blosm undrain`: empties a node, and lets it take sessions again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::show::items;
use super::table::{Table, short, text};
use super::{Output, Target};

/// Between two looks at a drain.
const POLL: Duration = Duration::from_millis(300);
/// Digits of a session's id that tell it apart from its neighbours.
const DIGITS: usize = 12;

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Label, key prefix or peer id of the node that takes everything; else the nearest that takes it
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Undrain {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn drain(drain: Drain) -> anyhow::Result<()> {
    let view = settle(&drain.target.client()?, drain.to.as_deref()).await?;
    drain.output.print(&view, || summary(&view));
    match remaining(&view) {
        0 => Ok(()),
        1 => bail!("1 session remains here; it is tried again as long as the node is drained"),
        count => bail!("{count} sessions remain here; they are tried again as long as the node is drained"),
    }
}

/// Drains the node until every session was moved or everybody was asked for it, and tells each step on stderr.
pub(super) async fn settle(client: &Client, to: Option<&str>) -> anyhow::Result<Value> {
    let mut view = client.post("/v1/drain", &json!({ "to": to })).await?;
    let mut told = Told::default();
    loop {
        for line in told.news(&view) {
            eprintln!("{line}");
        }
        if view["drained"] != true {
            bail!("the drain was ended by another `blosm undrain`");
        }
        if view["settled"] == true {
            return Ok(view);
        }
        tokio::time::sleep(POLL).await;
        view = client.get("/v1/drain").await?;
    }
}

/// Sessions that nobody took.
pub(super) fn remaining(view: &Value) -> u64 {
    view["remaining"].as_u64().unwrap_or(0)
}

pub(super) async fn undrain(undrain: Undrain) -> anyhow::Result<()> {
    let view = undrain.target.client()?.delete("/v1/drain").await?;
    undrain
        .output
        .print(&view, || "the node takes sessions again\n".to_owned());
    Ok(())
}

/// What was said of each session already.
#[derive(Debug, Default)]
struct Told(BTreeMap<String, String>);

impl Told {
    /// A line for each session whose state has changed.
    fn news(&mut self, view: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for session in items(&view["sessions"]) {
            let state = match (text(session, "state").as_str(), text(session, "error")) {
                ("moving", _) => format!("moving to {}", text(session, "to_label")),
                ("moved", _) => format!("moved to {}", text(session, "to_label")),
                ("closed", _) => "ended".to_owned(),
                ("remains", why) => format!("remains: {why}"),
                (_, why) if why != "-" => format!("waits: {why}"),
                _ => "waits".to_owned(),
            };
            let id = text(session, "session");
            if self.0.get(&id) == Some(&state) {
                continue;
            }
            lines.push(format!(
                "{} {} {state}",
                short(session, "session", DIGITS),
                text(session, "service")
            ));
            self.0.insert(id, state);
        }
        lines
    }
}

/// How it went, and what remains.
fn summary(view: &Value) -> String {
    let moved = view["moved"].as_u64().unwrap_or(0);
    let mut out = format!("the node takes no sessions; {moved} moved\n");
    let remain: Vec<_> = items(&view["sessions"])
        .iter()
        .filter(|session| session["state"] == "remains")
        .collect();
    if !remain.is_empty() {
        let mut table = Table::new(["REMAINS", "SERVICE", "WHY"]);
        for session in remain {
            table.row([
                short(session, "session", DIGITS),
                text(session, "service"),
                text(session, "error"),
            ]);
        }
        out.push_str(&table.render());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: &str, error: Option<&str>) -> Value {
        json!({ "moved": 1, "sessions": [{
            "session": "0123456789abcdef", "service": "counter", "state": state,
            "to_label": "host2", "error": error,
        }]})
    }

    #[test]
    fn each_change_is_said_once() {
        let mut told = Told::default();
        let mut news = |state, error| told.news(&view(state, error)).join("\n");
        assert_eq!(news("waiting", None), "0123456789ab counter waits");
        assert_eq!(news("waiting", None), "");
        assert_eq!(news("moving", None), "0123456789ab counter moving to host2");
        assert_eq!(news("waiting", Some("busy")), "0123456789ab counter waits: busy");
        assert_eq!(
            news("remains", Some("no room")),
            "0123456789ab counter remains: no room"
        );
        assert_eq!(news("moved", None), "0123456789ab counter moved to host2");
    }

    #[test]
    fn what_remains_is_listed_with_its_reason() {
        assert_eq!(
            summary(&view("moved", None)),
            "the node takes no sessions; 1 moved\n"
        );
        let text = summary(&view("remains", Some("no room")));
        assert_eq!(
            text,
            "the node takes no sessions; 1 moved\nREMAINS       SERVICE  WHY\n0123456789ab  counter  no room\n"
        );
    }
}

//! `blosm members`: who belongs to the network, and with `-v` how each of them is.

use clap::Args;
use serde_json::Value;

use super::invite::time;
use super::show::items;
use super::table::{Table, bytes, cores, short, text};
use super::{Output, Target};

/// Digits of a node's key.
const DIGITS: usize = 8;

#[derive(Debug, Args)]
pub(super) struct Members {
    /// Also what each says of itself, and since when it is dark; all of them are asked
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(members: Members) -> anyhow::Result<()> {
    let path = match members.verbose {
        true => "/v1/members?verbose=true",
        false => "/v1/members",
    };
    let found = members.target.client()?.get(path).await?;
    members.output.print(&found, || match members.verbose {
        true => verbose(items(&found)),
        false => brief(items(&found)),
    });
    Ok(())
}

fn brief(members: &[Value]) -> String {
    let mut table = Table::new([
        "NODE",
        "LABEL",
        "LOCATION",
        "RADIUS",
        "SINCE",
        "CONNECTED",
        "GATEWAY",
        "ADDRESSES",
    ]);
    for member in members {
        table.row([
            short(member, "node", DIGITS),
            text(member, "label"),
            text(member, "location"),
            format!("{} m", text(member, "radius_m")),
            text(member, "since_height"),
            if member["mine"] == true {
                "this node".to_owned()
            } else {
                text(member, "connected")
            },
            text(member, "gateway"),
            text(member, "addresses"),
        ]);
    }
    table.render()
}

fn verbose(members: &[Value]) -> String {
    let mut table = Table::new([
        "NODE",
        "LABEL",
        "VERSION",
        "HEAD",
        "LAG",
        "CLOCK",
        "METHODS",
        "MEMORY",
        "CPU",
        "DISK",
        "SESSIONS",
        "ACK",
        "DARK SINCE",
    ]);
    for member in members {
        let clock = member["known"]["clock_offset_ms"].as_f64();
        let state = match member["known"]["status"]["drained"] == true {
            true => format!("{} (drained)", text(member, "sessions")),
            false => text(member, "sessions"),
        };
        table.row([
            short(member, "node", DIGITS),
            text(member, "label"),
            match text(member, "known.status.software").as_str() {
                "-" => text(member, "ack.software"),
                software => software.to_owned(),
            },
            text(member, "known.status.height"),
            text(member, "known.lag"),
            clock.map_or_else(|| "-".to_owned(), |ms| format!("{:+.1} s", ms / 1000.0)),
            text(member, "known.status.methods"),
            bytes(member, "known.status.memory_free"),
            cores(member, "known.status.cpu_free_milli"),
            bytes(member, "known.status.disk_free"),
            state,
            text(member, "ack.height"),
            time(&member["known"], "dark_since_unix_ms"),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let members = json!([
            { "node": "0123456789", "label": "host1", "sessions": 2, "ack": null, "known": {
                "lag": 0, "clock_offset_ms": -52_000, "dark_since_unix_ms": null,
                "status": { "software": "0.1.0", "height": 7, "methods": ["live", "image"], "memory_free": 1024,
                            "cpu_free_milli": 1500, "disk_free": 2048, "drained": true } } },
            { "node": "aabbccddee", "label": "host2", "sessions": 0, "ack": { "height": 5, "software": "0.0.9" }, "known": {
                "lag": null, "clock_offset_ms": null, "dark_since_unix_ms": 1_700_000_000_000u64, "status": null } },
        ]);
        let shown = verbose(items(&members));
        let row = |n: usize| {
            shown
                .lines()
                .nth(n)
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            row(1),
            "01234567 host1 0.1.0 7 0 -52.0 s live image 1.0 KiB 1.5 cores 2.0 KiB 2 (drained) - -"
        );
        assert_eq!(
            row(2),
            "aabbccdd host2 0.0.9 - - - - - - - 0 5 2023-11-14T22:13:20Z"
        );
    }
}

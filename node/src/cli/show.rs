//! `blosm status`, `peers`, `members`, `sessions` and `migrations`: what the running node says, as tables.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::Value;

use super::table::{Table, age, bytes, cores, lines, millis, printable, short, text};
use super::{Output, Target};

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// Digits of a session's id that tell it apart from its neighbours.
const SESSION_DIGITS: usize = 12;
/// Digits of a node's key.
const NODE_DIGITS: usize = 8;

pub(super) async fn status(show: Show) -> anyhow::Result<()> {
    let status = show.target.client()?.get("/v1/status").await?;
    show.output.print(&status, || {
        let resource = |kind: &str, amount: fn(&Value, &str) -> String| {
            let part = |part: &str| amount(&status, &format!("resources.{kind}.{part}"));
            format!(
                "{} free of {}, {} reserved",
                part("free"),
                part("total"),
                part("reserved")
            )
        };
        lines(&[
            (
                "node",
                format!("{} ({})", text(&status, "label"), text(&status, "node")),
            ),
            (
                "network",
                format!("{} ({})", text(&status, "network"), text(&status, "chain_id")),
            ),
            ("authority", text(&status, "authority")),
            (
                "height",
                format!(
                    "{} (confirmed {})",
                    text(&status, "height"),
                    text(&status, "confirmed_height")
                ),
            ),
            (
                "members",
                format!(
                    "{} ({} connected)",
                    text(&status, "members"),
                    text(&status, "peers")
                ),
            ),
            ("reachable", reachable(&status["reachability"])),
            ("sessions", text(&status, "sessions")),
            ("engine", engine(&status["engine"])),
            ("memory", resource("memory", bytes)),
            ("cpu", resource("cpu", cores)),
            ("clock", clock(&status["clock_offset_seconds"])),
            (
                "ready",
                match text(&status, "not_ready").as_str() {
                    "-" => text(&status, "ready"),
                    why => format!("{}, {why}", text(&status, "ready")),
                },
            ),
        ]) + &warnings(&status)
    });
    Ok(())
}

pub(super) async fn peers(show: Show) -> anyhow::Result<()> {
    let peers = show.target.client()?.get("/v1/peers").await?;
    show.output.print(&peers, || {
        let mut table = Table::new([
            "NODE",
            "LABEL",
            "ADDRESS",
            "DIRECTION",
            "FOUND",
            "SINCE",
            "RTT",
            "SCORE",
            "OFFERS",
            "AGENT",
        ]);
        for peer in items(&peers) {
            table.row([
                short(peer, "node", NODE_DIGITS),
                text(peer, "label"),
                text(peer, "address"),
                text(peer, "direction"),
                text(peer, "found"),
                age(peer, "since_unix_ms"),
                millis(peer, "rtt_ms"),
                text(peer, "score"),
                offers(peer),
                text(peer, "agent"),
            ]);
        }
        table.render()
    });
    Ok(())
}

/// The majors in which a peer offers our protocols: of all together where they are the same ones, else the newest of each.
fn offers(peer: &Value) -> String {
    let named = |name: &Value| {
        let (name, major) = name.as_str()?.strip_prefix("/blosm/")?.rsplit_once('/')?;
        let (_, protocol) = name.split_once('/')?;
        Some((protocol.to_owned(), major.parse::<u16>().ok()?))
    };
    let mut offered = BTreeMap::<_, BTreeSet<u16>>::new();
    for (protocol, major) in items(&peer["protocols"]).iter().filter_map(named) {
        offered.entry(protocol).or_default().insert(major);
    }
    let alike: BTreeSet<_> = offered.values().collect();
    let words: Vec<_> = match alike.first() {
        None => return "-".to_owned(),
        Some(majors) if alike.len() == 1 => majors.iter().map(u16::to_string).collect(),
        Some(_) => offered
            .iter()
            .filter_map(|(protocol, majors)| Some(format!("{}/{}", printable(protocol), majors.last()?)))
            .collect(),
    };
    words.join(" ")
}

pub(super) async fn sessions(show: Show) -> anyhow::Result<()> {
    let sessions = show.target.client()?.get("/v1/sessions").await?;
    show.output.print(&sessions, || {
        let mut table = Table::new([
            "SESSION",
            "SERVICE",
            "OWNER",
            "EPOCH",
            "STATUS",
            "MINE",
            "PHASE",
            "CONTAINER",
            "ADDRESS",
        ]);
        for session in items(&sessions) {
            let owner = match text(session, "owner_label").as_str() {
                "-" => short(session, "owner", NODE_DIGITS),
                label => label.to_owned(),
            };
            table.row([
                short(session, "session", SESSION_DIGITS),
                text(session, "service"),
                owner,
                text(session, "epoch"),
                text(session, "status"),
                text(session, "mine"),
                text(session, "phase"),
                text(session, "container_name"),
                text(session, "address"),
            ]);
        }
        table.render()
    });
    Ok(())
}

pub(super) async fn migrations(show: Show) -> anyhow::Result<()> {
    let migrations = show.target.client()?.get("/v1/migrations").await?;
    show.output.print(&migrations, || {
        let mut table = Table::new([
            "ID", "SESSION", "METHOD", "REASON", "FROM", "TO", "OUTCOME", "IMAGE", "WIRE", "DOWNTIME",
            "TOTAL", "ERROR",
        ]);
        for migration in items(&migrations) {
            table.row([
                short(migration, "id", NODE_DIGITS),
                short(migration, "session", SESSION_DIGITS),
                text(migration, "method"),
                text(migration, "reason"),
                short(migration, "source", NODE_DIGITS),
                short(migration, "destination", NODE_DIGITS),
                text(migration, "outcome"),
                bytes(migration, "image_bytes"),
                bytes(migration, "wire_bytes"),
                millis(migration, "downtime_ms"),
                millis(migration, "total_ms"),
                text(migration, "error"),
            ]);
        }
        table.render()
    });
    Ok(())
}

/// How far the node's clock is from the authority's.
fn clock(offset: &Value) -> String {
    match offset.as_f64() {
        Some(offset) => format!("{offset:+.3} s from the authority's"),
        None => "not compared with the authority's yet".to_owned(),
    }
}

/// What has to be mended, a line each.
fn warnings(status: &Value) -> String {
    let warning = |warning: &Value| Some(format!("warning: {}\n", warning.as_str()?));
    items(&status["warnings"]).iter().filter_map(warning).collect()
}

/// Whether other members can dial this node, and why it is thought so.
fn reachable(known: &Value) -> String {
    let at = |key: &str| text(known, key);
    match known["reachable"].as_bool() {
        Some(true) if known["inbound"] == true => "yes, members have dialled this node".to_owned(),
        Some(true) => format!("yes, at {}", at("reached")),
        Some(false) => format!("no, a member tried {} in vain", at("unreached")),
        None => "nobody has tried yet".to_owned(),
    }
}

fn engine(engine: &Value) -> String {
    if engine["runtime"] == "sim" {
        return "SIMULATED: no real container runs here, every session is a built-in counter (engine.runtime)"
            .to_owned();
    }
    if engine["answers"] != true {
        return "does not answer".to_owned();
    }
    format!(
        "{} ({}, {})",
        text(engine, "version"),
        text(engine, "storage_driver"),
        text(engine, "architecture")
    )
}

/// The elements of an array; none where there is no array.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_peer_offers_is_short_where_it_is_one_version() {
        let of = |protocols: &[&str]| offers(&json!({ "protocols": protocols }));
        assert_eq!(of(&[]), "-", "nothing is known of it yet");
        assert_eq!(of(&["/meshsub/1.1.0", "/ipfs/id/1.0.0"]), "-");
        let old = [
            "/blosm/0a1b2c3d/ledger/1",
            "/blosm/0a1b2c3d/relay/1",
            "/ipfs/ping/1.0.0",
        ];
        assert_eq!(of(&old), "1");
        assert_eq!(of(&["/blosm/0a1b2c3d/ledger/2", old[0]]), "1 2");
        let upgraded = ["/blosm/0a1b2c3d/ledger/2", old[0], old[1]];
        assert_eq!(of(&upgraded), "ledger/2 relay/1");
        assert_eq!(of(&["/blosm/x/a\u{1b}[2J/2", old[0]]), "a\u{fffd}[2J/2 ledger/1");
    }
}

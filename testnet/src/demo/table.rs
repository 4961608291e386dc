//! The tables at the end of the demo.

use std::fmt::Write;

use serde_json::Value;

use super::checks::figure;
use super::compare::ByHand;
use super::{EngineView, Migration, Story};
use crate::car::Tally;
use crate::config::GATEWAY_PORT;
use crate::engine::Engine;
use crate::reports::PHASES;
use crate::state::State;

/// Phases for which the service is down, and what they are called beside its downtime.
const DOWN: [(&str, &str); 6] = [
    ("drain", "drain"),
    ("stop", "stop"),
    ("commit", "last look or commit"),
    ("transfer", "last delta or layer"),
    ("handover", "hand-over"),
    ("start", "start"),
];

pub(super) fn render(story: &Story, state: &State) -> String {
    let mut text = String::from("\nMigrations\n");
    let columns: Vec<Vec<String>> = std::iter::once(names())
        .chain(story.migrations.iter().map(column))
        .collect();
    text += &side_by_side(&columns);
    text += "\nDowntime in its parts, and rounds (bytes on the wire in milliseconds)\n";
    for migration in &story.migrations {
        text += &downtime(migration);
    }
    if let Some(moved) = &story.by_hand {
        text += &by_hand(moved, &story.migrations);
    }
    text += "\nLedger transactions\n";
    for migration in &story.migrations {
        text += &transactions(migration);
    }
    text += "\nLinks (measured with a plain TCP stream before the drive)\n";
    for link in &story.goodput {
        line(
            &mut text,
            format_args!(
                "  {:<8}{:>6.1} Mbit/s up {:>6.1} Mbit/s down of {}",
                link.host, link.up_mbit, link.down_mbit, state.rate
            ),
        );
    }
    let tally = Tally::of(story.records.iter());
    line(
        &mut text,
        format_args!(
            "\nCar\n  {} requests sent, {} answered, {} failed; latency from the intended time: median {:.1} ms, worst {:.0} ms",
            tally.sent, tally.ok, tally.failed, tally.median_ms, tally.max_ms
        ),
    );
    let found = &story.contiguity;
    let verdict = if found.holds() {
        "contiguous"
    } else {
        "NOT CONTIGUOUS"
    };
    line(
        &mut text,
        format_args!(
            "  the container's log: {} numbers, {verdict}",
            story.log.numbers.len()
        ),
    );
    for (title, views) in [("before", &story.before), ("after", &story.after)] {
        line(
            &mut text,
            format_args!("\nEngines {title} the drive (docker ps --all, docker images)"),
        );
        text += &engines(views);
    }
    text
}

/// Writing to a string cannot fail.
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{arguments}");
}

fn names() -> Vec<String> {
    let fixed = [
        "",
        "outcome",
        "method",
        "fallback",
        "image bytes",
        "writable bytes",
        "wire bytes",
        "wire / image",
        "chunks sent / reused",
        "rounds",
    ];
    let requests = [
        "downtime ms",
        "service down ms",
        "total ms",
        "car's worst ms",
        "requests sent",
        "held",
        "interrupted",
        "failed",
    ];
    let phases = PHASES.map(|phase| format!("{phase} ms"));
    fixed
        .map(str::to_owned)
        .into_iter()
        .chain(phases)
        .chain(requests.map(str::to_owned))
        .collect()
}

fn column(migration: &Migration) -> Vec<String> {
    let report = &migration.report;
    let count = |pointer: &str| format!("{:.0}", figure(report, pointer));
    let millis = |pointer: &str| format!("{:.1}", figure(report, pointer));
    let ratio = match figure(report, "/image_bytes") {
        image if image > 0.0 => format!("{:.2} %", 100.0 * figure(report, "/wire_bytes") / image),
        _ => "-".to_owned(),
    };
    let mut cells = vec![
        format!("host{} > host{}", migration.from, migration.to),
        report["outcome"].as_str().unwrap_or("?").to_owned(),
        report["method"].as_str().unwrap_or("?").to_owned(),
        if report["fallback"].is_null() { "-" } else { "yes" }.to_owned(),
        count("/image_bytes"),
        count("/writable_bytes"),
        count("/wire_bytes"),
        ratio,
        format!("{} / {}", count("/chunks_sent"), count("/chunks_reused")),
        rounds(report).len().to_string(),
    ];
    cells.extend(PHASES.map(|phase| millis(&format!("/phases_ms/{phase}"))));
    cells.extend(["/downtime_ms", "/service_down_ms", "/total_ms"].map(millis));
    cells.push(format!("{:.0}", migration.worst_ms));
    cells.extend(["sent", "held", "interrupted", "failed"].map(|key| count(&format!("/requests/{key}"))));
    cells
}

fn rounds(report: &Value) -> &[Value] {
    report["rounds"].as_array().map_or(&[], Vec::as_slice)
}

/// What the downtime is made of, why another method was taken, and what each round brought.
fn downtime(migration: &Migration) -> String {
    let report = &migration.report;
    let parts = DOWN.map(|(phase, name)| {
        let ms = figure(report, &format!("/phases_ms/{phase}"));
        format!("{name} {ms:.1}")
    });
    let rounds = rounds(report).iter().map(|round| {
        format!(
            "{:.0} in {:.0}",
            figure(round, "/wire_bytes"),
            figure(round, "/ms")
        )
    });
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "  host{} > host{}: {:.1} ms down: {}; rounds: {}",
            migration.from,
            migration.to,
            figure(report, "/service_down_ms"),
            parts.join(", "),
            rounds.collect::<Vec<_>>().join(", ")
        ),
    );
    if let Some(why) = report["fallback"].as_str() {
        line(&mut text, format_args!("    fell back: {why}"));
    }
    text
}

/// A person's move beside ours.
fn by_hand(moved: &ByHand, migrations: &[Migration]) -> String {
    let mut ours: Vec<f64> = migrations
        .iter()
        .map(|migration| figure(&migration.report, "/service_down_ms"))
        .collect();
    ours.sort_by(f64::total_cmp);
    let ours = ours.get(ours.len() / 2).copied().unwrap_or(0.0);
    let mut text = String::from("\nBy hand: stop, commit, save piped into load over the same link, run\n");
    line(
        &mut text,
        format_args!(
            "  host{} > host{}: stop {:.0} ms, commit {:.0}, save and load {:.0}, start {:.0}; {} bytes on the wire",
            moved.from,
            moved.to,
            moved.stop_ms,
            moved.commit_ms,
            moved.transfer_ms,
            moved.start_ms,
            moved.wire_bytes
        ),
    );
    let times = if ours > 0.0 { moved.down_ms / ours } else { 0.0 };
    line(
        &mut text,
        format_args!(
            "  service down {:.0} ms by hand, {ours:.1} ms by the nodes (median): {times:.0} times as long",
            moved.down_ms
        ),
    );
    text
}

/// Columns of equal height, the first one left, the others right.
fn side_by_side(columns: &[Vec<String>]) -> String {
    let width = |column: &Vec<String>| column.iter().map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = columns.iter().map(width).collect();
    let mut text = String::new();
    for row in 0..columns.first().map_or(0, Vec::len) {
        for (index, (column, width)) in columns.iter().zip(&widths).enumerate() {
            let cell = column.get(row).map_or("", String::as_str);
            let _ = if index == 0 {
                write!(text, "  {cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

fn transactions(migration: &Migration) -> String {
    let mut text = format!("  host{} > host{}:", migration.from, migration.to);
    for transaction in migration
        .report
        .pointer("/ledger/transactions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |key: &str| transaction[key].as_str().unwrap_or("?").to_owned();
        let height = transaction["height"]
            .as_u64()
            .map_or_else(|| "not sealed yet".to_owned(), |h| format!("block {h}"));
        let hash = word("hash");
        let _ = write!(
            text,
            " {} {} ({height})",
            word("kind"),
            hash.get(..8).unwrap_or(&hash)
        );
    }
    let (confirmations, members) = (
        figure(&migration.report, "/ledger/confirmations"),
        figure(&migration.report, "/ledger/members"),
    );
    line(
        &mut text,
        format_args!("; {confirmations:.0} of {members:.0} confirmed"),
    );
    text
}

fn engines(views: &[EngineView]) -> String {
    let mut text = String::new();
    for view in views {
        line(
            &mut text,
            format_args!(
                "  {}: images {}",
                view.host,
                if view.images.is_empty() {
                    "none".to_owned()
                } else {
                    view.images.join(", ")
                }
            ),
        );
        for container in &view.containers {
            let id = container.id.get(..12).unwrap_or(&container.id);
            line(
                &mut text,
                format_args!(
                    "    {id}  {}  {}  {}",
                    container.name, container.image, container.status
                ),
            );
        }
        if view.containers.is_empty() {
            text += "    no container\n";
        }
    }
    text
}

/// What a person may do with a testnet that was kept.
pub(super) fn try_it(state: &State, story: Option<&Story>) -> String {
    let mut text = String::from("\nEverything still runs. To try:\n");
    let cars = state.road().cars();
    let gateways = state
        .hosts
        .iter()
        .map(|host| format!("http://{}:{GATEWAY_PORT}", host.address));
    for gateway in gateways {
        line(
            &mut text,
            format_args!("  ip netns exec {cars} curl -i -d 1 {gateway}/counter/"),
        );
    }
    for host in &state.hosts {
        line(
            &mut text,
            format_args!("  docker -H {} ps --all", Engine::of(state, host.number).url()),
        );
    }
    let dir = state.dir.display();
    if let Some(story) = story {
        line(
            &mut text,
            format_args!(
                "  blosm-testnet exec --dir {dir} {} blosm migrate {} --to host1",
                story.owner,
                &story.session.get(..12).unwrap_or_default()
            ),
        );
    }
    line(&mut text, format_args!("  blosm-testnet status --dir {dir}"));
    line(
        &mut text,
        format_args!("  blosm-testnet down --dir {dir}        removes it"),
    );
    text
}

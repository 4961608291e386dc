//! A short scenario from its file to its summary, through the program itself.

use std::path::Path;
use std::process::Command;

use blosm_testnet::oracle::check;
use blosm_testnet::oracle::history::History;
use blosm_testnet::oracle::record::{self, Report};
use serde_json::Value;

#[test]
fn sessions_survive_kills_a_hang_and_a_cut_by_what_an_oracle_heard() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let (dir, out) = (parent.path().join("net"), parent.path().join("out"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/short.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_blosm-testnet"))
        .arg("run")
        .arg(&file)
        .args(["--seed", "5", "--out"])
        .arg(&out)
        .arg("--dir")
        .arg(&dir)
        .output()
        .unwrap();
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    eprintln!("{said}\n{error}");
    assert!(output.status.success());
    assert!(!dir.exists(), "the testnet is gone");
    let summary: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(
        summary["faults"],
        serde_json::json!({"kill": 2, "cut": 1, "pause": 1})
    );
    // The one of the service without state has none.
    assert_eq!((&summary["cars"], &summary["sessions"]), (&8.into(), &7.into()));
    assert_eq!(std::fs::read_dir(out.join("logs")).unwrap().count(), 5);

    // The same records with one answer left out, and with one instance that answers on, are found out.
    let entries = record::read(&out.join("oracle.jsonl")).unwrap();
    let failed = |entries: &[record::Entry]| -> Vec<&str> {
        let checks = check::all(&History::of(entries));
        checks
            .iter()
            .filter(|check| !check.ok())
            .map(|check| check.name)
            .collect()
    };
    assert_eq!(failed(&entries), [""; 0]);
    let answer = |entry: &record::Entry| matches!(entry.report, Report::Answer { .. });
    let mut short = entries.clone();
    short.remove(short.iter().position(answer).unwrap());
    assert!(failed(&short).contains(&"counters are contiguous"));
    let stopped = entries
        .iter()
        .position(|entry| matches!(entry.report, Report::Stop { .. }));
    let mut late = entries.clone();
    let last = entries.iter().rev().find_map(|entry| match entry.report {
        Report::Answer { time_ns, .. } => Some(time_ns),
        _ => None,
    });
    if let Report::Stop { time_ns, .. } = &mut late[stopped.expect("one session moved")].report {
        *time_ns = last.unwrap();
    }
    assert!(failed(&late).contains(&"no two instances of a session answer at one time"));
}

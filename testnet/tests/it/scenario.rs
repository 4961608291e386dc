//! A scenario that is interrupted: what has been is told all the same. Needs root and `blosm` beside it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[test]
fn ctrl_c_while_cars_drive_leaves_logs_and_a_summary_and_nothing_else() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let (dir, out) = (parent.path().join("net"), parent.path().join("out"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/short.toml");
    let mut run = Command::new(env!("CARGO_BIN_EXE_blosm-testnet"))
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(&out)
        .arg("--dir")
        .arg(&dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines.any(|line| line.contains("cars drive")),
        "it ended before cars drove"
    );
    kill_process(Pid::from_raw(run.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let said: Vec<String> = lines.collect();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{said:#?}");
    let told = |words: &str| said.iter().any(|line| line.contains(words));
    assert!(
        told("scenario short") && told("FAILED the run took its course"),
        "{said:#?}"
    );
    // Namespaces and processes are looked for by the run itself.
    assert!(told("ok     nothing is left on the machine"), "{said:#?}");
    assert!(!dir.exists());
    let summary: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["cars"], 8);
    assert_eq!(std::fs::read_dir(out.join("logs")).unwrap().count(), 5);
}

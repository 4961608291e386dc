//! Testnets of plain processes, through the program's own commands. Needs `blosm` beside it, and no root.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use blosm_testnet::cleanup;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn program(arguments: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blosm-testnet"));
    let (verb, rest) = arguments.split_first().unwrap();
    command.arg(verb).arg("--dir").arg(dir).args(rest);
    command
}

fn run(arguments: &[&str], dir: &Path) -> Output {
    program(arguments, dir).output().unwrap()
}

/// What a command prints; it has to succeed.
fn done(arguments: &[&str], dir: &Path) -> String {
    let output = run(arguments, dir);
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {error}\n{out}");
    out.into_owned()
}

fn status(dir: &Path) -> Value {
    serde_json::from_str(&done(&["status", "--json"], dir)).unwrap()
}

/// Takes a testnet down whatever becomes of the test.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        run(&["down"], self.0);
    }
}

#[test]
fn processes_come_up_with_one_head_and_nothing_is_left_of_them() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let dir = parent.path().join("net");
    let _down = Down(&dir);
    done(
        &[
            "up",
            "--peers",
            "5",
            "--runtime",
            "sim",
            "--high-share",
            "0.4",
            "--detach",
        ],
        &dir,
    );
    let seen = status(&dir);
    for (field, value) in [("peers", 5), ("ready", 5), ("height", 5)] {
        assert_eq!(seen[field], value, "{field}: {seen:#}");
    }
    assert_eq!(seen["heads_equal"], true, "{seen:#}");
    assert!(
        seen["rss_bytes_max"].as_u64() >= seen["rss_bytes_p50"].as_u64(),
        "{seen:#}"
    );
    assert!(seen["rss_bytes_p50"].as_u64().unwrap() > 1_000_000, "{seen:#}");
    assert!(
        seen["cpu_cores"].is_number() && seen["hosts"].is_null(),
        "{seen:#}"
    );
    let nodes = seen["nodes"].as_array().unwrap();
    let high = nodes.iter().filter(|node| node["class"] == "high").count();
    assert_eq!((nodes.len(), high), (5, 2));
    assert!(
        nodes
            .iter()
            .all(|node| node["connected"] == 4 && node["members"] == 5),
        "{seen:#}"
    );

    // A second one in its place would take the first one's files for its own.
    let second = run(&["up", "--peers", "2", "--runtime", "sim", "--detach"], &dir);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("there is a testnet"));

    let ping = done(&["exec", "2", "blosm", "ping", "--json"], &dir);
    let ping: Value = serde_json::from_str(&ping).unwrap();
    assert_eq!((&ping["members"], &ping["reached"]), (&5.into(), &5.into()));

    done(&["kill", "node3"], &dir);
    let seen = status(&dir);
    assert_eq!(
        (&seen["ready"], &seen["heads_equal"]),
        (&4.into(), &false.into()),
        "{seen:#}"
    );
    done(&["restart", "node3"], &dir);
    assert_eq!(status(&dir)["ready"], 5);
    let cut = run(&["cut", "2"], &dir);
    assert!(String::from_utf8_lossy(&cut.stderr).contains("--runtime docker"));

    let id = seen["id"].as_str().unwrap();
    done(&["down"], &dir);
    cleanup::check_gone(id, &dir).unwrap();
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn cars_drive_over_a_testnet_that_runs_and_their_sessions_follow() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let dir = parent.path().join("net");
    let _down = Down(&dir);
    done(&["up", "--peers", "4", "--detach"], &dir);
    let file = parent.path().join("drive.json");
    let words = [
        "drive",
        "--cars",
        "4",
        "--for",
        "25s",
        "--speed",
        "60",
        "--state-bytes",
        "10000",
        "--web",
        "127.0.0.1:0",
        "--json",
        file.to_str().unwrap(),
    ];
    let said = done(&words, &dir);
    assert!(
        said.contains("watch it live") && said.contains("all answers are in"),
        "{said}"
    );
    let seen: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let count = |field: &str| seen["cars"][field].as_u64().unwrap();
    assert_eq!(
        (count("cars"), count("open"), count("failed")),
        (4, 0, 0),
        "{said}"
    );
    assert!(count("ok") > 100 && count("changes") > 0, "{said}");
    // Of a service that nobody declares nobody opens a session.
    let refused = run(
        &[
            "drive",
            "--cars",
            "1",
            "--service",
            "none",
            "--for",
            "1s",
            "--web",
            "127.0.0.1:0",
        ],
        &dir,
    );
    assert_eq!(refused.status.code(), Some(1));
    done(&["down"], &dir);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let dir = parent.path().join("net");
    let _down = Down(&dir);
    let mut up = program(&["up", "--peers", "3", "--runtime", "sim"], &dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines.any(|line| line.contains("Ctrl-C")),
        "it ended before it was up"
    );
    let id = status(&dir)["id"].as_str().unwrap().to_owned();
    kill_process(Pid::from_raw(up.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(130));
    cleanup::check_gone(&id, &dir).unwrap();
}

#[test]
fn ctrl_c_while_nodes_are_made_leaves_nothing() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let dir = parent.path().join("net");
    let _down = Down(&dir);
    // At other moments of the same work each time.
    for (round, said) in ["10 of 60", "30 of 60", "40 of 60"].into_iter().enumerate() {
        let mut up = program(&["up", "--peers", "60"], &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(up.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let made = lines.find(|line| line.contains(said));
        assert_eq!(made, Some(format!("{said} nodes are made")), "round {round}");
        let state: Value = serde_json::from_slice(&std::fs::read(dir.join("testnet.json")).unwrap()).unwrap();
        kill_process(Pid::from_raw(up.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
        assert!(
            !lines.any(|line| line.contains("the authority runs")),
            "the signal came too late for what is tested"
        );
        let output = up.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{error}");
        cleanup::check_gone(state["id"].as_str().unwrap(), &dir).unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0, "{error}");
    }
}

#[test]
fn status_needs_no_node_program() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let dir = parent.path().join("net");
    let _down = Down(&dir);
    done(&["up", "--peers", "2", "--detach"], &dir);
    let output = program(&["status", "--json"], &dir)
        .env("BLOSM_BIN", "/nowhere/blosm")
        .output()
        .unwrap();
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&seen["ready"], &seen["heads_equal"]),
        (&2.into(), &true.into()),
        "{seen:#}"
    );
    done(&["down"], &dir);
}

#[test]
fn start_that_fails_says_why_and_leaves_nothing() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let dir = parent.path().join("net");
    let more_than_a_node_takes = [
        "up",
        "--peers",
        "2",
        "--runtime",
        "sim",
        "--high",
        "none,2",
        "--high-share",
        "1",
        "--detach",
    ];
    let output = run(&more_than_a_node_takes, &dir);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("memory"), "{said}");
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

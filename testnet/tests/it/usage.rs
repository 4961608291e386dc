//! What is refused before anything starts, and by which exit status.

use std::path::Path;
use std::process::{Command, Output};

/// Temporary files are made in `tmp` only.
fn run(arguments: &[&str], tmp: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blosm-testnet"))
        .args(arguments)
        .env("TMPDIR", tmp)
        .output()
        .unwrap()
}

#[test]
fn bad_usage_ends_with_2_and_starts_nothing() {
    let tmp = tempfile::tempdir_in("/tmp").unwrap();
    for (arguments, why) in [
        (
            "up --peers 11 --runtime docker",
            "--peers lies between 1 and 10 with --runtime docker; --runtime sim takes up to 250",
        ),
        ("up --peers 0", "--peers lies between 1 and 250"),
        ("up --rate 10mbit", "--rate is for --runtime docker"),
        ("up --detach --web 127.0.0.1:0", "--web"),
        ("drive --cars 0", "--cars"),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = run(&words, tmp.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(why), "{arguments}: {said}");
    }
    assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
}

#[test]
fn settings_that_no_node_takes_are_refused_with_the_scenario_s_line() {
    let tmp = tempfile::tempdir_in("/tmp").unwrap();
    let begin = "duration = \"10s\"\ncars = [{ service = \"counter\", count = 1, speed = 20.0, rate = 1 }]\n";
    for (more, line, why) in [
        (
            "[nodes]\ncount = 2\n[nodes.settings.migration]\nkeep_sorce = \"5s\"\n",
            6,
            "unknown field `keep_sorce`",
        ),
        (
            "[nodes]\ncount = 2\n[[node]]\nnumber = 2\nsettings = { migration = { tolerance = 9 } }\n",
            7,
            "migration.tolerance: must be 0 to 3",
        ),
        (
            "[nodes]\ncount = 2\n[[service]]\nname = \"counter\"\nsettings = { stopp = 1 }\n",
            7,
            "unknown field `stopp`",
        ),
        (
            "[nodes]\ncount = 2\n[[node]]\nnumber = 1\nradius = 1e9\n",
            7,
            "node.radius",
        ),
    ] {
        let file = tmp.path().join("bad.toml");
        std::fs::write(&file, format!("{begin}{more}")).unwrap();
        let out = tmp.path().join("out");
        let output = run(
            &["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()],
            tmp.path(),
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("bad.toml: line {line}: ")) && said.contains(why),
            "{said}"
        );
        std::fs::remove_file(&file).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0, "{said}");
    }
}

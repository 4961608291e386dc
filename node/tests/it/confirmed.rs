//! Confirmations at the command line and the API, on an authority that is alone with a member that nobody runs.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::scratch::{Ran, blosm, text};
use crate::site::{Site, empty_engine, get};

fn body(api: SocketAddr, path: &str) -> Value {
    let answer = get(api, path, "");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn a_transaction_is_waited_for_until_nine_tenths_hold_it_or_the_time_is_over() {
    let site = Site::new();
    empty_engine(&site.socket());
    let dir = site.dir();
    let [_, _, api] = site.addresses();
    let node = site.start();
    let run = |words: &[&str]| blosm(words.iter().copied().chain(["--data-dir", text(&dir)]));
    let wait = |hash: &str, more: &[&str]| -> Ran {
        let words = ["chain", "tx", hash, "--wait-confirmed"];
        run(&[&words[..], more].concat())
    };
    let status = run(&["status", "--json"]).done().json();
    let admit = |key: &str, label: &str| -> String {
        let admitted = run(&[
            "admit",
            key,
            "--gateway",
            "http://127.0.0.1:8080",
            "--location",
            "37.45,126.65",
            "--radius",
            "300",
            "--label",
            label,
            "--json",
        ]);
        admitted.done().json()["hash"].as_str().unwrap().to_owned()
    };

    // One of one.
    let own = admit(status["node"].as_str().unwrap(), "a");
    assert_eq!(wait(&own, &[]).done().stdout, "1 of 1\nconfirmed\n");
    let shown = wait(&own, &["--json"]).done().json();
    assert_eq!(
        (&shown["confirmations"], &shown["members"], &shown["confirmed"]),
        (&json!(1), &json!(1), &json!(true))
    );

    // One of two: the other was admitted and does not run.
    let dark = admit(&"5a".repeat(32), "dark");
    for time in ["0s", "300ms"] {
        let ran = wait(&dark, &["--timeout", time]);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (1, "1 of 2\n"),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("1 of 2 members hold it, 2 are needed"),
            "{}",
            ran.stderr
        );
    }
    let ran = wait(&dark, &["--timeout", "50ms", "--json"]);
    assert_eq!(ran.status, 1);
    assert_eq!(ran.json()["confirmed"], false);
    let path = format!("/v1/chain/transactions/{dark}");
    let shown = body(api, &path);
    assert_eq!(
        (&shown["confirmations"], &shown["members"], &shown["needed"]),
        (&json!(1), &json!(2), &json!(2))
    );
    assert_eq!(body(api, &format!("{path}?wait_ms=100&beyond=1")), shown);
    let answer = get(api, &format!("{path}?wait=100"), "");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    // What is sealed nowhere is waited for too.
    let ran = wait(&"00".repeat(32), &["--timeout", "200ms"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("no sealed transaction"), "{}", ran.stderr);
    assert_eq!(run(&["chain", "tx", &dark, "--timeout", "1s"]).status, 2);

    // The authority's own clock is the measure, and there is nothing to mend.
    let status = body(api, "/v1/status");
    assert_eq!(status["clock_offset_seconds"], 0.0);
    assert_eq!(status["confirmation"], "advisory");
    assert_eq!(status["warnings"], json!([]));
    assert_eq!(body(api, "/readyz"), json!({ "ready": true, "warnings": [] }));
    node.stop();
}

#[test]
fn a_network_is_made_with_the_papers_rule_on_demand() {
    let site = Site::new();
    let out = site.scratch.path("required/network.toml");
    std::fs::create_dir(out.parent().unwrap()).unwrap();
    let made = blosm([
        "network",
        "new",
        "--name",
        "road",
        "--confirmation",
        "required",
        "--json",
        "--out",
        text(&out),
    ]);
    assert_eq!(made.done().json()["confirmation"], "required");
    let file = std::fs::read_to_string(&out).unwrap();
    assert!(file.contains("confirmation = \"required\""), "{file}");
    let ran = blosm([
        "network",
        "new",
        "--name",
        "x",
        "--confirmation",
        "maybe",
        "--out",
        "x.toml",
    ]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
}

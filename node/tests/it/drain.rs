//! Emptying a node: the operator's commands and the API's refusals, on a node that has nothing to give away.

use std::net::SocketAddr;

use crate::scratch::{blosm, text};
use crate::site::{Site, empty_engine, get, send};

/// Status line and body of an answer.
fn answered(answer: &str) -> (&str, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap(), body)
}

#[track_caller]
fn readyz(api: SocketAddr, status: u16, says: &str) {
    let answer = get(api, "/readyz", "");
    let (line, body) = answered(&answer);
    assert!(
        line.contains(&format!(" {status} ")) && body.contains(says),
        "{answer}"
    );
}

#[test]
fn a_node_is_drained_until_it_is_undrained_whatever_happens_to_it() {
    let site = Site::new();
    empty_engine(&site.socket());
    let dir = site.dir();
    let [_, _, api] = site.addresses();
    let node = site.start();
    let run = |words: &[&str]| blosm(words.iter().copied().chain(["--data-dir", text(&dir)]));

    readyz(api, 200, "true");
    let drained = run(&["drain"]).done();
    assert_eq!(drained.stdout, "the node takes no sessions; 0 moved\n");
    readyz(api, 503, "drained; `blosm undrain` ends that");
    assert_eq!(run(&["status", "--json"]).done().json()["ready"], false);
    // Again is no mistake.
    let again = run(&["drain", "--json"]).done().json();
    assert_eq!(
        (&again["drained"], &again["remaining"]),
        (&true.into(), &0.into())
    );
    node.stop();

    let node = site.start();
    readyz(api, 503, "drained");
    let ended = run(&["undrain", "--json"]).done().json();
    assert_eq!(ended["drained"], false);
    readyz(api, 200, "true");
    assert_eq!(run(&["undrain"]).done().stdout, "the node takes sessions again\n");
    node.stop();
    site.starts();
}

#[test]
fn orders_that_cannot_be_followed_are_refused() {
    let site = Site::new();
    empty_engine(&site.socket());
    let dir = site.dir();
    let [_, _, api] = site.addresses();
    let node = site.start();
    let run = |words: &[&str]| blosm(words.iter().copied().chain(["--data-dir", text(&dir)]));
    let status = run(&["status", "--json"]).done().json();
    let own = status["label"].as_str().unwrap();

    run(&["drain", "--to", "nobody"]).failed(&["no member", "\"nobody\"", "blosm members"]);
    run(&["drain", "--to", own]).failed(&["can't be drained to itself", "--to"]);
    run(&["migrate", "ab", "--dry-run"]).failed(&["knows no session ab", "blosm sessions"]);
    run(&["migrate", "ab", "--to", "nobody", "--dry-run"]).failed(&["no member", "\"nobody\""]);
    readyz(api, 200, "true");

    // Without the token nobody changes anything; reading is open.
    for method in ["POST", "DELETE"] {
        let answer = send(api, method, "/v1/drain", "", "{}");
        let (line, body) = answered(&answer);
        assert!(line.contains(" 401 ") && body.contains("api.token"), "{answer}");
    }
    let answer = get(api, "/v1/drain", "");
    let (line, body) = answered(&answer);
    assert!(
        line.contains(" 200 ") && body.contains("\"drained\":false"),
        "{answer}"
    );
    let token = std::fs::read_to_string(dir.join("api.token")).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    for (path, body, says) in [
        ("/v1/drain", "{\"too\":1}", "unknown field `too`"),
        ("/v1/drain", "", "EOF"),
        (
            "/v1/migrations",
            "{\"session\":\"ab\",\"dry\":true}",
            "unknown field `dry`",
        ),
    ] {
        let answer = send(api, "POST", path, &bearer, body);
        let (line, said) = answered(&answer);
        assert!(line.contains(" 4") && said.contains(says), "{answer}");
    }
    node.stop();
}

#[test]
fn a_damaged_state_is_not_taken_for_none() {
    let site = Site::new();
    empty_engine(&site.socket());
    let file = site.dir().join("drain.json");
    std::fs::write(&file, "drained").unwrap();
    site.refuses(&["drain.json can't be understood", "remove it"], None);
    std::fs::remove_file(&file).unwrap();
    site.starts();
}

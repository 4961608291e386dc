//! The sessions' rules with simulated containers: real nodes, real bytes, no container engine.

use rustix::fs::XattrFlags;

use crate::road::{Client, Log, Road, ask, label, until};

fn unchanged(config: String) -> String {
    config
}

#[test]
fn a_session_follows_its_client_there_and_back_and_loses_nothing() {
    let road = Road::of(3, unchanged);
    let client = Client::start(&road, 1);
    let filled = ask(
        road.gateway(1),
        "POST",
        "/counter/fill?bytes=3000000",
        Some(&client.token),
        "",
    );
    assert_eq!(filled.unwrap().status, 200);

    // Nobody may take it for the real thing.
    assert_eq!(road.status(1)["engine"]["runtime"], "sim");
    assert!(road.run(1, &["status"]).done().stdout.contains("SIMULATED"));
    assert!(road.log(1).contains("NO REAL CONTAINER RUNS HERE"));

    // After its client.
    client.drive_to(2);
    until("the session has followed", || {
        road.owner("counter").is_some_and(|(at, _)| at == 2)
    });
    client.goes_on();
    let mut report = serde_json::Value::Null;
    until("the report is closed", || {
        report = road.api(2, "/v1/migrations")[0].take();
        report["outcome"] != "running"
    });
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(
        (&report["method"], &report["reason"]),
        (&"live".into(), &"mobility".into())
    );
    // What was filled is random: it crossed the wire as it is.
    assert!(report["writable_bytes"].as_u64().unwrap() > 3_000_000, "{report}");
    assert!(report["wire_bytes"].as_u64().unwrap() > 3_000_000, "{report}");

    // On, by the operator's word, and not in the way that was asked for; then after its client again.
    let session = road.sessions(2, "counter").pop().unwrap();
    let back = road.migrate(2, &session, 0, &["--method", "image"]);
    assert_eq!(back["method"], "live", "{back}");
    let why = back["fallback"].as_str().unwrap();
    assert!(why.starts_with("image: simulated"), "{why}");
    client.goes_on();
    client.drive_to(1);
    until("the session has come back", || {
        road.owner("counter").is_some_and(|(at, _)| at == 1)
    });
    client.goes_on();

    let (token, seen) = (client.token.clone(), client.stop());
    assert_eq!(seen.failed, []);
    let log = Log::of(&road, 1, &token);
    log.holds(&seen);
    assert!(log.runs() >= 4, "it moved at least three times");
}

#[test]
fn a_node_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    // What a killed attempt holds is held for half a minute.
    let mut road = Road::of(3, |config| {
        config
            .replace("#max_out = 2", "max_out = 64")
            .replace("#max_in = 2", "max_in = 64")
    });
    let client = Client::start(&road, 1);
    let filled = ask(
        road.gateway(1),
        "POST",
        "/counter/fill?bytes=300000",
        Some(&client.token),
        "",
    );
    assert_eq!(filled.unwrap().status, 200);
    // The client asks the one that is never killed, which takes nothing itself.
    road.run(0, &["drain"]).done();
    client.drive_to(0);
    for (source_dies, phase) in [
        (true, "claim"),
        (false, "stage"),
        (false, "precopy"),
        (true, "stop"),
        (true, "last"),
        (false, "transfer"),
        (false, "applied"),
        (true, "signed"),
        (false, "acquired"),
        (false, "serving"),
    ] {
        let mut owner = None;
        until("somebody owns the session", || {
            owner = road.owner("counter");
            owner.is_some()
        });
        let (source, session) = owner.unwrap();
        let destination = 3 - source;
        let victim = if source_dies { source } else { destination };
        let step = format!("phase=\"{phase}\"");
        let count = |road: &Road| road.log(victim).matches(&step).count();
        let before = count(&road);
        let to = label(destination);
        let words = ["migrate", &session, "--to", &to, "--detach"];
        until("the move is begun", || road.run(source, &words).status == 0);
        until(&format!("{phase} at {}", label(victim)), || count(&road) > before);
        road.kill(victim);
        road.start(victim);
        client.goes_on();
    }
    let (token, seen) = (client.token.clone(), client.stop());
    Log::of(&road, 0, &token).holds(&seen);
}

#[test]
fn a_full_node_hands_a_new_session_on_and_a_stateless_one_moves_without_a_copy() {
    let road = Road::of(2, |config| {
        // Two of 32 MiB, and no third.
        config.replace("#memory = \"2GiB\"", "memory = \"65MiB\"")
    });
    let total = &road.status(0)["resources"]["memory"]["total"];
    assert_eq!(*total, 65 << 20);
    let open = || {
        let answer = ask(road.gateway(0), "POST", "/counter/", None, "X-Number: 1\r\n").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let header = |name| answer.header(name).unwrap().to_owned();
        (header("x-blosm-node"), header("x-blosm-session"))
    };
    let opened = [open(), open(), open()];
    assert_eq!(
        opened.each_ref().map(|(node, _)| node.as_str()),
        ["node0", "node0", "node1"]
    );

    let echo = ask(road.gateway(1), "GET", "/echo/count", None, "").unwrap();
    assert_eq!(echo.status, 200, "{}", echo.body);
    let session = road.sessions(1, "echo").pop().unwrap();
    let full = road.run(1, &["migrate", &session, "--to", "node0", "--dry-run", "--json"]);
    assert_eq!(
        (full.status, &full.json()["verdict"]),
        (1, &false.into()),
        "{}",
        full.stdout
    );

    let path = "/.blosm/session";
    let closed = ask(
        road.gateway(0),
        "DELETE",
        path,
        Some(&opened[0].1),
        "X-Blosm-Service: counter\r\n",
    );
    assert_eq!(closed.unwrap().status, 204);
    let moved = road.migrate(1, &session, 0, &[]);
    assert_eq!(moved["method"], "stateless", "{moved}");
    assert_eq!(
        (road.sessions(0, "echo"), road.sessions(1, "echo")),
        (vec![session], vec![])
    );
}

#[test]
fn an_order_that_was_refused_is_not_carried_out_later() {
    let road = Road::of(2, |config| {
        config.replace("min_stay = \"0s\"", "min_stay = \"1h\"")
    });
    let client = Client::start(&road, 0);
    let session = road.sessions(0, "counter").pop().unwrap();
    road.run(1, &["drain"]).done();
    let to = label(1);
    road.run(0, &["migrate", &session, "--to", &to, "--detach"])
        .failed(&["drained"]);
    road.run(1, &["undrain"]).done();
    client.drive_to(1);
    until("the other node has asked for it", || {
        road.log(1).contains("less than min_stay ago") || road.owner("counter").is_some_and(|(at, _)| at == 1)
    });
    assert_eq!(
        road.owner("counter").map(|(at, _)| at),
        Some(0),
        "the order was refused"
    );
    client.stop();
}

#[test]
fn what_rounds_cannot_carry_is_told_before_anything_stops() {
    let road = Road::of(2, unchanged);
    let client = Client::start(&road, 0);
    let session = road.sessions(0, "counter").pop().unwrap();
    let container = road.api(0, "/v1/sessions")[0]["container"].clone();
    let upper = road
        .dir(0)
        .join("sim")
        .join(container.as_str().unwrap())
        .join("upper");
    // As an overlay marks what only its own driver understands.
    let marked = upper.join("marked");
    std::fs::write(&marked, "").unwrap();
    rustix::fs::setxattr(&marked, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();

    let to = label(1);
    let ran = road.run(0, &["migrate", &session, "--to", &to, "--json"]);
    assert!(ran.status == 1 && !ran.stdout.is_empty(), "{}", ran.stderr);
    let report = ran.json();
    let why = report["error"].as_str().unwrap();
    assert!(why.contains("the live method can't carry"), "{report}");
    assert_eq!(report["phases_ms"]["stop"], 0.0, "{report}");

    std::fs::remove_file(&marked).unwrap();
    let report = road.migrate(0, &session, 1, &[]);
    assert_eq!(report["outcome"], "completed", "{report}");
    client.goes_on();
    let (token, seen) = (client.token.clone(), client.stop());
    Log::of(&road, 1, &token).holds(&seen);
}

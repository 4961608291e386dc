//! The real binary: files that it makes, exit statuses, and errors on one line.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use blosm_node::config::{Config, NetworkFile, read_secret_key};

use crate::scratch::{Scratch, blosm, text};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_network_has_its_key_beside_it_and_shows_the_recovery_key_once() {
    let scratch = Scratch::new();
    let out = scratch.path("network.toml");
    let made = blosm([
        "network",
        "new",
        "--name",
        "road",
        "--json",
        "--out",
        text(&out),
        "--bootstrap",
        "/ip4/10.77.0.1/tcp/4401",
    ])
    .done()
    .json();
    let file = NetworkFile::read(&out).unwrap();
    assert_eq!(file.genesis.name, "road");
    assert_eq!(made["chain_id"], file.chain_id().to_string());
    let key_path = scratch.path("authority.key");
    assert_eq!(mode(&key_path), 0o600);
    assert!(
        file.genesis
            .is_authority(&read_secret_key(&key_path).unwrap().public())
    );
    let bootstrap: Vec<_> = file.bootstrap.iter().map(ToString::to_string).collect();
    assert_eq!(
        bootstrap,
        [format!(
            "/ip4/10.77.0.1/tcp/4401/p2p/{}",
            made["peer_id"].as_str().unwrap()
        )]
    );

    let secret = made["recovery_secret"].as_str().unwrap();
    for path in [&out, &key_path] {
        assert!(
            !fs::read_to_string(path).unwrap().contains(secret),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_network_is_never_overwritten() {
    let scratch = Scratch::new();
    let out = scratch.network();
    let (network, key) = (
        fs::read(&out).unwrap(),
        fs::read(scratch.path("authority.key")).unwrap(),
    );
    blosm(["network", "new", "--name", "other", "--out", text(&out)]).failed(&["network.toml exists"]);
    let beside = scratch.path("other.toml");
    blosm(["network", "new", "--name", "other", "--out", text(&beside)]).failed(&["authority.key exists"]);
    assert!(!beside.exists());
    assert_eq!(fs::read(&out).unwrap(), network);
    assert_eq!(fs::read(scratch.path("authority.key")).unwrap(), key);
    blosm([
        "network",
        "new",
        "--name",
        "",
        "--out",
        text(&scratch.path("x/n.toml")),
    ])
    .failed(&["name"]);
}

#[test]
fn init_makes_what_run_needs_and_prints_the_admission() {
    let scratch = Scratch::new();
    scratch.network();
    let flags = [
        "--label",
        "host2",
        "--location",
        "-37.45,126.65",
        "--radius",
        "250",
        "--listen",
        "/ip4/10.77.0.2/tcp/4401",
        "--advertise",
        "/ip4/10.77.0.2/tcp/4401",
        "--gateway-listen",
        "10.77.0.2:8080",
        "--api-listen",
        "127.0.0.1:4480",
        "--engine-socket",
        "unix:///run/other.sock",
    ];
    let shown = scratch.init("d", &flags).done().stdout;
    let dir = scratch.path("d");
    for secret in ["node.key", "api.token"] {
        assert_eq!(mode(&dir.join(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(&dir), 0o700);
    let config = Config::load(&dir.join("blosm.toml")).unwrap();
    assert_eq!((config.node.label.as_str(), config.node.radius_m), ("host2", 250));
    assert_eq!(config.engine.socket, "unix:///run/other.sock");
    assert!(!config.is_authority());
    let admit = format!(
        "blosm admit {} --address /ip4/10.77.0.2/tcp/4401 --gateway http://10.77.0.2:8080 \
         --location -37.45,126.65 --radius 250 --label host2",
        config.public_key()
    );
    assert_eq!(shown.lines().last(), Some(admit.as_str()));

    // The line is a command as it stands; without a node behind it only the node is missing.
    let mut words: Vec<_> = admit.split(' ').skip(1).collect();
    let listen = unused_address();
    words.extend(["--data-dir", text(&dir), "--api-listen", &listen]);
    blosm(words).failed(&["no blosm answers at", &listen, "blosm run --data-dir"]);
}

#[test]
fn init_again_keeps_what_is_there() {
    let scratch = Scratch::new();
    scratch.network();
    let first = scratch
        .init("d", &["--location", "1,2", "--label", "a", "--json"])
        .done();
    let read = |name: &str| fs::read(scratch.path("d").join(name)).unwrap();
    let before = ["node.key", "api.token", "blosm.toml", "network.toml"].map(read);
    let again = scratch
        .init("d", &["--location", "1,2", "--label", "a", "--json"])
        .done();
    assert_eq!(first.stdout, again.stdout);
    fs::remove_file(scratch.path("d").join("api.token")).unwrap();
    scratch.init("d", &[]).done();
    assert_eq!(read("node.key"), before[0]);
    assert_ne!(read("api.token"), before[1], "a lost token is made anew");
    assert_eq!(read("blosm.toml"), before[2]);

    scratch
        .init("d", &["--label", "b"])
        .failed(&["blosm.toml", "[node] label"]);
    let key = scratch.path("authority.key");
    scratch
        .init("d", &["--key", text(&key)])
        .failed(&["node.key", "another key"]);
    let other = Scratch::new();
    let (network, dir) = (other.network(), scratch.path("d"));
    blosm(["init", "--network", text(&network), "--data-dir", text(&dir)]).failed(&["another network"]);
}

#[test]
fn init_with_the_authoritys_key_makes_the_authority() {
    let scratch = Scratch::new();
    scratch.network();
    let key = scratch.path("authority.key");
    let shown = scratch
        .init("a", &["--key", text(&key), "--location", "1,2", "--json"])
        .done()
        .json();
    assert_eq!(shown["authority"], true);
    assert_eq!(shown["key"], read_secret_key(&key).unwrap().public().to_string());
}

#[test]
fn init_without_a_place_says_how_to_go_on() {
    let scratch = Scratch::new();
    scratch.network();
    let shown = scratch.init("d", &["--json"]).done().json();
    assert_eq!(shown["admit"], serde_json::Value::Null);
    let dir = scratch.path("d");
    blosm(["run", "--data-dir", text(&dir)]).failed(&["blosm.toml: node.location: ", "LAT,LON"]);
}

#[test]
fn a_failed_init_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.network();
    scratch
        .init("d", &["--location", "1,2", "--label", "no spaces"])
        .failed(&["node.label"]);
    assert!(!scratch.path("d").exists());
    let (absent, dir) = (scratch.path("absent.toml"), scratch.path("d"));
    blosm(["init", "--network", text(&absent), "--data-dir", text(&dir)])
        .failed(&["absent.toml", "network new"]);
    assert!(!dir.exists());
}

#[test]
fn bad_usage_is_two() {
    for args in [
        &["fly"][..],
        &[],
        &["status"],
        &["run"],
        &["chain", "block", "../members", "--data-dir", "/d"],
        &["chain", "tx", "12ab", "--data-dir", "/d"],
        &["init", "--network", "n", "--data-dir", "d", "--location", "north"],
        &["migrate", "abc", "--method", "teleport", "--data-dir", "/d"],
        &["migrate", "abc", "--dry-run", "--detach", "--data-dir", "/d"],
        &["drain", "host2", "--data-dir", "/d"],
        &["undrain"],
        &["invite", "--expires", "soon", "--data-dir", "/d"],
        &["invites", "revoke", "../members", "--data-dir", "/d"],
        &["join", "--data-dir", "/d"],
        &["join", "blosm1_x", "--invite-file", "f", "--data-dir", "/d"],
        &["evict", "host2", "--data-dir", "/d"],
        &[
            "evict",
            "host2",
            "--why",
            "x",
            "--drain",
            "--lost",
            "--data-dir",
            "/d",
        ],
    ] {
        let ran = blosm(args.iter().copied());
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["chain", "--help"]] {
        blosm(args.iter().copied()).done();
    }
}

#[test]
fn commands_say_that_no_node_runs() {
    let scratch = Scratch::new();
    scratch.network();
    let listen = unused_address();
    scratch
        .init("d", &["--location", "1,2", "--api-listen", &listen])
        .done();
    let dir = scratch.path("d");
    for command in [
        &["status"][..],
        &["members", "--json"],
        &["sessions"],
        &["chain", "head"],
        &["migrate", "ab"],
        &["migrate", "ab", "--dry-run"],
        &["drain", "--to", "host2"],
        &["undrain", "--json"],
        &["members", "-v"],
        &["invite"],
        &["invites", "ls"],
        &["evict", "host2", "--why", "x"],
        &["leave"],
    ] {
        let args = command.iter().copied().chain(["--data-dir", text(&dir)]);
        blosm(args).failed(&["no blosm answers at", &listen, "blosm run --data-dir"]);
    }
    let absent = scratch.path("absent");
    blosm(["status", "--data-dir", text(&absent)]).failed(&["there is no", "blosm init"]);
    blosm(["run", "--data-dir", text(&absent)]).failed(&["there is no", "blosm init"]);
}

/// A loopback address that nobody listens on: it was free a moment ago, and stays in no one's list of ports to use.
fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

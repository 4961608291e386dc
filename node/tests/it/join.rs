//! Joining by an invite: the real binary on both ends, over loopback.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::scratch::{Ran, Scratch, blosm, text};
use crate::site::{Running, Site, empty_engine};

/// An authority that runs.
pub(crate) struct Authority {
    pub(crate) site: Site,
    pub(crate) node: Running,
}

impl Authority {
    pub(crate) fn start() -> Authority {
        let site = Site::new();
        empty_engine(&site.socket());
        let node = site.start();
        let authority = Authority { site, node };
        // It admits itself first.
        until("the authority is a member", || authority.members().len() == 1);
        authority
    }

    /// An invite as `blosm invite` prints it.
    pub(crate) fn invite(&self, more: &[&str]) -> String {
        let mut words = vec!["invite", "--json"];
        words.extend(more);
        let made = self.site.blosm(&words).done().json();
        made["invite"].as_str().unwrap().to_owned()
    }

    pub(crate) fn members(&self) -> Vec<Value> {
        let list = self.site.blosm(&["members", "--json"]).done().json();
        list.as_array().unwrap().clone()
    }

    /// The newest invite as `blosm invites ls` shows it.
    fn newest_invite(&self) -> Value {
        self.site.blosm(&["invites", "ls", "--json"]).done().json()[0].clone()
    }
}

/// A machine with an engine and no data directory.
pub(crate) fn machine() -> Site {
    let site = Site::empty();
    empty_engine(&site.socket());
    site
}

/// Waits for what nobody gives notice of.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "other processes are looked at from outside; no task runs here"
)]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    // A guard against waiting for ever; nothing is measured by it.
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never: {what}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the moment at which a process is killed; no task runs here"
)]
fn pause_for(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// What a join found of `what`, and whether it was well.
fn check<'a>(joined: &'a Value, what: &str) -> (&'a str, bool) {
    let checks = joined["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == what);
    let found = found.unwrap_or_else(|| panic!("nothing is said of {what}: {joined:#}"));
    (found["found"].as_str().unwrap(), found["ok"] == true)
}

#[test]
fn three_commands_make_a_member() {
    let authority = Authority::start();
    // The string alone is on stdout, for a pipe; the rest is for people.
    let shown = authority.site.blosm(&["invite", "--label", "site=A"]);
    assert_eq!((shown.status, shown.stdout.lines().count()), (0, 1));
    assert!(shown.stderr.contains("blosm join INVITE"), "{}", shown.stderr);
    let invite = shown.stdout.trim();
    assert!(invite.starts_with("blosm1_"));

    let site = machine();
    let joined = site.join(invite, &["--label", "host2"]).done();
    for line in [
        "ok    invite      network ",
        "ok    authority   answers at /ip4/127.",
        "ok    network     road (",
        "  clock       ",
        ": node.key, network.toml, api.token, blosm.toml",
        "ok    engine      Docker 20.10.0, classic image store, overlay2 on ",
        "ok    methods     ",
        " free under /",
        "ok    admitted    since block 2 as host2",
        "ok    dialled     the authority connects to /ip4/127.",
        "next  run         blosm run --data-dir ",
    ] {
        assert!(
            joined.stdout.contains(line),
            "{line:?} is not in {}",
            joined.stdout
        );
    }
    // The third command needs nothing more.
    let node = site.start();
    site.serves();
    until("both are connected", || {
        authority
            .members()
            .iter()
            .all(|member| member["connected"] == true)
    });
    until("the new node holds the chain", || {
        let members = site.blosm(&["members", "--json"]).done().json();
        members.as_array().unwrap().len() == 2
    });
    let labels: Vec<_> = authority.members().iter().map(|m| m["label"].clone()).collect();
    assert!(labels.contains(&"host2".into()));

    let used = authority.newest_invite();
    assert_eq!(
        (
            &used["label"],
            &used["state"],
            &used["used"],
            &used["used_by"][0]["label"]
        ),
        (&"site=A".into(), &"used_up".into(), &1.into(), &"host2".into())
    );
    // Each knows how the other is.
    until("both say how they are", || {
        let list = authority.site.blosm(&["members", "-v", "--json"]).done().json();
        let list = list.as_array().unwrap();
        list.iter().all(|member| {
            let known = &member["known"];
            known["status"]["software"] == env!("CARGO_PKG_VERSION")
                && known["lag"] == 0
                && known["dark_since_unix_ms"].is_null()
        })
    });
    let table = authority.site.blosm(&["members", "--verbose"]).done().stdout;
    assert!(table.lines().next().unwrap().ends_with("DARK SINCE"), "{table}");
    node.stop();
    until("the dark one is told of", || {
        let list = authority.site.blosm(&["members", "-v", "--json"]).done().json();
        let list = list.as_array().unwrap();
        list.iter().any(|member| {
            member["label"] == "host2" && member["known"]["dark_since_unix_ms"].as_u64() > Some(0)
        })
    });
    authority.node.stop();
}

#[test]
fn joining_again_changes_nothing() {
    let authority = Authority::start();
    let invite = authority.invite(&[]);
    let site = machine();
    let file = site.scratch.path("invite");
    fs::write(&file, format!("{invite}\n")).unwrap();
    let first = site.join(&invite, &["--label", "host2", "--json"]).done().json();
    let same = |again: Ran| {
        let again = again.done().json();
        for field in ["node", "label", "chain_id", "height", "next"] {
            assert_eq!(again[field], first[field], "{field}");
        }
    };
    let files = ["node.key", "network.toml", "api.token", "blosm.toml"];
    let read = |name: &str| fs::read(site.dir().join(name)).unwrap();
    let before = files.map(read);
    same(site.join(&invite, &["--label", "host2", "--json"]));
    assert_eq!(files.map(read), before);

    // Whatever an interruption has left: any of the files may be missing but the key, which is the node.
    for missing in [
        &["blosm.toml"][..],
        &["api.token", "blosm.toml"],
        &["network.toml"],
        &files[1..],
    ] {
        for name in missing {
            fs::remove_file(site.dir().join(name)).unwrap();
        }
        same(site.join(&invite, &["--label", "host2", "--json"]));
    }
    // While the node runs, and by a file.
    let node = site.start();
    until("it is a member by its own chain", || {
        site.blosm(&["status", "--json"]).done().json()["member"] == true
    });
    let dir = site.dir();
    let args = [
        "join",
        "--invite-file",
        text(&file),
        "--data-dir",
        text(&dir),
        "--json",
    ];
    same(blosm(args));
    node.stop();
    // And when nobody could join by it any more.
    let id = authority.newest_invite()["id"].as_str().unwrap().to_owned();
    authority.site.blosm(&["invites", "revoke", &id]).done();
    same(site.join(&invite, &["--json"]));
    assert_eq!(authority.newest_invite()["used"], 1);
    assert_eq!(authority.members().len(), 2);

    site.join(&invite, &["--label", "other", "--json"])
        .failed(&["blosm.toml is there and says something else for [node] label"]);
    authority.node.stop();
}

#[test]
fn a_killed_join_is_finished_by_the_next() {
    let authority = Authority::start();
    let invite = authority.invite(&["--uses", "2"]);
    let site = machine();
    for pause in [5, 10, 20, 40, 80, 120, 160, 240, 320, 480] {
        let mut child = site
            .joining(&invite)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        pause_for(pause);
        // One that is done already is waited for.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let joined = site.join(&invite, &["--json"]).done().json();
    let used = authority.newest_invite();
    assert_eq!((&used["used"], &used["state"]), (&1.into(), &"open".into()));
    assert_eq!(used["used_by"][0]["node"], joined["node"]);
    assert_eq!(authority.members().len(), 2);
    site.starts();
    authority.node.stop();
}

#[test]
fn nobody_gets_in_by_an_invite_that_is_none() {
    let authority = Authority::start();
    let site = machine();
    let refused = |invite: &str, line: &str| {
        site.join(invite, &["--json"]).failed_with(line);
        assert!(!site.dir().exists(), "something is left");
    };
    let used = authority.invite(&[]);
    machine().join(&used, &["--json"]).done();
    refused(
        &used,
        "the invite is used up: it admits 1 node, and has; ask for a new one (`blosm invite --uses N`)",
    );

    let revoked = authority.invite(&[]);
    let id = authority.newest_invite()["id"].as_str().unwrap()[..8].to_owned();
    let said = authority.site.blosm(&["invites", "revoke", &id]).done().stdout;
    assert_eq!(said, format!("invite {id} is revoked; 0 of 1 uses were made\n"));
    refused(
        &revoked,
        "the invite was revoked by the authority's operator; ask for a new one (`blosm invite`)",
    );
    authority.site.blosm(&["invites", "revoke", "ffffffff"]).failed(&[
        "0 invites have an id that begins with \"ffffffff\"",
        "blosm invites ls",
    ]);

    let expired = authority.invite(&["--expires", "1s"]);
    until("its time is over", || {
        authority.newest_invite()["state"] == "expired"
    });
    let ran = site.join(&expired, &["--json"]);
    assert!(
        ran.stderr.starts_with("blosm: the invite expired at 20")
            && ran
                .stderr
                .ends_with("Z by the authority's clock; ask for a new one (`blosm invite --expires 24h`)\n"),
        "{}",
        ran.stderr
    );
    ran.failed(&[]);
    assert!(!site.dir().exists());

    let good = authority.invite(&[]);
    refused(
        &good[..good.len() - 1],
        "the invite is cut off or mistyped: its checksum is wrong; copy it whole, or use --invite-file",
    );
    refused(
        &good.replacen("blosm1_", "blosm2_", 1),
        "the invite is of version 2, and this blosm knows version 1; install the blosm that the authority runs",
    );
    refused(
        "K10abc",
        "this is no invite: one begins with blosm1_; copy what `blosm invite` printed",
    );
    // The name of another member.
    let label = authority.members()[0]["label"].as_str().unwrap().to_owned();
    site.join(&good, &["--label", &label, "--json"]).failed(&[
        "the label ",
        "is taken by",
        "choose another --label",
    ]);
    assert_eq!(authority.members().len(), 2);
    assert_eq!(authority.newest_invite()["used"], 0);
    authority.node.stop();
}

#[test]
fn what_stands_in_the_way_is_named_with_its_cure() {
    let authority = Authority::start();
    let invite = authority.invite(&[]);
    let site = machine();

    // A data directory of another network.
    let other = Scratch::new();
    other.network();
    other.init("d", &["--location", "1,2"]).done();
    let dir = other.path("d");
    blosm([
        "join",
        &invite,
        "--data-dir",
        text(&dir),
        "--location",
        "1,2",
        "--json",
    ])
    .failed(&["belongs to another network, road (", "take a new data directory"]);

    blosm(["join", &invite, "--data-dir", text(&site.dir()), "--json"]).failed(&["give --location LAT,LON"]);

    for (address, table) in site.addresses().into_iter().zip(["[net]", "[gateway]", "[api]"]) {
        let taken = TcpListener::bind(address).unwrap();
        site.join(&invite, &["--json"]).failed(&[
            "cannot listen on",
            &address.port().to_string(),
            table,
            "listen",
        ]);
        drop(taken);
        assert!(!site.dir().exists(), "{table} left something");
    }
    // Each of those was before a use was taken.
    assert_eq!(authority.newest_invite()["used"], 0);

    // Without an engine it joins, and is told what `blosm run` will need.
    fs::remove_file(site.socket()).unwrap();
    let joined = site.join(&invite, &["--json"]).done().json();
    assert!(!check(&joined, "engine").1);
    assert!(check(&joined, "admitted").1);

    let [peers, ..] = authority.site.addresses();
    authority.node.stop();
    let late = machine();
    late.join(&invite, &["--json"]).failed(&[
        "the authority cannot be reached: tried",
        &format!("/ip4/{}/tcp/4401 (nothing listens there)", peers.ip()),
        "see that it runs",
    ]);
    assert!(!late.dir().exists());
}

#[test]
fn a_node_that_nobody_can_dial_is_told_which_port_to_open() {
    let authority = Authority::start();
    let invite = authority.invite(&["--uses", "2"]);
    let site = machine();
    // An address of this machine at which nobody listens.
    let elsewhere = format!("/ip4/{}/tcp/4499", site.ip);
    let joined = site
        .join(&invite, &["--advertise", &elsewhere, "--json"])
        .done()
        .json();
    let (found, ok) = check(&joined, "dialled");
    assert!(!ok);
    assert_eq!(
        found,
        format!("the authority cannot connect to {elsewhere} (nothing listens there)")
    );
    let cure = joined["checks"].as_array().unwrap().last().unwrap()["cure"]
        .as_str()
        .unwrap();
    assert!(
        cure.contains("open the port") && cure.contains(&format!("/ip4/{}/tcp/4401", site.ip)),
        "{cure}"
    );
    authority.node.stop();
}

#[test]
fn forty_join_at_once_and_the_forty_first_does_not() {
    const COUNT: usize = 40;
    let authority = Authority::start();
    let invite = authority.invite(&["--uses", &COUNT.to_string()]);
    let sites: Vec<Site> = (0..COUNT).map(|_| Site::empty()).collect();
    let children: Vec<Child> = sites
        .iter()
        .map(|site| {
            site.joining(&invite)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut nodes = std::collections::BTreeSet::new();
    for child in children {
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{said}");
        let joined: Value = serde_json::from_slice(&out.stdout).unwrap();
        nodes.insert(joined["node"].as_str().unwrap().to_owned());
    }
    assert_eq!(nodes.len(), COUNT);
    let used = authority.newest_invite();
    assert_eq!(
        (&used["used"], &used["state"]),
        (&COUNT.into(), &"used_up".into())
    );
    assert_eq!(authority.members().len(), COUNT + 1);
    Site::empty().join(&invite, &["--json"]).failed_with(
        "the invite is used up: it admits 40 nodes, and has; ask for a new one (`blosm invite --uses N`)",
    );
    authority.node.stop();
}

#[test]
fn only_an_authority_with_an_address_invites() {
    let authority = Authority::start();
    let invite = authority.invite(&[]);
    let site = machine();
    site.join(&invite, &["--json"]).done();
    let node = site.start();
    for words in [&["invite"][..], &["invites", "ls"], &["invites", "revoke", "ab"]] {
        site.blosm(words).failed(&[
            "this node is no authority of its network",
            "on the authority's machine",
        ]);
    }
    node.stop();
    for (flags, says) in [
        (&["--uses", "0"][..], "uses: must be 1 to 4096"),
        (&["--expires", "0s"], "expires: must be 1s to"),
        (&["--address", "/ip4/0.0.0.0/tcp/4401"], "nobody can dial it"),
    ] {
        let mut words = vec!["invite"];
        words.extend(flags);
        authority.site.blosm(&words).failed(&[says]);
    }
    authority.node.stop();
}

//! The end of a membership: by the member itself, and by an authority's operator.

use std::fs;
use std::time::Duration;

use blosm_ledger::{Open, Payload, SecretKey, Token, Transaction};
use blosm_net::{NetConfig, Network, Protocol, key_of_peer};
use blosm_node::config::{Config, read_secret_key};

use crate::join::{Authority, machine, until};
use crate::road::{Client, Log, Road, label};
use crate::site::{Site, get};

const SERVICE: &str = "[[service]]
name = \"counter\"
port = 8080
image = \"example/counter:1@sha256:0000000000000000000000000000000000000000000000000000000000000000\"
";

/// A machine that has joined, and declares a service.
fn member(authority: &Authority, invite: &str, label: &str) -> Site {
    let site = machine();
    site.join(invite, &["--label", label, "--json"]).done();
    let path = site.dir().join("blosm.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{config}\n{SERVICE}")).unwrap();
    assert!(authority.members().iter().any(|member| member["label"] == label));
    site
}

/// The node's own status says why it serves nothing, and so does its health.
#[track_caller]
fn says_why(site: &Site, why: &str) {
    let status = site.blosm(&["status", "--json"]).done().json();
    assert_eq!(
        (&status["member"], &status["ready"]),
        (&false.into(), &false.into())
    );
    assert_eq!(status["evicted"]["reason"], why);
    let [_, gateway, api] = site.addresses();
    let ready = get(api, "/readyz", "");
    assert!(
        ready.starts_with("HTTP/1.1 503 ") && ready.contains(&format!("({why})")),
        "{ready}"
    );
    let refused = get(gateway, "/counter/", "");
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("this node was evicted from its network"),
        "{refused}"
    );
}

/// Waits until the authority is connected to every member.
fn connected(authority: &Authority) {
    until("it is connected", || {
        authority
            .members()
            .iter()
            .all(|member| member["connected"] == true)
    });
}

#[test]
fn a_member_leaves_and_comes_back_by_a_new_invite() {
    let authority = Authority::start();
    let invite = authority.invite(&["--uses", "5"]);
    let site = member(&authority, &invite, "host2");
    let node = site.start();
    connected(&authority);
    let left = site.blosm(&["leave", "--why", "road works"]);
    assert_eq!(left.status, 0, "{}", left.stderr);
    assert!(
        left.stdout.starts_with("this node left by block 3"),
        "{}",
        left.stdout
    );
    assert_eq!(authority.members().len(), 1);
    until("it has heard of it", || {
        site.blosm(&["status", "--json"]).done().json()["evicted"].is_object()
    });
    says_why(&site, "road works");
    site.blosm(&["leave"]).failed(&["no member of its network"]);
    node.stop();
    // Started again it says the same.
    let node = site.start();
    says_why(&site, "road works");
    site.join(&invite, &["--json"])
        .failed(&["runs and is no member", "stop it"]);
    node.stop();

    site.join(&invite, &["--json"]).failed_with(
        "this node was evicted at block 3 (road works), and an invite admits a node once; ask for a new one (`blosm invite`)",
    );
    assert!(
        site.dir().join("node.key").exists(),
        "what was there before stays"
    );
    let again = authority.invite(&[]);
    site.join(&again, &["--json"]).done();
    let node = site.start();
    until("it serves again", || {
        let [_, _, api] = site.addresses();
        get(api, "/readyz", "").starts_with("HTTP/1.1 200 ")
    });
    site.serves();
    node.stop();
    authority.node.stop();
}

#[test]
fn an_evicted_node_hears_of_it_before_it_is_cut_off() {
    let authority = Authority::start();
    let invite = authority.invite(&["--uses", "5"]);
    let site = member(&authority, &invite, "host2");
    let node = site.start();
    connected(&authority);

    let own = authority
        .members()
        .iter()
        .find(|member| member["mine"] == true)
        .unwrap()["label"]
        .clone();
    authority
        .site
        .blosm(&["evict", own.as_str().unwrap(), "--why", "x"])
        .failed(&["is an authority of the network, and authorities stay"]);
    authority
        .site
        .blosm(&["evict", "nobody", "--why", "x"])
        .failed(&["no member", "blosm members"]);
    authority
        .site
        .blosm(&["evict", "host2", "--why", ""])
        .failed(&["why: must be 1 to 128 bytes"]);
    site.blosm(&["evict", "host2", "--why", "x"])
        .failed(&["no authority"]);
    authority.site.blosm(&["leave"]).failed(&["authorities stay"]);
    let usage = authority
        .site
        .blosm(&["evict", "host2", "--why", "x", "--drain", "--lost"]);
    assert_eq!(usage.status, 2);

    let evicted = authority
        .site
        .blosm(&["evict", "host2", "--why", "hit by a truck", "--drain", "--json"])
        .done()
        .json();
    assert_eq!(
        (&evicted["evicted"], &evicted["lost"]),
        (&true.into(), &false.into())
    );
    until("it has heard of it", || {
        site.blosm(&["status", "--json"]).done().json()["evicted"].is_object()
    });
    says_why(&site, "hit by a truck");
    node.stop();
    authority.node.stop();
}

/// Has a session opened in the name of a member that does not run, as that member would.
fn open_session(site: &Site, authority: &Authority) -> String {
    let config = Config::load(&site.dir().join("blosm.toml")).unwrap();
    let key = read_secret_key(&site.dir().join("node.key")).unwrap();
    let chain_id = config.network.chain_id;
    let token = Token::mint(&key, chain_id, "counter", [7; 32]);
    let open = Open::of(&token, "counter");
    let head = authority.site.blosm(&["chain", "head", "--json"]).done().json();
    let height = head["height"].as_u64().unwrap();
    let bytes = Transaction::sign(&key, chain_id, height, Payload::Open(open)).encode();
    submit(&config, &key, bytes);
    token.session().to_string()
}

/// Sends a transaction to the authority on the wire: `Submit` is the ledger protocol's first request.
fn submit(config: &Config, key: &SecretKey, transaction: Vec<u8>) {
    let length = u32::try_from(transaction.len()).unwrap().to_le_bytes();
    let request = [&[0][..], &length, &transaction].concat();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (net, _events) = Network::spawn(NetConfig {
            seed: *key.seed(),
            net8: config.network.chain_id.short(8),
            listen: vec![],
            bootstrap: config.network.bootstrap.clone(),
            authorities: vec![],
            advertise: vec![],
            strangers: 0,
            per_address: 64,
            mdns: false,
            kad: false,
            agent: "test".to_owned(),
        })
        .await
        .unwrap();
        let authority = config.network.genesis.authorities[0];
        let peer = blosm_net::peer_of_key(&authority.0);
        assert_eq!(key_of_peer(&peer), Some(authority.0));
        let answer = tokio::time::timeout(
            Duration::from_secs(60),
            net.request(peer, Protocol::Ledger, request),
        );
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer[0], 0, "it was not sealed: {answer:?}");
        net.shutdown().await;
    });
}

#[test]
fn a_node_with_sessions_is_not_evicted_unless_its_operator_says_what_becomes_of_them() {
    let authority = Authority::start();
    let invite = authority.invite(&[]);
    let site = member(&authority, &invite, "host2");
    let session = open_session(&site, &authority);
    let evict = |more: &[&str]| {
        let mut words = vec!["evict", "host2", "--why", "gone", "--json"];
        words.extend(more);
        authority.site.blosm(&words)
    };
    evict(&[]).failed_with(&format!(
        "host2 owns 1 session: {} (counter); move them with --drain, or say --lost if the machine is off for good",
        &session[..12]
    ));
    // It is off: nobody there moves anything.
    evict(&["--drain"]).failed(&["host2 does not answer", "start it, or say --lost"]);
    assert_eq!(authority.members().len(), 2);
    let evicted = evict(&["--lost"]).done().json();
    assert_eq!(
        (&evicted["evicted"], &evicted["lost"]),
        (&true.into(), &true.into())
    );
    assert_eq!(authority.members().len(), 1);
    assert!(fs::metadata(site.dir()).is_ok());
    authority.node.stop();
}

#[test]
fn a_node_that_was_off_when_it_was_evicted_hears_of_it_at_its_next_start() {
    let authority = Authority::start();
    let invite = authority.invite(&["--uses", "5"]);
    let site = member(&authority, &invite, "host2");
    let node = site.start();
    connected(&authority);
    node.stop();
    let evicted = authority
        .site
        .blosm(&["evict", "host2", "--why", "stolen", "--lost", "--json"])
        .done()
        .json();
    assert_eq!(
        (&evicted["evicted"], &evicted["lost"]),
        (&true.into(), &true.into())
    );

    // By its own chain it is a member; nobody talks to it but the authority's desk.
    let node = site.start();
    until("it has heard of it", || {
        site.blosm(&["status", "--json"]).done().json()["evicted"].is_object()
    });
    says_why(&site, "stolen");
    let status = site.blosm(&["status", "--json"]).done().json();
    assert_eq!(status["evicted"]["lost"], true);
    node.stop();
    // It is on its own chain, so the authority is not needed for it any more.
    authority.node.stop();
    let node = site.start();
    says_why(&site, "stolen");
    node.stop();
}

#[test]
fn sessions_of_an_evicted_node_have_moved_or_are_stopped() {
    let road = Road::of(3, |config| config);
    let client = Client::start(&road, 1);
    // It asks the authority, which stays.
    client.drive_to(0);
    client.goes_on();
    let evict = |index: usize, how: &str| {
        let ran = road.run(0, &["evict", &label(index), "--why", "road works", how, "--json"]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.json()["evicted"], true);
    };
    evict(1, "--drain");
    client.goes_on();
    let mut owner = None;
    until("another has it", || {
        owner = road.owner("counter").filter(|(at, _)| *at != 1);
        owner.is_some()
    });
    let (at, session) = owner.unwrap();
    if at == 0 {
        // It has just come there.
        until("it may go on", || {
            road.run(0, &["migrate", &session, "--to", &label(2)]).status == 0
        });
    }
    until("the third has it", || {
        road.owner("counter").is_some_and(|(at, _)| at == 2)
    });
    client.goes_on();
    let (token, seen) = (client.token.clone(), client.stop());
    assert_eq!(seen.failed, []);
    Log::of(&road, 0, &token).holds(&seen);

    // As if its machine were off, which it is not: it hears of it, and stops what it runs.
    let session = |field: &str| road.api(2, "/v1/sessions")[0][field].clone();
    assert!(session("address").is_string());
    until("it is evicted", || {
        road.run(0, &["evict", &label(2), "--why", "lost", "--lost"])
            .status
            == 0
    });
    until("its container is stopped", || {
        session("address").is_null() && session("phase") == "kept"
    });
    assert_eq!(road.status(2)["evicted"]["lost"], true);
    assert_eq!(road.status(0)["members"], 1);
}

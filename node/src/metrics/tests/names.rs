//! What `grafana/` names is what a node shows: dashboards, alerts, and the list of the metrics in both directions.

use std::fs;
use std::path::{Path, PathBuf};

use blosm_net::{Multiaddr, NetConfig, NetEvent, NetHandle, Network, Topic, Verdict};

use super::*;

/// Longer than two swarms on one machine take to meet and part.
const LIMIT: Duration = Duration::from_secs(60);
/// What the names of a node's metrics begin with.
const OURS: [&str; 3] = ["blosm_", "process_", "libp2p_"];

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every word that is a metric's name, in whatever it stands; one that ends with `_` stands for many.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let names = words.filter(|word| OURS.iter().any(|ours| word.starts_with(ours)) && !word.ends_with('_'));
    names.map(str::to_owned).collect()
}

/// The names of the samples on a page: a histogram's with their endings.
fn sampled(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    names.map(str::to_owned).collect()
}

/// The names of the metrics on a page.
fn described(page: &str) -> BTreeSet<String> {
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = kinds.filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// A node's own page when there is a series of everything.
fn page() -> String {
    let metrics = metrics();
    let location = "37.45,126.65".parse().unwrap();
    metrics.identify("road", "sim", true, location).unwrap();
    metrics.requests_may_be_denied(&[("held", 503)]);
    metrics.migrations_may_fail(&["pull"]);
    metrics.answered("counter", "local", 200, Duration::from_millis(1));
    metrics.method_available("live", true);
    metrics.store(&StoreFigures {
        table_bytes: vec![("tx", 1)],
        ..StoreFigures::default()
    });
    metrics.net(&[], None, &Counters::default());
    metrics.sessions(&BTreeMap::new(), 0);
    metrics.under_way(0, 0, 0);
    let nothing = Amount::default();
    metrics.offered(nothing, nothing, nothing);
    metrics.machine(&Machine {
        memory_total: 1,
        memory_used: 1,
        cpu_busy: Duration::ZERO,
        disk_total: 1,
        disk_free: 1,
        gpus: Vec::new(),
    });
    metrics.render().unwrap()
}

/// A swarm that takes all gossip.
async fn swarm(seed: u8) -> NetHandle {
    let config = NetConfig {
        seed: [seed; 32],
        net8: "0a1b2c3d".to_owned(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bootstrap: Vec::new(),
        authorities: Vec::new(),
        advertise: Vec::new(),
        strangers: 0,
        per_address: 64,
        mdns: false,
        kad: false,
        agent: "names".to_owned(),
    };
    let (net, mut events) = Network::spawn(config).await.unwrap();
    let reader = net.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let NetEvent::Gossip { id, .. } = event {
                reader.verdict(id, Verdict::Accept);
            }
        }
    });
    net
}

#[tokio::test]
async fn dashboards_and_alerts_ask_for_what_a_node_shows() {
    let mut asked = named(&read(&grafana().join("rules.yml")));
    for entry in fs::read_dir(grafana().join("dashboards")).unwrap() {
        asked.extend(named(&read(&entry.unwrap().path())));
    }
    assert!(asked.len() > 50, "{asked:?}");
    let known = sampled(&page());
    asked.retain(|name| !known.contains(name));

    // libp2p shows a metric once it has something to count: peers that are met and lost, and one that nobody is.
    let (one, other) = (swarm(1).await, swarm(2).await);
    let nowhere: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    one.set_addresses(peer_of_key(&[3; 32]), vec![nowhere]);
    one.set_addresses(other.local_peer(), other.listeners().to_vec());
    other.set_addresses(one.local_peer(), Vec::new());
    let end = Instant::now() + LIMIT;
    for turn in 0_u32.. {
        for net in [&one, &other] {
            let shown = sampled(&net.metrics());
            asked.retain(|name| !shown.contains(name));
            // Without a peer that has subscribed it goes nowhere, and the next one is another one.
            let word = format!("{turn} of {}", net.local_peer());
            let _ = net.publish(Topic::Probe, word.into_bytes());
        }
        if asked.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "nothing shows {asked:?}");
        // Some is shown when a connection has ended. Between the two it is noticed, since the later wish takes the place of
        // one that was not seen yet.
        match turn % 100 {
            60 => one.forget(other.local_peer()),
            80 => one.set_addresses(other.local_peer(), other.listeners().to_vec()),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn the_list_of_metrics_is_whole_and_names_no_other() {
    let net = swarm(4).await;
    let ours = |name: &String| name.starts_with("blosm_");
    let shown: BTreeSet<String> = described(&(page() + &net.metrics()))
        .into_iter()
        .filter(ours)
        .collect();
    net.shutdown().await;
    let listed: BTreeSet<String> = named(&read(&grafana().join("README.md")))
        .into_iter()
        .filter(ours)
        .collect();
    let (unlisted, unknown) = (&shown - &listed, &listed - &shown);
    assert!(
        unlisted.is_empty() && unknown.is_empty(),
        "grafana/README.md does not list {unlisted:?}, and lists {unknown:?}, which no node shows"
    );
}

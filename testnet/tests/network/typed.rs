//! What an operator types on hosts on which nothing is at first: a network is made, others join it by an invite.

use std::time::Instant;

use blosm_testnet::config::{self, PEER_PORT, Runtime, SIM_IMAGE};
use blosm_testnet::hosts::address;
use blosm_testnet::node::Node;
use blosm_testnet::road::{location, stand};
use blosm_testnet::{HostSpec, Spec, Testnet};
use serde_json::Value;
use toml::Table;

use crate::ride::{Ride, STILL};
use crate::road::{eventually, finish, peer, set};

/// Hosts, and the commands that are typed on them.
struct Hosts {
    testnet: Testnet,
}

impl Hosts {
    async fn up(hosts: Vec<HostSpec>) -> Hosts {
        let spec = Spec {
            hosts,
            nodes: false,
            runtime: Runtime::Sim,
            ..Spec::hosts(0)
        };
        let testnet = Testnet::up(&spec, &|line| eprintln!("{line}")).await.unwrap();
        Hosts { testnet }
    }

    /// `blosm` on a host; gives what it prints.
    fn blosm(&self, host: usize, words: &[&str]) -> String {
        let node = Node::of(self.testnet.state(), host).unwrap();
        let printed = node.command(words).unwrap();
        eprintln!("host{host}$ blosm {}\n{printed}", words.join(" "));
        printed
    }

    fn data_dir(&self, host: usize) -> String {
        self.testnet.state().data_dir(host).display().to_string()
    }

    /// A network whose authority runs on host 1. Gives what `network new` printed.
    async fn network(&mut self) -> String {
        let network = self
            .testnet
            .state()
            .dir
            .join("network.toml")
            .display()
            .to_string();
        let key = self
            .testnet
            .state()
            .dir
            .join("authority.key")
            .display()
            .to_string();
        let own = format!("/ip4/{}/tcp/{PEER_PORT}", address(1));
        let name = ["network", "new", "--name", "road", "--out", &network];
        let printed = self.blosm(1, &[&name[..], &["--bootstrap", &own]].concat());
        let (data_dir, place) = (self.data_dir(1), place(1));
        self.blosm(
            1,
            &[
                "init",
                "--network",
                &network,
                "--key",
                &key,
                "--data-dir",
                &data_dir,
                &place,
                "--label",
                "host1",
                "--advertise",
                &own,
                "--runtime",
                "sim",
            ],
        );
        self.run(1).await;
        // It admits itself.
        let client = self.testnet.client(1).unwrap();
        eventually("the authority is a member", async || {
            client.get("/v1/status").await.unwrap()["member"] == true
        })
        .await;
        printed
    }

    fn invite(&self, more: &[&str]) -> String {
        let data_dir = self.data_dir(1);
        let printed = self.blosm(1, &[&["invite", "--data-dir", &data_dir], more].concat());
        printed.trim().to_owned()
    }

    fn join(&self, host: usize, invite: &str) -> String {
        let (data_dir, place, label) = (self.data_dir(host), place(host), format!("host{host}"));
        self.blosm(
            host,
            &[
                "join",
                invite,
                "--data-dir",
                &data_dir,
                &place,
                "--radius",
                "300",
                "--label",
                &label,
                "--runtime",
                "sim",
            ],
        )
    }

    /// `blosm run`, until it serves. The service is declared before, and moves only when it is told to.
    async fn run(&mut self, host: usize) {
        let service = Table::from_iter([(
            "service".to_owned(),
            toml::Value::Array(vec![config::counter(SIM_IMAGE).into()]),
        )]);
        let keys = format!("{}\n{STILL}", toml::to_string(&service).unwrap());
        set(&self.testnet, host, &keys);
        self.testnet.start_node(host).await.unwrap();
    }

    async fn status(&self, host: usize) -> Value {
        let client = self.testnet.client(host).unwrap();
        client.get("/v1/status").await.unwrap()
    }
}

fn place(host: usize) -> String {
    let (latitude, longitude) = location(stand(host));
    format!("--location={latitude:.6},{longitude:.6}")
}

#[track_caller]
fn shows(printed: &str, lines: &[String]) {
    for line in lines {
        let found = printed.lines().any(|printed| printed.starts_with(line.as_str()));
        assert!(found, "no line begins with {line:?}:\n{printed}");
    }
}

#[tokio::test]
async fn three_commands_make_a_member_on_another_host() {
    let mut hosts = Hosts::up(vec![HostSpec::default(); 2]).await;
    let printed = hosts.network().await;
    let dir = hosts.testnet.state().dir.display().to_string();
    for line in [
        "road (",
        &format!("{dir}/network.toml"),
        &format!("{dir}/authority.key (keep it secret)"),
        "(shown once: write it down",
        "blosm init --network ",
    ] {
        assert!(printed.contains(line), "{line:?} is not in {printed}");
    }

    let invite = hosts.invite(&["--label", "site=A"]);
    assert!(
        invite.starts_with("blosm1_") && !invite.contains(char::is_whitespace),
        "{invite}"
    );
    let begin = Instant::now();
    let printed = hosts.join(2, &invite);
    let (own, authority) = (address(2), address(1));
    let data_dir = hosts.data_dir(2);
    let lines = [
        "ok    invite      network ".to_owned(),
        format!("ok    authority   answers at /ip4/{authority}/tcp/{PEER_PORT}, round trip "),
        "ok    network     road (".to_owned(),
        "ok    clock       ".to_owned(),
        format!("ok    files       {data_dir}: node.key, network.toml, api.token, blosm.toml"),
        "ok    engine      SIMULATED".to_owned(),
        "ok    methods     live, stateless".to_owned(),
        "ok    admitted    since block 2 as host2".to_owned(),
        format!("ok    dialled     the authority connects to /ip4/{own}/tcp/{PEER_PORT}"),
        format!("next  run         blosm run --data-dir {data_dir}"),
    ];
    shows(&printed, &lines);
    let joined = begin.elapsed();

    hosts.run(2).await;
    let head = hosts.status(1).await;
    eventually("the new node has the chain", async || {
        let status = hosts.status(2).await;
        status["height"].as_u64() >= Some(2) && status["member"] == true
    })
    .await;
    eprintln!(
        "joined after {:.2} s, the first blocks imported after {:.2} s",
        joined.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    for height in 1..=head["height"].as_u64().unwrap() {
        let path = format!("/v1/chain/blocks/{height}");
        let [here, there] = [1, 2].map(|host| hosts.testnet.client(host).unwrap());
        assert_eq!(here.get(&path).await.unwrap(), there.get(&path).await.unwrap());
    }
    let table = hosts.blosm(2, &["peers", "--data-dir", &data_dir]);
    assert!(table.lines().any(|line| line.contains("host1")), "{table}");
    finish(hosts.testnet);
}

/// Which end of its connections has dialled, as a host says.
async fn directions(testnet: &Testnet, host: usize) -> Vec<String> {
    let peers = testnet.client(host).unwrap().get("/v1/peers").await.unwrap();
    let peers = peers.as_array().unwrap().iter();
    peers
        .map(|peer| peer["direction"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_box_behind_a_router_is_told_so_and_takes_and_gives_a_container() {
    let hidden = HostSpec {
        hidden: true,
        ..HostSpec::default()
    };
    let mut hosts = Hosts::up(vec![HostSpec::default(), HostSpec::default(), hidden]).await;
    hosts.network().await;
    let invite = hosts.invite(&["--uses", "2"]);
    hosts.join(2, &invite);
    hosts.run(2).await;
    let printed = hosts.join(3, &invite);
    let warned = printed.lines().find(|line| line.starts_with("warn  dialled"));
    let warned = warned.unwrap_or_else(|| panic!("{printed}"));
    for part in [
        "the authority cannot connect to /ip4/192.168.77.2/tcp/4401 (",
        "open the port in the firewall (this node listens on /ip4/0.0.0.0/tcp/4401)",
        "set [net] advertise",
        "until then only this node dials",
    ] {
        assert!(warned.contains(part), "{part:?} is not in {warned:?}");
    }
    let admitted = ["ok    admitted    since block 3 as host3".to_owned()];
    shows(&printed, &admitted);

    hosts.run(3).await;
    eventually("it is told that nobody can dial it", async || {
        hosts.status(3).await["reachability"]["reachable"] == false
    })
    .await;
    let data_dir = hosts.data_dir(3);
    let status = hosts.blosm(3, &["status", "--data-dir", &data_dir]);
    let router = address(3);
    let line = format!("no, a member tried /ip4/{router}/tcp/{PEER_PORT} in vain");
    assert!(status.contains(&line), "{status}");
    eventually("it is connected to both", async || {
        directions(&hosts.testnet, 3).await.len() == 2
    })
    .await;

    let ride = Ride::start(&hosts.testnet, 2).await;
    ride.moved(&hosts.testnet, 2, 3).await;
    ride.moved(&hosts.testnet, 3, 2).await;
    ride.end(&hosts.testnet, 3).await;
    // All of it went over connections that the hidden one had opened.
    assert_eq!(directions(&hosts.testnet, 3).await, ["outbound"; 2]);
    for host in [1, 2] {
        let seen = peer(&hosts.testnet, host, 3).await.unwrap();
        assert_eq!(
            (&seen["direction"], &seen["found"]),
            (&"inbound".into(), &"inbound".into())
        );
    }
    finish(hosts.testnet);
}

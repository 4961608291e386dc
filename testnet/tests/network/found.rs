//! Nodes whose addresses on the ledger lead nowhere: each on a host of its own, all on one bridge.

use blosm_testnet::HostSpec;
use blosm_testnet::node::Node;
use serde_json::Value;

use crate::road::{Nodes, eventually, peer, set};

/// Where nobody listens.
const NOWHERE: u16 = 4499;
/// Where a node listens after it has moved.
const ELSEWHERE: u16 = 4402;

async fn nodes(net: &str) -> Nodes {
    let host = HostSpec {
        extra: format!("[net]\n{net}").parse().unwrap(),
        ..HostSpec::default()
    };
    Nodes::with(vec![host; 3]).await
}

impl Nodes {
    /// Stops these nodes, and then starts these.
    async fn restart(&mut self, stopped: &[usize], started: &[usize]) {
        for number in stopped {
            self.testnet.stop_node(*number).unwrap();
        }
        for number in started {
            self.testnet.start_node(*number).await.unwrap();
        }
    }

    /// How the connection between hosts 2 and 3, once there is one, was found by the end that has dialled. The other end
    /// can only say that it was dialled.
    async fn found(&self) -> String {
        let mut found = [String::new(), String::new()];
        eventually("hosts 2 and 3 are connected", async || {
            let ends = [peer(&self.testnet, 2, 3).await, peer(&self.testnet, 3, 2).await];
            let [Some(one), Some(other)] = ends else {
                return false;
            };
            found = [one, other].map(|end| end["found"].as_str().unwrap().to_owned());
            // For a moment there may be two, each end showing another one.
            found.iter().filter(|found| *found == "inbound").count() == 1
        })
        .await;
        let [one, other] = found;
        if one == "inbound" { other } else { one }
    }

    async fn lost(&self) {
        eventually("hosts 2 and 3 have lost each other", async || {
            peer(&self.testnet, 2, 3).await.is_none() && peer(&self.testnet, 3, 2).await.is_none()
        })
        .await;
    }

    /// `blosm` on a host, with its data directory.
    fn run(&self, number: usize, words: &[&str]) -> String {
        let data_dir = self.testnet.state().data_dir(number).display().to_string();
        let words = [words, &["--data-dir", &data_dir]].concat();
        Node::of(self.testnet.state(), number)
            .unwrap()
            .command(&words)
            .unwrap()
    }
}

#[tokio::test]
async fn members_with_wrong_addresses_find_each_other_by_mdns_alone() {
    let mut nodes = nodes("kad = false").await;
    for number in [2, 3] {
        let mut host = nodes.testnet.state().host(number).unwrap().clone();
        host.ports.peer = NOWHERE;
        let authority = Node::of(nodes.testnet.state(), 1).unwrap();
        authority.admit(&host).unwrap();
    }
    let height = nodes.head(1).await.height;
    nodes.agree(height).await;
    // The only address in `network.toml` is the authority's, and it does not come back. What the two had told each other
    // went with their processes.
    nodes.restart(&[1, 2, 3], &[2, 3]).await;
    assert_eq!(nodes.found().await, "mdns");
    let tables = [2, 3].map(|number| nodes.run(number, &["peers"]));
    let shown = |table: &String| table.lines().any(|line| line.contains("mdns"));
    assert!(tables.iter().any(shown), "{tables:?}");
    let answered = nodes.run(2, &["ping", "host3", "--count", "1"]);
    assert!(answered.contains("1 sent, 1 answered, 0 lost"), "{answered}");
    nodes.end();
}

#[tokio::test]
async fn members_that_have_both_moved_find_each_other_through_a_third() {
    let mut nodes = nodes("mdns = false").await;
    for number in [2, 3] {
        let listen = format!("[net]\nlisten = [\"/ip4/0.0.0.0/tcp/{ELSEWHERE}\"]");
        set(&nodes.testnet, number, &listen);
    }
    // Both at once: one that knows the other's address would tell it its own.
    nodes.restart(&[2, 3], &[2, 3]).await;
    assert_eq!(nodes.found().await, "kad");
    let one = peer(&nodes.testnet, 2, 3).await.unwrap();
    let other = peer(&nodes.testnet, 3, 2).await.unwrap();
    let moved = |end: &Value| {
        let address = end["address"].as_str().unwrap();
        address.contains(&format!("/tcp/{ELSEWHERE}/"))
    };
    assert!(moved(&one) || moved(&other), "{one:#}\n{other:#}");

    // From now on each knows where the other is: after a cut nobody has to ask.
    nodes.testnet.state().road().part(2, 3).unwrap();
    nodes.lost().await;
    nodes.testnet.state().road().rejoin(2, 3).unwrap();
    let found = nodes.found().await;
    assert!(found == "identify" || found == "kad", "{found}");
    let height = {
        nodes.seal();
        nodes.head(1).await.height
    };
    nodes.agree(height).await;
    nodes.end();
}

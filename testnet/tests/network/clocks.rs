//! A machine without a clock battery, after a power cut: it believes in 1970.

use std::time::Duration;

use blosm_testnet::HostSpec;
use blosm_testnet::node::Node;

use crate::road::Nodes;

#[tokio::test]
async fn a_box_of_1970_imports_blocks_and_says_that_its_clock_is_wrong() {
    let mut hosts = vec![HostSpec::default(); 3];
    hosts[2].clock = Some("@1970-01-01 00:01:00".to_owned());
    let mut nodes = Nodes::with(hosts).await;
    nodes.seal();
    let height = nodes.head(1).await.height;
    nodes.agree(height).await;
    let client = nodes.testnet.client(3).unwrap();
    let mut offset = None;
    for _ in 0..300 {
        let status = client.get("/v1/status").await.unwrap();
        offset = status["clock_offset_seconds"].as_f64();
        if offset.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let years = offset.expect("it knows by now").abs() / (365.25 * 86_400.0);
    assert!((50.0..200.0).contains(&years), "{offset:?}");
    let log = std::fs::read_to_string(Node::of(nodes.testnet.state(), 3).unwrap().log()).unwrap();
    assert!(
        log.lines()
            .any(|line| line.contains("WARN") && line.contains("clock")),
        "{log}"
    );
    nodes.end();
}

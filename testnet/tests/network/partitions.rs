//! Cuts of every shape. What has to hold in each: no block is confirmed that 90 % do not hold (every look at the heads
//! checks it), nothing hangs, and after the heal all have one head.

use std::time::Duration;

use crate::road::Nodes;

/// What a cut lasts: longer than any patience with a silent peer (6 s).
const CUT: Duration = Duration::from_secs(10);

fn told(what: &str, took: Duration) {
    eprintln!("{what}: one head {:.2} s after the heal", took.as_secs_f64());
}

#[tokio::test]
async fn nine_of_ten_go_on_and_confirm() {
    let mut nodes = Nodes::start(10).await;
    nodes.testnet.cut(10).unwrap();
    let hash = nodes.seal();
    let (confirmed, text) = nodes.wait_confirmed(2, &hash, "60s");
    assert!(confirmed, "{text}");
    nodes.watch(CUT).await;
    let head = nodes.head(1).await;
    assert!(nodes.head(10).await.height < head.height, "it was cut off");
    nodes.testnet.heal(10).unwrap();
    told("90/10", nodes.agree(head.height).await);
    nodes.end();
}

#[tokio::test]
async fn half_of_the_nodes_confirm_nothing() {
    let mut nodes = Nodes::start(10).await;
    let (west, east) = ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]);
    nodes.split(&west, &east);
    let hash = nodes.seal();
    let (confirmed, text) = nodes.wait_confirmed(2, &hash, "8s");
    assert!(!confirmed && text.contains("of 10"), "{text}");
    nodes.watch(CUT).await;
    let head = nodes.head(1).await;
    assert!(head.confirmed < head.height);
    nodes.unite(&west, &east);
    told("50/50", nodes.agree(head.height).await);
    let (confirmed, text) = nodes.wait_confirmed(7, &hash, "60s");
    assert!(confirmed, "{text}");
    nodes.end();
}

#[tokio::test]
async fn without_the_sealer_nothing_moves_and_nothing_breaks() {
    let mut nodes = Nodes::start(10).await;
    nodes.testnet.cut(1).unwrap();
    // It seals for itself alone.
    let hash = nodes.seal();
    nodes.watch(CUT).await;
    let head = nodes.head(1).await;
    assert!((2..=10).all(|_| head.confirmed < head.height));
    nodes.testnet.heal(1).unwrap();
    told("sealer isolated", nodes.agree(head.height).await);
    let (confirmed, text) = nodes.wait_confirmed(10, &hash, "60s");
    assert!(confirmed, "{text}");
    nodes.end();
}

#[tokio::test]
async fn a_flapping_link_loses_nothing() {
    let mut nodes = Nodes::start(10).await;
    for _ in 0..8 {
        nodes.testnet.cut(3).unwrap();
        nodes.seal();
        nodes.watch(Duration::from_secs(1)).await;
        nodes.testnet.heal(3).unwrap();
        nodes.seal();
        nodes.watch(Duration::from_secs(1)).await;
    }
    let head = nodes.head(1).await;
    told("flapping", nodes.agree(head.height).await);
    nodes.end();
}

#[tokio::test]
async fn a_node_that_the_sealer_cannot_reach_follows_by_the_others() {
    let mut nodes = Nodes::start(10).await;
    // What the sealer sends to host 3 is lost; what host 3 sends arrives.
    nodes.testnet.state().road().deafen(1, 3).unwrap();
    nodes.watch(CUT).await;
    let hash = nodes.seal();
    let height = nodes.head(1).await.height;
    nodes
        .until("host 3 has the block from somebody else", |heads| {
            heads[2].height >= height
        })
        .await;
    let (confirmed, text) = nodes.wait_confirmed(2, &hash, "60s");
    assert!(confirmed, "{text}");
    nodes.testnet.state().road().hear(1, 3).unwrap();
    told("one way", nodes.agree(height).await);
    nodes.end();
}

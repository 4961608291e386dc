//! The live page of a testnet: what it is told.

use std::time::Duration;

use blosm_testnet::web::Web;
use serde_json::Value;

use crate::road::Nodes;

/// The next scene that the page is sent.
async fn scene(url: &str) -> Value {
    let mut answer = reqwest::get(url).await.unwrap().error_for_status().unwrap();
    let mut text = String::new();
    loop {
        let chunk = tokio::time::timeout(Duration::from_secs(30), answer.chunk());
        text.push_str(std::str::from_utf8(&chunk.await.unwrap().unwrap().unwrap()).unwrap());
        if let Some((event, _)) = text.split_once("\n\n") {
            assert!(event.lines().any(|line| line == "event: scene"), "{event}");
            let data = event
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .unwrap();
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn the_page_is_told_of_all_nodes_and_of_one_that_dies() {
    let mut nodes = Nodes::start(3).await;
    let web = Web::serve("127.0.0.1:0".parse().unwrap(), nodes.testnet.state())
        .await
        .unwrap();
    let page = reqwest::get(web.url()).await.unwrap().text().await.unwrap();
    assert!(page.contains("EventSource"));
    let events = web.url().replace("/ui", "/v1/events?scene=true");
    let first = scene(&events).await;
    let up = |scene: &Value| {
        let nodes = scene["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .map(|node| (node["label"].as_str().unwrap().to_owned(), node["up"] == true))
            .collect::<Vec<_>>()
    };
    let mut expected = [1, 2, 3].map(|n| (format!("host{n}"), true)).to_vec();
    let mut seen = up(&first);
    seen.sort();
    assert_eq!(seen, expected, "{first:#}");
    let height = nodes.head(1).await.height;
    assert_eq!(first["height"].as_u64(), Some(height));
    assert_eq!(first["blocks"][0]["height"].as_u64(), Some(height));
    nodes.testnet.kill_node(3).unwrap();
    expected[2].1 = false;
    let mut seen = up(&scene(&events).await);
    seen.sort();
    assert_eq!(seen, expected);
    drop(web);
    nodes.end();
}

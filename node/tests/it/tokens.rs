//! Session tokens that a running node must not take, and what it says of a service that it cannot run.

use std::fs;

use blosm_ledger::{SecretKey, Token};
use blosm_node::config::Config;

use crate::site::{Site, empty_engine, get};

const SERVICE: &str =
    "\n[[service]]\nname = \"counter\"\nimage = \"nowhere/counter:1@sha256:PIN\"\nport = 8080\n";

#[test]
fn only_tokens_of_this_network_and_service_are_taken() {
    let site = Site::new();
    empty_engine(&site.socket());
    let path = site.dir().join("blosm.toml");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, before + &SERVICE.replace("PIN", &"a".repeat(64))).unwrap();
    let config = Config::load(&path).unwrap();
    let (chain, other) = (config.network.chain_id, blosm_ledger::Hash([7; 32]));
    let node = site.start();
    let [_, gateway, _] = site.addresses();
    let ask = |token: &str| get(gateway, "/counter/", &format!("X-Blosm-Session: {token}\r\n"));
    let refused = |answer: &str, status: u16, says: &str| {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(
            body.contains(says) && body.trim_end().lines().count() == 1,
            "{answer}"
        );
    };

    let foreign = Token::mint(&SecretKey::from_seed(&[1; 32]), other, "counter", [2; 32]);
    let elsewhere = Token::mint(&config.key, other, "counter", [3; 32]);
    let service = Token::mint(&config.key, chain, "echo", [4; 32]);
    for token in [foreign, elsewhere, service] {
        refused(&ask(&token.encode()), 400, "token");
    }
    // Its own signature, but its journal knows nothing of it: the state exists nowhere.
    let lost = Token::mint(&config.key, chain, "counter", [5; 32]);
    refused(&ask(&lost.encode()), 410, "session is over");
    // And without any: the image is absent, the node serves on.
    refused(&get(gateway, "/counter/", ""), 503, "image");
    refused(&get(gateway, "/nothing/", ""), 404, "[[service]]");
    site.serves();
    node.stop();
}

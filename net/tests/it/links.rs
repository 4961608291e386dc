//! Connections that come, go, break and are refused.

use std::net::SocketAddr;
use std::time::Duration;

use blosm_net::{Found, Multiaddr, NetError, Network, Protocol, Refusal, Topic, key_of_peer, peer_of_key};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Node, config, gossip_flows, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_peer_is_found_again_and_hears_and_is_heard() {
    let (mut a, mut b) = (Node::start(61).await, Node::start(62).await);
    a.connect(&mut b).await;
    gossip_flows(&a, &mut b, "before").await;
    for round in 0..3 {
        let id = b.id();
        b = b.restart().await;
        assert_eq!(b.id(), id);
        a.disconnected(id).await;
        a.connected(id).await;
        gossip_flows(&a, &mut b, &format!("to {round}")).await;
        gossip_flows(&b, &mut a, &format!("from {round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_dial_and_one_connection_stays() {
    for round in 0..5u8 {
        let (mut a, mut b) = (
            Node::start(63 + 2 * round).await,
            Node::start(64 + 2 * round).await,
        );
        a.net.set_addresses(b.id(), vec![b.address()]);
        b.net.set_addresses(a.id(), vec![a.address()]);
        a.connected(b.id()).await;
        b.connected(a.id()).await;
        gossip_flows(&a, &mut b, "there").await;
        gossip_flows(&b, &mut a, "back").await;
        assert_eq!(a.net.peers().len(), 1);
        assert_eq!(b.net.peers().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_while_one_of_two_connections_is_given_up_is_answered() {
    let mut asked = tokio::task::JoinSet::new();
    for round in 0..6u8 {
        asked.spawn(async move {
            let (mut a, mut b) = (
                Node::start(180 + 2 * round).await,
                Node::start(181 + 2 * round).await,
            );
            a.net.set_addresses(b.id(), vec![b.address()]);
            b.net.set_addresses(a.id(), vec![a.address()]);
            a.connected(b.id()).await;
            b.connected(a.id()).await;
            // Some of the pairs have met with two dials; whichever connection a request goes by, it takes half a second.
            let (net, peer) = (a.net.clone(), b.id());
            let asking = tokio::spawn(async move {
                let mut answers = tokio::task::JoinSet::new();
                for n in 0..40 {
                    let net = net.clone();
                    answers.spawn(async move { net.request(peer, Protocol::Session, vec![n]).await });
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answers.join_all().await
            });
            let mut replies = tokio::task::JoinSet::new();
            for _ in 0..40 {
                let (_, _, data, reply) = b.asked().await;
                replies.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    reply.send(data);
                });
            }
            replies.join_all().await;
            asking.await.unwrap()
        });
    }
    for answers in asked.join_all().await {
        assert_eq!(answers.len(), 40);
        for answer in answers {
            answer.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_address_leads_to_its_peer() {
    let mut a = Node::start(81).await;
    let mut settings = config(82, "/ip4/127.0.0.1/tcp/0");
    settings.bootstrap = vec![format!("{}/p2p/{}", a.address(), a.id()).parse().unwrap()];
    let mut b = Node::start_with(settings).await;
    a.know(b.id());
    b.connected(a.id()).await;
    a.connected(b.id()).await;
    let info = b.net.peers().remove(0);
    assert_eq!((info.peer, info.found), (a.id(), Found::Bootstrap));
    assert_eq!(a.net.peers()[0].found, Found::Inbound);
    assert!(b.net.is_connected(&a.id()));
    assert_eq!(b.net.connected(), vec![a.id()]);
    assert_eq!(peer_of_key(&key_of_peer(&a.id()).unwrap()), a.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_peer_is_refused_until_it_is_named_again() {
    let (mut a, mut b) = (Node::start(83).await, Node::start(84).await);
    b.connect(&mut a).await;
    a.net.forget(b.id());
    a.disconnected(b.id()).await;
    // The other end keeps trying; each try is refused.
    until("it is refused", || {
        a.net.counters().refused(Refusal::Stranger) > 0
    })
    .await;
    assert!(a.net.connected().is_empty());
    a.net.set_addresses(b.id(), vec![]);
    gossip_flows(&b, &mut a, "welcome").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_not_kept_any_more_is_left_within_seconds_but_not_in_a_request() {
    let (mut a, mut b) = (Node::start(98).await, Node::start(99).await);
    a.connect(&mut b).await;
    let (net, peer) = (a.net.clone(), b.id());
    let ask = || {
        let net = net.clone();
        tokio::spawn(async move { net.request(peer, Protocol::Session, vec![1]).await })
    };
    let under_way = ask();
    let (.., reply) = b.asked().await;
    b.net.know(a.id(), vec![]);
    a.net.know(peer, vec![b.address()]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(a.net.is_connected(&peer));
    reply.send(vec![2]);
    assert_eq!(under_way.await.unwrap().unwrap(), vec![2]);
    a.disconnected(peer).await;
    b.disconnected(a.id()).await;

    let next = ask();
    let (.., reply) = b.asked().await;
    reply.send(vec![3]);
    assert_eq!(next.await.unwrap().unwrap(), vec![3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_two_networks_do_not_stay_together() {
    let mut a = Node::start(85).await;
    let mut settings = config(86, "/ip4/127.0.0.1/tcp/0");
    settings.net8 = "ffffffff".to_owned();
    let mut b = Node::start_with(settings).await;
    b.know(a.id());
    a.net.set_addresses(b.id(), vec![b.address()]);
    a.connected(b.id()).await;
    a.disconnected(b.id()).await;
    let refused = |node: &Node| node.net.counters().refused(Refusal::Network);
    assert!(refused(&a) + refused(&b) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_link_is_noticed_and_mended() {
    let (mut a, mut b) = (Node::start(91).await, Node::start(92).await);
    let (cut, proxy) = proxy(port(&b.address())).await;
    b.know(a.id());
    a.net.set_addresses(b.id(), vec![proxy]);
    a.connected(b.id()).await;
    b.connected(a.id()).await;
    gossip_flows(&a, &mut b, "before").await;

    // A request under way when the link is cut fails, though no socket reports anything.
    let (net, peer) = (a.net.clone(), b.id());
    let lost = tokio::spawn(async move { net.request(peer, Protocol::Session, vec![1]).await });
    let (.., reply) = b.asked().await;
    cut.send_replace(true);
    reply.send(vec![1]);
    assert!(lost.await.unwrap().unwrap_err().may_have_arrived());
    a.disconnected(b.id()).await;
    b.disconnected(a.id()).await;

    cut.send_replace(false);
    a.connected(b.id()).await;
    gossip_flows(&a, &mut b, "after").await;
    gossip_flows(&b, &mut a, "back").await;
    assert!(a.net.counters().peers_silent > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_restarts_behind_a_dead_connection_is_not_deaf() {
    let (mut a, mut b) = (Node::start(93).await, Node::start(94).await);
    let (cut, proxy) = proxy(port(&a.address())).await;
    // The first connection ends nowhere from now on, and nobody is told.
    a.know(b.id());
    b.net.set_addresses(a.id(), vec![proxy]);
    b.connected(a.id()).await;
    a.connected(b.id()).await;
    gossip_flows(&b, &mut a, "before").await;
    cut.send_replace(true);
    let mut b = b.restart().await;
    b.net.set_addresses(a.id(), vec![a.address()]);
    gossip_flows(&b, &mut a, "from it").await;
    gossip_flows(&a, &mut b, "to it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_work_are_clear_errors() {
    let a = Node::start(95).await;
    let taken = Network::spawn(config(96, &a.address().to_string())).await;
    let error = taken.map(drop).unwrap_err();
    assert!(matches!(error, NetError::Listen { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&a.address().to_string()), "{text}");
    assert!(text.contains("[net] listen"), "{text}");

    let error = Network::spawn(config(96, "/ip4/192.0.2.1/tcp/4401"))
        .await
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, NetError::Listen { .. }), "{error:?}");

    let error = Network::spawn(config(96, "/dns4/example.org/udp/1"))
        .await
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, NetError::Listen { .. }), "{error:?}");

    let mut settings = config(96, "/ip4/127.0.0.1/tcp/0");
    settings.bootstrap = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
    let error = Network::spawn(settings).await.map(drop).unwrap_err();
    assert!(matches!(error, NetError::BootstrapWithoutPeer(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shut_down_node_answers_every_call() {
    let a = Node::start(97).await;
    let b = peer_of_key(&[1; 32]);
    a.net.shutdown().await;
    a.net.shutdown().await;
    assert!(a.net.publish(Topic::Tx, vec![1]).is_err());
    assert!(a.net.request(b, Protocol::Ledger, vec![1]).await.is_err());
    a.net.set_addresses(b, vec![]);
    a.net.forget(b);
    assert!(a.net.connected().is_empty());
}

fn port(address: &Multiaddr) -> u16 {
    address.to_string().rsplit('/').next().unwrap().parse().unwrap()
}

/// Forwards connections to a loopback port; while cut, it forwards nothing and closes nothing, as a dead link does.
async fn proxy(to: u16) -> (watch::Sender<bool>, Multiaddr) {
    let (cut, is_cut) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((inner, _)) = listener.accept().await {
            let is_cut = is_cut.clone();
            tokio::spawn(async move {
                let outer = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let (inner_read, inner_write) = inner.into_split();
                let (outer_read, outer_write) = outer.into_split();
                tokio::join!(
                    forward(inner_read, outer_write, is_cut.clone()),
                    forward(outer_read, inner_write, is_cut),
                );
            });
        }
    });
    let address = format!("/ip4/127.0.0.1/tcp/{}", address.port());
    (cut, address.parse().unwrap())
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut is_cut: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if is_cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

//! Members that change their address, and nodes that nobody can dial.

use blosm_net::{Found, NetHandle, PeerId, Protocol};

use crate::harness::{Node, config, free_address, gossip_flows, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moved_is_found_through_another() {
    let (mut a, mut b, mut c) = (
        Node::start(171).await,
        Node::start(172).await,
        Node::start(173).await,
    );
    a.connect(&mut c).await;
    b.connect(&mut c).await;
    a.connect(&mut b).await;
    gossip_flows(&a, &mut b, "before").await;

    // It comes back on another port. It knows no address of `a`, and `a` knows only its former one.
    let id = b.id();
    b.net.shutdown().await;
    a.disconnected(id).await;
    let mut settings = b.config.clone();
    settings.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    // Nor does it look for `a`.
    settings.kad = false;
    let former = b.address();
    let mut b = Node::start_with(settings).await;
    assert_ne!(b.address(), former);
    b.know(a.id());
    b.net.set_addresses(c.id(), vec![c.address()]);
    b.connected(c.id()).await;

    a.connected(id).await;
    let info = a.net.peers().into_iter().find(|peer| peer.peer == id).unwrap();
    assert_eq!(info.found, Found::Kad, "{info:?}");
    gossip_flows(&a, &mut b, "after").await;
    gossip_flows(&b, &mut a, "back").await;
}

/// Searches of a node that are over.
fn searched(net: &NetHandle) -> u64 {
    let page = net.metrics();
    let name = "libp2p_kad_query_result_get_closest_peers_ok_count ";
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_connects_to_nobody_on_its_way() {
    let (mut a, mut hub) = (Node::start(180).await, Node::start(181).await);
    a.connect(&mut hub).await;
    let mut others = vec![];
    for seed in 182..186 {
        let mut other = Node::start(seed).await;
        other.connect(&mut hub).await;
        other.net.know(a.id(), vec![]);
        a.net.know(other.id(), vec![other.address()]);
        others.push(other);
    }
    until("they have said where they listen", || {
        let peers = hub.net.peers();
        peers.len() == 5 && peers.iter().all(|peer| !peer.agent.is_empty())
    })
    .await;
    a.net.set_addresses(PeerId::random(), vec![]);
    until("it is looked for", || searched(&a.net) > 0).await;
    assert_eq!(a.net.connected(), vec![hub.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_tells_of_itself_is_dialled_when_it_is_gone() {
    let (mut a, mut b) = (Node::start(174).await, Node::start(175).await);
    // `a` has no address of `b` but what `b` says.
    b.connect(&mut a).await;
    until("it has said it", || {
        a.net.peers().iter().any(|peer| !peer.agent.is_empty())
    })
    .await;
    let info = a.net.peers().remove(0);
    assert_eq!(
        (info.agent.as_str(), info.found, info.score),
        ("blosm-test", Found::Inbound, 0)
    );
    for name in ["ledger", "session", "relay", "transfer", "join", "reach", "kad"] {
        let own = crate::raw::own(name);
        assert!(
            info.protocols.contains(&own),
            "{own} is not in {:?}",
            info.protocols
        );
    }
    let id = b.id();
    let mut settings = b.config.clone();
    settings.listen = vec![b.address()];
    b.net.shutdown().await;
    a.disconnected(id).await;
    // It comes back at the same place, and waits to be dialled.
    let mut b = Node::start_with(settings).await;
    b.know(a.id());
    b.connected(a.id()).await;
    until("it is connected", || a.net.is_connected(&id)).await;
    let found = a.net.peers().remove(0).found;
    assert_eq!(found, Found::Identify);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_can_be_dialled_is_told_so() {
    let mut authority = Node::start(176).await;
    let mut settings = config(177, "/ip4/127.0.0.1/tcp/0");
    settings.authorities = vec![authority.id()];
    let mut node = Node::start_with(settings).await;
    assert_eq!(node.net.reachability().verdict(), None);
    node.connect(&mut authority).await;
    until("it is told", || node.net.reachability().verdict() == Some(true)).await;
    let known = node.net.reachability();
    assert!(!known.inbound, "nobody has dialled by itself");
    assert_eq!(
        (known.reached, known.observed),
        (vec![node.address()], vec![node.address()])
    );
    // The other end was dialled, so it needs no witness.
    assert!(authority.net.reachability().inbound);
    // The attempt is no connection: the one that stands is still the first.
    assert_eq!(authority.net.connected(), vec![node.id()]);
    gossip_flows(&node, &mut authority, "still").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_nobody_can_dial_is_told_so_and_works() {
    let mut authority = Node::start(178).await;
    let mut settings = config(179, "/ip4/127.0.0.1/tcp/0");
    let address = free_address();
    settings.listen = vec![];
    settings.advertise = vec![address.clone()];
    settings.authorities = vec![authority.id()];
    let mut node = Node::start_with(settings).await;
    authority.net.set_addresses(node.id(), vec![address.clone()]);
    node.net.set_addresses(authority.id(), vec![authority.address()]);
    node.connected(authority.id()).await;
    authority.connected(node.id()).await;
    until("it is told", || node.net.reachability().verdict() == Some(false)).await;
    assert_eq!(node.net.reachability().unreached, vec![address]);
    // Everything works over the connection that it opened itself, in both directions.
    gossip_flows(&node, &mut authority, "there").await;
    gossip_flows(&authority, &mut node, "back").await;
    for protocol in Protocol::ALL {
        let (net, peer) = (authority.net.clone(), node.id());
        let request = tokio::spawn(async move { net.request(peer, protocol, vec![1]).await });
        let (asked, .., reply) = node.asked().await;
        assert_eq!(asked, protocol);
        reply.send(vec![2]);
        assert_eq!(request.await.unwrap().unwrap(), vec![2]);
    }
}

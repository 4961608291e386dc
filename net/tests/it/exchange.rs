//! Requests and their answers.

use blosm_net::{NetEvent, Protocol, RequestError};

use crate::harness::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_carries_its_longest_messages() {
    let (mut a, mut b) = (Node::start(41).await, Node::start(42).await);
    a.connect(&mut b).await;
    for protocol in Protocol::ALL {
        let limits = protocol.limits();
        let net = a.net.clone();
        let (peer, size) = (b.id(), limits.max_request);
        let request = tokio::spawn(async move { net.request(peer, protocol, vec![7; size]).await });
        let (asked, from, data, reply) = b.asked().await;
        assert_eq!((asked, from, data.len()), (protocol, a.id(), size));
        assert_eq!(reply.limit(), limits.max_response);
        reply.send(vec![8; limits.max_response]);
        let response = request.await.unwrap().unwrap();
        assert_eq!(response.len(), limits.max_response);
        assert!(response.iter().all(|byte| *byte == 8));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_find_their_requests_in_any_order() {
    let (mut a, mut b) = (Node::start(43).await, Node::start(44).await);
    a.connect(&mut b).await;
    let requests: Vec<_> = (0..50u8)
        .map(|n| {
            let (net, peer) = (a.net.clone(), b.id());
            tokio::spawn(async move {
                let answer = net.request(peer, Protocol::Session, vec![n]).await.unwrap();
                assert_eq!(answer, vec![n, n]);
            })
        })
        .collect();
    let mut replies = Vec::new();
    for _ in 0..50 {
        let (_, _, data, reply) = b.asked().await;
        replies.push((data[0], reply));
    }
    for (n, reply) in replies.into_iter().rev() {
        reply.send(vec![n, n]);
    }
    for request in requests {
        request.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_says_that_it_was_not() {
    let (mut a, mut b) = (Node::start(45).await, Node::start(46).await);
    let nowhere = a.net.request(b.id(), Protocol::Ledger, vec![1]).await;
    assert!(matches!(nowhere, Err(RequestError::NotConnected)));

    // A port that was free a moment ago and has no listener.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let ghost = blosm_net::peer_of_key(&[9; 32]);
    a.net
        .set_addresses(ghost, vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()]);
    let dialled = loop {
        match a.net.request(ghost, Protocol::Ledger, vec![1]).await {
            // The wish for these addresses may not have been read yet.
            Err(RequestError::NotConnected) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert!(matches!(dialled, Err(RequestError::Dial)), "{dialled:?}");

    a.connect(&mut b).await;
    let limit = Protocol::Ledger.limits().max_request;
    let long = a.net.request(b.id(), Protocol::Ledger, vec![0; limit + 1]).await;
    assert!(matches!(long, Err(RequestError::TooLarge { .. })));
    for error in [nowhere.unwrap_err(), dialled.unwrap_err(), long.unwrap_err()] {
        assert!(!error.may_have_arrived(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_dials_a_peer_that_is_not_connected() {
    let (a, mut b) = (Node::start(47).await, Node::start(48).await);
    b.know(a.id());
    a.net.set_addresses(b.id(), vec![b.address()]);
    let (net, peer) = (a.net.clone(), b.id());
    let request = tokio::spawn(async move {
        loop {
            match net.request(peer, Protocol::Relay, vec![1]).await {
                Err(RequestError::NotConnected) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    });
    let (.., reply) = b.asked().await;
    reply.send(vec![2]);
    assert_eq!(request.await.unwrap().unwrap(), vec![2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_reply_and_oversize_answer_end_the_request() {
    let (mut a, mut b) = (Node::start(51).await, Node::start(52).await);
    a.connect(&mut b).await;
    for oversize in [false, true] {
        let (net, peer) = (a.net.clone(), b.id());
        let request = tokio::spawn(async move { net.request(peer, Protocol::Transfer, vec![1]).await });
        let (.., reply) = b.asked().await;
        if oversize {
            let size = reply.limit() + 1;
            reply.send(vec![0; size]);
        } else {
            drop(reply);
        }
        let error = request.await.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Stream(_)), "{error:?}");
        assert!(error.may_have_arrived());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_leaves_fails_its_requests_and_abandons_its_own() {
    let (mut a, mut b) = (Node::start(53).await, Node::start(54).await);
    a.connect(&mut b).await;
    let (net, peer) = (a.net.clone(), b.id());
    let lost = tokio::spawn(async move { net.request(peer, Protocol::Session, vec![1]).await });
    let (.., reply) = b.asked().await;

    let (net, peer) = (b.net.clone(), a.id());
    let asked = tokio::spawn(async move { net.request(peer, Protocol::Session, vec![1]).await });
    let (.., abandoned) = a.asked().await;
    assert!(!abandoned.is_abandoned());

    let id = b.id();
    b.net.shutdown().await;
    let error = lost.await.unwrap().unwrap_err();
    assert!(error.may_have_arrived(), "{error:?}");
    drop(reply);
    assert!(matches!(asked.await.unwrap().unwrap_err(), RequestError::Stopped));
    a.disconnected(id).await;
    while !abandoned.is_abandoned() {
        tokio::task::yield_now().await;
    }
    abandoned.send(vec![1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_is_refused_here() {
    let (mut a, mut b) = (Node::start(55).await, Node::start(56).await);
    a.connect(&mut b).await;
    let allowed = Protocol::Transfer.limits().in_flight;
    let requests: Vec<_> = (0..allowed)
        .map(|_| {
            let (net, peer) = (a.net.clone(), b.id());
            tokio::spawn(async move { net.request(peer, Protocol::Transfer, vec![1]).await })
        })
        .collect();
    let mut replies = Vec::new();
    while replies.len() < allowed {
        if let NetEvent::Request { reply, .. } = b.event().await {
            replies.push(reply);
        }
    }
    let refused = a.net.request(b.id(), Protocol::Transfer, vec![1]).await;
    assert!(matches!(refused, Err(RequestError::Busy)), "{refused:?}");
    for reply in replies {
        reply.send(vec![]);
    }
    for request in requests {
        request.await.unwrap().unwrap();
    }
}

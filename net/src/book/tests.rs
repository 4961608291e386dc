use super::*;

fn peers() -> (PeerId, PeerId) {
    let (a, b) = (PeerId::random(), PeerId::random());
    (a.min(b), a.max(b))
}

fn address(port: u16) -> Multiaddr {
    format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
}

#[test]
fn member_is_dialled_once_and_again_after_a_growing_wait() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let mut now = Instant::now();
    book.set_member(peer, vec![address(1)], true, now);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
        assert_eq!(book.due(now), vec![], "an attempt is under way");
        assert_eq!(book.next_due(), None);
        book.on_dial_failed(peer, now);
        let next = book.next_due().unwrap();
        waits.push((next - now).as_millis());
        now = next;
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
}

#[test]
fn lost_peer_is_dialled_at_once_by_the_smaller_id_first() {
    let (small, great) = peers();
    for (local, peer, wait) in [(small, great, 200), (great, small, 500)] {
        let mut book = Book::new(local);
        let start = Instant::now();
        book.set_member(peer, vec![address(1)], true, start);
        book.on_dial_failed(peer, start);
        book.on_connected(peer, true, start);
        let end = start + SETTLED;
        book.on_disconnected(peer, end);
        assert_eq!(book.next_due(), Some(end + Duration::from_millis(wait)));
    }
}

#[test]
fn connections_that_do_not_last_are_tried_ever_more_slowly() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let mut now = Instant::now();
    book.set_member(peer, vec![address(1)], true, now);
    for _ in 0..10 {
        book.on_connected(peer, true, now);
        book.on_disconnected(peer, now);
        now = book.next_due().unwrap();
    }
    book.on_connected(peer, true, now);
    book.on_disconnected(peer, now);
    assert_eq!(book.next_due(), Some(now + BACKOFF_MAX));
}

#[test]
fn new_addresses_are_tried_at_once_and_the_same_ones_are_not() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.set_member(peer, vec![address(1)], true, now);
    book.due(now);
    book.on_dial_failed(peer, now);
    book.set_member(peer, vec![address(1)], true, now);
    assert_eq!(book.due(now), vec![]);
    book.set_member(peer, vec![address(2)], true, now);
    assert_eq!(book.due(now), vec![(peer, vec![address(2)])]);
}

#[test]
fn request_does_not_wait_for_the_backoff() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    assert_eq!(book.reach(&peer), Reach::Nowhere);
    book.set_member(peer, vec![address(1)], true, now);
    book.due(now);
    book.on_dial_failed(peer, now);
    assert_eq!(book.reach(&peer), Reach::Dial(vec![address(1)]));
    assert_eq!(book.reach(&peer), Reach::Under);
}

#[test]
fn failed_dial_does_not_undo_an_incoming_connection() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.set_member(peer, vec![address(1)], true, now);
    book.due(now);
    book.on_connected(peer, true, now);
    book.on_dial_failed(peer, now);
    assert_eq!(book.reach(&peer), Reach::Under);
    assert_eq!(book.next_due(), None);
}

#[test]
fn forgotten_peer_is_not_dialled_until_it_is_a_member_again() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.add_bootstrap(peer, address(1), now);
    book.forget(peer);
    assert_eq!(book.next_due(), None);
    book.on_disconnected(peer, now);
    assert_eq!(book.next_due(), None);
    book.set_member(peer, vec![address(2)], true, now);
    assert_eq!(book.next_due(), Some(now));
}

#[test]
fn stranger_leaves_no_trace() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.on_connected(peer, true, now);
    book.on_disconnected(peer, now);
    assert!(book.peers.is_empty());
    book.learn(peer, vec![address(1)], Found::Mdns, now);
    book.take_back(&peer, &address(1), Found::Mdns);
    assert!(book.peers.is_empty());
}

#[test]
fn learnt_addresses_stand_beside_the_ledgers_and_expire() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.set_member(peer, vec![address(1)], true, now);
    book.due(now);
    for _ in 0..8 {
        book.on_dial_failed(peer, now);
        book.reach(&peer);
    }
    book.on_dial_failed(peer, now);
    book.learn(peer, vec![address(1), address(2)], Found::Kad, now);
    let soon = now + LEARNT_WAIT;
    assert_eq!(book.next_due(), Some(soon), "sooner than the backoff");
    assert_eq!(book.due(soon), vec![(peer, vec![address(1), address(2)])]);
    assert_eq!(book.found(&peer, &address(1)), Found::Chain);
    assert_eq!(
        book.found(&peer, &address(2).with(Protocol::P2p(peer))),
        Found::Kad
    );
    book.set_member(peer, vec![address(3)], true, soon);
    assert_eq!(
        book.found(&peer, &address(2)),
        Found::Kad,
        "what was learnt stays"
    );
    book.expire(now + Duration::from_secs(3600));
    book.on_dial_failed(peer, now);
    let later = now + BACKOFF_MAX;
    assert_eq!(book.due(later), vec![(peer, vec![address(3)])]);
}

#[test]
fn what_others_tell_again_and_again_does_not_set_the_pace() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let mut now = Instant::now();
    book.set_member(peer, vec![], true, now);
    let mut dials = 0;
    for n in 1..=1000u16 {
        now += Duration::from_millis(10);
        book.learn(peer, vec![address(n)], Found::Mdns, now);
        dials += book.due(now).len();
        book.on_dial_failed(peer, now);
    }
    assert!(dials <= 24, "{dials} dials in ten seconds");
}

#[test]
fn a_lost_member_is_looked_for_ever_more_seldom() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let start = Instant::now();
    book.set_member(peer, vec![], true, start);
    assert_eq!(book.search(start), None);
    let mut now = start;
    let mut waits = Vec::new();
    let mut last = start;
    while waits.len() < 8 {
        now += Duration::from_secs(1);
        if let Some(found) = book.search(now) {
            assert_eq!(found, peer);
            waits.push((now - last).as_secs());
            last = now;
        }
    }
    assert_eq!(waits, [5, 5, 10, 20, 40, 80, 160, 300]);
    book.on_connected(peer, true, now);
    assert_eq!(book.search(now + LOOKUP_MAX), None);
    book.on_disconnected(peer, now + LOOKUP_MAX);
    assert_eq!(book.search(now + LOOKUP_MAX + LOOKUP_MIN), Some(peer), "anew");
}

#[test]
fn who_is_connected_is_not_dialled_at_what_it_tells() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.set_member(peer, vec![], true, now);
    book.on_connected(peer, true, now);
    book.learn(peer, vec![address(1)], Found::Identify, now);
    assert_eq!(book.next_due(), None);
    book.on_disconnected(peer, now + SETTLED);
    assert_eq!(book.next_due(), Some(now + SETTLED + BACKOFF_MIN));
}

#[test]
fn bootstrap_address_outlives_the_members_list() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.add_bootstrap(peer, address(1), now);
    book.set_member(peer, vec![address(2), address(1)], true, now);
    book.set_member(peer, vec![], true, now);
    assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
}

#[test]
fn addresses_of_somebody_else_are_left_out() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    let with = |id: PeerId| address(1).with(Protocol::P2p(id));
    book.set_member(peer, vec![with(local), with(peer)], true, now);
    assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
    book.set_member(local, vec![address(1)], true, now);
    assert!(!book.peers.contains_key(&local), "never dial oneself");
}

#[test]
fn peer_that_is_not_kept_is_dialled_for_requests_only_and_left_when_it_is_not_used() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.set_member(peer, vec![address(1)], false, now);
    assert_eq!((book.next_due(), book.due(now)), (None, vec![]));
    assert_eq!(book.reach(&peer), Reach::Dial(vec![address(1)]));
    book.on_connected(peer, true, now);
    let later = |seconds| now + Duration::from_secs(seconds);
    assert_eq!(book.unused(later(29)), vec![]);
    book.on_begun(&peer, later(20));
    assert_eq!(book.unused(later(270)), vec![], "a request is under way");
    book.on_ended(&peer, later(250));
    assert_eq!(book.unused(later(279)), vec![]);
    assert_eq!(book.unused(later(280)), vec![peer]);
    book.on_disconnected(peer, later(280));
    assert_eq!(book.next_due(), None, "it is not dialled again by itself");

    // What the peer has dialled is not ended from here.
    book.on_connected(peer, false, later(300));
    assert_eq!(book.unused(later(9999)), vec![]);
    book.on_disconnected(peer, later(9999));

    // From now on it is kept, so it is dialled at once and never left.
    book.set_member(peer, vec![address(1)], true, later(10_000));
    assert_eq!(book.due(later(10_000)), vec![(peer, vec![address(1)])]);
    book.on_connected(peer, true, later(10_000));
    assert_eq!(book.unused(later(99_999)), vec![]);
    book.set_member(peer, vec![address(1)], false, later(99_999));
    assert_eq!(
        book.unused(later(99_999)),
        vec![peer],
        "until it is not kept any more"
    );
}

#[test]
fn connection_that_nobody_asked_for_is_left_as_soon_as_it_is_not_kept() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    book.set_member(peer, vec![address(1)], true, now);
    assert_eq!(book.due(now).len(), 1);
    book.on_connected(peer, true, now);
    assert_eq!(book.unused(later(9999)), vec![]);
    // Both ends greet each other on every connection.
    book.on_begun(&peer, later(10_000));
    book.on_begun(&peer, later(10_000));
    book.set_member(peer, vec![address(1)], false, later(10_000));
    book.on_ended(&peer, later(10_001));
    assert_eq!(book.unused(later(10_099)), vec![], "one of them is under way");
    assert!(!book.is_quiet(&peer, later(10_099)));
    book.on_ended(&peer, later(10_100));
    assert_eq!(book.unused(later(10_104)), vec![]);
    assert!(!book.is_quiet(&peer, later(10_104)));
    assert!(book.is_quiet(&peer, later(10_105)));
    assert_eq!(book.unused(later(10_105)), vec![peer]);
    book.on_disconnected(peer, later(10_105));
    assert_eq!(book.next_due(), None);

    // Of one that is asked for more is expected.
    assert_eq!(book.reach(&peer), Reach::Dial(vec![address(1)]));
    book.on_connected(peer, true, later(10_200));
    assert_eq!(book.unused(later(10_229)), vec![]);
    assert_eq!(book.unused(later(10_230)), vec![peer]);

    // A connection of the peer's own is its own to end, whatever was asked before.
    book.on_disconnected(peer, later(10_230));
    book.on_connected(peer, false, later(10_300));
    assert_eq!(book.unused(later(99_999)), vec![]);
}

#[test]
fn bootstrap_peer_is_kept_whatever_the_members_list_says() {
    let (local, peer) = peers();
    let mut book = Book::new(local);
    let now = Instant::now();
    book.add_bootstrap(peer, address(1), now);
    book.set_member(peer, vec![address(1)], false, now);
    assert_eq!(book.due(now), vec![(peer, vec![address(1)])]);
}

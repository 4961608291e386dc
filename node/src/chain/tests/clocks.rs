//! Clocks that are wrong.

use blosm_ledger::Confirmations;

use super::harness::{Place, network, until};
use crate::chain::{BlockId, ChainOptions, Clock, ClockFault};

/// A machine without a battery: it begins at 1970.
fn at_1970() -> ChainOptions {
    let start = std::time::Instant::now();
    ChainOptions {
        clock: Clock::new(move || start.elapsed().as_millis() as u64),
        ..ChainOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_in_1970_imports_serves_confirms_and_says_that_its_clock_is_wrong() {
    let mut nodes = network(2).await;
    let place = nodes.pop().unwrap().stop().await;
    let (a, b) = (&nodes[0], &nodes[1]);
    let c = place.start_with(&[], at_1970()).await;
    // From the first moment: before the authority has answered, the chain tells.
    assert!(c.chain.clock().fault.is_some(), "{:?}", c.chain.clock());
    c.connected(a).await;
    let height = c.chain.submit(c.opening(1).1).await.unwrap();
    c.reaches(height).await;
    b.reaches(height).await;
    until("it counts like any other", || async {
        b.chain.confirmations(height).await == Some(Confirmations { acked: 3, members: 3 })
    })
    .await;
    until("its clock is compared with the authority's", || async {
        let clock = c.chain.clock();
        clock.offset_seconds().is_some_and(|offset| offset < -1e9)
            && matches!(clock.fault, Some(ClockFault::OffAuthority { .. }))
    })
    .await;
    until("a right clock is found to be right", || async {
        let clock = b.chain.clock();
        clock.offset_ms.is_some() && clock.fault.is_none()
    })
    .await;
    c.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_in_1970_seals_one_millisecond_after_the_parent_and_all_import() {
    let a = Place::new(0).start_with(&[], at_1970()).await;
    let b = Place::new(1).start(&[&a]).await;
    let mut last = a.chain.snapshot().timestamp_ms;
    for node in [&a, &b] {
        let height = a.chain.submit(a.admission(node, true)).await.unwrap();
        let block = a.chain.block(BlockId::Height(height)).await.unwrap();
        last += 1;
        assert_eq!(block.block.header.timestamp_ms, last);
    }
    // It reads the chain since it is a member.
    b.reaches(a.chain.snapshot().height).await;
    assert!(matches!(
        a.chain.clock().fault,
        Some(ClockFault::BehindChain { .. })
    ));
    let height = a.chain.snapshot().height;
    until("both confirm", || async {
        b.chain.confirmations(height).await == Some(Confirmations { acked: 2, members: 2 })
    })
    .await;
    until("the member sees that the two differ", || async {
        matches!(
            b.chain.clock().fault,
            Some(ClockFault::OffAuthority { offset_ms }) if offset_ms > 0
        )
    })
    .await;
    b.stop().await;
    a.stop().await;
}

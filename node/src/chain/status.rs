//! The proposer's status: signed, and gossiped when something has changed, and now and then for who missed that.

use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{GossipVerdict, Status, StatusBody};
use blosm_net::{PeerId, Topic};
use tokio::sync::watch;

use super::client::ImportAnswer;
use super::handle::Shared;
use super::view::ChainView;

/// From a change to the status that tells it: most acknowledgements of a block come within this time, and the block
/// itself is there before, without a status in between that it would have to share the links with.
const GATHER: Duration = Duration::from_millis(400);
/// From a status to the earliest next change that is told: with the above, one status a second at most.
const REST: Duration = Duration::from_millis(600);
/// Without a change it is said again this often: gossip may lose a message, and members come.
const REPEAT: Duration = Duration::from_secs(10);

/// Publishes the status of this authority until the ledger ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut news = News {
        view: shared.view.clone(),
        counted: shared.ledger.counted(),
        seen: (0, 0),
    };
    let mut said: Option<StatusBody> = None;
    let mut repeat = false;
    loop {
        tokio::time::sleep(GATHER).await;
        // Before the status is asked for, so that no change falls between the two.
        news.mark_seen();
        if let Some(status) = shared.ledger.status().await
            && status.body.height > 0
            && (repeat || said.as_ref().is_none_or(|said| says_more(said, &status.body)))
        {
            if let Err(error) = shared.net.publish(Topic::Status, status.encode()) {
                tracing::debug!(%error, "status not published");
            }
            said = Some(status.body);
        }
        tokio::time::sleep(REST).await;
        // What came meanwhile counts.
        repeat = match tokio::time::timeout(REPEAT, news.come()).await {
            Ok(true) => false,
            Ok(false) => return,
            Err(_) => true,
        };
    }
}

/// What a status tells of, as this node sees it: the chain, and who holds it.
struct News {
    view: watch::Receiver<Arc<ChainView>>,
    counted: watch::Receiver<u64>,
    /// Height and confirmed height that are told, or about to be.
    seen: (u64, u64),
}

impl News {
    fn mark_seen(&mut self) {
        self.counted.mark_unchanged();
        self.seen = heights(&self.view.borrow_and_update());
    }

    /// Waits for something that was not there at the mark; false once the ledger has ended.
    async fn come(&mut self) -> bool {
        // A status moves the view too, by what it counts, and that is no news: the next one would say the same.
        let moved = self.view.wait_for(|view| heights(view) != self.seen);
        tokio::select! {
            moved = moved => moved.is_ok(),
            more = self.counted.changed() => more.is_ok(),
        }
    }
}

fn heights(view: &ChainView) -> (u64, u64) {
    (view.height, view.confirmed_height)
}

/// Whether anything but the clock differs.
fn says_more(said: &StatusBody, now: &StatusBody) -> bool {
    let at = |time_ms| StatusBody {
        time_ms,
        ..now.clone()
    };
    *said != at(said.time_ms)
}

/// A gossiped status, judged: the verdict on the message, and whether blocks are missing here.
pub(super) async fn judge(shared: &Shared, source: &PeerId, data: &[u8]) -> Option<ImportAnswer> {
    match Status::verify(data, &shared.genesis) {
        Ok(status) => shared.ledger.heard(status).await,
        Err(error) => {
            tracing::debug!(peer = %source, %error, "status refused");
            Some(ImportAnswer {
                verdict: GossipVerdict::Reject,
                ahead: None,
                held: false,
                sealed: None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use blosm_ledger::{Count, Genesis, Hash, Params, SecretKey, State};
    use futures::FutureExt;

    use super::*;

    fn view() -> ChainView {
        let key = SecretKey::from_seed(&[1; 32]).public();
        let genesis = Genesis {
            name: "test".to_owned(),
            authorities: vec![key],
            recovery: key,
            time_ms: 0,
            params: Params::default(),
        };
        ChainView {
            height: 1,
            hash: Hash::ZERO,
            timestamp_ms: 0,
            confirmed_height: 0,
            newest: [].into(),
            needs: None,
            evidence: [].into(),
            halted: false,
            state: State::genesis(&genesis),
            generation: 0,
        }
    }

    #[test]
    fn what_a_status_has_told_is_no_news() {
        let (views, seen) = watch::channel(Arc::new(view()));
        let (counts, counted) = watch::channel(0_u64);
        let mut news = News {
            view: seen,
            counted,
            seen: (0, 0),
        };
        assert_eq!(
            news.come().now_or_never(),
            Some(true),
            "what was there before the mark"
        );
        counts.send_modify(|count| *count += 1);
        news.mark_seen();
        // A status publishes what it counts.
        let told = ChainView {
            newest: [Count {
                height: 1,
                acked: 1,
                members: 2,
            }]
            .into(),
            generation: 1,
            ..view()
        };
        views.send_replace(Arc::new(told.clone()));
        assert_eq!(news.come().now_or_never(), None);
        counts.send_modify(|count| *count += 1);
        assert_eq!(news.come().now_or_never(), Some(true), "one more holds the block");
        for (height, confirmed_height) in [(2, 0), (2, 1)] {
            news.mark_seen();
            assert_eq!(news.come().now_or_never(), None);
            views.send_replace(Arc::new(ChainView {
                height,
                confirmed_height,
                ..told.clone()
            }));
            assert_eq!(news.come().now_or_never(), Some(true));
        }
        drop(views);
        news.mark_seen();
        assert_eq!(news.come().now_or_never(), Some(false));
    }
}

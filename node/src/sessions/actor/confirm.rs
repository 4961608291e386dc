//! Algorithm 1 at the owner: whether 90 % of the members hold the announcement, where the network requires that.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use blosm_ledger::{Confirmation, Transaction};

use super::*;
use crate::chain::{ChainHandle, SubmitError};

/// How long one question for confirmations waits; it is asked again.
const ROUND: Duration = Duration::from_secs(8);

/// The announcements of one epoch: any of them tells the members who owns the session and where it may go.
pub(super) struct Announced {
    epoch: u64,
    confirmed: Arc<AtomicBool>,
}

impl Actor {
    /// Announces the container on the chain. Staging waits for neither seal nor confirmations (rule 2), and this task for
    /// nothing of it.
    pub(super) fn publish(&mut self, announce: Transaction, epoch: u64) {
        let announced = match self.announced.take() {
            Some(announced) if announced.epoch == epoch => announced,
            _ => Announced {
                epoch,
                confirmed: Arc::default(),
            },
        };
        let chain = self.parts.chain.clone();
        if self.requires_confirmation() {
            let confirmed = Arc::downgrade(&announced.confirmed);
            tokio::spawn(confirm(chain, announce, confirmed));
        } else {
            tokio::spawn(async move {
                if let Err(error) = chain.announce(announce).await {
                    tracing::debug!(%error, "an announcement is not sealed");
                }
            });
        }
        self.announced = Some(announced);
    }

    /// Whether no container may stop in this network before 90 % of the members hold its announcement.
    pub(super) fn requires_confirmation(&self) -> bool {
        self.parts.config.network.genesis.params.confirmation == Confirmation::Required
    }

    /// Whether 90 % of the members hold an announcement of the session at this epoch.
    pub(super) fn is_confirmed(&self, epoch: u64) -> bool {
        let announced = self.announced.as_ref();
        announced
            .is_some_and(|announced| announced.epoch == epoch && announced.confirmed.load(Ordering::Acquire))
    }
}

/// Has an announcement sealed and waits for 90 %, for as long as the session's task wants to know.
async fn confirm(chain: ChainHandle, announce: Transaction, confirmed: Weak<AtomicBool>) {
    let hash = announce.hash();
    loop {
        match chain.announce(announce.clone()).await {
            Ok(_) => break,
            Err(SubmitError::Refused(reason)) => {
                tracing::debug!(reason, "an announcement is not sealed");
                return;
            }
            Err(SubmitError::Timeout | SubmitError::Unreachable) if confirmed.strong_count() > 0 => {}
            Err(_) => return,
        }
    }
    while let Some(flag) = confirmed.upgrade() {
        // The block may reach this node a little later than the answer.
        let found = chain.wait_transaction(hash, u32::MAX, ROUND).await;
        if found.is_some_and(|status| status.confirmations.confirmed()) {
            flag.store(true, Ordering::Release);
            return;
        }
        drop(flag);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! Acknowledgements and the proposer's status, as the ledger thread takes them.

use std::time::Instant;

use blosm_ledger::{
    AckError, GossipVerdict, NEWEST_VERSION, Newer, Penalty, Status, StatusMatch, VerifiedAck, VerifiedStatus,
};

use super::{ImportAnswer, LedgerThread, MAX_TIMED, read};

impl LedgerThread {
    /// What the acknowledgement costs its sender.
    pub(super) fn on_ack(&mut self, ack: VerifiedAck) -> Penalty {
        let (member, height) = (ack.body().member, ack.body().height);
        let before = self.ledger.confirmed_height();
        match self.ledger.record_ack(ack) {
            Ok(()) => {
                self.counted.send_modify(|counted| *counted += 1);
                if self.ledger.confirmed_height() != before {
                    self.confirmed();
                    self.publish_view();
                }
                Penalty::None
            }
            Err(error) => {
                self.meter.rejected(error.reason());
                tracing::debug!(%member, height, %error, "acknowledgement not counted");
                match error {
                    // An authority that has not opened yet may be the one that is behind.
                    AckError::AboveHead(_) if !self.sealing => Penalty::None,
                    error => error.penalty(),
                }
            }
        }
    }

    /// From now on until 90 % of the members are known to hold it, the time of this block is taken.
    pub(super) fn time_confirmation(&mut self, height: u64) {
        if self.unconfirmed.len() == MAX_TIMED {
            self.unconfirmed.pop_front();
        }
        self.unconfirmed.push_back((height, Instant::now()));
        // A network of one member has confirmed it already.
        self.confirmed();
    }

    fn confirmed(&mut self) {
        let height = self.ledger.confirmed_height();
        while let Some((sealed, at)) = self.unconfirmed.front()
            && *sealed <= height
        {
            self.meter.confirmed(at.elapsed());
            self.unconfirmed.pop_front();
        }
    }

    /// This sealer's status. What it counts goes into the view too.
    pub(super) fn own_status(&mut self) -> Option<Status> {
        let status = read(self.ledger.status(self.clock.now_ms())).flatten()?;
        if *self.heard.newest != status.body.newest[..] {
            self.heard.newest = status.body.newest.as_slice().into();
            self.publish_view();
        }
        Some(status)
    }

    /// The proposer's word is taken as far as this node's own chain goes.
    pub(super) fn on_status(&mut self, status: VerifiedStatus) -> ImportAnswer {
        let ignored = ImportAnswer {
            verdict: GossipVerdict::Ignore,
            ahead: None,
            held: false,
            sealed: None,
        };
        let overtaken = self
            .newest_status
            .as_ref()
            .is_some_and(|known| !status.is_newer_than(known));
        let Some(compared) = read(self.ledger.compare_status(&status)).filter(|_| !overtaken) else {
            return ignored;
        };
        let body = status.body();
        let ahead = match compared {
            StatusMatch::OtherBlock => {
                tracing::error!(height = body.height, theirs = %body.hash, "the authority's status names another block than the one here");
                return ignored;
            }
            StatusMatch::Held => None,
            StatusMatch::Ahead => Some(body.height),
        };
        if !self.ledger.is_authority() {
            self.learn(body.confirmed_height);
            self.heard.newest = body.newest.as_slice().into();
            self.publish_view();
        }
        if body.version > NEWEST_VERSION && ahead.is_some() {
            self.needs(body.height, Newer::Header(body.version));
        }
        self.newest_status = Some(status);
        ImportAnswer {
            verdict: GossipVerdict::Accept,
            ahead,
            held: false,
            sealed: None,
        }
    }

    /// The proposer says that a height is confirmed.
    pub(super) fn learn(&mut self, confirmed_height: u64) {
        let confirmed_height = confirmed_height.min(self.ledger.head().height);
        if confirmed_height > self.heard.confirmed_height {
            self.heard.confirmed_height = confirmed_height;
            self.publish_view();
        }
    }
}

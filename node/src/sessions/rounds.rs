//! The source's side of a live move: the rounds of one attempt, and its last look after the stop.
//!
//! Each round is what the container's writable layer has that the rounds before did not bring. The layer helper finds it
//! and writes it into a file of its own; here it is cut into chunks, offered, and counted into the attempt's root.

use std::fs::File;
use std::io;
use std::sync::Arc;

use blosm_migrate::engine::SourceLayer;
use blosm_migrate::helper::{HelperError, Refusal};
use blosm_migrate::service::StopSignal;
use blosm_migrate::transfer::{Chunked, WireError};
use tokio::sync::Mutex;

use super::wire::NoLive;
use crate::config::Method;

/// How the container of one attempt is given.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// As an image that is committed after the stop.
    Image,
    /// In rounds of its writable layer.
    Live(Arc<Mutex<Rounds>>),
    /// Not at all: the destination starts one of its own.
    Stateless,
}

impl Way {
    /// The way of these rounds.
    pub(super) fn live(rounds: Rounds) -> Self {
        Self::Live(Arc::new(Mutex::new(rounds)))
    }

    /// The word for it.
    pub(super) fn method(&self) -> Method {
        match self {
            Self::Image => Method::Image,
            Self::Live(_) => Method::Live,
            Self::Stateless => Method::Stateless,
        }
    }
}

/// Why a round is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    /// The helper refused, failed or is gone.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// A round's file can't be read.
    #[error("reading a round of the writable layer: {0}")]
    Io(#[from] io::Error),
    /// Another round is due.
    #[error("round {asked} was asked for, {due} is due")]
    Order {
        /// What the peer wants.
        asked: u32,
        /// What comes next.
        due: u32,
    },
}

impl RoundError {
    /// What a peer is told that asks for a round.
    pub(super) fn wire(&self) -> WireError {
        match self {
            Self::Order { .. } => WireError::BadRequest,
            Self::Helper(HelperError::Refused(Refusal::Unsupported(_))) => WireError::Unsupported,
            Self::Helper(_) | Self::Io(_) => WireError::Internal,
        }
    }

    /// What a peer is told that claims the session.
    pub(super) fn no_live(error: &HelperError) -> NoLive {
        match error {
            HelperError::NotThere { .. } => NoLive::NoHelper,
            HelperError::Refused(Refusal::Unreadable(_)) => NoLive::NotOverlay,
            HelperError::Refused(Refusal::Unsupported(_)) => NoLive::OverlayFeature,
            HelperError::Refused(Refusal::Volumes(_)) | HelperError::OtherVolumes { .. } => NoLive::Volumes,
            _ => NoLive::Failed,
        }
    }
}

/// The rounds of one attempt.
#[derive(Debug)]
pub(super) struct Rounds {
    layer: SourceLayer,
    /// Roots of the rounds so far, in order: the attempt's root is made of them.
    roots: Vec<[u8; 32]>,
    /// The newest round, which may be asked for again.
    newest: Option<Arc<Chunked>>,
    /// Bytes of all rounds.
    bytes: u64,
}

impl Rounds {
    /// Rounds of the container whose layer is held.
    pub(super) fn new(layer: SourceLayer) -> Self {
        Self {
            layer,
            roots: Vec::new(),
            newest: None,
            bytes: 0,
        }
    }

    /// The container's first process, as it was when the helper was attached.
    pub(super) fn pid(&self) -> u32 {
        self.layer.pid()
    }

    /// The round of that number: the next one, or the newest again.
    pub(super) async fn round(&mut self, number: u32) -> Result<Arc<Chunked>, RoundError> {
        let due = self.due();
        if number.checked_add(1) == Some(due)
            && let Some(newest) = &self.newest
        {
            return Ok(newest.clone());
        }
        if number != due {
            return Err(RoundError::Order { asked: number, due });
        }
        let round = self.layer.round().await?;
        tracing::debug!(round = number, figures = ?round.figures, "a round of the writable layer");
        self.take(round.stream).await
    }

    /// Asks the container's first process to stop.
    pub(super) async fn signal(&mut self, signal: StopSignal) -> Result<(), RoundError> {
        Ok(self.layer.signal(signal).await?)
    }

    /// What is left, now that the container's first process has exited, as one more round.
    pub(super) async fn last(&mut self) -> Result<(u32, Arc<Chunked>), RoundError> {
        let number = self.due();
        let round = self.layer.last().await?;
        tracing::debug!(round = number, figures = ?round.figures, "the last look at the writable layer");
        Ok((number, self.take(round.stream).await?))
    }

    /// Roots of the rounds so far.
    pub(super) fn roots(&self) -> &[[u8; 32]] {
        &self.roots
    }

    /// Bytes of the rounds so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn due(&self) -> u32 {
        u32::try_from(self.roots.len()).unwrap_or(u32::MAX)
    }

    async fn take(&mut self, file: File) -> Result<Arc<Chunked>, RoundError> {
        let chunked = Arc::new(Chunked::of(file).await?);
        self.roots.push(chunked.root());
        self.bytes += chunked.size();
        self.newest = Some(chunked.clone());
        Ok(chunked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_method_can_carry_is_called_unsupported() {
        let refused = |refusal: Refusal| RoundError::Helper(refusal.into()).wire();
        assert_eq!(
            refused(Refusal::Unsupported("/dev/x".into())),
            WireError::Unsupported
        );
        assert_eq!(refused(Refusal::NotRunning), WireError::Internal);
        assert_eq!(RoundError::Helper(HelperError::Died).wire(), WireError::Internal);
        assert_eq!(
            RoundError::Order { asked: 1, due: 0 }.wire(),
            WireError::BadRequest
        );
    }
}

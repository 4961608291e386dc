//! One question to another node about a session.

use std::time::Duration;

use blosm_ledger::PublicKey;
use blosm_net::{Protocol, peer_of_key};

use super::wire::{SessionRequest, SessionResponse, encode};
use crate::parts::Parts;

/// For questions that the other end answers without any work.
const QUICK: Duration = Duration::from_secs(5);
/// For a cut, which stops and commits a container.
const SLOW: Duration = Duration::from_secs(110);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The network failed.
    #[error(transparent)]
    Request(#[from] blosm_net::RequestError),
    /// It took too long.
    #[error("no answer in time")]
    Late,
    /// The answer can't be read. The peer's fault.
    #[error("the peer's answer can't be read")]
    Malformed,
}

/// Asks `peer` and waits for its answer.
pub(crate) async fn ask(
    parts: &Parts,
    peer: PublicKey,
    request: &SessionRequest,
) -> Result<SessionResponse, NoAnswer> {
    let limit = match request {
        SessionRequest::Cut { .. } => SLOW,
        // Announcing measures the container, which takes the engine some time.
        SessionRequest::Want { .. } | SessionRequest::Room { .. } => 2 * QUICK,
        _ => QUICK,
    };
    let answer = parts
        .net
        .request(peer_of_key(&peer.0), Protocol::Session, encode(request));
    let bytes = tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| NoAnswer::Late)??;
    borsh::from_slice(&bytes).map_err(|_| NoAnswer::Malformed)
}

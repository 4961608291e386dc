//! The joiner's side: questions to the authority, under the key that shall be admitted.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blosm_ledger::{Hash, PublicKey, SecretKey};
use blosm_net::{JoinError, JoinQuestion, Multiaddr, NetError, ask_to_join, peer_of_key};
use libp2p::multiaddr::Protocol as Part;

use super::invite::Invite;
use super::reach;
use super::wire::{Denial, JoinRequest, JoinResponse};

/// How often a request is repeated that was lost. All of them may be: an admission is made once.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Why the authority gave no answer that helps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// Nothing answers at any of its addresses.
    #[error("the authority cannot be reached: tried {}; see that it runs, that its port is open and that this machine has a route to it", .0.join(", "))]
    Unreachable(Vec<String>),
    /// A port here cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Something answers that is not this authority.
    #[error(
        "what answers at {0} is not the authority of this invite: it has another key, or is of another network; ask for a new invite"
    )]
    Stranger(Multiaddr),
    /// It answered before and does not any more, or does not take strangers.
    #[error("the connection to the authority was lost ({0}); run the same command again")]
    Lost(JoinError),
    /// It said no.
    #[error("{0}")]
    Denied(Denial),
    /// Its answer makes no sense.
    #[error("the authority's answer cannot be read; install the blosm that it runs")]
    Malformed,
}

/// The addresses of an invite that answer, the quickest first.
#[derive(Debug)]
pub(crate) struct Found {
    /// One that answers.
    pub(crate) address: Multiaddr,
    /// How long connecting and the first line took: about two round trips.
    pub(crate) took: Duration,
    /// This machine's own address on the way there.
    pub(crate) local: std::net::IpAddr,
}

/// Looks for the authority at the addresses of the invite, all at the same time.
pub(crate) async fn find(invite: &Invite) -> Result<Found, LineError> {
    let tries = invite.addresses.iter().map(|address| async move {
        let begin = Instant::now();
        match reach::greet(address).await {
            Ok(local) => Ok(Found {
                address: address.clone(),
                took: begin.elapsed(),
                local: local.ip(),
            }),
            Err(error) => Err(format!("{address} ({})", reach::explain(&error))),
        }
    });
    let (found, failed): (Vec<_>, Vec<_>) = futures::future::join_all(tries)
        .await
        .into_iter()
        .partition(Result::is_ok);
    let best = found.into_iter().flatten().min_by_key(|found| found.took);
    best.ok_or_else(|| LineError::Unreachable(failed.into_iter().filter_map(Result::err).collect()))
}

/// The way to one authority. Each question has a connection of its own, as long as a stranger's may be.
#[derive(Debug)]
pub(crate) struct Line {
    key: SecretKey,
    net8: String,
    /// Ends in `/p2p/`.
    authority: Multiaddr,
    listen: Vec<Multiaddr>,
}

/// What the authority said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) answer: JoinResponse,
    /// When it came, by this machine's clock.
    pub(crate) at_unix_ms: u64,
    /// The round trip to the authority; zero if it was not measured.
    pub(crate) rtt: Duration,
}

impl Line {
    /// Names the authority, and where this machine listens while it asks. Nobody is dialled yet.
    pub(crate) fn open(
        key: &SecretKey,
        chain_id: Hash,
        authority: PublicKey,
        address: &Multiaddr,
        listen: &[Multiaddr],
    ) -> Result<Line, LineError> {
        for address in listen {
            // What is taken now the node could not have either.
            if let Some(socket) = reach::socket_address(address) {
                let bound = TcpListener::bind(socket);
                drop(bound.map_err(|source| NetError::Listen {
                    address: address.clone(),
                    source,
                })?);
            }
        }
        Ok(Line {
            key: key.clone(),
            net8: chain_id.short(8),
            authority: address.clone().with(Part::P2p(peer_of_key(&authority.0))),
            listen: listen.to_vec(),
        })
    }

    /// Asks until there is an answer.
    pub(crate) async fn ask(&self, request: &JoinRequest) -> Result<Said, LineError> {
        let mut tries = 0;
        let said = loop {
            tries += 1;
            let question = JoinQuestion {
                net8: self.net8.clone(),
                authority: self.authority.clone(),
                listen: self.listen.clone(),
                request: request.encode(),
            };
            match ask_to_join(self.key.seed(), question).await {
                Ok(said) => break said,
                Err(_) if tries < TRIES => tokio::time::sleep(PAUSE).await,
                Err(JoinError::Dial { authority, .. }) => return Err(LineError::Stranger(authority)),
                Err(JoinError::Unsupported(_)) => {
                    return Err(LineError::Stranger(self.authority.clone()));
                }
                Err(error) => return Err(LineError::Lost(error)),
            }
        };
        match JoinResponse::decode(&said.response) {
            None => Err(LineError::Malformed),
            Some(JoinResponse::Denied(denial)) => Err(LineError::Denied(denial)),
            Some(answer) => Ok(Said {
                answer,
                at_unix_ms: unix_ms_of(said.answered),
                rtt: said.rtt.unwrap_or_default(),
            }),
        }
    }
}

fn unix_ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The joiner's side: one connection to the authority, under the key that shall be admitted.

use std::time::{Duration, Instant};

use blosm_ledger::{Hash, PublicKey, SecretKey};
use blosm_net::{
    Multiaddr, NetConfig, NetError, NetHandle, Network, PeerId, Protocol, RequestError, peer_of_key,
};
use libp2p::multiaddr::Protocol as Part;

use super::invite::Invite;
use super::wire::{Denial, JoinRequest, JoinResponse};
use super::{SOFTWARE, reach};

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
    /// It answered before and does not any more.
    #[error("the connection to the authority was lost ({0}); run the same command again")]
    Lost(RequestError),
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

/// A swarm that talks to one authority.
#[derive(Debug)]
pub(crate) struct Line {
    net: NetHandle,
    authority: PeerId,
    address: Multiaddr,
    events: tokio::task::JoinHandle<()>,
}

impl Line {
    /// Listens on `listen`, if on anything, and names the authority. It is dialled by the first question.
    pub(crate) async fn open(
        key: &SecretKey,
        chain_id: Hash,
        authority: PublicKey,
        address: &Multiaddr,
        listen: &[Multiaddr],
    ) -> Result<Line, LineError> {
        let peer = peer_of_key(&authority.0);
        let config = NetConfig {
            seed: *key.seed(),
            net8: chain_id.short(8),
            listen: listen.to_vec(),
            bootstrap: vec![address.clone().with(Part::P2p(peer))],
            agent: format!("blosm/{SOFTWARE}"),
        };
        let (net, mut events) = Network::spawn(config).await?;
        // A member is told of blocks at once; they are for the node that will run here.
        let events = tokio::spawn(async move { while events.recv().await.is_some() {} });
        Ok(Line {
            net,
            authority: peer,
            address: address.clone(),
            events,
        })
    }

    /// Asks until there is an answer.
    pub(crate) async fn ask(&self, request: &JoinRequest) -> Result<JoinResponse, LineError> {
        let mut tries = 0;
        let bytes = loop {
            tries += 1;
            let answer = self
                .net
                .request(self.authority, Protocol::Join, request.encode())
                .await;
            match answer {
                Ok(bytes) => break bytes,
                Err(_) if tries < TRIES => tokio::time::sleep(PAUSE).await,
                Err(RequestError::Dial | RequestError::NotConnected | RequestError::Unsupported) => {
                    return Err(LineError::Stranger(self.address.clone()));
                }
                Err(error) => return Err(LineError::Lost(error)),
            }
        };
        match JoinResponse::decode(&bytes) {
            None => Err(LineError::Malformed),
            Some(JoinResponse::Denied(denial)) => Err(LineError::Denied(denial)),
            Some(answer) => Ok(answer),
        }
    }

    /// Hangs up, so that the node that runs next finds its key and its port free.
    pub(crate) async fn close(self) {
        self.net.shutdown().await;
        self.events.abort();
    }
}

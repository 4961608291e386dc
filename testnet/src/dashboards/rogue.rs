//! A member that keeps no rule. It has a key that was admitted, and neither a ledger nor containers: it only says what is
//! wrong, and leaves what it is asked unanswered.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use blosm_net::{
    Multiaddr, NetConfig, NetEvent, NetHandle, Network, PeerId, Protocol, PublishError, Topic, key_of_peer,
    peer_of_key,
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::road::location;
use crate::state::HostState;
use crate::testnet::Testnet;

/// What the nodes call it.
const LABEL: &str = "rogue";
/// Far from the road, in metres along it: no car comes there, and no container.
const AWAY: f64 = 1e6;
/// Questions of others that it keeps open at a time.
const OPEN: usize = 256;
/// It waits no longer for an answer: a request over the allowance gets none.
const HASTE: Duration = Duration::from_millis(200);
/// Messages of one flood: several times as many as a node lets wait of one peer. They go out in portions, since no more
/// than a node's share wait here for one that is slow.
const FLOOD: usize = 1024;
const PORTION: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// How a block begins that only a later version can read: nobody's fault, and so it costs nothing to send.
const NEWER: [u8; 2] = 2_u16.to_le_bytes();

pub(super) struct Rogue {
    net: NetHandle,
    authority: PeerId,
    _reader: AbortOnDropHandle<()>,
}

impl Rogue {
    /// Starts it. It dials all nodes, to which it is a stranger.
    ///
    /// # Errors
    /// A node does not say of which network it is, or there is no port to be had.
    pub(super) async fn start(testnet: &Testnet) -> Result<Rogue> {
        let status = testnet.client(1)?.get("/v1/status").await?;
        let chain = status["chain_id"].as_str().context("a node has a chain")?;
        let hosts = &testnet.state().hosts;
        let bootstrap = hosts.iter().map(|host| -> Result<Multiaddr> {
            let (address, port) = (host.address, host.ports.peer);
            Ok(format!("/ip4/{address}/tcp/{port}/p2p/{}", peer(host)?).parse()?)
        });
        let authority = peer(testnet.state().host(1)?)?;
        let config = NetConfig {
            seed: random()?,
            net8: chain.get(..8).context("a chain's name is longer")?.to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
            bootstrap: bootstrap.collect::<Result<_>>()?,
            authorities: vec![authority],
            advertise: Vec::new(),
            strangers: 0,
            per_address: 64,
            mdns: false,
            kad: false,
            agent: LABEL.to_owned(),
        };
        let (net, mut events) = Network::spawn(config).await?;
        let reader = tokio::spawn(async move {
            // Without an answer, but not dropped: then the asker would know at once.
            let mut open = VecDeque::new();
            while let Some(event) = events.recv().await {
                if let NetEvent::Request { reply, .. } = event {
                    open.push_back(reply);
                    open.drain(..open.len().saturating_sub(OPEN));
                }
            }
        });
        Ok(Rogue {
            net,
            authority,
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    /// How many nodes it is connected to.
    pub(super) fn peers(&self) -> usize {
        self.net.connected().len()
    }

    /// Makes it a member.
    ///
    /// # Errors
    /// The authority does not admit it.
    pub(super) async fn admit(&self, testnet: &Testnet) -> Result<()> {
        let key = key_of_peer(&self.net.local_peer()).context("its name is its key")?;
        let (latitude, longitude) = location(AWAY);
        let admission = json!({
            "key": hex::encode(key), "addresses": self.net.listeners(), "gateway": "http://127.0.0.1:1",
            "metrics": null, "location": format!("{latitude:.6},{longitude:.6}"), "radius": 100.0, "label": LABEL,
        });
        testnet.client(1)?.post("/v1/members", &admission).await?;
        Ok(())
    }

    /// Ends its membership, and itself.
    ///
    /// # Errors
    /// The authority does not evict it.
    pub(super) async fn evict(self, testnet: &Testnet) -> Result<()> {
        let eviction = json!({ "node": LABEL, "why": "keeps no rule", "sessions": null });
        let answer = testnet.client(1)?.post("/v1/evictions", &eviction).await?;
        if answer["evicted"] != true {
            bail!("the rogue is not evicted: {answer}");
        }
        self.net.shutdown().await;
        Ok(())
    }

    /// Asks to join in a way that nobody understands.
    pub(super) async fn ask(&self) {
        let asked = self.net.request(self.authority, Protocol::Join, vec![0xff; 16]);
        // Answered or not: what counts is that it was asked.
        let _ = timeout(HASTE, asked).await;
    }

    /// Says to all what can be nothing.
    ///
    /// # Errors
    /// There is no randomness, or its swarm has ended.
    pub(super) async fn lie(&self) -> Result<()> {
        self.say(Topic::Probe, &[]).await
    }

    /// Says to all that there is a block which they cannot read.
    ///
    /// # Errors
    /// As [`Rogue::lie`].
    pub(super) async fn confuse(&self) -> Result<()> {
        self.say(Topic::Block, &NEWER).await
    }

    /// Says so more often than anybody can listen.
    ///
    /// # Errors
    /// As [`Rogue::lie`].
    pub(super) async fn flood(&self) -> Result<()> {
        for _ in 0..FLOOD / PORTION {
            for _ in 0..PORTION {
                self.confuse().await?;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// A message that begins like this and goes on at random: the same bytes twice would go out once.
    async fn say(&self, topic: Topic, begin: &[u8]) -> Result<()> {
        let message = [begin, &random()?].concat();
        while let Err(error) = self.net.publish(topic, message.clone()) {
            match error {
                PublishError::Busy => tokio::task::yield_now().await,
                error => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn peer(host: &HostState) -> Result<PeerId> {
    let key = host.key.as_deref().context("a node has a key")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(key, &mut bytes).context("a node's key")?;
    Ok(peer_of_key(&bytes))
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

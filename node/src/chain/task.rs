//! The ledger task: routes what peers send, keeps the members connected, and lets workers do what takes time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blosm_ledger::{Ack, GossipVerdict, Ledger, Location, Members, PublicKey, SecretKey};
use blosm_net::{GossipId, Multiaddr, NetHandle, PeerId, Reply, Topic, Verdict, key_of_peer, peer_of_key};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::ack::Signer;
use super::client::{Call, ImportAnswer, SubmitAnswer};
use super::clock::{Clock, Skew};
use super::contact::Contact;
use super::handle::{ChainHandle, Shared};
use super::meter::LedgerMeter;
use super::neighbours::Calm;
use super::outlet::{MAX_PUSHES, PUSH_WAIT, outlet};
use super::probe::Probes;
use super::sync::{HEAD_WAIT, Syncer, is_trusted};
use super::view::ChainView;
use super::wait::{self, Waiting};
use super::wire::{LedgerRequest, LedgerResponse, WireHead};
use super::{ack, contact, neighbours, opening, probe, status, thread};

/// What peers sent and nobody has looked at. When full, gossip is ignored and requests are refused.
const INBOX: usize = 1024;
/// Workers at a time. One more request is refused; gossip is then still imported, but nothing waits for it.
const MAX_WORKERS: usize = 512;
/// For so long an evicted node stays connected: it shall hear of its eviction before nobody talks to it any more.
const FAREWELL: Duration = Duration::from_secs(3);
/// For so long a former member that has not heard of its eviction is let in, to fetch the chain up to there.
const SHOW: Duration = Duration::from_secs(30);
/// And no sooner again: meanwhile it may do on the wire what a member may.
const SHOW_AGAIN: Duration = Duration::from_secs(300);
/// How often the time since the last block is looked at.
const EMPTY_CHECK: Duration = Duration::from_secs(1);
/// How often the log says what an operator has to mend.
const REMIND: Duration = Duration::from_secs(60);

/// How the ledger task starts.
#[derive(Debug, Clone, Default)]
pub struct ChainOptions {
    /// The authority seals at once, without hearing from half of the other members first. For an operator who knows that
    /// they are gone for good; otherwise it may seal a second block of a height.
    pub alone: bool,
    /// What dates the blocks.
    pub clock: Clock,
    /// Where it counts.
    pub meter: LedgerMeter,
}

/// Starts ledger tasks.
#[derive(Debug)]
pub struct ChainTask;

/// What the router hands over.
#[derive(Debug)]
pub(super) enum Input {
    Gossip {
        topic: Topic,
        source: PeerId,
        data: Vec<u8>,
        id: GossipId,
    },
    Request {
        peer: PeerId,
        data: Vec<u8>,
        reply: Reply,
    },
    Connected {
        peer: PeerId,
    },
    /// A former member asks what has become of it; answered with whether it may come in.
    Former {
        key: PublicKey,
        reply: oneshot::Sender<bool>,
    },
}

impl ChainTask {
    /// Starts the ledger's thread and the tasks around it on the current tokio runtime. `key` is this node's. They run
    /// until [`ChainHandle::shutdown`].
    ///
    /// # Errors
    /// The system gives no thread, or no random number.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(
        ledger: Ledger,
        net: NetHandle,
        key: Arc<SecretKey>,
        options: ChainOptions,
    ) -> std::io::Result<ChainHandle> {
        let ChainOptions { alone, clock, meter } = options;
        let me = key.public();
        let genesis = Arc::new(ledger.genesis().clone());
        let genesis_id = ledger.chain_id();
        let proposer = *ledger
            .genesis()
            .authorities
            .first()
            .expect("a ledger opens only with a valid genesis, which names an authority");
        let empty_after = Duration::from_millis(genesis.params.empty_block_interval_ms.into());
        let is_authority = ledger.is_authority();
        let (inbox, inputs) = mpsc::channel(INBOX);
        let (acks_in, acks) = mpsc::channel(MAX_PUSHES);
        let way_out = outlet(me, net.clone(), acks_in);
        let (client, view) = thread::spawn(ledger, clock.clone(), meter.clone(), way_out)?;
        let shared = Arc::new(Shared {
            me,
            proposer,
            net,
            ledger: client,
            view,
            inbox,
            syncer: Syncer::default(),
            genesis,
            genesis_id,
            signer: Signer::new(key, genesis_id, run_number()?),
            toll: Mutex::default(),
            clock,
            skew: Skew::default(),
            meter,
            probes: Probes::default(),
            unopened: Mutex::default(),
            contact: Contact::new(Instant::now()),
        });
        let ack_now = Arc::new(Notify::new());
        let mut workers = JoinSet::new();
        workers.spawn(contact::run(shared.clone()));
        if is_authority {
            workers.spawn(opening::run(shared.clone(), alone));
            workers.spawn(status::run(shared.clone()));
        } else {
            workers.spawn(ack::run(shared.clone(), ack_now.clone()));
        }
        let runner = Runner {
            shared: shared.clone(),
            workers,
            ack_now,
            known: BTreeMap::new(),
            places: BTreeMap::new(),
            // Whoever else is chosen, the authority is kept from the start.
            kept: BTreeSet::from([proposer]),
            calm: Calm::default(),
            height: None,
            leaving: BTreeMap::new(),
            struck: BTreeSet::new(),
            shown: BTreeMap::new(),
            acks,
            waiting: Waiting::default(),
            empty_after,
            last_block: (0, Instant::now()),
            is_authority,
        };
        tokio::spawn(runner.run(inputs));
        Ok(ChainHandle { shared })
    }
}

struct Runner {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    ack_now: Arc<Notify>,
    /// The addresses that the network was last told, and whether to keep it connected, by member.
    known: BTreeMap<PublicKey, (Vec<String>, bool)>,
    /// The members and where they stand.
    places: BTreeMap<PublicKey, Location>,
    /// Those among them that were last chosen to be kept connected.
    kept: BTreeSet<PublicKey>,
    /// When others are chosen.
    calm: Calm,
    /// The height whose members the network knows.
    height: Option<u64>,
    /// Evicted nodes that are not cut off yet, and when they are.
    leaving: BTreeMap<PublicKey, Instant>,
    /// Former members of whom the network was told.
    struck: BTreeSet<PublicKey>,
    /// Former members that were let in to fetch the chain, and when.
    shown: BTreeMap<PublicKey, Instant>,
    /// Parties of a pushed block that hold it.
    acks: mpsc::Receiver<(PeerId, Ack)>,
    /// Members that wait for confirmations.
    waiting: Waiting,
    empty_after: Duration,
    /// The newest block and when it came here, by a clock that nobody sets.
    last_block: (u64, Instant),
    is_authority: bool,
}

impl Runner {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut view = self.shared.view.clone();
        view.mark_changed();
        let mut empty_check = tokio::time::interval(EMPTY_CHECK);
        empty_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut remind = tokio::time::interval(REMIND);
        remind.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let farewell = self.leaving.values().min().copied();
            tokio::select! {
                Some(input) = inputs.recv() => self.on_input(input).await,
                changed = view.changed() => match changed {
                    Ok(()) => { let seen = view.borrow_and_update().clone(); self.on_view(&seen) }
                    // The ledger thread has ended, and with it this task's work.
                    Err(_) => break,
                },
                Some((peer, ack)) = self.acks.recv() => self.on_pushed(peer, ack),
                Some(done) = self.workers.join_next() => if let Err(error) = done { tracing::error!(%error, "a worker of the ledger task failed") },
                () = until(farewell), if farewell.is_some() => self.on_farewell(),
                () = until(self.calm.due()), if self.calm.due().is_some() => self.on_calm(),
                _ = empty_check.tick(), if self.is_authority => self.on_empty_check().await,
                _ = remind.tick() => self.remind(),
            }
        }
        self.workers.shutdown().await;
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::Gossip {
                topic: Topic::Block,
                source,
                data,
                id,
            } => {
                let imported = self.shared.ledger.begin_import(data).await;
                let shared = self.shared.clone();
                self.work(async move {
                    let Ok(imported) = imported.await else { return };
                    shared.net.verdict(id, verdict(imported.verdict));
                    fetch_missing(&shared, source, imported).await;
                });
            }
            Input::Gossip {
                topic: Topic::Status,
                source,
                data,
                id,
            } => {
                let shared = self.shared.clone();
                self.work(async move {
                    let Some(heard) = status::judge(&shared, &source, &data).await else {
                        return;
                    };
                    shared.net.verdict(id, verdict(heard.verdict));
                    fetch_missing(&shared, source, heard).await;
                });
            }
            Input::Gossip {
                topic: Topic::Tx,
                data,
                id,
                ..
            } => {
                let judged = self.shared.ledger.begin_gossip(data).await;
                let net = self.shared.net.clone();
                self.work(async move {
                    if let Ok(judged) = judged.await {
                        net.verdict(id, verdict(judged));
                    }
                });
            }
            // Judged where it came in: see [`ChainHandle::on_gossip`].
            Input::Gossip {
                topic: Topic::Probe, ..
            } => {}
            Input::Request { peer, data, reply } => self.on_request(peer, &data, reply).await,
            Input::Connected { peer } => {
                if peer == self.shared.proposer_peer() {
                    self.ack_now.notify_one();
                }
                let shared = self.shared.clone();
                self.work(async move { greet(&shared, peer).await });
            }
            Input::Former { key, reply } => {
                // An error means that nobody waits any more.
                let _ = reply.send(self.on_former(key));
            }
        }
    }

    async fn on_request(&mut self, peer: PeerId, data: &[u8], reply: Reply) {
        let Some(request) = LedgerRequest::decode_in(data, reply.major()) else {
            // A later version says new things under a later name of the protocol.
            return self.shared.blame(peer, "not a request of the ledger protocol");
        };
        let shared = self.shared.clone();
        let trusted = is_trusted(&shared, &peer);
        match request {
            LedgerRequest::Head => LedgerResponse::Head(head(&shared)).answer(reply),
            LedgerRequest::Range { from, max } => self.work(async move {
                let answer = match shared.ledger.range(from, max).await {
                    Some(blocks) => LedgerResponse::Blocks(blocks),
                    None => LedgerResponse::Unavailable,
                };
                answer.answer(reply);
            }),
            LedgerRequest::Confirmations { height } => self.work(async move {
                let found = shared.ledger.confirmations(height).await;
                LedgerResponse::confirmations(found).answer(reply);
            }),
            LedgerRequest::Submit(_)
            | LedgerRequest::Ack(_)
            | LedgerRequest::Block(_)
            | LedgerRequest::WaitConfirmed { .. }
            | LedgerRequest::Probed { .. }
                if !trusted =>
            {
                tracing::debug!(%peer, "only members submit, acknowledge, push, wait and answer probes");
                if matches!(request, LedgerRequest::Ack(_)) {
                    shared.meter.rejected("ack_not_member");
                }
                LedgerResponse::Unavailable.answer(reply);
            }
            LedgerRequest::WaitConfirmed {
                height,
                beyond,
                timeout_ms,
            } => {
                let seat = self.waiting.seat(peer);
                let limit = Duration::from_millis(if seat.is_some() { timeout_ms.into() } else { 0 });
                self.work(async move {
                    let found = wait::here(&shared, height, beyond, limit).await;
                    LedgerResponse::confirmations(found).answer(reply);
                    drop(seat);
                });
            }
            LedgerRequest::Submit(bytes) => self.work(async move {
                let answer = match shared.ledger.submit(bytes).await {
                    Some(SubmitAnswer::Sealed { height }) => LedgerResponse::Sealed { height },
                    Some(SubmitAnswer::Refused {
                        reason,
                        is_final,
                        is_fault,
                    }) => {
                        if is_fault {
                            shared.blame(peer, "a transaction that is wrong by itself");
                        }
                        LedgerResponse::refused(reason, is_final)
                    }
                    Some(SubmitAnswer::NotSealing) | None => LedgerResponse::NotSealing,
                };
                answer.answer(reply);
            }),
            LedgerRequest::Ack(ack) => {
                if !self.is_authority || !ack::may_send(&shared, &peer) {
                    return LedgerResponse::Unavailable.answer(reply);
                }
                self.work(async move {
                    let answer = if ack::take(&shared, &peer, ack).await {
                        LedgerResponse::Acked {
                            head: head(&shared),
                            time_ms: shared.clock.now_ms(),
                        }
                    } else {
                        LedgerResponse::Unavailable
                    };
                    answer.answer(reply);
                });
            }
            LedgerRequest::Probed {
                id,
                held_us,
                arrived_unix_us,
            } => {
                if let Some(from) = key_of_peer(&peer) {
                    probe::on_answer(&shared, PublicKey(from), id, held_us, arrived_unix_us);
                }
                LedgerResponse::Head(head(&shared)).answer(reply);
            }
            LedgerRequest::Block(bytes) => {
                let imported = shared.ledger.begin_import(bytes).await;
                self.work(async move {
                    let Ok(imported) = imported.await else { return };
                    if imported.verdict == GossipVerdict::Reject {
                        shared.blame(peer, "a block that nobody sealed, or of another body");
                    }
                    fetch_missing(&shared, peer, imported).await;
                    LedgerResponse::Holds(shared.own_ack()).answer(reply);
                });
            }
        }
    }

    /// The answer to a push: it was asked for, so nothing is paid for it, but it is judged like any other.
    fn on_pushed(&mut self, peer: PeerId, ack: Ack) {
        let shared = self.shared.clone();
        self.work(async move {
            ack::take(&shared, &peer, ack).await;
        });
    }

    /// Says what an operator has to mend, for as long as it is not.
    fn remind(&self) {
        if let Some(fault) = self.shared.clock_view().fault {
            tracing::warn!("{fault}");
        }
        if let Some(needs) = self.shared.snapshot().needs {
            tracing::error!("no blocks are imported any more: {needs}");
        }
        if let Some(alone) = self.shared.isolated() {
            tracing::warn!("{alone}");
        }
    }

    /// Keeps the network in step with the members: each is known, [`neighbours`] says who of them is kept connected, and an
    /// evicted one is not let in. A node that was evicted itself talks to the authority only, which may admit it again.
    fn on_view(&mut self, view: &ChainView) {
        if view.height != self.last_block.0 {
            self.last_block = (view.height, Instant::now());
        }
        // Members change with blocks only; acknowledgements change the view too, and there are many.
        if self.height == Some(view.height) {
            return;
        }
        let is_first = self.height.replace(view.height).is_none();
        let members = view.state.members();
        let places: BTreeMap<_, _> = members
            .iter()
            .map(|(key, member)| (*key, member.location))
            .collect();
        if self.places != places {
            self.places = places;
            if is_first {
                self.choose();
            } else {
                self.calm.on_change(Instant::now());
            }
        }
        self.name_members(members);
    }

    /// The members have been the same for a moment.
    fn on_calm(&mut self) {
        self.choose();
        let view = self.shared.snapshot();
        self.name_members(view.state.members());
    }

    fn choose(&mut self) {
        self.calm.on_choice();
        self.kept = neighbours::choose(self.shared.me, self.shared.proposer, &self.places);
    }

    /// Tells the network what is new.
    fn name_members(&mut self, members: &Members) {
        let alone = members.evicted(&self.shared.me).is_some();
        let wanted = |key: &PublicKey| *key != self.shared.me && (!alone || *key == self.shared.proposer);
        for (key, member) in members.iter().filter(|(key, _)| wanted(key)) {
            let keep = self.kept.contains(key);
            let known = self.known.get(key);
            if known.is_some_and(|(addresses, kept)| (addresses, *kept) == (&member.addresses, keep)) {
                continue;
            }
            let parse = |address: &String| match address.parse::<Multiaddr>() {
                Ok(address) => Some(address),
                Err(error) => {
                    tracing::warn!(member = %key, %error, "an address of this member on the chain cannot be used");
                    None
                }
            };
            let (peer, addresses) = (
                peer_of_key(&key.0),
                member.addresses.iter().filter_map(parse).collect(),
            );
            if keep {
                self.shared.net.set_addresses(peer, addresses);
            } else {
                self.shared.net.know(peer, addresses);
            }
            self.known.insert(*key, (member.addresses.clone(), keep));
        }
        let gone: Vec<PublicKey> = self
            .known
            .keys()
            .filter(|key| !members.contains(key) || !wanted(key))
            .copied()
            .collect();
        for key in gone {
            self.known.remove(&key);
            // The authority sends it the block itself, and waits as long as for any other party of one.
            let farewell = if self.is_authority { PUSH_WAIT } else { FAREWELL };
            self.leaving.insert(key, Instant::now() + farewell);
            self.shared.toll().retain(members);
        }
        // Also whoever was evicted while this node was away: its network file may name that node for ever.
        self.struck.retain(|key| !members.contains(key));
        for (key, _) in members.former() {
            if *key != self.shared.me && !self.leaving.contains_key(key) && self.struck.insert(*key) {
                self.shared.net.forget(peer_of_key(&key.0));
            }
        }
    }

    /// Lets a former member in for a moment. It was off when it was evicted, and nobody else tells it: it runs its sessions
    /// on, and opens new ones that nobody seals.
    fn on_former(&mut self, key: PublicKey) -> bool {
        let now = Instant::now();
        self.shown.retain(|_, since| now - *since < SHOW_AGAIN);
        let view = self.shared.snapshot();
        let may = self.is_authority && view.state.members().evicted(&key).is_some();
        if !may || self.leaving.contains_key(&key) || self.shown.contains_key(&key) {
            return false;
        }
        self.shown.insert(key, now);
        self.struck.remove(&key);
        self.leaving.insert(key, now + SHOW);
        self.shared.net.know(peer_of_key(&key.0), Vec::new());
        true
    }

    /// Cuts off those whose time is over, unless they were admitted again.
    fn on_farewell(&mut self) {
        let now = Instant::now();
        let due: Vec<PublicKey> = self
            .leaving
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.leaving.remove(&key);
            if !self.known.contains_key(&key) {
                self.struck.insert(key);
                self.shared.net.forget(peer_of_key(&key.0));
            }
        }
    }

    async fn on_empty_check(&mut self) {
        let (height, since) = self.last_block;
        // An empty network has nobody to show a sign of life to.
        if height > 0 && since.elapsed() >= self.empty_after {
            self.shared.ledger.tell(Call::SealEmpty).await;
        }
    }

    /// Starts a worker. When there are too many the work is dropped: a request's reply with it, which refuses it.
    fn work(&mut self, worker: impl Future<Output = ()> + Send + 'static) {
        if self.workers.len() < MAX_WORKERS {
            self.workers.spawn(worker);
        } else {
            tracing::debug!("too many workers; work refused");
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Asks a peer that has connected for its head, and follows it if it is ahead.
async fn greet(shared: &Shared, peer: PeerId) {
    if let Some(LedgerResponse::Head(theirs)) = shared.ask(peer, &LedgerRequest::Head, HEAD_WAIT).await
        && theirs.height > shared.snapshot().height
    {
        shared.syncer.reach(shared, peer, theirs.height).await;
    }
}

async fn fetch_missing(shared: &Shared, peer: PeerId, imported: ImportAnswer) {
    if let Some(height) = imported.ahead {
        shared.syncer.reach(shared, peer, height).await;
    }
}

fn head(shared: &Shared) -> WireHead {
    let view = shared.snapshot();
    WireHead {
        height: view.height,
        hash: view.hash,
        confirmed_height: view.confirmed_height,
    }
}

fn verdict(verdict: GossipVerdict) -> Verdict {
    match verdict {
        GossipVerdict::Accept => Verdict::Accept,
        GossipVerdict::Ignore => Verdict::Ignore,
        GossipVerdict::Reject => Verdict::Reject,
    }
}

/// Tells this process from those of the node before it.
fn run_number() -> std::io::Result<u64> {
    getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))
}

//! One run: the nodes, what is between them, and the course of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use blosm_ledger::{
    Admit, Announce, Chain, Claim, Genesis, Hash, Location, Metadata, Params, Payload, PublicKey,
    SealedBlock, SecretKey, SessionId, Transaction, Verdict,
};
use blosm_migrate::session::Attempt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::checks::Checks;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::exec::{Exec, Life};
use crate::gateway::SERVICE;
use crate::ledger::Ledger;
use crate::links::Links;
use crate::node::Daemon;
use crate::plan::{Broken, Plan, Strike, Trigger};
use crate::{car, faults, liar};

/// Most nodes of a run, the liar among them.
const KEYS: usize = 5;
/// What is not part of any node: cars, faults, the engines themselves.
pub(crate) const WORLD: Life = Life(0);
/// When everything works again, every session is served again within this time.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// How long a run is looked at once it is well.
const LINGER: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(250);

/// Keys and a chain on which they are members: the same in all runs.
struct Base {
    keys: Vec<SecretKey>,
    genesis: Genesis,
    chain: Chain,
    block: SealedBlock,
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let keys: Vec<SecretKey> = (1..=KEYS as u8)
        .map(|byte| SecretKey::from_seed(&[byte; 32]))
        .collect();
    let genesis = Genesis {
        name: "simulated".into(),
        authorities: vec![keys[0].public()],
        recovery: SecretKey::from_seed(&[99; 32]).public(),
        time_ms: 1_700_000_000_000,
        params: Params::default(),
    };
    let mut chain = Chain::new(genesis.clone());
    let admissions = keys.iter().map(|key| {
        let admit = Admit {
            key: key.public(),
            admission: Hash(key.public().0),
            addresses: Vec::new(),
            gateway: String::new(),
            metrics: None,
            location: Location { lat_e7: 0, lon_e7: 0 },
            radius_m: 300,
            label: key.public().short(8),
        };
        let admit = Transaction::sign(&keys[0], genesis.chain_id(), 0, Payload::Admit(admit));
        (admit.hash(), admit)
    });
    let proposal = chain.propose(&keys[0], genesis.time_ms + 1, 0, admissions);
    assert!(proposal.refused.is_empty(), "{:?}", proposal.refused);
    let block = proposal.block.sealed().clone();
    chain.commit(proposal.block);
    Base {
        keys,
        genesis,
        chain,
        block,
    }
});

/// A machine with its daemon, if that runs.
pub(crate) struct Node {
    pub(crate) key: SecretKey,
    pub(crate) me: PublicKey,
    pub(crate) liar: bool,
    /// Off for good.
    pub(crate) lost: Cell<bool>,
    /// Somebody has it evicted, or does so right now.
    pub(crate) leaves: Cell<bool>,
    pub(crate) disk: RefCell<Disk>,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) engine: Engine,
    pub(crate) daemon: RefCell<Option<Rc<Daemon>>>,
}

/// One run.
pub(crate) struct Sim {
    pub(crate) exec: Exec,
    base: Instant,
    pub(crate) plan: Plan,
    pub(crate) genesis_id: Hash,
    rng: RefCell<Xoshiro256PlusPlus>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: RefCell<Links>,
    pub(crate) checks: RefCell<Checks>,
    /// Openings of others that the liar has heard of, in its own name.
    pub(crate) overheard: RefCell<BTreeMap<SessionId, Transaction>>,
    triggers: RefCell<Vec<Trigger>>,
    steps: RefCell<BTreeMap<&'static str, u32>>,
    /// Whether faults still strike.
    pub(crate) trouble: Cell<bool>,
    traced: Option<RefCell<Vec<String>>>,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) violation: Option<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) figures: crate::runs::Figures,
}

impl Sim {
    fn new(seed: u64, broken: Broken, traced: bool) -> Rc<Self> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let plan = Plan::draw(&mut rng, broken);
        let count = plan.nodes + usize::from(plan.liar);
        let nodes = (0..count)
            .map(|index| Node {
                key: BASE.keys[index].clone(),
                me: BASE.keys[index].public(),
                liar: index >= plan.nodes,
                lost: Cell::new(false),
                leaves: Cell::new(false),
                disk: RefCell::new(Disk::new()),
                ledger: RefCell::new(Ledger::new(BASE.chain.clone(), BASE.block.clone())),
                engine: Engine::default(),
                daemon: RefCell::default(),
            })
            .collect();
        Rc::new(Self {
            exec: Exec::new(),
            base: Instant::now(),
            genesis_id: BASE.genesis.chain_id(),
            rng: RefCell::new(rng),
            nodes,
            links: RefCell::new(Links::new(count)),
            checks: RefCell::default(),
            overheard: RefCell::default(),
            triggers: RefCell::new(plan.triggers.clone()),
            plan,
            steps: RefCell::default(),
            trouble: Cell::new(true),
            traced: traced.then(RefCell::default),
        })
    }

    /// The monotonic clock of all machines.
    pub(crate) fn instant(&self) -> Instant {
        self.base + self.exec.now()
    }

    pub(crate) fn rng<T>(&self, draw: impl FnOnce(&mut Xoshiro256PlusPlus) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// So many of a thousand.
    pub(crate) fn chance(&self, permille: u32) -> bool {
        permille > 0 && self.rng(|rng| rng.random_ratio(permille, 1000))
    }

    /// Something from 0 to below `count`.
    pub(crate) fn pick(&self, count: usize) -> usize {
        self.rng(|rng| rng.random_range(0..count))
    }

    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        self.rng(|rng| std::array::from_fn(|_| rng.random()))
    }

    /// A time between two, in microseconds.
    pub(crate) fn between(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.rng(|rng| rng.random_range(from..=to)))
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.exec.sleep(time).await;
    }

    /// Ends `future` after `limit`.
    pub(crate) async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = self.exec.sleep(limit) => None,
        }
    }

    pub(crate) fn trace(&self, node: usize, what: impl FnOnce() -> String) {
        if let Some(traced) = &self.traced {
            let now = self.exec.now();
            traced.borrow_mut().push(format!(
                "{:>9.3} ms  {}  {}",
                now.as_secs_f64() * 1000.0,
                self.name(node),
                what()
            ));
        }
    }

    pub(crate) fn name(&self, node: usize) -> String {
        match self.nodes.get(node) {
            Some(node_) if node_.liar => "liar ".to_owned(),
            Some(_) => format!("node{node}"),
            None => "     ".to_owned(),
        }
    }

    pub(crate) fn index(&self, key: &PublicKey) -> Option<usize> {
        self.nodes.iter().position(|node| node.me == *key)
    }

    pub(crate) fn daemon(&self, node: usize) -> Option<Rc<Daemon>> {
        self.nodes[node].daemon.borrow().clone()
    }

    pub(crate) fn sign(&self, node: usize, payload: Payload) -> Transaction {
        let node = &self.nodes[node];
        let head = node.ledger.borrow().height();
        Transaction::sign(&node.key, self.genesis_id, head, payload)
    }

    /// What a node says of a session's container to `to`.
    pub(crate) fn announcement(&self, node: usize, session: SessionId, epoch: u64, to: usize) -> Transaction {
        let announce = Announce {
            session,
            epoch,
            metadata: Metadata {
                source: self.nodes[node].me,
                addresses: Vec::new(),
                container_id: "c".into(),
                service: SERVICE.into(),
                declaration_hash: Hash::ZERO,
                total_size: 1,
                writable_size: 1,
                memory: 1,
                cpu_usage: 1,
                gpu_usage: 0,
                gpu_memory: 0,
                architecture: "amd64".into(),
                config_digest: [0; 32],
            },
            invited: vec![self.nodes[to].me],
        };
        self.sign(node, Payload::Announce(announce))
    }

    /// The claim of a node that takes the session with all that it needs.
    pub(crate) fn claim(&self, node: usize, session: SessionId, epoch: u64, attempt: Attempt) -> Transaction {
        let verdict = Verdict {
            memory: true,
            cpu: true,
            gpu: true,
            service: true,
            hard: None,
            accepted: true,
        };
        let claim = Claim {
            session,
            epoch,
            attempt,
            verdict,
        };
        self.sign(node, Payload::Claim(claim))
    }

    /// A move has come to a step on `node`, with `other` at its other end. A fault may wait there.
    pub(crate) fn step(self: &Rc<Self>, node: usize, other: Option<usize>, step: &'static str) {
        self.trace(node, || format!("-- {step}"));
        *self.checks.borrow_mut().figures.steps.entry(step).or_default() += 1;
        if !self.trouble.get() {
            return;
        }
        let count = {
            let mut steps = self.steps.borrow_mut();
            let count = steps.entry(step).or_default();
            *count += 1;
            *count
        };
        let struck: Vec<Trigger> = {
            let mut triggers = self.triggers.borrow_mut();
            let hit = |trigger: &Trigger| trigger.step == step && trigger.nth == count;
            let struck = triggers.iter().filter(|trigger| hit(trigger)).cloned().collect();
            triggers.retain(|trigger| !hit(trigger));
            struck
        };
        for trigger in struck {
            let sim = self.clone();
            self.exec.spawn(WORLD, async move {
                sim.sleep(trigger.after).await;
                if sim.trouble.get() {
                    strike(&sim, node, other, trigger.strike);
                }
            });
        }
    }

    /// Runs a seed to its end.
    pub(crate) fn run(seed: u64, broken: Broken, traced: bool) -> Ended {
        let sim = Self::new(seed, broken, traced);
        for node in 0..sim.nodes.len() {
            crate::node::boot(&sim, node);
        }
        for car in 0..sim.plan.cars {
            sim.exec.spawn(WORLD, car::drive(sim.clone(), car));
        }
        sim.exec.spawn(WORLD, faults::run(sim.clone()));
        sim.exec.spawn(WORLD, liar::run(sim.clone()));
        let failed = || sim.checks.borrow().violation().is_some();
        sim.exec.run(sim.plan.trouble, failed);

        // Everything works again; whatever is under way goes on.
        sim.trouble.set(false);
        faults::mend(&sim);
        let healed = sim.exec.now();
        let mut well = None;
        while !failed() {
            sim.exec.run(sim.exec.now() + LOOK, failed);
            let now = sim.exec.now();
            match (crate::checks::unwell(&sim, healed), well) {
                (None, None) => {
                    well = Some(now);
                    let mut checks = sim.checks.borrow_mut();
                    checks.figures.healed = checks.figures.healed.max(now - healed);
                }
                (None, Some(since)) if now - since >= LINGER => break,
                (Some(why), _) if now - healed > HEALS_WITHIN => {
                    let why = format!("{HEALS_WITHIN:?} after everything works again {why}");
                    sim.checks.borrow_mut().violated(why);
                }
                (Some(_), _) => well = None,
                (None, Some(_)) => {}
            }
        }
        if !failed() {
            crate::checks::at_the_end(&sim);
        }
        let ended =
            Ended {
                violation: sim.checks.borrow().violation().map(|violation| {
                    format!("{violation} ({:.3} s into the run)", sim.exec.now().as_secs_f64())
                }),
                trace: sim.traced.as_ref().map(RefCell::take).unwrap_or_default(),
                figures: crate::runs::Figures::of(&sim),
            };
        // The tasks hold the world, and the world the tasks.
        for node in &sim.nodes {
            node.daemon.borrow_mut().take();
        }
        sim.exec.clear();
        ended
    }
}

fn strike(sim: &Rc<Sim>, node: usize, other: Option<usize>, strike: Strike) {
    match strike {
        Strike::Kill => faults::kill(sim, node),
        Strike::Twice => faults::kill_twice(sim, node),
        Strike::Power => faults::power_cut(sim, node),
        Strike::Isolate => faults::isolate(sim, node),
        Strike::Evict => faults::evict_an_end(sim, node, other),
        Strike::Part => {
            if let Some(other) = other {
                faults::part(sim, node, other);
            }
        }
    }
}

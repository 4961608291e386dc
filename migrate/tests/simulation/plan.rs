//! What a run is like: drawn from its seed before anything begins.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

/// A rule that the nodes of a run break, to show that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// None.
    No,
    /// The destination starts the container when it has applied the state, before the hand-over is signed.
    StartsWhenApplied,
    /// The source starts the container again when the destination falls silent after the signature.
    RollsBackWhenSigned,
    /// A restart takes what the chain says is its own, whatever the journal says.
    AdoptsByChain,
    /// The journal's entries are acted on before they are on the disk.
    NoFsync,
    /// What the journal holds at a start is acted on before it is on the disk.
    NoFsyncAtStart,
    /// The source takes a stopped container for one that has ended.
    SignsWhileItRuns,
    /// The destination says that it has applied the state before that is on the disk.
    NoLayerSync,
    /// The source takes the session back when the destination was evicted, although that may still run it.
    ReclaimsFromTheLiving,
}

/// A fault that strikes a node at a step of a move, which chance alone would seldom hit.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) step: &'static str,
    /// Strikes at the n-th time that any node comes to that step.
    pub(crate) nth: u32,
    pub(crate) strike: Strike,
    /// So long after it.
    pub(crate) after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The daemon is killed; containers run on.
    Kill,
    /// Killed, and right after its next start the machine loses its power.
    Twice,
    /// The machine loses its power.
    Power,
    /// It reaches nobody, and nobody reaches it.
    Isolate,
    /// It and the other end of the move do not reach each other, or in one direction only.
    Part,
    /// One end is evicted while it runs; both may be the last to hear of it.
    Evict,
}

/// What a machine has to do with that the chain does not hold yet, since the authority can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsealed {
    /// Whatever there is.
    Anything,
    /// A session that was given to it.
    Taken,
    /// A session that was given to it, and that it has given on.
    GivenOn,
}

impl Unsealed {
    fn draw(rng: &mut Xoshiro256PlusPlus) -> Self {
        match rng.random_range(0..4_u32) {
            0 => Self::Anything,
            1 => Self::GivenOn,
            _ => Self::Taken,
        }
    }
}

/// The steps of a move at which a fault may strike.
pub(crate) const STEPS: [&str; 13] = [
    "claim", "cut", "stop", "stopped", "applied", "ready", "sign", "signed", "acquired", "starting",
    "routed", "serving", "served",
];

const STRIKES: [Strike; 7] = [
    Strike::Kill,
    Strike::Kill,
    Strike::Twice,
    Strike::Power,
    Strike::Isolate,
    Strike::Part,
    Strike::Evict,
];

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) broken: Broken,
    /// Honest nodes; the first is the authority.
    pub(crate) nodes: usize,
    /// Whether there is one more member that lies.
    pub(crate) liar: bool,
    pub(crate) cars: usize,
    /// How long things go wrong.
    pub(crate) trouble: Duration,
    pub(crate) min_stay: Duration,
    pub(crate) keep_source: Duration,
    /// Mean time between two faults by chance.
    pub(crate) pause: Duration,
    /// Messages that are lost, of a thousand, and those that come twice.
    pub(crate) loss: u32,
    pub(crate) twice: u32,
    /// Containers move while they run, in so many of a hundred moves.
    pub(crate) live: u32,
    /// Engine calls that fail, of a thousand.
    pub(crate) engine_errors: u32,
    /// A machine is lost for good, and its operator says so.
    pub(crate) lost: bool,
    /// In what it is struck.
    pub(crate) lost_in: Unsealed,
    /// Members are evicted while they run, and admitted again; the first of them in this.
    pub(crate) evicts: Option<Unsealed>,
    pub(crate) triggers: Vec<Trigger>,
}

impl Plan {
    pub(crate) fn draw(rng: &mut Xoshiro256PlusPlus, broken: Broken) -> Self {
        let millis = |rng: &mut Xoshiro256PlusPlus, from: u64, to: u64| {
            Duration::from_millis(rng.random_range(from..to))
        };
        let mut triggers: Vec<Trigger> = (0..rng.random_range(0..5_u32))
            .map(|_| Trigger {
                step: STEPS[rng.random_range(0..STEPS.len())],
                nth: rng.random_range(1..4),
                strike: STRIKES[rng.random_range(0..STRIKES.len())],
                after: Duration::from_micros(match rng.random_range(0..3_u32) {
                    0 => 0,
                    1 => rng.random_range(0..10_000),
                    _ => rng.random_range(0..600_000),
                }),
            })
            .collect();
        if broken == Broken::NoFsyncAtStart {
            // It shows only where two faults come together within milliseconds.
            triggers = vec![Trigger {
                step: "sign",
                nth: 1,
                strike: Strike::Twice,
                after: Duration::from_micros(rng.random_range(0..6_000)),
            }];
        }
        let pick = |rng: &mut Xoshiro256PlusPlus, of: &[u64]| of[rng.random_range(0..of.len())];
        Self {
            broken,
            nodes: rng.random_range(3..5),
            liar: rng.random_bool(0.5),
            cars: rng.random_range(1..3),
            trouble: millis(rng, 20_000, 60_000),
            min_stay: Duration::from_secs(pick(rng, &[0, 0, 1, 10])),
            keep_source: Duration::from_secs(pick(rng, &[2, 10, 60])),
            pause: millis(rng, 800, 8_000),
            loss: pick(rng, &[0, 0, 10, 50]) as u32,
            twice: pick(rng, &[0, 10, 50]) as u32,
            live: pick(rng, &[0, 50, 80, 100]) as u32,
            engine_errors: pick(rng, &[0, 0, 5, 30]) as u32,
            lost: rng.random_bool(0.12),
            lost_in: Unsealed::draw(rng),
            evicts: rng.random_bool(0.3).then(|| Unsealed::draw(rng)),
            triggers,
        }
    }
}

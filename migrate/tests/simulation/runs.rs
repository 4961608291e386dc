//! Many seeds on all cores, and the story of the one that fails.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::plan::Broken;
use crate::world::Sim;

/// Lines of a failed run that are shown: the last ones tell how it came about.
const SHOWN: usize = 250;

/// Ways through the rules that only some faults open; a sweep that comes through none of them says nothing of them.
const RARE_STEPS: [&str; 6] = [
    "rolled back",
    "handed back",
    "reclaimed",
    "taken from a block",
    "taken from an answer",
    "overheard",
];

/// What happened in one run, or in many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) runs: u64,
    pub(crate) handovers: u64,
    pub(crate) starts: u64,
    pub(crate) answered: u64,
    pub(crate) closed: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) cuts: u64,
    pub(crate) lost: u64,
    pub(crate) evictions: u64,
    /// The longest time from the end of all faults until everything was well.
    pub(crate) healed: Duration,
    /// How often the nodes came to a step of a move.
    pub(crate) steps: BTreeMap<&'static str, u64>,
    blocks: u64,
    polls: u64,
    simulated: Duration,
    took: Duration,
}

impl Figures {
    pub(crate) fn of(sim: &Sim) -> Self {
        Self {
            runs: 1,
            blocks: sim.nodes[0].ledger.borrow().height(),
            polls: sim.exec.polled(),
            simulated: sim.exec.now(),
            ..sim.checks.borrow().figures.clone()
        }
    }

    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.handovers += other.handovers;
        self.starts += other.starts;
        self.answered += other.answered;
        self.closed += other.closed;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.cuts += other.cuts;
        self.lost += other.lost;
        self.evictions += other.evictions;
        self.healed = self.healed.max(other.healed);
        for (step, count) in &other.steps {
            *self.steps.entry(step).or_default() += count;
        }
        self.blocks += other.blocks;
        self.polls += other.polls;
        self.simulated += other.simulated;
    }

    /// Whether the runs were such that a broken rule would have had its chance.
    pub(crate) fn shows_something(&self) -> bool {
        self.handovers > self.runs
            && self.answered > 10 * self.runs
            && self.kills + self.power_cuts > self.runs
            && self.evictions > 0
            && RARE_STEPS.iter().all(|step| self.steps.contains_key(step))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        let took = self.took.as_secs_f64();
        let rate = self.runs as f64 / took.max(f64::MIN_POSITIVE);
        write!(
            f,
            "simulation: {} runs in {took:.1} s ({rate:.1} runs/s), {hours:.1} h simulated: {} hand-overs, {} starts, \
             {} requests answered, {} kills, {} power cuts, {} cuts of the network, {} evictions, {} sessions closed, \
             {} lost with their machine, {} blocks, {} steps; well within {:.1} s",
            self.runs,
            self.handovers,
            self.starts,
            self.answered,
            self.kills,
            self.power_cuts,
            self.cuts,
            self.evictions,
            self.closed,
            self.lost,
            self.blocks,
            self.polls,
            self.healed.as_secs_f64()
        )?;
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|(step, count)| format!("{step} {count}"))
            .collect();
        write!(f, "\nsteps: {}", steps.join(", "))
    }
}

/// A run in which something did not hold.
pub(crate) struct Failed {
    seed: u64,
    /// Which of the runs it was, from 1.
    pub(crate) run: u64,
    pub(crate) violation: String,
    trace: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            run,
            violation,
            trace,
        } = self;
        let skipped = trace.len().saturating_sub(SHOWN);
        writeln!(f, "run {run} fails, seed {seed}: {violation}")?;
        writeln!(f, "repeat it with: make soak SCALE=1 SEED={seed}")?;
        if skipped > 0 {
            writeln!(f, "... {skipped} lines before")?;
        }
        for line in trace.iter().skip(skipped) {
            writeln!(f, "{line}")?;
        }
        write!(f, "run {run} fails, seed {seed}: {violation}")
    }
}

/// What became of many runs.
pub(crate) struct Sweep {
    /// The first that failed.
    pub(crate) failed: Option<Failed>,
    pub(crate) figures: Figures,
}

/// Runs the seeds from `first` on, until one fails.
pub(crate) fn sweep(first: u64, runs: u64, broken: Broken) -> Sweep {
    let begin = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (figures, failed) = (Mutex::new(Figures::default()), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= runs {
                        return;
                    }
                    let ended = Sim::run(first.wrapping_add(run), broken, false);
                    figures.lock().unwrap().add(&ended.figures);
                    if let Some(violation) = ended.violation {
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().unwrap().insert(run, violation);
                    }
                }
            });
        }
    });
    let mut figures = figures.into_inner().unwrap();
    figures.took = begin.elapsed();
    let failed = failed.into_inner().unwrap().pop_first().map(|(run, violation)| {
        let seed = first.wrapping_add(run);
        let ended = Sim::run(seed, broken, true);
        // A failure that its seed does not bring about again can't be looked into, and is one of the simulation itself.
        assert_eq!(
            ended.violation.as_ref(),
            Some(&violation),
            "seed {seed} has not done the same again"
        );
        Failed {
            seed,
            run: run + 1,
            violation,
            trace: ended.trace,
        }
    });
    Sweep { failed, figures }
}

/// All that happens in the run of a seed.
pub(crate) fn trace(seed: u64, broken: Broken) -> Vec<String> {
    Sim::run(seed, broken, true).trace
}

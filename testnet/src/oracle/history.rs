//! The oracle's records, put together: the runs of each session, and what cars were told is done.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Entry, Report};

/// Everything that an oracle knows.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The runs of each session, in the order of their starts.
    pub sessions: BTreeMap<String, Vec<Run>>,
    /// What cars were told is done.
    pub acknowledged: Vec<Acknowledged>,
    /// What fits nowhere: nobody could have told it who keeps to the rules.
    pub misfits: Vec<String>,
    /// The longest that a report lay unread, in nanoseconds: so late the oracle may know of an end, too.
    pub lag_ns: u64,
}

/// One run of a container's program.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its own random name.
    pub instance: String,
    /// Its container's name in the engine.
    pub container: String,
    /// The epoch for which the container was made.
    pub epoch: u64,
    /// The process that it ran in, as the kernel says.
    pub pid: i32,
    /// When it began to read its state.
    pub start_ns: u64,
    /// How many numbers it found there.
    pub start_count: u64,
    /// Which these were.
    pub found: BTreeSet<u64>,
    /// In the order in which they were told.
    pub answers: Vec<Answered>,
    /// Its orderly stop, if it had one: when, and how many numbers it left.
    pub stop: Option<(u64, u64)>,
    /// When the oracle saw that it has ended, in whichever way; none as long as it has not.
    pub gone_ns: Option<u64>,
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When its number was written.
    pub time_ns: u64,
    /// How many numbers the state held then.
    pub count: u64,
    /// The request's number.
    pub number: u64,
}

/// What a car was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The car's name.
    pub car: String,
    /// The run that the answer named.
    pub instance: String,
    /// The count that the answer named.
    pub count: u64,
    /// The request's number.
    pub number: u64,
}

impl Run {
    /// When it was last heard of.
    pub fn end_ns(&self) -> u64 {
        let answers = self.answers.iter().map(|answer| answer.time_ns);
        let stop = self.stop.map(|(time_ns, _)| time_ns);
        answers.chain(stop).fold(self.start_ns, u64::max)
    }

    /// How many numbers its state held when it was last heard of.
    pub fn end_count(&self) -> u64 {
        self.answers
            .last()
            .map_or(self.start_count, |answer| answer.count)
    }

    /// Which numbers its state held when it was last heard of.
    pub fn state(&self) -> BTreeSet<u64> {
        let mut state = self.found.clone();
        state.extend(self.answers.iter().map(|answer| answer.number));
        state
    }
}

impl History {
    /// Of these records, in the order in which they were written.
    pub fn of(entries: &[Entry]) -> History {
        let mut history = History::default();
        let mut runs: BTreeMap<String, (String, Run)> = BTreeMap::new();
        for entry in entries {
            history.take(entry, &mut runs);
            if let Report::Answer { time_ns, .. } | Report::Stop { time_ns, .. } = &entry.report {
                history.lag_ns = history.lag_ns.max(entry.at_ns.saturating_sub(*time_ns));
            }
        }
        for (session, run) in runs.into_values() {
            history.sessions.entry(session).or_default().push(run);
        }
        for runs in history.sessions.values_mut() {
            runs.sort_by_key(|run| run.start_ns);
        }
        history
    }

    fn take(&mut self, entry: &Entry, runs: &mut BTreeMap<String, (String, Run)>) {
        match &entry.report {
            Report::Start {
                session,
                epoch,
                instance,
                container,
                count,
                time_ns,
                numbers,
            } => {
                let run = Run {
                    instance: instance.clone(),
                    container: container.clone(),
                    epoch: *epoch,
                    pid: entry.pid,
                    start_ns: *time_ns,
                    start_count: *count,
                    found: numbers.iter().flat_map(|(first, last)| *first..=*last).collect(),
                    answers: Vec::new(),
                    stop: None,
                    gone_ns: None,
                };
                if runs.insert(instance.clone(), (session.clone(), run)).is_some() {
                    self.misfits.push(format!("instance {instance} started twice"));
                }
            }
            Report::Answer {
                session,
                instance,
                count,
                number,
                time_ns,
                ..
            } => match runs.get_mut(instance) {
                Some((of, run)) if of == session => run.answers.push(Answered {
                    time_ns: *time_ns,
                    count: *count,
                    number: *number,
                }),
                _ => self.misfit("answered", session, instance),
            },
            Report::Stop {
                session,
                instance,
                count,
                time_ns,
                ..
            } => match runs.get_mut(instance) {
                Some((of, run)) if of == session && run.stop.is_none() => run.stop = Some((*time_ns, *count)),
                _ => self.misfit("stopped", session, instance),
            },
            Report::Acknowledged {
                car,
                instance,
                count,
                number,
            } => self.acknowledged.push(Acknowledged {
                car: car.clone(),
                instance: instance.clone(),
                count: *count,
                number: *number,
            }),
            Report::Gone { instance } => {
                if let Some((_, run)) = runs.get_mut(instance) {
                    run.gone_ns.get_or_insert(entry.at_ns);
                }
            }
            Report::Unreadable { line } => {
                let line: String = line.chars().take(200).collect();
                self.misfits.push(format!("process {} told {line:?}", entry.pid));
            }
        }
    }

    fn misfit(&mut self, did: &str, session: &str, instance: &str) {
        self.misfits.push(format!(
            "instance {instance} of session {session} {did} and had not started there"
        ));
    }

    /// How often a session went on in a later epoch within these times of the kernel's monotonic clock, in nanoseconds. A
    /// container that never answered has not gone on with anything: its session's move failed, or came to nothing.
    pub fn moves(&self, begin_ns: u64, end_ns: u64) -> usize {
        let mut moves = 0;
        for runs in self.sessions.values() {
            let answering: Vec<&Run> = runs.iter().filter(|run| !run.answers.is_empty()).collect();
            let on = answering.windows(2).filter(|pair| pair[1].epoch > pair[0].epoch);
            moves += on
                .filter(|pair| (begin_ns..end_ns).contains(&pair[1].start_ns))
                .count();
        }
        moves
    }

    /// How often a session's container was started again.
    pub fn restarts(&self) -> usize {
        let pairs = self.sessions.values().flat_map(|runs| runs.windows(2));
        pairs
            .filter(|pair| pair[0].container == pair[1].container)
            .count()
    }

    /// All runs of all sessions.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.sessions.values().flatten()
    }
}

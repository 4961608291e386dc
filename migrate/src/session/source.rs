//! The source's side of a hand-over, as a pure machine.
//!
//! ```text
//!              Claim             Cut                 CutDone(root)           Ready(root)
//!  Serving ----------> offered ------> Stopping ---------------> Stopped ----------------> Signed
//!     ^                                   |                         |   point of no return ---^
//!     |<---- CutFailed -------------------+                         |
//!     |<---- Cancel, silence, other root ---------------------------+      (rolls back freely, rule 3)
//! ```
//! The machine lives as long as this node owns the session at one epoch. It decides; the caller holds and drains the
//! requests, stops and commits the container, writes the journal and answers the peer. An effect that fails comes back
//! as an input. Between `Stopping` and `Signed` the caller runs nothing of the session.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blosm_ledger::{Hash, PublicKey};

use super::entry::Attempt;

/// How many claims may stand at once; further ones are refused until one expires.
const MAX_OFFERS: usize = 8;

/// The times that the source grants. All are on this node's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A claim that has not led to a cut by then is forgotten. A sign of life renews it.
    pub offer: Duration,
    /// Silence of the destination after which a stopped container is started again.
    pub silence: Duration,
    /// A cut that has not led to READY by then is rolled back, whatever the destination says of itself.
    pub cut: Duration,
    /// The shortest stay of a session before another member may ask for it (rule 10).
    pub min_stay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            offer: Duration::from_secs(30),
            silence: Duration::from_secs(5),
            cut: Duration::from_secs(60),
            min_stay: Duration::from_secs(10),
        }
    }
}

/// One accepted claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who claims.
    pub destination: PublicKey,
    /// Hash of the claim transaction.
    pub claim: Hash,
    /// Forgotten after this.
    pub expires: Instant,
}

/// What happens to the session at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A destination asks for the session; `invited` when this node named it itself.
    Want {
        /// Whether the owner asked for this move, so that `min_stay` does not hold.
        invited: bool,
    },
    /// A destination claims it with a verdict of true.
    Claim {
        /// The name of its attempt.
        attempt: Attempt,
        /// The claimant.
        destination: PublicKey,
        /// Hash of the claim transaction.
        claim: Hash,
    },
    /// The destination has staged what it can and asks for the cut.
    Cut {
        /// The name of its attempt.
        attempt: Attempt,
        /// The peer that asks.
        from: PublicKey,
    },
    /// The caller has held, drained, stopped (exit seen) and committed.
    CutDone {
        /// The attempt.
        attempt: Attempt,
        /// What the destination must apply.
        root: Hash,
    },
    /// The caller could not: the container runs, or must be started again.
    CutFailed {
        /// The attempt.
        attempt: Attempt,
    },
    /// The destination has applied and journaled this root.
    Ready {
        /// The name of its attempt.
        attempt: Attempt,
        /// The peer that asks.
        from: PublicKey,
        /// What it applied.
        root: Hash,
    },
    /// A sign of life of an attempt.
    Alive {
        /// The name of its attempt.
        attempt: Attempt,
        /// The peer that gives it.
        from: PublicKey,
    },
    /// The destination gives up.
    Cancel {
        /// The name of its attempt.
        attempt: Attempt,
        /// The peer that gives up.
        from: PublicKey,
    },
    /// Time has passed.
    Tick,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing but a plain yes to the peer.
    Agree,
    /// Hold, drain, stop and commit; answer when done.
    BeginCut {
        /// The attempt.
        attempt: Attempt,
    },
    /// The cut of this attempt is done already: answer with its outcome again.
    RepeatStopped {
        /// The attempt.
        attempt: Attempt,
    },
    /// Sign and journal the `HandOver`, then answer with it. There is no way back from here.
    Sign {
        /// The attempt.
        attempt: Attempt,
        /// The new owner.
        destination: PublicKey,
        /// Hash of its claim.
        claim: Hash,
        /// What it applied.
        root: Hash,
    },
    /// Start the container again and route the held requests to it.
    RollBack {
        /// The attempt that failed.
        attempt: Attempt,
    },
}

/// Why the source says no. None of them ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Rule 10.
    #[error("the session came here less than min_stay ago")]
    TooSoon,
    /// Another attempt is being cut.
    #[error("another hand-over of the session is in progress")]
    Busy,
    /// The attempt is not known, has expired, was rolled back or belongs to another peer.
    #[error("the attempt is not, or no longer, open")]
    Void,
    /// Too many claims stand.
    #[error("too many members claim the session")]
    Crowded,
    /// What was applied is not what was stopped.
    #[error("the destination applied another state than the one that was stopped")]
    OtherRoot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cut {
    Stopping,
    Stopped {
        root: Hash,
        since: Instant,
        heard: Instant,
    },
    Signed,
}

/// The source's side of the hand-overs of one session at one epoch.
#[derive(Debug, Clone)]
pub struct Source {
    timing: Timing,
    since: Instant,
    offers: BTreeMap<Attempt, Offer>,
    cut: Option<(Attempt, Cut)>,
}

impl Source {
    /// A session that this node came to own at `since`.
    pub fn new(timing: Timing, since: Instant) -> Self {
        Self {
            timing,
            since,
            offers: BTreeMap::new(),
            cut: None,
        }
    }

    /// Whether a cut is under way: the container may not be started, nor a request routed to it.
    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether `peer` may pull the chunks of `attempt`.
    pub fn may_pull(&self, attempt: &Attempt, peer: PublicKey) -> bool {
        self.offers
            .get(attempt)
            .is_some_and(|offer| offer.destination == peer)
    }

    /// Takes one input and says what follows from it.
    pub fn handle(&mut self, now: Instant, input: Input) -> Result<Effect, Refused> {
        match input {
            Input::Want { invited } => self.want(now, invited),
            Input::Claim {
                attempt,
                destination,
                claim,
            } => self.claim(now, attempt, destination, claim),
            Input::Cut { attempt, from } => self.begin_cut(now, attempt, from),
            Input::CutDone { attempt, root } => self.cut_done(now, attempt, root),
            Input::CutFailed { attempt } => self.cut_failed(attempt),
            Input::Ready { attempt, from, root } => self.ready(attempt, from, root),
            Input::Alive { attempt, from } => self.alive(now, attempt, from),
            Input::Cancel { attempt, from } => self.cancel(attempt, from),
            Input::Tick => Ok(self.tick(now)),
        }
    }

    fn want(&self, now: Instant, invited: bool) -> Result<Effect, Refused> {
        if self.cut.is_some() {
            return Err(Refused::Busy);
        }
        if !invited && now.saturating_duration_since(self.since) < self.timing.min_stay {
            return Err(Refused::TooSoon);
        }
        Ok(Effect::Agree)
    }

    fn claim(
        &mut self,
        now: Instant,
        attempt: Attempt,
        destination: PublicKey,
        claim: Hash,
    ) -> Result<Effect, Refused> {
        if self.cut.is_some() {
            return Err(Refused::Busy);
        }
        // One claim per member: a newer attempt of it replaces the older one.
        self.offers
            .retain(|known, offer| offer.destination != destination || *known == attempt);
        if self.offers.len() >= MAX_OFFERS && !self.offers.contains_key(&attempt) {
            return Err(Refused::Crowded);
        }
        if self
            .offers
            .get(&attempt)
            .is_some_and(|offer| offer.destination != destination)
        {
            return Err(Refused::Void);
        }
        self.offers.insert(
            attempt,
            Offer {
                destination,
                claim,
                expires: now + self.timing.offer,
            },
        );
        Ok(Effect::Agree)
    }

    fn begin_cut(&mut self, now: Instant, attempt: Attempt, from: PublicKey) -> Result<Effect, Refused> {
        self.expect(&attempt, from)?;
        match &mut self.cut {
            None => {
                self.cut = Some((attempt, Cut::Stopping));
                Ok(Effect::BeginCut { attempt })
            }
            Some((current, Cut::Stopped { heard, .. })) if *current == attempt => {
                *heard = now;
                Ok(Effect::RepeatStopped { attempt })
            }
            Some((current, Cut::Signed)) if *current == attempt => Ok(Effect::RepeatStopped { attempt }),
            Some(_) => Err(Refused::Busy),
        }
    }

    fn cut_done(&mut self, now: Instant, attempt: Attempt, root: Hash) -> Result<Effect, Refused> {
        match &mut self.cut {
            Some((current, cut @ Cut::Stopping)) if *current == attempt => {
                *cut = Cut::Stopped {
                    root,
                    since: now,
                    heard: now,
                };
                Ok(Effect::Agree)
            }
            _ => Err(Refused::Void),
        }
    }

    fn cut_failed(&mut self, attempt: Attempt) -> Result<Effect, Refused> {
        match self.cut {
            Some((current, Cut::Stopping)) if current == attempt => Ok(self.roll_back(attempt)),
            _ => Err(Refused::Void),
        }
    }

    fn ready(&mut self, attempt: Attempt, from: PublicKey, root: Hash) -> Result<Effect, Refused> {
        let (destination, claim) = {
            let offer = self.expect(&attempt, from)?;
            (offer.destination, offer.claim)
        };
        match &mut self.cut {
            Some((current, cut)) if *current == attempt => match cut {
                Cut::Stopped { root: stopped, .. } if *stopped == root => {
                    // Point of no return: once per epoch, since `Signed` is never left.
                    *cut = Cut::Signed;
                    Ok(Effect::Sign {
                        attempt,
                        destination,
                        claim,
                        root,
                    })
                }
                Cut::Stopped { .. } => Err(Refused::OtherRoot),
                Cut::Stopping | Cut::Signed => Err(Refused::Busy),
            },
            _ => Err(Refused::Void),
        }
    }

    fn alive(&mut self, now: Instant, attempt: Attempt, from: PublicKey) -> Result<Effect, Refused> {
        self.expect(&attempt, from)?;
        if let Some(offer) = self.offers.get_mut(&attempt) {
            offer.expires = now + self.timing.offer;
        }
        if let Some((current, Cut::Stopped { heard, .. })) = &mut self.cut
            && *current == attempt
        {
            *heard = now;
        }
        Ok(Effect::Agree)
    }

    fn cancel(&mut self, attempt: Attempt, from: PublicKey) -> Result<Effect, Refused> {
        self.expect(&attempt, from)?;
        match self.cut {
            Some((current, Cut::Stopped { .. })) if current == attempt => Ok(self.roll_back(attempt)),
            // The engine is at work: the caller rolls back when it is done and nobody answers.
            Some((current, _)) if current == attempt => Ok(Effect::Agree),
            _ => {
                self.offers.remove(&attempt);
                Ok(Effect::Agree)
            }
        }
    }

    fn tick(&mut self, now: Instant) -> Effect {
        if let Some((attempt, Cut::Stopped { heard, since, .. })) = self.cut
            && (now.saturating_duration_since(heard) >= self.timing.silence
                || now.saturating_duration_since(since) >= self.timing.cut)
        {
            return self.roll_back(attempt);
        }
        let current = self.cut.as_ref().map(|(attempt, _)| *attempt);
        self.offers
            .retain(|attempt, offer| offer.expires > now || Some(*attempt) == current);
        Effect::Agree
    }

    fn roll_back(&mut self, attempt: Attempt) -> Effect {
        self.cut = None;
        self.offers.remove(&attempt);
        Effect::RollBack { attempt }
    }

    fn expect(&self, attempt: &Attempt, from: PublicKey) -> Result<&Offer, Refused> {
        self.offers
            .get(attempt)
            .filter(|offer| offer.destination == from)
            .ok_or(Refused::Void)
    }
}

#[cfg(test)]
mod tests;

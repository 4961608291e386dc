//! How much may be on its way: as much as fills the link, and no more than waits there for a moment.
//!
//! Relayed requests, gossip and chunks share one connection, so what is asked for ahead of need is what
//! every other message waits behind. The window follows the link: the rate at which answers come in
//! times the round trip, and [`QUEUE`] on top, which keeps the link busy while requests travel.
//!
//! ```text
//! window = rate * (round trip + QUEUE)        rate: best of the last seconds, bytes on the wire
//!          on quick links less: at most CALM_WINDOW or two round trips' worth
//! ```
//! Pure: time comes in with each call.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What may wait on the link, in time.
pub const QUEUE: Duration = Duration::from_millis(35);
/// Where the window begins, bytes.
pub const FIRST_WINDOW: u64 = 128 * 1024;
/// Smallest window, bytes.
pub const MIN_WINDOW: u64 = 64 * 1024;
/// Largest window, bytes.
pub const MAX_WINDOW: u64 = 4 << 20;
/// A window above this is for long round trips only, bytes: what is on its way is lost with the link.
pub const CALM_WINDOW: u64 = 768 * 1024;
/// Smallest request, bytes of chunks.
pub const MIN_ASK: u32 = 64 * 1024;
/// Largest request, bytes of chunks.
pub const MAX_ASK: u32 = 256 * 1024;

/// The beginning ends once answers have waited this long on the link.
const BEGUN: Duration = Duration::from_millis(20);
/// Answers of at most this many bytes tell the round trip by themselves.
const SMALL: u64 = 16 * 1024;
/// A rate is measured over at least this long: answers that happen to be seen together are no faster
/// link.
const SPAN: Duration = Duration::from_millis(100);
/// And never over less than this: a shaper lets through at once what it has saved up while the link was idle. Below
/// [`QUEUE`], so that a window that is too small for its link grows.
const LEAST: Duration = Duration::from_millis(20);
/// How long a measured rate counts.
const RATE_AGE: Duration = Duration::from_secs(2);
/// What of a new rate goes into the smoothed one.
const SMOOTH: f64 = 0.25;
/// How many answers tell how well chunks compress.
const RATIOS: usize = 8;
/// Ratios are kept in these parts.
const WHOLE: u64 = 1024;

/// The window of one link.
#[derive(Debug)]
pub struct Window {
    /// Estimated bytes on the wire of all that was asked for and has not come.
    in_flight: u64,
    /// Plain bytes of the same.
    plain_in_flight: u64,
    /// Bytes that came, and when the last did.
    delivered: u64,
    delivered_at: Instant,
    /// While the link's rate is not known: grows with each answer.
    beginning: Option<u64>,
    /// Rates, bytes per second, falling; the first is the best of the last seconds.
    rates: VecDeque<(Instant, f64)>,
    /// The last rates, smoothed.
    smooth: Option<f64>,
    /// What had been delivered when, since the link was last idle, as far back as [`SPAN`].
    marks: VecDeque<(Instant, u64)>,
    /// Quickest answer to a small question.
    small: Option<Duration>,
    /// The last answer to a request that found the link idle: its time and bytes.
    lone: Option<(Duration, u64)>,
    /// Wire bytes per [`WHOLE`] plain bytes of the last answers.
    ratios: VecDeque<u64>,
    cap: Option<Bucket>,
}

/// One request on its way; goes back with [`Window::answered`] or [`Window::lost`].
#[derive(Debug)]
#[must_use = "what is not given back is on its way for ever"]
pub struct Ticket {
    at: Instant,
    plain: u32,
    estimate: u64,
    delivered: u64,
    delivered_at: Instant,
    lone: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask for about so many plain bytes.
    Ask(u32),
    /// Wait for an answer.
    Wait,
    /// Wait until then: the cap allows no more before.
    At(Instant),
}

/// Tokens for a cap in bytes per second.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Window {
    /// A window over a link of which nothing is known; `cap` in bytes per second on the wire.
    #[must_use]
    pub fn new(now: Instant, cap: Option<u64>) -> Self {
        Self {
            in_flight: 0,
            plain_in_flight: 0,
            delivered: 0,
            delivered_at: now,
            beginning: Some(FIRST_WINDOW),
            rates: VecDeque::new(),
            smooth: None,
            marks: VecDeque::new(),
            small: None,
            lone: None,
            ratios: VecDeque::new(),
            cap: cap.map(|rate| Bucket::new(rate, now)),
        }
    }

    /// Nothing is on its way, whatever was before: whoever asked may have given up.
    pub fn begin(&mut self) {
        self.in_flight = 0;
        self.plain_in_flight = 0;
    }

    /// Whether to ask for more, and for how much.
    pub fn next(&mut self, now: Instant) -> Next {
        let window = self.size();
        // A quarter each keeps the link busy while one of them is being answered.
        let ask = self
            .plain(window / 4)
            .clamp(u64::from(MIN_ASK), u64::from(MAX_ASK));
        let estimate = self.estimate(ask);
        let fits = self.in_flight + estimate <= window;
        // With only one on its way the rate of a long link would never be found.
        let second = self.in_flight < window && window < 2 * estimate;
        let room = (fits || second) && self.plain_in_flight + ask <= MAX_WINDOW;
        if !room && self.in_flight > 0 {
            return Next::Wait;
        }
        match self.cap.as_mut().and_then(|cap| cap.wait(estimate, now)) {
            Some(at) => Next::At(at),
            None => Next::Ask(u32::try_from(ask).unwrap_or(MAX_ASK)),
        }
    }

    /// A request for that many plain bytes leaves.
    pub fn sent(&mut self, now: Instant, plain: u32) -> Ticket {
        let lone = self.in_flight == 0;
        if lone {
            // An idle link says nothing of its rate, and what was known of it does not grow old.
            let idle = now.saturating_duration_since(self.delivered_at);
            self.rates.iter_mut().for_each(|(at, _)| *at += idle);
            self.delivered_at = now;
            self.marks = VecDeque::from([(now, self.delivered)]);
        }
        let estimate = self.estimate(u64::from(plain));
        self.in_flight += estimate;
        self.plain_in_flight += u64::from(plain);
        if let Some(cap) = &mut self.cap {
            cap.take(estimate as f64);
        }
        Ticket {
            at: now,
            plain,
            estimate,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            lone,
        }
    }

    /// Its answer came, of so many bytes on the wire.
    pub fn answered(&mut self, now: Instant, ticket: Ticket, wire: u64) {
        self.give_back(&ticket);
        if let Some(cap) = &mut self.cap {
            cap.take(wire as f64 - ticket.estimate as f64);
        }
        self.delivered += wire;
        self.delivered_at = now.max(self.delivered_at);
        self.note_rate(now, self.measure(&ticket));
        self.marks.push_back((now, self.delivered));
        while self
            .marks
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= SPAN)
        {
            self.marks.pop_front();
        }
        if ticket.plain > 0 {
            self.ratios.push_back(wire * WHOLE / u64::from(ticket.plain));
            if self.ratios.len() > RATIOS {
                self.ratios.pop_front();
            }
        }
        let took = now.saturating_duration_since(ticket.at);
        if ticket.lone {
            self.lone = Some((took, wire));
        }
        let waited = took.saturating_sub(self.on_link(wire));
        let round_trip = self.round_trip().unwrap_or(took);
        self.beginning = match self.beginning {
            Some(window) if waited <= round_trip + BEGUN => Some((window + wire).min(MAX_WINDOW)),
            _ => None,
        };
    }

    /// A small question that is no request for chunks was answered after `took`.
    pub fn small(&mut self, took: Duration, wire: u64) {
        if wire <= SMALL {
            self.small = Some(self.small.map_or(took, |known| known.min(took)));
        }
    }

    /// Its answer will not come.
    pub fn lost(&mut self, ticket: Ticket) {
        self.give_back(&ticket);
    }

    /// Bytes on the wire that may be on their way now.
    #[must_use]
    pub fn size(&self) -> u64 {
        let (full, most) = match (self.rate(), self.round_trip()) {
            (Some(rate), Some(round_trip)) => {
                let needed = (rate * round_trip.as_secs_f64()) as u64;
                let queue = (rate * QUEUE.as_secs_f64()) as u64;
                (needed + queue, CALM_WINDOW.max(2 * needed))
            }
            _ => (0, CALM_WINDOW),
        };
        let window = match self.beginning {
            // Never far above what has been seen to get through.
            Some(beginning) => beginning.min(FIRST_WINDOW.max(2 * full)),
            None => full,
        };
        let window = window.min(most);
        window.clamp(MIN_WINDOW, MAX_WINDOW)
    }

    /// The link's rate as far as it is known, bytes per second.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rates.front().map(|(_, rate)| *rate)
    }

    /// Its round trip as far as it is known.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        // Its bytes took time as well, but how much is not known before the rate is.
        let lone = || {
            self.lone
                .map(|(took, wire)| took.saturating_sub(self.on_link(wire)).max(took / 2))
        };
        self.small.or_else(lone)
    }

    fn give_back(&mut self, ticket: &Ticket) {
        self.in_flight = self.in_flight.saturating_sub(ticket.estimate);
        self.plain_in_flight = self.plain_in_flight.saturating_sub(u64::from(ticket.plain));
    }

    /// Bytes per second since the request left, or since a while before that.
    fn measure(&self, ticket: &Ticket) -> f64 {
        let left = (ticket.delivered_at, ticket.delivered);
        let (since, before) = match self.marks.front() {
            // While the window grows, what was before the request says little.
            Some(mark) if self.beginning.is_none() && mark.0 < left.0 => *mark,
            _ => left,
        };
        let elapsed = self.delivered_at.saturating_duration_since(since).max(LEAST);
        (self.delivered - before) as f64 / elapsed.as_secs_f64()
    }

    /// A maximum over a sliding time: what is older and smaller than a newer rate never counts again.
    fn note_rate(&mut self, now: Instant, rate: f64) {
        let smooth = match self.smooth {
            Some(smooth) if self.beginning.is_none() => smooth + (rate - smooth) * SMOOTH,
            _ => rate,
        };
        self.smooth = Some(smooth);
        let rate = smooth;
        while self.rates.back().is_some_and(|(_, older)| *older <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((now, rate));
        while self
            .rates
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > RATE_AGE)
        {
            self.rates.pop_front();
        }
    }

    fn on_link(&self, wire: u64) -> Duration {
        self.rate().map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(wire as f64 / rate.max(1.0))
        })
    }

    /// The worst ratio of the last answers: what compresses worse next must not flood the link.
    fn ratio(&self) -> u64 {
        self.ratios.iter().copied().max().unwrap_or(WHOLE).clamp(1, WHOLE)
    }

    fn estimate(&self, plain: u64) -> u64 {
        (plain * self.ratio() / WHOLE).max(1)
    }

    fn plain(&self, wire: u64) -> u64 {
        wire * WHOLE / self.ratio()
    }
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Self {
        let rate = rate.max(1);
        // A bucket smaller than a request would never let one pass.
        let burst = f64::from(MAX_ASK).max(rate as f64 * QUEUE.as_secs_f64());
        Self {
            rate,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// When there will be enough, if there is not now.
    fn wait(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * self.rate as f64).min(self.burst);
        self.at = now;
        let short = (bytes as f64).min(self.burst) - self.tokens;
        (short > 0.0).then(|| now + Duration::from_secs_f64(short / self.rate as f64 + 1e-4))
    }

    fn take(&mut self, bytes: f64) {
        self.tokens = (self.tokens - bytes).min(self.burst);
    }
}

#[cfg(test)]
mod tests;

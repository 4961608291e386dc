//! What a link carries: sample bytes, pulled as a layer's chunks would be, and how fast they came.
//!
//! The same window decides how much is on its way, so the figure is what a move would get beside other traffic, not the
//! most that the link could be flooded with.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;

use super::pull::PullError;
use super::window::{MAX_ASK, Next, Window};
use super::wire::{TransferBody, TransferRequest, TransferResponse, WireError};

/// One figure of the distribution is the mean over this long. A round trip of a roadside link fits in several times.
pub const SPAN: Duration = Duration::from_millis(250);
/// Bars of the histogram.
const BARS: usize = 12;
/// The attempt that a sample belongs to: none.
const NO_ATTEMPT: [u8; 16] = [0; 16];

/// How fast a link carried samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Bandwidth {
    /// How long was measured, seconds.
    pub seconds: f64,
    /// Bytes that came, without framing.
    pub bytes: u64,
    /// Over the whole time, 10^6 bits per second.
    pub mean_mbit: f64,
    /// Standard deviation of `rates_mbit`.
    pub deviation_mbit: f64,
    /// The slowest of `rates_mbit`.
    pub least_mbit: f64,
    /// The fastest of them.
    pub most_mbit: f64,
    /// How long one rate is taken over, milliseconds.
    pub span_ms: u64,
    /// The rate in each span, in order.
    pub rates_mbit: Vec<f64>,
    /// How the rates are distributed (the paper's figure 5), from the slowest to the fastest.
    pub histogram: Vec<Bar>,
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bar {
    /// Where it begins, 10^6 bits per second.
    pub from_mbit: f64,
    /// Where it ends; only the last one includes its end.
    pub to_mbit: f64,
    /// Spans whose rate lies in it.
    pub count: usize,
}

/// Answers a request for a sample: bytes that nothing on the way can compress.
#[must_use]
pub fn answer(bytes: u32) -> TransferResponse {
    static NOISE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut noise = vec![0; MAX_ASK as usize];
        getrandom::fill(&mut noise).ok().map(|()| noise)
    });
    match (noise, bytes) {
        (_, 0) => TransferResponse::Refused(WireError::BadRequest),
        (Some(noise), bytes) if bytes as usize <= noise.len() => {
            TransferResponse::Sample(noise[..bytes as usize].to_vec())
        }
        (Some(_), _) => TransferResponse::Refused(WireError::BadRequest),
        (None, _) => TransferResponse::Refused(WireError::Internal),
    }
}

/// Pulls samples for so long. `fetch` sends a request and gives its answer; `round_trip` is what is known of the link.
///
/// # Errors
/// The peer does not answer, refuses, or answers something else.
pub async fn measure<F, Fut, E>(
    fetch: F,
    round_trip: Option<Duration>,
    time: Duration,
) -> Result<Bandwidth, PullError>
where
    F: Fn(TransferRequest) -> Fut,
    Fut: Future<Output = Result<TransferResponse, E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let began = Instant::now();
    let mut window = Window::new(began, None);
    if let Some(round_trip) = round_trip {
        window.small(round_trip, 0);
    }
    let mut asking = FuturesUnordered::new();
    let mut arrivals = Vec::new();
    while began.elapsed() < time {
        while let Next::Ask(bytes) = window.next(Instant::now()) {
            let ticket = window.sent(Instant::now(), bytes);
            let answer = fetch(TransferRequest {
                attempt: NO_ATTEMPT,
                body: TransferBody::Sample { bytes },
            });
            asking.push(async move { (ticket, bytes, answer.await) });
        }
        let left = time.saturating_sub(began.elapsed());
        let Ok(Some((ticket, asked, answer))) = tokio::time::timeout(left, asking.next()).await else {
            break;
        };
        let answer = answer.map_err(|error| PullError::Fetch(error.into()))?;
        let wire = answer.wire_len();
        match answer {
            TransferResponse::Sample(bytes) if bytes.len() == asked as usize => {}
            TransferResponse::Refused(why) => return Err(why.into()),
            _ => return Err(PullError::OtherAnswer),
        }
        window.answered(Instant::now(), ticket, wire);
        arrivals.push((began.elapsed(), u64::from(asked)));
    }
    Ok(Bandwidth::of(&arrivals, time))
}

impl Bandwidth {
    /// From what came when, over `time`.
    #[must_use]
    pub fn of(arrivals: &[(Duration, u64)], time: Duration) -> Self {
        let spans = (time.as_millis() / SPAN.as_millis()).max(1) as usize;
        let mut bytes = vec![0.0; spans];
        let mut last = Duration::ZERO;
        for (at, came) in arrivals {
            spread(&mut bytes, last, *at, *came as f64);
            last = *at;
        }
        let rates: Vec<f64> = bytes.iter().map(|bytes| mbit(*bytes, SPAN)).collect();
        let total: u64 = arrivals.iter().map(|(_, came)| came).sum();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
        let (least, most) = rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| {
            (least.min(*rate), most.max(*rate))
        });
        Self {
            seconds: time.as_secs_f64(),
            bytes: total,
            mean_mbit: mbit(total as f64, time),
            deviation_mbit: variance.sqrt(),
            least_mbit: least,
            most_mbit: most,
            span_ms: SPAN.as_millis() as u64,
            histogram: histogram(&rates, least, most),
            rates_mbit: rates,
        }
    }
}

/// An answer's bytes came evenly since the one before: on a slow link one answer takes several spans.
fn spread(bytes: &mut [f64], from: Duration, to: Duration, came: f64) {
    let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
    let span = SPAN.as_secs_f64();
    let first = (from / span) as usize;
    for (at, sum) in bytes.iter_mut().enumerate().skip(first) {
        let (begin, end) = (at as f64 * span, (at + 1) as f64 * span);
        if to <= from {
            *sum += came;
            return;
        }
        let within = to.min(end) - from.max(begin);
        if within <= 0.0 {
            return;
        }
        *sum += came * within / (to - from);
    }
}

fn histogram(rates: &[f64], least: f64, most: f64) -> Vec<Bar> {
    let width = (most - least) / BARS as f64;
    if width <= 0.0 {
        return vec![Bar {
            from_mbit: least,
            to_mbit: most,
            count: rates.len(),
        }];
    }
    let mut bars: Vec<Bar> = (0..BARS)
        .map(|at| Bar {
            from_mbit: least + width * at as f64,
            to_mbit: least + width * (at + 1) as f64,
            count: 0,
        })
        .collect();
    for rate in rates {
        let at = ((rate - least) / width) as usize;
        bars[at.min(BARS - 1)].count += 1;
    }
    bars
}

fn mbit(bytes: f64, time: Duration) -> f64 {
    bytes * 8.0 / 1e6 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_counted_by_span_and_told_as_a_distribution() {
        // 1 s at 8 Mbit/s, then 1 s at 16 Mbit/s, in answers of 20 ms.
        let arrivals: Vec<(Duration, u64)> = (1..=100)
            .map(|n| {
                (
                    Duration::from_millis(20 * n),
                    if n <= 50 { 20_000 } else { 40_000 },
                )
            })
            .collect();
        let bandwidth = Bandwidth::of(&arrivals, Duration::from_secs(2));
        assert_eq!((bandwidth.bytes, bandwidth.rates_mbit.len()), (3_000_000, 8));
        assert!((bandwidth.mean_mbit - 12.0).abs() < 1e-9);
        assert!((bandwidth.deviation_mbit - 4.0).abs() < 1e-6);
        assert!((bandwidth.least_mbit - 8.0).abs() < 1e-6 && (bandwidth.most_mbit - 16.0).abs() < 1e-6);
        let counts: Vec<usize> = bandwidth.histogram.iter().map(|bar| bar.count).collect();
        assert_eq!((counts[0], counts[BARS - 1], counts.iter().sum()), (4, 4, 8));
    }

    #[test]
    fn an_answer_that_takes_several_spans_counts_in_all_of_them() {
        let bandwidth = Bandwidth::of(&[(Duration::from_secs(1), 1_000_000)], Duration::from_secs(1));
        assert!(bandwidth.rates_mbit.iter().all(|rate| (rate - 8.0).abs() < 1e-6));
        assert_eq!(bandwidth.histogram.iter().map(|bar| bar.count).sum::<usize>(), 4);
    }

    #[test]
    fn nothing_that_came_is_no_rate() {
        let bandwidth = Bandwidth::of(&[], Duration::from_secs(1));
        assert_eq!((bandwidth.bytes, bandwidth.most_mbit), (0, 0.0));
        assert_eq!(bandwidth.histogram.len(), 1);
    }

    #[tokio::test]
    async fn samples_are_as_long_as_asked_and_anything_else_is_refused() {
        assert!(matches!(answer(1000), TransferResponse::Sample(bytes) if bytes.len() == 1000));
        for bytes in [0, MAX_ASK + 1, u32::MAX] {
            assert_eq!(answer(bytes), TransferResponse::Refused(WireError::BadRequest));
        }
        let honest = |request: TransferRequest| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let TransferBody::Sample { bytes } = request.body else {
                return Err("another question");
            };
            Ok(answer(bytes))
        };
        let measured = measure(honest, None, Duration::from_millis(300)).await.unwrap();
        assert!(measured.bytes > 0 && measured.mean_mbit > 0.0);
        let short = |_| async { Ok::<_, &str>(TransferResponse::Sample(vec![1])) };
        let error = measure(short, None, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.peer_fault());
        let busy = |_| async { Ok::<_, &str>(TransferResponse::Refused(WireError::Busy)) };
        let error = measure(busy, None, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, PullError::Refused(WireError::Busy)));
    }
}

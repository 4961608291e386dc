//! The last requests of cars, for whoever looks on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blosm_migrate::placement::Position;

/// Requests remembered: 30 s of a fast car.
const REQUESTS: usize = 2048;
/// Cars remembered. The one that has been silent for longest goes first.
const CARS: usize = 256;
/// A car that has not been heard of for so long has gone.
const GONE: Duration = Duration::from_secs(5);

/// What cars asked for lately.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    requests: Mutex<VecDeque<Answered>>,
    cars: Mutex<BTreeMap<String, (Position, Instant)>>,
}

/// One answered request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answered {
    /// When it came, in milliseconds of the wall clock.
    pub(crate) unix_ms: u64,
    /// From the request to the answer, milliseconds.
    pub(crate) took_ms: f64,
    /// Whether it was answered by the service.
    pub(crate) ok: bool,
}

impl Recent {
    /// Notes an answered request.
    pub(crate) fn answered(&self, answered: Answered) {
        let mut requests = lock(&self.requests);
        if requests.len() == REQUESTS {
            requests.pop_front();
        }
        requests.push_back(answered);
    }

    /// Notes where a car says that it is. `car` tells it apart from others and is nothing that a reader could use.
    pub(crate) fn seen(&self, car: &str, position: Position, now: Instant) {
        let mut cars = lock(&self.cars);
        if cars.len() >= CARS && !cars.contains_key(car) {
            let oldest = cars.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(car, _)| car.clone()) {
                cars.remove(&oldest);
            }
        }
        cars.insert(car.to_owned(), (position, now));
    }

    /// The requests that came after that time.
    pub(crate) fn requests(&self, after_unix_ms: u64) -> Vec<Answered> {
        let requests = lock(&self.requests);
        requests
            .iter()
            .filter(|request| request.unix_ms > after_unix_ms)
            .copied()
            .collect()
    }

    /// The cars that are here now, and how long ago each was heard of.
    pub(crate) fn cars(&self, now: Instant) -> Vec<(String, Position, Duration)> {
        let mut cars = lock(&self.cars);
        cars.retain(|_, (_, at)| now.saturating_duration_since(*at) < GONE);
        cars.iter()
            .map(|(car, (position, at))| (car.clone(), *position, now.saturating_duration_since(*at)))
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_requests_are_kept() {
        let recent = Recent::default();
        for unix_ms in 1..=REQUESTS as u64 + 10 {
            recent.answered(Answered {
                unix_ms,
                took_ms: 1.0,
                ok: true,
            });
        }
        let all = recent.requests(0);
        assert_eq!((all.len(), all[0].unix_ms), (REQUESTS, 11));
        assert_eq!(recent.requests(REQUESTS as u64).len(), 10);
    }

    #[test]
    fn cars_go_when_they_fall_silent_and_are_bounded() {
        let (recent, now) = (Recent::default(), Instant::now());
        let place: Position = "37.45,126.65".parse().unwrap();
        for n in 0..=CARS as u64 {
            recent.seen(&format!("car{n:04}"), place, now + Duration::from_millis(n));
        }
        let cars = recent.cars(now + Duration::from_secs(1));
        assert_eq!((cars.len(), cars[0].0.as_str()), (CARS, "car0001"));
        assert_eq!(cars[0].2, Duration::from_millis(999));
        recent.seen("car0001", place, now + GONE);
        assert_eq!(recent.cars(now + GONE + Duration::from_secs(1)).len(), 1);
    }
}

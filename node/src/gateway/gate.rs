//! The gate of one session: where its requests go at this instant, and how many are on their way.
//!
//! ```text
//!           hold()            drain()          set(Local | Elsewhere | Gone)
//! Local ----------> Held ... in flight -> 0 ... ---------------------------> waiting requests go on
//! ```
//! Requests that find the gate held wait, bounded in number and time. Requests in flight are counted, so that a cut can
//! wait for the last of them, and are told when the drain is over, so that none is answered after the container stopped.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Where a session's requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Nowhere yet: they wait.
    Held,
    /// To the container at this address.
    Local(SocketAddr),
    /// To the owner, whom the journal and the chain tell.
    Elsewhere,
    /// The session is over.
    Gone,
}

/// What a request got from the gate.
#[derive(Debug)]
pub(crate) enum Pass {
    /// The container's address. The request counts as in flight until this is dropped.
    Local(InFlight),
    /// The session lives on another node.
    Elsewhere,
    /// The session is over.
    Gone,
}

/// Why a request may not wait any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HoldError {
    /// `hold_max` requests wait already.
    #[error("too many requests of this session are waiting")]
    Full,
    /// `hold_time` is over.
    #[error("the session was not served again in time")]
    TimedOut,
}

/// What a hand-over did to the requests at this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HoldFigures {
    /// Requests that waited at the gate.
    pub(crate) held: u64,
    /// Requests in flight that the drain did not wait for.
    pub(crate) interrupted: u64,
    /// Requests that waited in vain.
    pub(crate) failed: u64,
    /// The longest wait.
    pub(crate) max_stall: Duration,
    /// All requests that entered.
    pub(crate) sent: u64,
}

/// The gate of one session.
#[derive(Debug)]
pub(crate) struct Gate {
    route: watch::Sender<Route>,
    state: Mutex<State>,
    idle: Notify,
    hold_max: usize,
    hold_time: Duration,
}

#[derive(Debug)]
struct State {
    in_flight: usize,
    waiting: usize,
    figures: HoldFigures,
    cut: CancellationToken,
}

/// One request on its way to the container.
#[derive(Debug)]
pub(crate) struct InFlight {
    gate: Arc<Gate>,
    address: SocketAddr,
    cut: CancellationToken,
}

impl Gate {
    /// A gate that leads to `route`, and holds at most `hold_max` requests for at most `hold_time` each.
    pub(crate) fn new(route: Route, hold_max: usize, hold_time: Duration) -> Arc<Self> {
        Arc::new(Self {
            route: watch::Sender::new(route),
            state: Mutex::new(State {
                in_flight: 0,
                waiting: 0,
                figures: HoldFigures::default(),
                cut: CancellationToken::new(),
            }),
            idle: Notify::new(),
            hold_max,
            hold_time,
        })
    }

    /// Takes a request in: waits while the gate is held.
    ///
    /// Cancel-safe: a client that goes away while it waits leaves no trace but the figures.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Pass, HoldError> {
        let mut routes = self.route.subscribe();
        if let Some(pass) = self.try_pass(true) {
            return Ok(pass);
        }
        let arrived = Instant::now();
        let waiting = Waiting::new(self)?;
        let passed = tokio::time::timeout(self.hold_time, async {
            loop {
                routes.mark_unchanged();
                if let Some(pass) = self.try_pass(false) {
                    return pass;
                }
                // The sender lives in `self`: it can't be gone.
                let _ = routes.changed().await;
            }
        })
        .await;
        drop(waiting);
        let mut state = self.lock();
        state.figures.max_stall = state.figures.max_stall.max(arrived.elapsed());
        passed.map_err(|_| {
            state.figures.failed += 1;
            HoldError::TimedOut
        })
    }

    /// The check and the count are one step: after `hold` returns no further request is in flight.
    fn try_pass(self: &Arc<Self>, first: bool) -> Option<Pass> {
        let mut state = self.lock();
        state.figures.sent += u64::from(first);
        match *self.route.borrow() {
            Route::Held => None,
            Route::Elsewhere => Some(Pass::Elsewhere),
            Route::Gone => Some(Pass::Gone),
            Route::Local(address) => {
                state.in_flight += 1;
                Some(Pass::Local(InFlight {
                    gate: self.clone(),
                    address,
                    cut: state.cut.clone(),
                }))
            }
        }
    }

    /// From now on requests wait. Starts the figures of a hand-over anew.
    pub(crate) fn hold(&self) {
        let mut state = self.lock();
        state.figures = HoldFigures::default();
        self.route.send_replace(Route::Held);
    }

    /// Starts the figures of a hand-over anew without holding anything: of one that stops nothing.
    pub(crate) fn begin_figures(&self) {
        self.lock().figures = HoldFigures::default();
    }

    /// Waits for the requests in flight, at most `limit`; those left are told to give up. Call [`Gate::hold`] before, or
    /// send later requests elsewhere.
    ///
    /// Returns how many were interrupted.
    pub(crate) async fn drain(&self, limit: Duration) -> u64 {
        let drained = tokio::time::timeout(limit, async {
            loop {
                let idle = self.idle.notified();
                if self.lock().in_flight == 0 {
                    return;
                }
                idle.await;
            }
        })
        .await;
        let mut state = self.lock();
        if drained.is_ok() {
            return 0;
        }
        let left = state.in_flight as u64;
        state.figures.interrupted += left;
        state.cut.cancel();
        state.cut = CancellationToken::new();
        left
    }

    /// Sends waiting and later requests on their way.
    pub(crate) fn set(&self, route: Route) {
        let _state = self.lock();
        self.route.send_replace(route);
    }

    /// Holds requests if they go to `address`: the container behind it is gone.
    pub(crate) fn close(&self, address: SocketAddr) {
        let _state = self.lock();
        self.route.send_if_modified(|route| {
            let here = *route == Route::Local(address);
            if here {
                *route = Route::Held;
            }
            here
        });
    }

    /// What happened to requests since the last [`Gate::hold`].
    pub(crate) fn figures(&self) -> HoldFigures {
        self.lock().figures
    }

    /// Requests that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the gate's lock")
    }
}

impl InFlight {
    /// The container's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends when the drain of a cut is over: the request must give up then.
    pub(crate) async fn interrupted(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.gate.idle.notify_waiters();
        }
    }
}

/// Counts a waiting request, also when its client goes away.
struct Waiting<'a>(&'a Gate);

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate) -> Result<Self, HoldError> {
        let mut state = gate.lock();
        if state.waiting >= gate.hold_max {
            state.figures.failed += 1;
            return Err(HoldError::Full);
        }
        state.waiting += 1;
        state.figures.held += 1;
        Ok(Self(gate))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([172, 17, 0, 2], 8080))
    }

    fn gate() -> Arc<Gate> {
        Gate::new(Route::Local(address()), 2, Duration::from_millis(50))
    }

    #[tokio::test]
    async fn held_requests_go_on_when_the_gate_opens() {
        let gate = gate();
        gate.hold();
        let waiter = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter().await }
        });
        while gate.figures().held == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.waiting(), 1);
        gate.set(Route::Elsewhere);
        assert!(matches!(waiter.await.unwrap(), Ok(Pass::Elsewhere)));
        assert_eq!(gate.waiting(), 0);
        assert_eq!(gate.figures().held, 1);
    }

    #[tokio::test]
    async fn drain_ends_with_the_last_request_in_flight() {
        let gate = gate();
        let Ok(Pass::Local(request)) = gate.enter().await else {
            panic!("the gate is open")
        };
        gate.hold();
        let drain = tokio::spawn({
            let gate = gate.clone();
            async move { gate.drain(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        assert!(!drain.is_finished());
        drop(request);
        assert_eq!(drain.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_the_drain_does_not_wait_for_is_interrupted_and_counted() {
        let gate = gate();
        let Ok(Pass::Local(request)) = gate.enter().await else {
            panic!("the gate is open")
        };
        gate.hold();
        assert_eq!(gate.drain(Duration::from_millis(5)).await, 1);
        request.interrupted().await;
        assert_eq!(gate.figures().interrupted, 1);
        drop(request);
        assert_eq!(gate.drain(Duration::from_secs(1)).await, 0);
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_number_and_time() {
        let gate = gate();
        gate.hold();
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                tokio::spawn(async move { gate.enter().await.map(|_| ()) })
            })
            .collect();
        while gate.figures().held < 2 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(gate.enter().await, Err(HoldError::Full)));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Err(HoldError::TimedOut));
        }
        assert_eq!(gate.figures().failed, 3);
    }
}

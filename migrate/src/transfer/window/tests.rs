use super::*;

/// A link that carries answers one after the other, `rate` bytes per second, half a round trip each way.
struct Link {
    rate: f64,
    round_trip: Duration,
    free_at: Instant,
}

impl Link {
    /// When the answer to a request that leaves `now` has come.
    fn answer(&mut self, now: Instant, wire: u64) -> Instant {
        let asked = now + self.round_trip / 2;
        let begins = asked.max(self.free_at);
        self.free_at = begins + Duration::from_secs_f64(wire as f64 / self.rate);
        self.free_at + self.round_trip / 2
    }

    /// What waits on the link.
    fn queue(&self, now: Instant) -> Duration {
        self.free_at.saturating_duration_since(now + self.round_trip / 2)
    }
}

struct Run {
    /// Share of the link's rate that was used, after the first second.
    used: f64,
    /// Longest queue after the first second.
    queue: Duration,
    /// Longest queue at all.
    worst: Duration,
}

/// Pulls for `time`; `wire` says how many bytes a request's answer has, given its plain bytes.
fn run(
    mbit: f64,
    round_trip: Duration,
    cap: Option<u64>,
    time: Duration,
    wire: impl Fn(u32, Duration) -> u64,
) -> (Run, Window) {
    let start = Instant::now();
    let mut window = Window::new(start, cap);
    window.small(round_trip, 200);
    run_on(window, start, mbit, round_trip, time, wire)
}

/// As [`run`], with a window that knows something already.
fn run_on(
    mut window: Window,
    start: Instant,
    mbit: f64,
    round_trip: Duration,
    time: Duration,
    wire: impl Fn(u32, Duration) -> u64,
) -> (Run, Window) {
    let mut link = Link {
        rate: mbit * 1e6 / 8.0,
        round_trip,
        free_at: start,
    };
    let mut coming: VecDeque<(Instant, Ticket, u64)> = VecDeque::new();
    let (mut now, mut carried) = (start, 0.0);
    let (mut queue, mut worst) = (Duration::ZERO, Duration::ZERO);
    let settled = Duration::from_secs(1);
    while now < start + time {
        let wake = match window.next(now) {
            Next::Ask(plain) => {
                let ticket = window.sent(now, plain);
                let wire = wire(plain, now - start);
                coming.push_back((link.answer(now, wire), ticket, wire));
                worst = worst.max(link.queue(now));
                if now > start + settled {
                    queue = queue.max(link.queue(now));
                }
                continue;
            }
            Next::Wait => None,
            Next::At(at) => Some(at),
        };
        let answer = coming.front().map(|(at, ..)| *at);
        now = match (answer, wake) {
            (Some(answer), Some(wake)) => answer.min(wake),
            (answer, wake) => answer.or(wake).expect("something comes"),
        };
        if answer == Some(now) {
            let (at, ticket, wire) = coming.pop_front().unwrap();
            window.answered(at, ticket, wire);
            if at > start + settled {
                carried += wire as f64;
            }
        }
    }
    let used = carried / (link.rate * (time - settled).as_secs_f64());
    (Run { used, queue, worst }, window)
}

#[test]
fn the_link_is_filled_and_not_flooded() {
    let ms = Duration::from_millis;
    // Mbit/s, round trip in ms, share of the link that must be used.
    for (mbit, round_trip, least) in [
        (40.0, 2, 0.97),
        (40.0, 20, 0.97),
        (40.0, 100, 0.97),
        (100.0, 2, 0.97),
        (100.0, 50, 0.97),
        (400.0, 1, 0.97),
        (1000.0, 1, 0.90),
    ] {
        let (run, window) = run(mbit, ms(round_trip), None, Duration::from_secs(5), |plain, _| {
            plain.into()
        });
        let what = format!(
            "{mbit} Mbit/s, {round_trip} ms: {:.3}, {:?}, {:?}; {window:?}",
            run.used, run.queue, run.worst
        );
        assert!(run.used >= least, "{what}");
        assert!(run.queue <= ms(50), "{what}");
        assert!(run.worst <= ms(70 + round_trip), "{what}");
    }
}

#[test]
fn a_slow_link_gets_the_smallest_window() {
    let (run, window) = run(
        4.0,
        Duration::from_millis(30),
        None,
        Duration::from_secs(20),
        |plain, _| plain.into(),
    );
    assert_eq!(window.size(), MIN_WINDOW);
    assert!(run.used > 0.75, "{}", run.used);
}

#[test]
fn what_compresses_well_fills_the_link_too_and_what_does_not_any_more_floods_it_only_once() {
    let wire = |plain: u32, at: Duration| {
        if at < Duration::from_secs(2) {
            u64::from(plain) / 8
        } else {
            u64::from(plain)
        }
    };
    let (quick, window) = run(40.0, Duration::from_millis(2), None, Duration::from_secs(2), wire);
    assert!(quick.used > 0.95, "{} {window:?}", quick.used);
    let (_, window) = run(40.0, Duration::from_millis(2), None, Duration::from_secs(6), wire);
    assert!(window.size() < 400 * 1024, "{window:?}");
}

#[test]
fn a_cap_is_kept_and_lets_whole_requests_pass() {
    for cap in [100_000, 1_000_000] {
        let (run, _) = run(
            40.0,
            Duration::from_millis(2),
            Some(cap),
            Duration::from_secs(20),
            |plain, _| plain.into(),
        );
        let rate = run.used * 5e6;
        assert!(
            rate > 0.9 * cap as f64 && rate < 1.1 * cap as f64,
            "{rate} of {cap}"
        );
    }
}

#[test]
fn a_link_that_becomes_slow_is_noticed() {
    let start = Instant::now();
    let mut window = Window::new(start, None);
    window.small(Duration::from_millis(2), 100);
    let mut now = start;
    let mut answers = |window: &mut Window, millis: u64, count: u32| {
        for _ in 0..count {
            let ticket = window.sent(now, MIN_ASK);
            now += Duration::from_millis(millis);
            window.answered(now, ticket, MIN_ASK.into());
        }
    };
    answers(&mut window, 5, 100);
    let fast = window.size();
    answers(&mut window, 50, 100);
    assert!(window.size() < fast / 3, "{fast} {}", window.size());
}

#[test]
fn lost_requests_and_a_new_beginning_leave_nothing_in_flight() {
    let now = Instant::now();
    let mut window = Window::new(now, None);
    let ask = |window: &mut Window| {
        let mut tickets = Vec::new();
        while let Next::Ask(plain) = window.next(now) {
            tickets.push(window.sent(now, plain));
        }
        tickets
    };
    let tickets = ask(&mut window);
    assert_eq!(tickets.len(), 2);
    tickets.into_iter().for_each(|ticket| window.lost(ticket));
    let tickets = ask(&mut window);
    assert_eq!(tickets.len(), 2);
    drop(tickets);
    assert_eq!(window.next(now), Next::Wait);
    window.begin();
    assert_eq!(window.next(now), Next::Ask(MIN_ASK));
}

#[test]
fn a_link_whose_answers_were_not_taken_for_a_while_is_filled_again() {
    for round_trip in [2, 20, 100] {
        let round_trip = Duration::from_millis(round_trip);
        let mut now = Instant::now();
        let mut window = Window::new(now, None);
        window.small(round_trip, 200);
        for _ in 0..50 {
            let ticket = window.sent(now, MIN_ASK);
            now += Duration::from_millis(300);
            window.answered(now, ticket, MIN_ASK.into());
        }
        assert!(window.size() <= FIRST_WINDOW);
        let time = Duration::from_secs(10);
        let (run, window) = run_on(window, now, 40.0, round_trip, time, |plain, _| plain.into());
        assert!(run.used > 0.8, "{round_trip:?}: {} {window:?}", run.used);
        assert!(window.size() > 150 * 1024, "{round_trip:?}: {window:?}");
    }
}

#[test]
fn a_link_whose_round_trip_nobody_told_is_filled_too() {
    for round_trip in [2, 20, 100] {
        let round_trip = Duration::from_millis(round_trip);
        let now = Instant::now();
        let time = Duration::from_secs(5);
        let (run, window) = run_on(Window::new(now, None), now, 40.0, round_trip, time, |plain, _| {
            plain.into()
        });
        assert!(run.used > 0.97, "{round_trip:?}: {} {window:?}", run.used);
        assert!(
            run.queue < Duration::from_millis(60),
            "{round_trip:?}: {:?}",
            run.queue
        );
    }
}

//! What a migration would be like: the answer to `blosm migrate --dry-run`, and the arithmetic behind it.

use serde::Serialize;

use super::link::Measured;
use super::report::VerdictDetail;
use super::wire::VOLUMES_BY_LIVE;
use super::{MigrationOutcome, MigrationReport};

/// What a migration would do. Nothing was moved, booked or announced for it.
#[derive(Debug, Clone, Serialize)]
pub struct Assessment {
    /// Always true.
    pub dry_run: bool,
    /// The session.
    pub session: String,
    /// Name of the service.
    pub service: String,
    /// This node.
    pub source: String,
    /// The node that was asked.
    pub destination: String,
    /// Its label.
    pub destination_label: String,
    /// Whether it would take the container (Algorithm 2), as of now.
    pub verdict: bool,
    /// The parts of that.
    pub verdict_detail: VerdictDetail,
    /// How the container would move; `none`: it would not.
    pub method: String,
    /// The method that was wanted, where another one would have to be taken.
    pub fallback: Option<String>,
    /// Why that method.
    pub why: String,
    /// Layers of the image that runs.
    pub layers: usize,
    /// How many of them the destination lacks.
    pub missing_layers: usize,
    /// Bytes of those as their files take them on the disk, and of what the container has written.
    pub missing_bytes: u64,
    /// Bytes that the container has written; they always travel.
    pub writable_bytes: u64,
    /// What can be said of time.
    #[serde(flatten)]
    pub forecast: Forecast,
}

/// In the place of a method where there is none.
const NO_METHOD: &str = "none";

/// What earlier migrations let one expect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Goodput between the two nodes when it was last measured, by a migration or by `blosm bandwidth`, 10^6 bits per
    /// second; `null`: it never was.
    pub link_mbit: Option<f64>,
    /// The whole migration in milliseconds; `null` without a link.
    pub expected_ms: Option<f64>,
    /// How long requests wait, in milliseconds; `null` where nothing lets one expect it.
    pub expected_downtime_ms: Option<f64>,
}

/// What is going to travel, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) method: &'a str,
    /// Bytes in all.
    pub(super) missing: u64,
    /// Of those, what is fetched while the container is down if nothing is copied ahead.
    pub(super) writable: u64,
}

/// Expects of a migration between `source` and `destination` what the last ones were like; `reports` are oldest first.
/// `measured` is what an operator has measured of the link, which counts if no migration came after it.
///
/// Bytes travel compressed, so that the time is rather less.
pub(super) fn forecast(
    load: Load<'_>,
    source: &str,
    destination: &str,
    reports: &[MigrationReport],
    measured: Option<Measured>,
) -> Forecast {
    let between = |report: &&MigrationReport| {
        let ends = [report.source.as_str(), report.destination.as_str()];
        ends.contains(&source) && ends.contains(&destination) && report.link.mbit > 0.0
    };
    let moved = reports.iter().rev().find(between);
    let link = match (moved, measured) {
        (Some(moved), Some(measured)) if moved.started_unix_ms < measured.unix_ms => Some(measured.mbit),
        (Some(moved), _) => Some(moved.link.mbit),
        (None, measured) => measured.map(|measured| measured.mbit),
    };
    // 10^6 bits per second are 10^3 bits per millisecond.
    let travel = |bytes: u64| link.map(|mbit| bytes as f64 * 8.0 / (mbit * 1000.0));
    let like = |report: &&MigrationReport| {
        report.outcome == MigrationOutcome::Completed && report.method == load.method
    };
    let last = reports.iter().rev().find(like);
    if load.method == NO_METHOD {
        return Forecast {
            link_mbit: link,
            ..Forecast::default()
        };
    }
    // Stopping, committing and starting take what they took last time, whatever travels.
    let fixed = last.map(|report| {
        let phases = &report.phases_ms;
        phases.drain + phases.stop + phases.commit + phases.handover + phases.start
    });
    let downtime = match load.method {
        "stateless" => Some(0.0),
        "live" => last.map(|report| report.downtime_ms),
        _ => travel(load.writable)
            .zip(fixed)
            .map(|(travel, fixed)| travel + fixed),
    };
    Forecast {
        link_mbit: link,
        expected_ms: travel(load.missing).map(|travel| travel + fixed.unwrap_or(0.0)),
        expected_downtime_ms: downtime,
    }
}

/// The same for a session whose volumes move with it: any other method than the live one would leave them behind.
pub(super) fn with_volumes(
    (method, fallback, why): (String, Option<String>, String),
) -> (String, Option<String>, String) {
    match (method.as_str(), &fallback) {
        ("live", _) => (method, fallback, why),
        (_, None) => (NO_METHOD.to_owned(), None, VOLUMES_BY_LIVE.to_owned()),
        (_, Some(_)) => (
            NO_METHOD.to_owned(),
            fallback,
            format!("{VOLUMES_BY_LIVE}: {why}"),
        ),
    }
}

/// The method that is taken, the one that it stands in for, and why. `here` and `there` are what works at the two ends.
pub(super) fn choose_method(
    wanted: &str,
    here: &[String],
    there: &[String],
) -> (String, Option<String>, String) {
    let has = |list: &[String]| list.iter().any(|method| method == wanted);
    let why = match (has(here), has(there)) {
        (true, true) => return (wanted.to_owned(), None, "both nodes have it".into()),
        (true, false) => format!("the destination does not take sessions by the method {wanted}"),
        (false, _) => format!("this node does not give sessions by the method {wanted}; see `blosm status`"),
    };
    // Every node has it.
    ("image".to_owned(), Some(wanted.to_owned()), why)
}

#[cfg(test)]
mod tests {
    use blosm_ledger::{PublicKey, SessionId};

    use super::super::wire::MoveReason;
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    fn report(from: u8, to: u8, mbit: f64) -> MigrationReport {
        let mut report = MigrationReport::begin(
            &[0; 16],
            SessionId([0; 32]),
            key(from),
            key(to),
            MoveReason::Operator,
        );
        report.outcome = MigrationOutcome::Completed;
        report.link.mbit = mbit;
        report.phases_ms.stop = 100.0;
        report.phases_ms.start = 300.0;
        report.downtime_ms = 700.0;
        report
    }

    fn expect(method: &str, reports: &[MigrationReport]) -> Forecast {
        let load = Load {
            method,
            missing: 10_000_000,
            writable: 1_000_000,
        };
        forecast(load, &key(1).to_string(), &key(2).to_string(), reports, None)
    }

    #[test]
    fn the_newest_of_migration_and_measurement_counts() {
        let mut moved = report(1, 2, 40.0);
        moved.started_unix_ms = 1000;
        let load = Load {
            method: "image",
            missing: 10_000_000,
            writable: 0,
        };
        let link = |reports: &[MigrationReport], unix_ms| {
            let measured = Some(Measured { unix_ms, mbit: 20.0 });
            forecast(load, &key(1).to_string(), &key(2).to_string(), reports, measured).link_mbit
        };
        assert_eq!(link(&[], 1), Some(20.0));
        assert_eq!(link(std::slice::from_ref(&moved), 999), Some(40.0));
        assert_eq!(link(&[moved], 1001), Some(20.0));
    }

    #[test]
    fn without_a_measured_link_no_time_is_named() {
        assert_eq!(expect("image", &[]), Forecast::default());
        assert_eq!(
            expect("image", &[report(1, 3, 40.0)]).link_mbit,
            None,
            "another link"
        );
        assert_eq!(expect("stateless", &[]).expected_downtime_ms, Some(0.0));
    }

    #[test]
    fn the_last_measurement_of_the_link_counts_in_either_direction() {
        let reports = [report(1, 2, 10.0), report(2, 1, 40.0), report(1, 2, 0.0)];
        let forecast = expect("image", &reports);
        assert_eq!(forecast.link_mbit, Some(40.0));
        // 2 s for 10 MB and 200 ms for 1 MB at 40 Mbit/s; 400 ms for the rest.
        assert_eq!(forecast.expected_ms, Some(2400.0));
        assert_eq!(forecast.expected_downtime_ms, Some(600.0));
    }

    #[test]
    fn downtime_is_expected_only_of_a_method_that_was_measured() {
        let mut live = report(1, 2, 40.0);
        live.method = "live".into();
        let forecast = expect("image", std::slice::from_ref(&live));
        assert_eq!(
            (forecast.expected_ms, forecast.expected_downtime_ms),
            (Some(2000.0), None)
        );
        assert_eq!(expect("live", &[live]).expected_downtime_ms, Some(700.0));
        let mut failed = report(1, 2, 40.0);
        failed.outcome = MigrationOutcome::Aborted;
        assert_eq!(expect("image", &[failed]).expected_downtime_ms, None);
    }

    #[test]
    fn volumes_move_live_or_not_at_all() {
        let takes = ["image".to_owned(), "live".to_owned()];
        let choose = |wanted, here, there| with_volumes(choose_method(wanted, here, there));
        assert_eq!(choose("live", &takes, &takes).0, "live");
        let (method, fallback, why) = choose("live", &takes, &takes[..1]);
        assert_eq!((method.as_str(), fallback.as_deref()), ("none", Some("live")));
        assert!(
            why.contains("volumes") && why.contains("the destination does not"),
            "{why}"
        );
        let (method, fallback, why) = choose("image", &takes, &takes);
        assert_eq!((method.as_str(), fallback), ("none", None));
        assert!(why.contains("by the live method only"), "{why}");
        let forecast = expect("none", &[report(1, 2, 40.0)]);
        assert_eq!((forecast.link_mbit, forecast.expected_ms), (Some(40.0), None));
    }

    #[test]
    fn a_method_that_the_destination_lacks_is_replaced_and_said() {
        let takes = ["image".to_owned(), "live".to_owned()];
        assert_eq!(choose_method("live", &takes, &takes).1, None);
        assert!(
            choose_method("live", &takes[..1], &takes)
                .2
                .starts_with("this node")
        );
        let (method, fallback, why) = choose_method("live", &takes, &takes[..1]);
        assert_eq!((method.as_str(), fallback.as_deref()), ("image", Some("live")));
        assert!(why.contains("live"));
    }
}

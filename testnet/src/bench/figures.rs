//! Arithmetic over what was measured.

use serde_json::{Value, json};

use super::bars::over_iperf3;
use super::plan::Method;
use crate::car::Record;

/// The nearest-rank percentile of some values; none of none.
pub(super) fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The middle value, or the mean of the middle two.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = sorted.get(half)?;
    Some(if sorted.len().is_multiple_of(2) {
        (sorted[half - 1] + upper) / 2.0
    } else {
        *upper
    })
}

/// The time that so many bytes take on a link, in milliseconds.
pub(super) fn link_ms(bytes: u64, mbit: f64) -> f64 {
    bytes as f64 * 8.0 / (mbit * 1000.0)
}

/// The 99th percentile of the latencies of requests that were to be sent within a window of the car's own clock.
pub(super) fn p99_ms(records: &[Record], begin_ms: f64, end_ms: f64) -> Option<f64> {
    let within = records
        .iter()
        .filter(|record| (begin_ms..end_ms).contains(&record.intended_ms));
    let latencies: Vec<f64> = within.filter_map(Record::latency_ms).collect();
    percentile(&latencies, 99.0)
}

/// From the last success of one node to the first of another, in milliseconds, and when that first one came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gap {
    /// Zero if the two overlap.
    pub(super) ms: f64,
    /// On the car's own clock.
    pub(super) first_ms: f64,
}

impl Gap {
    /// None while one of the two has not answered.
    pub(super) fn of(
        records: &[Record],
        source: impl Fn(&Record) -> bool,
        destination: impl Fn(&Record) -> bool,
    ) -> Option<Gap> {
        let done = |record: &Record| record.done_ms.filter(|_| record.ok());
        let last = records
            .iter()
            .filter(|r| source(r))
            .filter_map(done)
            .reduce(f64::max)?;
        let first = records
            .iter()
            .filter(|r| destination(r))
            .filter_map(done)
            .reduce(f64::min)?;
        Some(Gap {
            ms: (first - last).max(0.0),
            first_ms: first,
        })
    }
}

/// The runs that are one line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// The image's name.
    pub(super) image: String,
    /// How the container moves.
    pub(super) method: Method,
    /// The destination has the base image.
    pub(super) base_cached: bool,
}

impl Case {
    /// With a base image that both hosts have.
    pub(super) fn cached(image: &str, method: Method) -> Case {
        Case {
            image: image.to_owned(),
            method,
            base_cached: true,
        }
    }

    /// Whether a row is of these runs.
    pub(super) fn has(&self, row: &Value) -> bool {
        row["image"] == self.image.as_str()
            && row["method"] == self.method.as_str()
            && row["base_cached"] == self.base_cached
    }

    /// The figure of all of its completed rows.
    pub(super) fn column(&self, rows: &[Value], field: &str) -> Vec<f64> {
        self.completed(rows)
            .filter_map(|row| row[field].as_f64())
            .collect()
    }

    /// Its completed rows.
    pub(super) fn completed<'a>(&'a self, rows: &'a [Value]) -> impl Iterator<Item = &'a Value> {
        completed(rows).filter(move |row| self.has(row))
    }
}

/// The completed rows.
pub(super) fn completed(rows: &[Value]) -> impl Iterator<Item = &Value> {
    rows.iter().filter(|row| row["outcome"] == "completed")
}

/// The document's ratios, of medians, of the first image where nothing else is said, and of a base image that both
/// hosts have but for the last one. One of which a part was not measured is null.
pub(super) fn ratios(rows: &[Value], images: &[String]) -> Value {
    let (Some(small), Some(large)) = (images.first(), images.last()) else {
        return json!({});
    };
    let middle = |image: &str, method, field| median(&Case::cached(image, method).column(rows, field));
    let staged: Vec<f64> = completed(rows).filter_map(over_iperf3).collect();
    let ratio = |above: Option<f64>, below: Option<f64>| {
        above
            .zip(below)
            .filter(|(_, below)| *below > 0.0)
            .map(|(above, below)| above / below)
    };
    let over_live = |field| {
        ratio(
            middle(small, Method::Registry, field),
            middle(small, Method::Live, field),
        )
    };
    let of_sizes = ratio(
        middle(large, Method::Live, "downtime_ms"),
        middle(small, Method::Live, "downtime_ms"),
    );
    json!({
        "downtime_registry_over_live": over_live("downtime_ms"),
        "total_registry_over_live": over_live("total_ms"),
        "downtime_large_over_small": of_sizes.filter(|_| images.len() > 1),
        "total_over_floor": ratio(
            middle(small, Method::Live, "total_ms"),
            middle(small, Method::Live, "floor_ms"),
        ),
        "stage_goodput_over_iperf3": median(&staged),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(50.0));
        assert_eq!(percentile(&values, 99.0), Some(99.0));
        assert_eq!(percentile(&values, 100.0), Some(100.0));
        assert_eq!(percentile(&[7.0], 1.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn five_megabytes_take_a_second_on_forty_megabits() {
        assert_eq!(link_ms(5_000_000, 40.0), 1000.0);
    }

    fn record(number: u64, to: usize, done_ms: f64, status: u16) -> Record {
        Record {
            number,
            intended_ms: number as f64 * 10.0,
            sent_ms: number as f64 * 10.0,
            done_ms: Some(done_ms),
            to,
            status: Some(status),
            node: None,
            error: None,
        }
    }

    #[test]
    fn gap_counts_from_the_last_success_to_the_first() {
        let records = [
            record(1, 0, 12.0, 200),
            record(2, 0, 21.0, 200),
            record(3, 1, 30.0, 503),
            record(4, 1, 90.0, 200),
            record(5, 1, 70.0, 200),
        ];
        let gap = Gap::of(&records, |r| r.to == 0, |r| r.to == 1);
        assert_eq!(
            gap,
            Some(Gap {
                ms: 49.0,
                first_ms: 70.0
            })
        );
        assert_eq!(Gap::of(&records[..3], |r| r.to == 0, |r| r.to == 1), None);
        let swapped = Gap::of(&records, |r| r.to == 1, |r| r.to == 0).unwrap();
        assert_eq!(swapped.ms, 0.0);
    }

    #[test]
    fn windows_take_requests_by_their_intended_time() {
        let records: Vec<Record> = (0..200).map(|n| record(n, 0, n as f64 * 11.0, 200)).collect();
        assert_eq!(p99_ms(&records, 0.0, 1000.0), Some(98.0));
        assert_eq!(p99_ms(&records, 5000.0, 6000.0), None);
    }

    #[test]
    fn ratios_are_of_medians_and_of_completed_rows() {
        let row = |image: &str, method: &str, downtime: f64, total: f64| {
            json!({"image": image, "method": method, "outcome": "completed", "downtime_ms": downtime,
                "total_ms": total, "floor_ms": 5.0, "base_cached": true})
        };
        let mut rows = vec![
            row("small", "live", 10.0, 8.0),
            row("small", "live", 30.0, 10.0),
            row("small", "live", 20.0, 12.0),
            row("2GB", "live", 22.0, 11.0),
            row("small", "registry", 2000.0, 30.0),
        ];
        rows.push(
            json!({"image": "small", "method": "live", "outcome": "aborted", "downtime_ms": 9999.0,
            "base_cached": true}),
        );
        // A base that is not there changes nothing but its own ratio.
        for goodput in [30.0, 38.0] {
            let mut cold = row("small", "live", 9999.0, 9999.0);
            cold["base_cached"] = false.into();
            cold["stage_goodput_mbit"] = goodput.into();
            cold["goodput_mbit"] = 40.0.into();
            rows.push(cold);
        }
        let images = ["small".to_owned(), "2GB".to_owned()];
        assert_eq!(
            ratios(&rows, &images),
            json!({"downtime_registry_over_live": 100.0, "total_registry_over_live": 3.0,
                "downtime_large_over_small": 1.1, "total_over_floor": 2.0, "stage_goodput_over_iperf3": 0.85})
        );
        let alone = ratios(&rows[3..6], &images[..1]);
        assert_eq!(alone["stage_goodput_over_iperf3"], Value::Null);
        assert_eq!(alone["downtime_registry_over_live"], Value::Null);
        assert_eq!(alone["downtime_large_over_small"], Value::Null);
    }
}

//! What a measurement has to show, and whether it does.

use std::fmt::Write;

use serde_json::{Value, json};

use super::figures::{completed, median, percentile};
use super::plan::Method;

/// How much longer a request may take beside a move than when nothing moves, in milliseconds.
const BESIDE_MS: f64 = 100.0;

/// One bar: a figure, and what it may be.
pub(super) struct Bar {
    what: &'static str,
    unit: &'static str,
    /// None where it was not measured.
    figure: Option<f64>,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

use Limit::{AtLeast, AtMost};

/// All bars of these rows and of their ratios.
pub(super) fn bars(rows: &[Value], ratios: &Value) -> Vec<Bar> {
    let live: Vec<&Value> = of(rows, Method::Live)
        .filter(|row| row["base_cached"] == true)
        .collect();
    let cold: Vec<&Value> = of(rows, Method::Live)
        .filter(|row| row["base_cached"] == false)
        .collect();
    let stateless: Vec<&Value> = of(rows, Method::Stateless).collect();
    let lives = [&live[..], &cold[..]].concat();
    let ours = [&lives[..], &stateless[..]].concat();
    let downtime: Vec<f64> = figures(&live, "/downtime_ms").collect();
    let bar = |what, unit, figure, limit| Bar {
        what,
        unit,
        figure,
        limit,
    };
    let ratio = |name: &str| ratios[name].as_f64();
    let stalls = differences(&stateless, "/car/max_quiet_ms", "/car/max_stall_ms");
    let goodput = cold.iter().filter_map(|row| over_iperf3(row));
    let beside: Vec<f64> = traffic(&live).collect();
    vec![
        bar("live: downtime, median", "ms", median(&downtime), AtMost(300.0)),
        bar(
            "live: downtime, 95th percentile",
            "ms",
            percentile(&downtime, 95.0),
            AtMost(800.0),
        ),
        bar(
            "live, stateless: failed requests",
            "",
            sum(&ours, "/car/failed"),
            AtMost(0.0),
        ),
        bar(
            "live, stateless: interrupted requests",
            "",
            sum(&ours, "/car/interrupted"),
            AtMost(0.0),
        ),
        bar(
            "live: logs that are not whole",
            "",
            broken_logs(&lives),
            AtMost(0.0),
        ),
        bar(
            "live, stateless: longest wait for the ledger",
            "ms",
            figures(&ours, "/phases_ms/ledger_wait").reduce(f64::max),
            AtMost(0.0),
        ),
        bar(
            "live: downtime, largest over smallest image",
            "",
            ratio("downtime_large_over_small"),
            AtMost(1.2),
        ),
        bar(
            "live: total over floor",
            "",
            ratio("total_over_floor"),
            AtMost(1.3),
        ),
        bar(
            "downtime, registry over live",
            "",
            ratio("downtime_registry_over_live"),
            AtLeast(25.0),
        ),
        bar(
            "stateless: slowest request over slowest quiet, most",
            "ms",
            stalls.reduce(f64::max),
            AtMost(BESIDE_MS),
        ),
        bar(
            "cold base: goodput over iperf3's, least",
            "",
            goodput.reduce(f64::min),
            AtLeast(0.9),
        ),
        bar(
            "live: other traffic's p99 over quiet, median",
            "ms",
            median(&beside),
            AtMost(BESIDE_MS),
        ),
        bar(
            "cold base: other traffic's p99 over quiet, most",
            "ms",
            traffic(&cold).reduce(f64::max),
            AtMost(BESIDE_MS),
        ),
    ]
}

/// The goodput of a base that came over the link, over what iperf3 gets through it.
pub(super) fn over_iperf3(row: &Value) -> Option<f64> {
    let (goodput, iperf3) = (row["stage_goodput_mbit"].as_f64()?, row["goodput_mbit"].as_f64()?);
    (iperf3 > 0.0).then(|| goodput / iperf3)
}

/// By how much the slowest request of a stateless run was slower than the slowest before it, in milliseconds.
pub(super) fn over_quiet(row: &Value) -> Option<f64> {
    difference(row, "/car/max_quiet_ms", "/car/max_stall_ms")
}

/// The completed rows of a method.
fn of(rows: &[Value], method: Method) -> impl Iterator<Item = &Value> {
    completed(rows).filter(move |row| row["method"] == method.as_str())
}

fn figures<'a>(rows: &'a [&Value], pointer: &'a str) -> impl Iterator<Item = f64> + 'a {
    rows.iter().filter_map(move |row| row.pointer(pointer)?.as_f64())
}

fn sum(rows: &[&Value], pointer: &str) -> Option<f64> {
    (!rows.is_empty()).then(|| figures(rows, pointer).sum())
}

fn difference(row: &Value, below: &str, above: &str) -> Option<f64> {
    Some(row.pointer(above)?.as_f64()? - row.pointer(below)?.as_f64()?)
}

fn differences<'a>(rows: &'a [&Value], below: &'a str, above: &'a str) -> impl Iterator<Item = f64> + 'a {
    rows.iter().filter_map(move |row| difference(row, below, above))
}

/// Of each run.
fn traffic<'a>(rows: &'a [&Value]) -> impl Iterator<Item = f64> + 'a {
    differences(rows, "/traffic_p99_quiet_ms", "/traffic_p99_during_ms")
}

fn broken_logs(rows: &[&Value]) -> Option<f64> {
    let broken = rows
        .iter()
        .filter(|row| row["car"]["log_contiguous"] != true)
        .count();
    (!rows.is_empty()).then_some(broken as f64)
}

impl Bar {
    /// None where nothing was measured.
    pub(super) fn holds(&self) -> Option<bool> {
        self.figure.map(|figure| match self.limit {
            AtMost(most) => figure <= most,
            AtLeast(least) => figure >= least,
        })
    }

    fn limit(&self) -> (&'static str, f64) {
        match self.limit {
            AtMost(most) => ("at most", most),
            AtLeast(least) => ("at least", least),
        }
    }

    /// As the document has it.
    pub(super) fn json(&self) -> Value {
        let (word, limit) = self.limit();
        json!({
            "what": self.what,
            "unit": self.unit,
            "figure": self.figure,
            word.replace(' ', "_"): limit,
            "holds": self.holds(),
        })
    }
}

/// A line for each bar.
pub(super) fn render(bars: &[Bar]) -> String {
    let mut text = "\nBars\n".to_owned();
    for bar in bars {
        let (word, limit) = bar.limit();
        let verdict = match (bar.holds(), bar.figure) {
            (Some(true), _) => "holds".to_owned(),
            (Some(false), Some(figure)) => {
                format!("MISSED by {} {}", number((figure - limit).abs()), bar.unit)
            }
            _ => "not measured".to_owned(),
        };
        let figure = bar.figure.map_or_else(|| "-".to_owned(), number);
        let limit = format!("{word} {} {}", number(limit), bar.unit);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<52}{figure:>9} {:<3} {:<18}{}",
            bar.what,
            bar.unit,
            limit.trim_end(),
            verdict.trim_end()
        );
    }
    text
}

/// As few digits as tell it.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, base_cached: bool) -> Value {
        json!({"method": method, "outcome": "completed", "base_cached": base_cached, "downtime_ms": 90.0,
            "goodput_mbit": 40.0, "stage_goodput_mbit": if base_cached { Value::Null } else { 37.0.into() },
            "traffic_p99_quiet_ms": 4.0, "traffic_p99_during_ms": 70.0, "phases_ms": {"ledger_wait": 0.0},
            "car": {"failed": 0, "interrupted": 0, "log_contiguous": true, "max_quiet_ms": 8.0, "max_stall_ms": 20.0}})
    }

    fn rows() -> Vec<Value> {
        vec![
            row("live", true),
            row("stateless", true),
            row("live", false),
            row("registry", true),
        ]
    }

    fn ratios() -> Value {
        json!({"downtime_large_over_small": 1.1, "total_over_floor": 1.2, "downtime_registry_over_live": 170.0})
    }

    fn missed(rows: &[Value], ratios: &Value) -> Vec<&'static str> {
        let bars = bars(rows, ratios);
        bars.iter()
            .filter(|bar| bar.holds() == Some(false))
            .map(|bar| bar.what)
            .collect()
    }

    #[test]
    fn each_bar_is_missed_by_what_it_is_about_and_by_nothing_else() {
        assert_eq!(missed(&rows(), &ratios()), [""; 0]);
        assert!(
            bars(&rows(), &ratios())
                .iter()
                .all(|bar| bar.holds() == Some(true))
        );
        for (place, pointer, value, what) in [
            (0, "/downtime_ms", json!(301.0), "live: downtime, median"),
            (1, "/car/failed", json!(1), "live, stateless: failed requests"),
            (
                2,
                "/car/interrupted",
                json!(1),
                "live, stateless: interrupted requests",
            ),
            (
                0,
                "/car/log_contiguous",
                json!(false),
                "live: logs that are not whole",
            ),
            (
                2,
                "/car/log_contiguous",
                Value::Null,
                "live: logs that are not whole",
            ),
            (
                0,
                "/phases_ms/ledger_wait",
                json!(1.0),
                "live, stateless: longest wait for the ledger",
            ),
            (
                1,
                "/car/max_stall_ms",
                json!(108.5),
                "stateless: slowest request over slowest quiet, most",
            ),
            (
                2,
                "/stage_goodput_mbit",
                json!(35.9),
                "cold base: goodput over iperf3's, least",
            ),
            (
                0,
                "/traffic_p99_during_ms",
                json!(105.0),
                "live: other traffic's p99 over quiet, median",
            ),
            (
                2,
                "/traffic_p99_during_ms",
                json!(105.0),
                "cold base: other traffic's p99 over quiet, most",
            ),
        ] {
            let mut rows = rows();
            *rows[place].pointer_mut(pointer).unwrap() = value;
            assert_eq!(missed(&rows, &ratios()), [what]);
        }
        for (name, value) in [
            ("downtime_large_over_small", 1.21),
            ("total_over_floor", 1.31),
            ("downtime_registry_over_live", 24.9),
        ] {
            let mut ratios = ratios();
            ratios[name] = value.into();
            assert_eq!(missed(&rows(), &ratios).len(), 1, "{name}");
        }
        let mut slow = vec![row("live", true); 20];
        slow[7]["downtime_ms"] = 801.0.into();
        assert_eq!(missed(&slow, &ratios()), [""; 0]);
        slow[9]["downtime_ms"] = 801.0.into();
        assert_eq!(missed(&slow, &ratios()), ["live: downtime, 95th percentile"]);
    }

    #[test]
    fn what_was_not_measured_is_not_missed() {
        let bars = bars(&[], &json!({}));
        assert!(bars.iter().all(|bar| bar.holds().is_none()));
        let text = render(&bars);
        assert_eq!(text.matches("not measured").count(), bars.len());
    }

    #[test]
    fn lines_say_figure_limit_and_verdict() {
        let mut rows = rows();
        rows[2]["stage_goodput_mbit"] = 34.0.into();
        let bars = bars(&rows, &ratios());
        let text = render(&bars);
        let words: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for line in [
            "live: downtime, median 90 ms at most 300 ms holds",
            "live, stateless: failed requests 0 at most 0 holds",
            "cold base: goodput over iperf3's, least 0.850 at least 0.900 MISSED by 0.050",
        ] {
            assert!(words.iter().any(|words| words == line), "{text}");
        }
        let cold = bars
            .iter()
            .find(|bar| bar.what.starts_with("cold base: goodput"))
            .unwrap();
        assert_eq!(
            cold.json(),
            json!({"what": cold.what, "unit": "", "figure": 0.85, "at_least": 0.9, "holds": false})
        );
    }
}

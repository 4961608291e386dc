//! The table at the end.

use std::fmt::Write;

use serde_json::Value;

use super::bars::{over_iperf3, over_quiet};
use super::figures::{Case, median, percentile};
use super::plan::Method;

/// A line for each image and method: what a person compares first.
pub(super) fn render(rows: &[Value], cases: &[Case], ratios: &Value) -> String {
    let mut text = format!(
        "\n{:<12}{:<11}{:>5}{:>13}{:>13}{:>13}{:>13}{:>9}{:>14}{:>16}{:>15}{:>14}  LOG\n",
        "IMAGE",
        "METHOD",
        "RUNS",
        "DOWN p50 ms",
        "DOWN p95 ms",
        "TOTAL p50 s",
        "FLOOR p50 s",
        "WIRE MB",
        "FAILED/INTR.",
        "TRAFFIC p99 ms",
        "OVER QUIET ms",
        "STAGE Mbit/s"
    );
    for case in cases {
        line(&mut text, rows, case);
    }
    text += "\nRatios of medians\n";
    for (name, ratio) in ratios.as_object().into_iter().flatten() {
        let ratio = ratio
            .as_f64()
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<30}{ratio:>8}");
    }
    text
}

fn line(text: &mut String, rows: &[Value], case: &Case) {
    let method = case.method;
    let of = |field: &str| case.column(rows, field);
    let asked = rows.iter().filter(|row| case.has(row)).count();
    if asked == 0 {
        return;
    }
    let sum = |field: &str| -> u64 {
        case.completed(rows)
            .filter_map(|row| row["car"][field].as_u64())
            .sum()
    };
    let downtime = of("downtime_ms");
    let traffic = [of("traffic_p99_quiet_ms"), of("traffic_p99_during_ms")]
        .map(|values| number(median(&values), 1.0, 0));
    let stalls = case.completed(rows).filter_map(over_quiet);
    let over_quiet = stalls.reduce(f64::max).filter(|_| method == Method::Stateless);
    let broken = case
        .completed(rows)
        .any(|row| row["car"]["log_contiguous"] == false);
    let log = match (method.keeps_state(), broken) {
        _ if downtime.is_empty() => "-",
        (false, _) => "new",
        (true, true) => "BROKEN",
        (true, false) => "whole",
    };
    let cold = if case.base_cached { "" } else { " cold" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:<12}{:<11}{:>5}{:>13}{:>13}{:>13}{:>13}{:>9}{:>14}{:>16}{:>15}{:>14}  {log}",
        format!("{}{cold}", case.image),
        method.as_str(),
        format!("{}/{asked}", downtime.len()),
        number(median(&downtime), 1.0, 0),
        number(percentile(&downtime, 95.0), 1.0, 0),
        number(median(&of("total_ms")), 1000.0, 2),
        number(median(&of("floor_ms")), 1000.0, 2),
        number(median(&of("wire_bytes")), 1e6, 1),
        format!("{}/{}", sum("failed"), sum("interrupted")),
        traffic.join(" > "),
        number(over_quiet, 1.0, 0),
        stage(rows, case),
    );
}

/// The goodput at which a base came, and the share that this is of what the link carries.
fn stage(rows: &[Value], case: &Case) -> String {
    let shares: Vec<f64> = case.completed(rows).filter_map(over_iperf3).collect();
    let goodput = median(&case.column(rows, "stage_goodput_mbit"));
    match (goodput, median(&shares)) {
        (Some(goodput), Some(share)) => format!("{goodput:.1} ({:.0}%)", share * 100.0),
        _ => "-".to_owned(),
    }
}

fn number(value: Option<f64>, unit: f64, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", value / unit))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_image_and_method_that_ran_has_a_line() {
        let row = |method: &str, outcome: &str| {
            json!({"image": "small", "method": method, "outcome": outcome, "downtime_ms": 250.4, "total_ms": 8000.0,
                "floor_ms": 7000.0, "wire_bytes": 36_000_000, "traffic_p99_quiet_ms": 4.2, "goodput_mbit": 38.0,
                "traffic_p99_during_ms": 31.0, "base_cached": true, "car": {"failed": 0, "interrupted": 0,
                "log_contiguous": true, "max_quiet_ms": 7.0, "max_stall_ms": 22.0}})
        };
        let mut cold = row("live", "completed");
        cold["base_cached"] = false.into();
        cold["floor_ms"] = Value::Null;
        cold["stage_goodput_mbit"] = 36.1.into();
        let rows = [
            row("live", "completed"),
            row("live", "aborted"),
            row("stateless", "completed"),
            cold,
        ];
        let mut cases = [Method::Live, Method::Image, Method::Stateless]
            .map(|method| Case::cached("small", method))
            .to_vec();
        cases.push(Case {
            base_cached: false,
            ..Case::cached("small", Method::Live)
        });
        cases.push(Case::cached("2GB", Method::Live));
        let ratios = json!({"total_over_floor": 1.142, "downtime_large_over_small": null});
        let text = render(&rows, &cases, &ratios);
        let words: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            words[2],
            "small live 1/2 250 250 8.00 7.00 36.0 0/0 4 > 31 - - whole"
        );
        assert_eq!(
            words[3],
            "small stateless 1/1 250 250 8.00 7.00 36.0 0/0 4 > 31 15 - new"
        );
        assert_eq!(
            words[4],
            "small cold live 1/1 250 250 8.00 - 36.0 0/0 4 > 31 - 36.1 (95%) whole"
        );
        assert_eq!(words[5], "");
        assert!(words.contains(&"total_over_floor 1.14".to_owned()), "{text}");
        assert!(
            words.contains(&"downtime_large_over_small -".to_owned()),
            "{text}"
        );
    }
}

//! The table at the end.

use std::fmt::Write;

use serde_json::Value;

use super::figures::{column, completed, median, percentile};
use super::plan::Method;

/// A line for each image and method: what a person compares first.
pub(super) fn render(rows: &[Value], images: &[String], methods: &[Method], ratios: &Value) -> String {
    let mut text = format!(
        "\n{:<8}{:<11}{:>5}{:>14}{:>14}{:>12}{:>12}{:>11}{:>14}{:>16}  LOG\n",
        "IMAGE",
        "METHOD",
        "RUNS",
        "DOWN p50 ms",
        "DOWN p95 ms",
        "TOTAL p50 s",
        "FLOOR p50 s",
        "WIRE MB",
        "FAILED/INTR.",
        "TRAFFIC p99 ms"
    );
    for image in images {
        for &method in methods {
            line(&mut text, rows, image, method);
        }
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

fn line(text: &mut String, rows: &[Value], image: &str, method: Method) {
    let of = |field: &str| column(rows, image, method, field);
    let asked = rows
        .iter()
        .filter(|row| row["image"] == image && row["method"] == method.as_str())
        .count();
    if asked == 0 {
        return;
    }
    let number = |value: Option<f64>, unit: f64, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", value / unit))
    };
    let sum = |field: &str| -> u64 {
        completed(rows, image, method)
            .filter_map(|row| row["car"][field].as_u64())
            .sum()
    };
    let downtime = of("downtime_ms");
    let traffic = [of("traffic_p99_quiet_ms"), of("traffic_p99_during_ms")]
        .map(|values| number(median(&values), 1.0, 0));
    let broken = completed(rows, image, method).any(|row| row["car"]["log_contiguous"] == false);
    let log = match (method.keeps_state(), broken) {
        _ if downtime.is_empty() => "-",
        (false, _) => "new",
        (true, true) => "BROKEN",
        (true, false) => "whole",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{image:<8}{:<11}{:>5}{:>14}{:>14}{:>12}{:>12}{:>11}{:>14}{:>16}  {log}",
        method.as_str(),
        format!("{}/{asked}", downtime.len()),
        number(median(&downtime), 1.0, 0),
        number(percentile(&downtime, 95.0), 1.0, 0),
        number(median(&of("total_ms")), 1000.0, 2),
        number(median(&of("floor_ms")), 1000.0, 2),
        number(median(&of("wire_bytes")), 1e6, 1),
        format!("{}/{}", sum("failed"), sum("interrupted")),
        traffic.join(" > "),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_image_and_method_that_ran_has_a_line() {
        let row = |outcome: &str| {
            json!({"image": "small", "method": "live", "outcome": outcome, "downtime_ms": 250.4, "total_ms": 8000.0,
                "floor_ms": 7000.0, "wire_bytes": 36_000_000, "traffic_p99_quiet_ms": 4.2,
                "traffic_p99_during_ms": 31.0, "car": {"failed": 0, "interrupted": 0, "log_contiguous": true}})
        };
        let rows = [row("completed"), row("aborted")];
        let text = render(
            &rows,
            &["small".into(), "2GB".into()],
            &[Method::Live, Method::Image],
            &json!({"total_over_floor": 1.142, "downtime_large_over_small": null}),
        );
        let words: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            words[2],
            [
                "small", "live", "1/2", "250", "250", "8.00", "7.00", "36.0", "0/0", "4", ">", "31", "whole"
            ]
        );
        assert!(!text.contains("2GB") && !text.contains("image "), "{text}");
        assert!(words.contains(&vec!["total_over_floor", "1.14"]), "{text}");
        assert!(words.contains(&vec!["downtime_large_over_small", "-"]), "{text}");
    }
}

//! Whether an answer of Prometheus would draw anything.

use std::collections::BTreeSet;

use serde_json::Value;

use super::promql;

/// What came of one query.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    /// There is something to draw.
    Data,
    /// Nothing, or nothing but numbers that are none.
    Empty,
    /// It names metrics that nobody exposes.
    Unknown(Vec<String>),
    /// Its legend shows labels that no series of it has.
    Unlabelled(Vec<String>),
    /// Prometheus cannot answer it.
    Error(String),
}

/// Judges the answer to a query whose legend shows these labels; `known` are the names of all metrics that Prometheus has.
pub(super) fn judge(
    expr: &str,
    labels: &[String],
    answer: &Result<Value, String>,
    known: &BTreeSet<String>,
) -> Finding {
    let unknown: Vec<String> = promql::metrics(expr)
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    match answer {
        Err(error) => Finding::Error(error.clone()),
        Ok(_) if !unknown.is_empty() => Finding::Unknown(unknown),
        Ok(answer) if !has_data(answer) => Finding::Empty,
        Ok(answer) => match without(answer, labels) {
            missing if missing.is_empty() => Finding::Data,
            missing => Finding::Unlabelled(missing),
        },
    }
}

/// The labels that no series has.
fn without(answer: &Value, labels: &[String]) -> Vec<String> {
    let has = |label: &String| {
        let series = answer["result"].as_array().into_iter().flatten();
        series
            .filter_map(|series| series["metric"].as_object())
            .any(|metric| metric.contains_key(label))
    };
    labels.iter().filter(|label| !has(label)).cloned().collect()
}

/// Whether a result (`vector`, `matrix`, `scalar`) holds a number.
fn has_data(answer: &Value) -> bool {
    let result = &answer["result"];
    let is_number = |sample: &Value| {
        sample[1]
            .as_str()
            .and_then(|value| value.parse::<f64>().ok())
            .is_some_and(|value| !value.is_nan())
    };
    if answer["resultType"] == "scalar" {
        return is_number(result);
    }
    result.as_array().into_iter().flatten().any(|series| {
        let samples = series["values"].as_array().into_iter().flatten();
        samples.chain([&series["value"]]).any(is_number)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_numbers_are_data() {
        let known = BTreeSet::from(["a".to_owned()]);
        let vector =
            |value: &str| json!({"resultType": "vector", "result": [{"metric": {}, "value": [1.5, value]}]});
        let matrix =
            |values: Value| json!({"resultType": "matrix", "result": [{"metric": {}, "values": values}]});
        for (answer, finding) in [
            (vector("0"), Finding::Data),
            (vector("+Inf"), Finding::Data),
            (vector("NaN"), Finding::Empty),
            (json!({"resultType": "vector", "result": []}), Finding::Empty),
            (matrix(json!([[1, "NaN"], [2, "3"]])), Finding::Data),
            (matrix(json!([[1, "NaN"]])), Finding::Empty),
            (json!({"resultType": "scalar", "result": [1, "2"]}), Finding::Data),
        ] {
            assert_eq!(
                judge("sum(a)", &[], &Ok(answer.clone()), &known),
                finding,
                "{answer}"
            );
        }
        let full = Ok(vector("1"));
        assert_eq!(
            judge("a or b", &[], &full, &known),
            Finding::Unknown(vec!["b".to_owned()]),
            "although there is something to draw"
        );
        let by_node =
            Ok(json!({"resultType": "vector", "result": [{"metric": {"node": "n"}, "value": [1, "1"]}]}));
        let labels = ["node".to_owned(), "le".to_owned()];
        assert_eq!(judge("a", &labels[..1], &by_node, &known), Finding::Data);
        assert_eq!(
            judge("a", &labels, &by_node, &known),
            Finding::Unlabelled(vec!["le".to_owned()])
        );
        let error = Err("parse error".to_owned());
        assert_eq!(
            judge("a", &[], &error, &known),
            Finding::Error("parse error".to_owned())
        );
    }
}

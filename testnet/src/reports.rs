//! Migrations as the nodes report them. Source and destination each know a part: a report is both, laid together.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::Value;

use crate::car::Record;
use crate::testnet::Testnet;

/// Phases in their order, as reports name them.
pub(crate) const PHASES: [&str; 11] = [
    "announce",
    "evaluate",
    "stage",
    "precopy",
    "drain",
    "stop",
    "commit",
    "transfer",
    "handover",
    "start",
    "ledger_wait",
];

/// All migrations that any node knows, by their id. A node that does not answer adds nothing.
pub async fn all(testnet: &Testnet) -> BTreeMap<String, Value> {
    let state = testnet.state();
    let lists = join_all(state.hosts.iter().map(|host| async move {
        let answer = testnet
            .client(host.number)
            .ok()?
            .get("/v1/migrations")
            .await
            .ok()?;
        Some((host.key.clone(), answer))
    }));
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    for (key, answer) in lists.await.into_iter().flatten() {
        for report in answer.as_array().into_iter().flatten() {
            let Some(id) = report["id"].as_str() else { continue };
            let takes = report["destination"].as_str() == key.as_deref();
            let known = found.entry(id.to_owned()).or_insert_with(|| report.clone());
            // The destination drives: where both say something, its word stands.
            *known = if takes {
                lay(report, known)
            } else {
                lay(known, report)
            };
        }
    }
    found
}

/// One report over another: the larger of two numbers, the upper of two words, whatever only one of them has.
fn lay(upper: &Value, lower: &Value) -> Value {
    match (upper, lower) {
        (Value::Null, lower) => lower.clone(),
        (Value::Object(upper), Value::Object(lower)) => {
            let mut both = lower.clone();
            for (key, value) in upper {
                let laid = lay(value, lower.get(key).unwrap_or(&Value::Null));
                both.insert(key.clone(), laid);
            }
            Value::Object(both)
        }
        (Value::Array(upper), Value::Array(lower)) if upper.len() == lower.len() => Value::Array(
            upper
                .iter()
                .zip(lower)
                .map(|(upper, lower)| lay(upper, lower))
                .collect(),
        ),
        (Value::Array(upper), Value::Array(lower)) if upper.len() < lower.len() => {
            Value::Array(lower.clone())
        }
        (Value::Number(a), Value::Number(b)) if b.as_f64() > a.as_f64() => lower.clone(),
        (upper, _) => upper.clone(),
    }
}

/// The longest latency of the requests that were under way during a migration, in milliseconds. `origin_unix_ms` is
/// the wall clock at the car's start; all hosts of a testnet share one clock.
pub fn worst_ms(records: &[Record], origin_unix_ms: f64, report: &Value) -> f64 {
    let begin = report["started_unix_ms"].as_f64().unwrap_or(0.0) - origin_unix_ms;
    let end = begin + report["total_ms"].as_f64().unwrap_or(0.0);
    let during = records
        .iter()
        .filter(|record| record.intended_ms <= end && record.done_ms.is_some_and(|done| done >= begin));
    during.filter_map(Record::latency_ms).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_one_side_does_not_know_comes_from_the_other() {
        let destination = json!({"id": "a", "outcome": "completed", "wire_bytes": 9, "error": null,
            "phases_ms": {"stop": 0, "transfer": 8.5}, "ledger": {"transactions": [{"height": null, "hash": "x"}]}});
        let source = json!({"id": "a", "outcome": "running", "wire_bytes": 7, "error": null,
            "phases_ms": {"stop": 3.5, "transfer": 0}, "ledger": {"transactions": [{"height": 4, "hash": "x"}]}});
        let laid = json!({"id": "a", "outcome": "completed", "wire_bytes": 9, "error": null,
            "phases_ms": {"stop": 3.5, "transfer": 8.5}, "ledger": {"transactions": [{"height": 4, "hash": "x"}]}});
        assert_eq!(lay(&destination, &source), laid);
    }

    #[test]
    fn worst_latency_is_taken_within_the_migration() {
        let record = |number: u64, intended_ms: f64, done_ms: f64| Record {
            number,
            intended_ms,
            sent_ms: intended_ms,
            done_ms: Some(done_ms),
            to: 0,
            status: Some(200),
            node: None,
            error: None,
        };
        let records = [
            record(1, 0.0, 900.0),
            record(2, 1000.0, 1300.0),
            record(3, 1900.0, 1910.0),
            record(4, 5000.0, 9000.0),
        ];
        let report = json!({"started_unix_ms": 101_000, "total_ms": 1000.0});
        assert_eq!(worst_ms(&records, 100_000.0, &report), 300.0);
    }
}

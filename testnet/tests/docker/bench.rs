//! The bench, at its smallest: what it measures is its own affair, that it measures is checked here.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_node_and_a_person_move_a_container_that_writes() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("bench.json");
    let bench = Command::new(env!("CARGO_BIN_EXE_blosm-testnet"))
        .args([
            "bench",
            "migrate",
            "--images",
            "10MB",
            "--runs",
            "1",
            "--methods",
            "image,restart",
            "--json",
        ])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&bench.stdout);
    let errors = String::from_utf8_lossy(&bench.stderr);
    assert!(bench.status.success(), "{said}{errors}");
    let document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let rows = document["rows"].as_array().unwrap();
    let methods: Vec<&Value> = rows.iter().map(|row| &row["method"]).collect();
    assert_eq!(methods, ["image", "restart"]);
    let [image, restart] = &rows[..] else {
        panic!("{document:#}")
    };
    assert_eq!(image["car"]["log_contiguous"], true, "{image:#}");
    assert!(restart["car"]["log_contiguous"].is_null());
    assert!(
        image["floor"]["layer_bytes"].as_u64().unwrap() > 45_000_000,
        "{image:#}"
    );
    assert!(restart["floor_ms"].is_null());
    for row in rows {
        assert_eq!(row["outcome"], "completed", "{row:#}");
        for figure in [
            "downtime_ms",
            "total_ms",
            "traffic_p99_quiet_ms",
            "traffic_p99_during_ms",
        ] {
            assert!(
                row[figure].as_f64().is_some_and(|ms| ms > 0.0),
                "{figure} of {row:#}"
            );
        }
    }
}

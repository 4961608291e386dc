//! Two ways to measure one link.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_link_carries_what_it_was_bound_to_by_iperf3_and_by_blosm() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("link.json");
    let bench = Command::new(env!("CARGO_BIN_EXE_blosm-testnet"))
        .args([
            "bench",
            "link",
            "--rates",
            "40mbit,none",
            "--seconds",
            "3",
            "--json",
        ])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&bench.stdout);
    let errors = String::from_utf8_lossy(&bench.stderr);
    assert!(bench.status.success(), "{said}{errors}");
    let document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let [bound, free] = &document["links"].as_array().unwrap()[..] else {
        panic!("{document:#}")
    };
    assert_eq!(
        (&bound["rate"], &free["rate"]),
        (&"40mbit".into(), &"none".into())
    );
    for by in ["iperf3_mbit", "blosm_mbit"] {
        let mbit = |link: &Value| link[by].as_f64().unwrap();
        // A busy machine carries less, and none carries more than the bucket gives.
        assert!((20.0..=41.0).contains(&mbit(bound)), "{by}: {document:#}");
        assert!(mbit(free) > mbit(bound), "{by}: {document:#}");
    }
    for row in ["40mbit ", "none "] {
        assert!(said.lines().any(|line| line.starts_with(row)), "{said}");
    }
}

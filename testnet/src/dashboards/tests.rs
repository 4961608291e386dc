//! The project's dashboards as such: whole, and of one kind.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn dashboards() -> Vec<(&'static str, Value)> {
    let read = |(name, text): &(&'static str, &'static str)| (*name, serde_json::from_str(text).unwrap());
    files::DASHBOARDS.iter().map(read).collect()
}

fn panels(json: &Value) -> impl Iterator<Item = &Value> {
    json["panels"].as_array().unwrap().iter()
}

#[test]
fn every_panel_says_what_it_shows_and_in_what_unit() {
    for (name, json) in dashboards() {
        let mut ids = BTreeSet::new();
        assert!(json["schemaVersion"].as_u64().unwrap() >= 39, "{name}");
        assert!(!json["description"].as_str().unwrap().is_empty(), "{name}");
        for panel in panels(&json) {
            let title = panel["title"].as_str().unwrap();
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title}: its id is taken"
            );
            if panel["type"] == "row" {
                continue;
            }
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{name}: {title} has no description");
            let fields = &panel["fieldConfig"];
            let overrides = fields["overrides"].to_string();
            // A heatmap's stands at its axis, and that of words is "string".
            let unit = [&fields["defaults"]["unit"], &panel["options"]["yAxis"]["unit"]];
            assert!(
                unit.iter().any(|unit| unit.is_string()) || overrides.contains("\"unit\""),
                "{name}: {title} has no unit"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
        }
    }
}

#[test]
fn queries_name_the_metrics_of_nodes_and_of_prometheus_itself() {
    for (name, text) in files::DASHBOARDS {
        let dashboard = Dashboard::parse(name, text).unwrap();
        for query in dashboard.queries.iter().chain(&dashboard.annotations) {
            for metric in promql::metrics(&query.expr) {
                // Which of these there are is held against a node's own page where that is made.
                let known = ["blosm_", "process_", "libp2p_"]
                    .iter()
                    .any(|start| metric.starts_with(start))
                    || ["up", "ALERTS"].contains(&metric.as_str());
                assert!(known, "{name}: {} asks for {metric}", query.place);
            }
        }
    }
}

#[test]
fn panels_do_not_lie_on_each_other() {
    for (name, json) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in panels(&json) {
            let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {}", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(
                        taken.insert((x, y)),
                        "{name}: {} lies on another panel",
                        panel["title"]
                    );
                }
            }
        }
    }
}

#[test]
fn variables_are_there_and_links_lead_somewhere() {
    let all = dashboards();
    let uids: BTreeSet<&str> = all
        .iter()
        .map(|(_, json)| json["uid"].as_str().unwrap())
        .collect();
    assert_eq!(uids.len(), all.len());
    for (name, text) in files::DASHBOARDS {
        let dashboard = Dashboard::parse(name, text).unwrap();
        let names: Vec<&str> = dashboard.variables.iter().map(|v| v.name.as_str()).collect();
        assert!(
            names.starts_with(&["datasource", "network", "node", "service"]),
            "{name}: {names:?}"
        );
        let mut values = Values::times("1h", "1m");
        for variable in &dashboard.variables {
            values.put(&variable.name, &["a".to_owned(), "b".to_owned()], variable.multi);
        }
        for query in dashboard.queries.iter().chain(&dashboard.annotations) {
            let filled = values
                .fill(&query.expr)
                .unwrap_or_else(|error| panic!("{name}: {}: {error}", query.place));
            assert!(!promql::metrics(&filled).is_empty(), "{name}: {}", query.place);
        }
        for variable in &names[1..] {
            let uses = text.matches(&format!("${variable}")).count();
            assert!(uses > 0, "{name}: nothing asks by the variable {variable}");
        }
        for target in text.split("/d/").skip(1) {
            let uid = target.split(['?', '"', '/']).next().unwrap();
            assert!(uids.contains(uid), "{name} links to {uid}, which there is not");
        }
    }
    for (name, json) in &all {
        assert_eq!(json["links"][0]["tags"][0], "blosm", "{name}");
        assert_eq!(json["tags"][0], "blosm", "{name}");
    }
}

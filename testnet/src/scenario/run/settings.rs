//! What a scenario lays over the nodes' configuration is for nodes to judge. They do so before anything starts, and what
//! they refuse is told with its line in the scenario's file.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::stage;
use crate::node::Node;
use crate::scenario::file::Scenario;
use crate::state::Ground;
use crate::testnet::{Spec, Testnet};

/// Has nodes read their configurations.
///
/// # Errors
/// One is refused; the text names the line.
pub(super) async fn check(scenario: &Scenario) -> Result<()> {
    let spec = Spec {
        ground: Ground::Loopback,
        ..stage::spec(scenario, None)
    };
    // It is a folder only, which goes when this is interrupted.
    let testnet = Testnet::up(&spec, &|_| {}).await?;
    let read = read(scenario, &spec, &testnet);
    let down = testnet.down();
    read.and(down)
}

fn read(scenario: &Scenario, spec: &Spec, testnet: &Testnet) -> Result<()> {
    let state = testnet.state();
    let network = Node::new_network(state, spec.confirmation_required)?;
    let services = stage::services(scenario, &state.dir.join("oracle"));
    // Of those that differ in their places alone the first one stands for all.
    let mut plain = false;
    for (index, place) in scenario.nodes.iter().enumerate() {
        let alike = place.settings.is_empty() && place.radius.is_none();
        if alike && std::mem::replace(&mut plain, true) {
            continue;
        }
        let number = index + 1;
        let dir = state.data_dir(number);
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        testnet.configure(number, &services, &spec.settings(index))?;
        // It makes what is missing, and says whether a node can run with what is there.
        if let Err(error) = Node::of(state, number)?.init(&network, None) {
            return Err(refused(error, &dir.join("blosm.toml"), &scenario.text, number));
        }
    }
    Ok(())
}

/// The node's refusal with the line of the scenario that it is about. If there is none, as the node has put it.
fn refused(error: Error, file: &Path, scenario: &str, node: usize) -> Error {
    let written = fs::read_to_string(file).unwrap_or_default();
    match explain(&format!("{error:#}"), file, &written, scenario, node) {
        Some(why) => anyhow!(why),
        None => error,
    }
}

fn explain(error: &str, file: &Path, written: &str, scenario: &str, node: usize) -> Option<String> {
    // blosm.toml:12: what is wrong
    let (_, said) = error.split_once(&format!("{}:", file.display()))?;
    let (line, why) = said.split_once(": ")?;
    let table = DeTable::parse(written).ok()?.into_inner();
    let key = key_at(&DeValue::Table(table), written, line.parse().ok()?)?;
    let line = origin(scenario, node, &key)?;
    Some(format!("line {line}: a node does not take this: {why}"))
}

/// The innermost key that begins on a line; an array's elements count as keys, by their numbers.
fn key_at(value: &DeValue<'_>, text: &str, line: usize) -> Option<Vec<String>> {
    let inner: Vec<(String, Range<usize>, &DeValue<'_>)> = match value {
        DeValue::Table(table) => {
            let keys = table.iter();
            keys.map(|(key, value)| (key.get_ref().to_string(), key.span(), value.get_ref()))
                .collect()
        }
        DeValue::Array(array) => {
            let elements = array.iter().enumerate();
            elements
                .map(|(index, value)| (index.to_string(), value.span(), value.get_ref()))
                .collect()
        }
        _ => return None,
    };
    inner.into_iter().find_map(|(key, span, value)| {
        let here = || (line_of(text, span.start) == line).then(Vec::new);
        let mut path = key_at(value, text, line).or_else(here)?;
        path.insert(0, key);
        Some(path)
    })
}

/// Where a scenario says what a node's configuration has under `key`: the line of that key, or else of the table around it.
fn origin(scenario: &str, node: usize, key: &[String]) -> Option<usize> {
    let values: Table = scenario.parse().ok()?;
    let tables = values.get("node").and_then(Value::as_array);
    let number = |table: &Value| table.get("number").and_then(Value::as_integer);
    let mine = tables.and_then(|tables| {
        let mut numbers = tables.iter().map(number);
        numbers.position(|number| number.and_then(|number| usize::try_from(number).ok()) == Some(node))
    });
    let path = |front: &[&str], back: &[String]| -> Vec<String> {
        let front = front.iter().map(|key| (*key).to_owned());
        front.chain(back.iter().cloned()).collect()
    };
    // Each with the length at which it says nothing of the key any more.
    let mut places: Vec<(Vec<String>, usize)> = Vec::new();
    match key {
        [first, index, rest @ ..] if first == "service" => {
            places.push((path(&["service", index, "settings"], rest), 1));
            places.push((path(&["service", index], rest), 1));
        }
        _ => {
            if let Some(mine) = mine.map(|mine| mine.to_string()) {
                places.push((path(&["node", &mine, "settings"], key), 3));
                if key.first().is_some_and(|first| first == "node") {
                    places.push((path(&["node", &mine], &key[1..]), 2));
                }
            }
            places.push((path(&["nodes", "settings"], key), 2));
        }
    }
    let root = DeTable::parse(scenario).ok()?.into_inner();
    let span = (0..=key.len()).find_map(|up| {
        places.iter().find_map(|(path, least)| {
            let length = path.len().checked_sub(up).filter(|length| length > least)?;
            find(&root, &path[..length])
        })
    });
    Some(line_of(scenario, span?.start))
}

fn find(table: &DeTable<'_>, path: &[String]) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, mut value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let mut span = key.span();
    for (index, step) in rest.iter().enumerate() {
        match value.get_ref() {
            DeValue::Table(table) => return find(table, &rest[index..]),
            DeValue::Array(array) => value = array.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        }
        span = Spanned::span(value);
    }
    Some(span)
}

/// Counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or_default().matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = r#"
[nodes]
count = 3
[nodes.settings]
resources = { memory = "1GiB", cpu = 4.0 }
migration = { keep_source = "5s",
    min_stay = "3s" }
[[node]]
number = 3
[[node]]
number = 2
radius = 1e9
settings = { gateway = { hold_max = 0 } }
[[service]]
name = "counter"
[[service]]
name = "echo"
[service.settings]
port = 0
health = { path = "/" }
"#;

    const WRITTEN: &str = r#"network = "x"

[node]
radius = 1e9

[migration]
keep_source = "5s"
min_stay = "3s"

[gateway]
hold_max = 0
listen = "127.0.0.1:1"

[[service]]
name = "counter"

[[service]]
name = "echo"
port = 0

[service.health]
interval = "1s"
path = "/"
"#;

    /// The scenario's line for one of what was written, for node 2.
    fn line(written: &str) -> Option<usize> {
        let line = WRITTEN.lines().position(|line| line == written).unwrap() + 1;
        let said = format!("`blosm init` on host 2 failed: blosm: /d/blosm.toml:{line}: node.x: must not");
        let why = explain(&said, Path::new("/d/blosm.toml"), WRITTEN, SCENARIO, 2)?;
        let (line, rest) = why.strip_prefix("line ")?.split_once(": ")?;
        assert_eq!(rest, "a node does not take this: node.x: must not");
        line.parse().ok()
    }

    #[test]
    fn what_a_node_refuses_is_found_in_the_scenario() {
        for (written, expected) in [
            ("min_stay = \"3s\"", "    min_stay = \"3s\" }"),
            ("keep_source = \"5s\"", "migration = { keep_source = \"5s\","),
            ("radius = 1e9", "radius = 1e9"),
            ("hold_max = 0", "settings = { gateway = { hold_max = 0 } }"),
            ("port = 0", "port = 0"),
            ("path = \"/\"", "health = { path = \"/\" }"),
            // Of a table with something missing, and of what the scenario does not say itself.
            ("[service.health]", "health = { path = \"/\" }"),
            ("interval = \"1s\"", "health = { path = \"/\" }"),
            (
                "listen = \"127.0.0.1:1\"",
                "settings = { gateway = { hold_max = 0 } }",
            ),
        ] {
            let expected = SCENARIO.lines().position(|line| line == expected).unwrap() + 1;
            assert_eq!(line(written), Some(expected), "{written}");
        }
        assert_eq!(line("name = \"echo\""), Some(17));
        assert_eq!(line("network = \"x\""), None);
    }

    #[test]
    fn other_failures_are_no_lines() {
        for said in [
            "no room",
            "/d/blosm.toml: net.advertise: is empty",
            "/d/blosm.toml:x: y",
        ] {
            assert_eq!(
                explain(said, Path::new("/d/blosm.toml"), WRITTEN, SCENARIO, 2),
                None
            );
        }
    }
}

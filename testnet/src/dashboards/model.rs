//! A dashboard as far as its queries go: what Grafana would ask Prometheus for.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One dashboard's queries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dashboard {
    /// The file's name, for messages.
    pub(super) file: String,
    /// Its variables in order: one may use those before it.
    pub(super) variables: Vec<Variable>,
    /// The queries of its panels.
    pub(super) queries: Vec<Query>,
    /// Those of its annotations, which may have nothing to show.
    pub(super) annotations: Vec<Query>,
}

/// A variable.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variable {
    /// How queries name it.
    pub(super) name: String,
    /// Where its values come from.
    pub(super) source: Source,
    /// Several may be chosen: it stands in regular expressions.
    pub(super) multi: bool,
}

/// Where a variable's values come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// Prometheus itself: queries do not see its value.
    Datasource,
    /// `label_values(SELECTOR, LABEL)`.
    LabelValues {
        /// Which series.
        selector: String,
        /// Which of their labels.
        label: String,
    },
}

/// One query.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    /// Panel and reference, for messages.
    pub(super) place: String,
    /// PromQL with variables.
    pub(super) expr: String,
    /// It is asked for one point in time, not for a range.
    pub(super) instant: bool,
    /// The labels that its legend shows: `{{label}}`.
    pub(super) labels: Vec<String>,
}

impl Dashboard {
    /// Reads a dashboard's JSON.
    ///
    /// # Errors
    /// It is none, or asks in a way that is not known here: the text says where.
    pub(super) fn parse(file: &str, text: &str) -> Result<Dashboard> {
        let json: Value = serde_json::from_str(text).with_context(|| format!("{file} is no JSON"))?;
        let read = || -> Result<Dashboard> {
            let mut queries = Vec::new();
            for panel in list(&json["panels"]) {
                add_panel(panel, &mut queries)?;
            }
            if queries.is_empty() {
                bail!("no panel asks anything");
            }
            Ok(Dashboard {
                file: file.to_owned(),
                variables: list(&json["templating"]["list"])
                    .map(variable)
                    .collect::<Result<_>>()?,
                queries,
                annotations: list(&json["annotations"]["list"])
                    // Grafana's own asks no Prometheus.
                    .filter(|annotation| annotation["builtIn"] != 1)
                    .map(annotation)
                    .collect::<Result<_>>()?,
            })
        };
        read().with_context(|| file.to_owned())
    }
}

/// A panel, or the panels of a row that is folded.
fn add_panel(panel: &Value, queries: &mut Vec<Query>) -> Result<()> {
    let title = panel["title"].as_str().unwrap_or("without a title");
    for inner in list(&panel["panels"]) {
        add_panel(inner, queries)?;
    }
    if panel["type"] == "row" {
        return Ok(());
    }
    let before = queries.len();
    for target in list(&panel["targets"]) {
        queries.push(query(target, &format!("panel {title:?}"), "refId")?);
    }
    if queries.len() == before && panel["type"] != "text" {
        bail!("panel {title:?} asks nothing");
    }
    Ok(())
}

fn annotation(json: &Value) -> Result<Query> {
    // A newer form of the same, of which nothing here would be asked.
    if json["target"]["expr"].is_string() {
        bail!(
            "annotation {}: write its query as expr, not as target.expr",
            json["name"]
        );
    }
    query(json, "annotation", "name")
}

fn query(asked: &Value, place: &str, name: &str) -> Result<Query> {
    let place = format!("{place} {}", asked[name].as_str().unwrap_or("?"));
    let expr = asked["expr"]
        .as_str()
        .with_context(|| format!("{place} has no expr"))?;
    let instant = asked["instant"] == true;
    if instant && asked["range"] == true {
        bail!(
            "{place} is asked for a point in time and for a range at once, and only one of them would be checked"
        );
    }
    Ok(Query {
        expr: expr.to_owned(),
        instant,
        labels: legend_labels(asked["legendFormat"].as_str().unwrap_or_default()),
        place,
    })
}

fn legend_labels(format: &str) -> Vec<String> {
    let named = format.split("{{").skip(1);
    named
        .filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned()))
        .collect()
}

fn variable(json: &Value) -> Result<Variable> {
    let name = json["name"].as_str().context("a variable without a name")?;
    let source = match json["type"].as_str() {
        Some("datasource") => Source::Datasource,
        Some("query") => {
            let asked = json["query"]["query"].as_str().or_else(|| json["query"].as_str());
            asked.and_then(label_values).with_context(|| {
                format!("variable {name}: only label_values(SELECTOR, LABEL) is known here")
            })?
        }
        other => bail!("variable {name} is of the type {other:?}, which is not known here"),
    };
    Ok(Variable {
        name: name.to_owned(),
        source,
        multi: json["multi"] == true,
    })
}

fn label_values(query: &str) -> Option<Source> {
    let inside = query.trim().strip_prefix("label_values(")?.strip_suffix(')')?;
    let (selector, label) = inside.rsplit_once(',')?;
    Some(Source::LabelValues {
        selector: selector.trim().to_owned(),
        label: label.trim().to_owned(),
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: &Value) -> Result<Dashboard> {
        Dashboard::parse("a.json", &json.to_string())
    }

    #[test]
    fn queries_are_found_in_panels_folded_rows_and_annotations() {
        let target = |expr: &str| json!({"refId": "A", "expr": expr});
        let found = parse(&json!({
            "annotations": {"list": [{"name": "Alerts", "expr": "ALERTS"}, {"name": "own", "builtIn": 1}]},
            "templating": {"list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {"name": "node", "type": "query", "multi": true,
                 "query": {"query": "label_values(up{network=\"$network\", job=\"a\"}, node)", "refId": "V"}},
            ]},
            "panels": [
                {"type": "row", "title": "folded", "panels": [{"type": "stat", "title": "in it", "targets": [target("a")]}]},
                {"type": "text", "title": "words"},
                {"type": "table", "title": "t", "targets": [target("b"), {"refId": "B", "expr": "c", "instant": true, "legendFormat": "{{ node }} by {{le}}"}]},
            ],
        }))
        .unwrap();
        let asked: Vec<_> = found
            .queries
            .iter()
            .map(|query| (query.place.as_str(), query.expr.as_str(), query.instant))
            .collect();
        assert_eq!(
            asked,
            [
                ("panel \"in it\" A", "a", false),
                ("panel \"t\" A", "b", false),
                ("panel \"t\" B", "c", true)
            ]
        );
        assert_eq!(found.queries[2].labels, ["node", "le"]);
        assert_eq!(found.annotations[0].place, "annotation Alerts");
        assert_eq!(found.annotations.len(), 1);
        assert_eq!(found.variables[0].source, Source::Datasource);
        assert_eq!(
            found.variables[1].source,
            Source::LabelValues {
                selector: "up{network=\"$network\", job=\"a\"}".to_owned(),
                label: "node".to_owned()
            }
        );
        assert!(found.variables[1].multi);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        let panel = json!({"type": "stat", "title": "t", "targets": [{"refId": "A", "expr": "a"}]});
        let variable = |variable: Value| json!({"panels": [panel], "templating": {"list": [variable]}});
        for (json, says) in [
            (json!({"panels": []}), "no panel asks anything"),
            (
                json!({"panels": [{"type": "stat", "title": "t"}]}),
                "panel \"t\" asks nothing",
            ),
            (
                json!({"panels": [{"type": "stat", "title": "t", "targets": [{"refId": "A"}]}]}),
                "panel \"t\" A has no expr",
            ),
            (
                json!({"panels": [{"type": "stat", "title": "t", "targets": [
                    {"refId": "A", "expr": "a", "instant": true, "range": true},
                ]}]}),
                "panel \"t\" A is asked for a point in time and for a range",
            ),
            (
                json!({"panels": [panel], "annotations": {"list": [{"name": "n", "target": {"expr": "a"}}]}}),
                "annotation \"n\": write its query as expr",
            ),
            (
                json!({"panels": [panel], "annotations": {"list": [{"name": "n"}]}}),
                "annotation n has no expr",
            ),
            (
                variable(json!({"name": "v", "type": "interval"})),
                "variable v is of the type",
            ),
            (
                variable(json!({"name": "v", "type": "query", "query": "metrics(a)"})),
                "variable v: only label_values",
            ),
        ] {
            let said = format!("{:#}", parse(&json).unwrap_err());
            assert!(said.starts_with("a.json: ") && said.contains(says), "{said}");
        }
        assert!(Dashboard::parse("b.json", "no").is_err());
    }
}

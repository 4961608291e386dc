//! Putting values in the place of a dashboard's variables, as Grafana does before it asks.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// The values of the variables, by name; a query stands with each of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Values(BTreeMap<String, String>);

impl Values {
    /// What Grafana itself gives: the lengths of the time shown and of a rate's window, such as `1m`.
    pub(super) fn times(range: &str, rate: &str) -> Values {
        Values(BTreeMap::from([
            ("__range".to_owned(), range.to_owned()),
            ("__rate_interval".to_owned(), rate.to_owned()),
            ("__interval".to_owned(), rate.to_owned()),
        ]))
    }

    /// A variable with one value, or with all of these: then it stands in a regular expression, and so is quoted.
    pub(super) fn put(&mut self, name: &str, values: &[String], multi: bool) {
        let value = if multi {
            let quoted: Vec<String> = values.iter().map(|value| quote(value)).collect();
            format!("({})", quoted.join("|"))
        } else {
            values.first().cloned().unwrap_or_default()
        };
        self.0.insert(name.to_owned(), value);
    }

    /// The expression with all of its variables filled in: `$name`, `${name}` and `${name:format}`.
    ///
    /// # Errors
    /// It names one that the dashboard does not have.
    pub(super) fn fill(&self, expr: &str) -> Result<String> {
        let mut out = String::with_capacity(expr.len());
        let mut rest = expr;
        while let Some(dollar) = rest.find('$') {
            out.push_str(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            let (name, behind) = match after.strip_prefix('{') {
                Some(braced) => match braced.find('}') {
                    Some(end) => {
                        let name = &braced[..end];
                        (name.split(':').next().unwrap_or(name), &braced[end + 1..])
                    }
                    None => bail!("a ${{ without its end"),
                },
                None => {
                    let end = after
                        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                        .unwrap_or(after.len());
                    after.split_at(end)
                }
            };
            match self.0.get(name) {
                Some(value) => out.push_str(value),
                // "$1" of label_replace is none of Grafana's.
                None if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) => {
                    out.push('$');
                    out.push_str(name);
                }
                None => bail!("the dashboard has no variable ${name}"),
            }
            rest = behind;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// A value in a regular expression that stands in a PromQL string.
fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if "\\^$.|?*+()[]{}".contains(c) {
            out.push_str("\\\\");
        }
        if c == '"' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let mut values = Values::times("5m", "30s");
        values.put("network", &["road".to_owned()], false);
        values.put("node", &["a.1".to_owned(), "b".to_owned()], true);
        values
    }

    #[test]
    fn every_way_to_name_a_variable_is_filled() {
        for (expr, filled) in [
            ("up{network=\"$network\"}", "up{network=\"road\"}"),
            (
                "up{node=~\"${node:regex}\"}[$__range]",
                "up{node=~\"(a\\\\.1|b)\"}[5m]",
            ),
            ("rate(a[$__rate_interval])", "rate(a[30s])"),
            ("${network}x", "roadx"),
            (
                "label_replace(a, \"b\", \"$1\", \"c\", \"d\")",
                "label_replace(a, \"b\", \"$1\", \"c\", \"d\")",
            ),
            ("none", "none"),
        ] {
            assert_eq!(values().fill(expr).unwrap(), filled);
        }
    }

    #[test]
    fn unknown_variables_are_refused_by_name() {
        for (expr, says) in [
            ("a{b=\"$nodes\"}", "$nodes"),
            ("${other}", "$other"),
            ("$ {", "no variable $"),
            ("${open", "without its end"),
        ] {
            let said = values().fill(expr).unwrap_err().to_string();
            assert!(said.contains(says), "{expr}: {said}");
        }
    }
}

//! Text tables for people, from the JSON of the local API.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Columns with a head each; a column is as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Lines of `name  value`, the values aligned.
pub(super) fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in pairs {
        let _ = writeln!(out, "{name:width$}  {value}");
    }
    out
}

/// The value at `key`, a dotted path.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(value, |value, part| value.get(part))
}

/// The value at `key` (dotted) as text; `-` where there is none.
pub(super) fn text(value: &Value, key: &str) -> String {
    match find(value, key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(items)) => items.iter().map(text_of).collect::<Vec<_>>().join(" "),
        Some(object @ Value::Object(_)) => printable(&object.to_string()),
    }
}

fn text_of(item: &Value) -> String {
    item.as_str().map_or_else(|| item.to_string(), printable)
}

/// What other nodes wrote must not steer the operator's terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// The first `digits` of an id.
pub(super) fn short(value: &Value, key: &str, digits: usize) -> String {
    text(value, key).chars().take(digits).collect()
}

/// A number of bytes for people.
pub(super) fn bytes(value: &Value, key: &str) -> String {
    let found = find(value, key).and_then(Value::as_u64);
    found.map_or_else(
        || "-".to_owned(),
        |bytes| bytesize::ByteSize::b(bytes).to_string(),
    )
}

/// A number of thousandths of a core for people.
pub(super) fn cores(value: &Value, key: &str) -> String {
    let found = find(value, key).and_then(Value::as_f64);
    found.map_or_else(|| "-".to_owned(), |milli| format!("{} cores", milli / 1000.0))
}

/// A number of milliseconds for people.
pub(super) fn millis(value: &Value, key: &str) -> String {
    let found = find(value, key).and_then(Value::as_f64);
    found.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"))
}

/// How long ago a time in Unix milliseconds is, in whole seconds, for people.
pub(super) fn age(value: &Value, key: &str) -> String {
    let Some(then) = find(value, key).and_then(Value::as_u64) else {
        return "-".to_owned();
    };
    let then = UNIX_EPOCH + Duration::from_millis(then);
    // A clock that was set back makes it "just now".
    let ago = SystemTime::now().duration_since(then).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(ago.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["A", "LONG"]);
        table.row(["wide cell".into(), "x".into()]);
        assert_eq!(table.render(), "A          LONG\nwide cell  x\n");
    }

    #[test]
    fn text_of_a_peer_cannot_steer_the_terminal() {
        let value = json!({"label": "a\u{1b}[2J", "none": null, "deep": {"n": 3, "yes": true}});
        assert_eq!(text(&value, "label"), "a\u{fffd}[2J");
        assert_eq!(text(&value, "none"), "-");
        assert_eq!(text(&value, "absent.key"), "-");
        assert_eq!(text(&value, "deep.n"), "3");
        assert_eq!(text(&value, "deep.yes"), "yes");
    }
}

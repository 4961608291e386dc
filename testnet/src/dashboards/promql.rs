//! The names of the metrics in a PromQL expression, and what of it stands in for what.

use std::collections::BTreeSet;

/// Words of the language that are no metrics where no bracket follows.
const WORDS: [&str; 14] = [
    "and",
    "or",
    "unless",
    "on",
    "ignoring",
    "by",
    "without",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "inf",
    "nan",
    "atan2",
];
/// Words that a list of labels follows.
const LISTS: [&str; 6] = ["on", "ignoring", "by", "without", "group_left", "group_right"];

/// Every metric that the expression names. It knows PromQL well enough for that: strings, label matchers, durations,
/// lists of labels and functions are passed over.
pub(super) fn metrics(expr: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expr;
    let mut list_next = false;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '"' | '\'' | '`' => string(rest),
            '{' => closed(rest, '{', '}'),
            '[' => closed(rest, '[', ']'),
            '(' if list_next => closed(rest, '(', ')'),
            c if c.is_ascii_digit() => word(rest),
            c if is_word(c) => {
                let length = word(rest);
                let name = &rest[..length];
                let called = rest[length..].trim_start().starts_with('(');
                let lower = name.to_ascii_lowercase();
                if LISTS.contains(&lower.as_str()) {
                    list_next = true;
                    rest = &rest[length..];
                    continue;
                }
                // `sum by (a) (b)`: an aggregation without its bracket.
                let aggregates = rest[length..].trim_start().starts_with("by")
                    || rest[length..].trim_start().starts_with("without");
                if !called && !aggregates && !WORDS.contains(&lower.as_str()) {
                    found.insert(name.to_owned());
                }
                length
            }
            c => c.len_utf8(),
        };
        if !first.is_whitespace() {
            list_next = false;
        }
        rest = &rest[skipped..];
    }
    found
}

/// What stands left and right of every `or`, without what is always there (`vector(0)`): one hides that the other has
/// nothing to show. Empty without an `or`.
pub(super) fn alternatives(expr: &str) -> Vec<&str> {
    let mut found = Vec::new();
    // For each open bracket: where what may be an operand begins, and whether an `or` stood before it.
    let mut open = vec![(0, false)];
    let mut at = 0;
    while let Some(c) = expr[at..].chars().next() {
        let length = match c {
            '"' | '\'' | '`' => string(&expr[at..]),
            '{' => closed(&expr[at..], '{', '}'),
            '[' => closed(&expr[at..], '[', ']'),
            c if is_word(c) => word(&expr[at..]),
            c => c.len_utf8(),
        };
        let is_or = is_word(c) && expr[at..at + length].eq_ignore_ascii_case("or");
        if is_or || c == ',' || c == ')' {
            let (begin, after_or) = open.pop().unwrap_or((at, false));
            if is_or || after_or {
                found.push(expr[begin..at].trim());
            }
            if c != ')' {
                open.push((at + length, is_or));
            }
        } else if c == '(' {
            open.push((at + length, false));
        }
        at += length;
    }
    if let Some((begin, true)) = open.pop() {
        found.push(expr[begin..].trim());
    }
    found.retain(|operand| !operand.starts_with("vector("));
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Bytes of the word at the beginning. Numbers and durations are words too.
fn word(text: &str) -> usize {
    text.find(|c| !(is_word(c) || c == '.')).unwrap_or(text.len())
}

/// Bytes of the string at the beginning, quotes included.
fn string(text: &str) -> usize {
    let mut chars = text.char_indices();
    let Some((_, quote)) = chars.next() else { return 0 };
    let mut escaped = false;
    for (at, c) in chars {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote != '`' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Bytes from an opening bracket to its closing one; strings in between may hold others.
fn closed(text: &str, open: char, close: char) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        if matches!(c, '"' | '\'' | '`') {
            at += string(&text[at..]);
            continue;
        }
        at += c.len_utf8();
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_told_from_labels_functions_and_words() {
        for (expr, names) in [
            ("up", vec!["up"]),
            (
                "sum by (node, le) (rate(a_bucket{x=\"b{c}\",y=~\"d|e\"}[5m])) / 2",
                vec!["a_bucket"],
            ),
            (
                "sum(a) by (b) / on (c) group_left (d) e or vector(0)",
                vec!["a", "e"],
            ),
            (
                "histogram_quantile(0.99, sum without (x) (rate(h_bucket[1m30s] offset 5m))) >= 0",
                vec!["h_bucket"],
            ),
            (
                "label_replace(m, \"a\", \"$1\", \"b\", \"/x\\\"y/(.*)\")",
                vec!["m"],
            ),
            ("time() - max(t_seconds{n='(' }) > bool 1e3", vec!["t_seconds"]),
            (
                "scalar(max(a:b:c)) - a unless ignoring(x) b",
                vec!["a", "a:b:c", "b"],
            ),
            ("(0 * sum by (n) (q)) + inf", vec!["q"]),
        ] {
            let expected: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
            assert_eq!(metrics(expr), expected, "{expr}");
        }
    }

    #[test]
    fn what_an_or_hides_is_found() {
        for (expr, operands) in [
            ("sum(a) / b", vec![]),
            ("sum(a{b=\"c or d\"}) or vector(0)", vec!["sum(a{b=\"c or d\"})"]),
            (
                "(sum(a) or vector(0)) / sum(b) or OR_c[5m]",
                vec!["sum(a)", "(sum(a) or vector(0)) / sum(b)", "OR_c[5m]"],
            ),
            (
                "min by (n) (a or label_replace(b, \"x\", \"y\", \"\", \"\"), c)",
                vec!["a", "label_replace(b, \"x\", \"y\", \"\", \"\")"],
            ),
            ("a or b or c", vec!["a", "b", "c"]),
            ("for_a + b_or", vec![]),
        ] {
            assert_eq!(alternatives(expr), operands, "{expr}");
        }
    }
}

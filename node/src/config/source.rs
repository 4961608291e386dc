//! Finds the line and the key that an error is about, in the text that was parsed.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place};

/// The text of a TOML file with its path, for errors that name a line.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// Parses the text; the error names the line and, where the parser does not, the key.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let line = error.span().map(|span| line_at(self.text, span.start));
            let message = error.message().replace('\n', ", ");
            let key = error.span().and_then(|span| key_on_line(self.text, &span));
            let message = match key {
                Some(key) if !message.contains(&format!("`{key}`")) => format!("{key}: {message}"),
                _ => message,
            };
            ConfigError::Syntax {
                place: Place::new(self.path, line),
                message,
            }
        })
    }

    /// The place of `key`, a dotted path such as `node.label` or `service.0`.
    pub(super) fn place(&self, key: &str) -> Place {
        let line = DeTable::parse(self.text)
            .ok()
            .and_then(|table| find(table.get_ref(), key))
            .map(|span| line_at(self.text, span.start));
        Place::new(self.path, line)
    }

    /// An error about the value of `key`.
    pub(super) fn value(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            place: self.place(key),
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// The key written to the left of the value at `span`, where both stand on one line.
fn key_on_line(text: &str, span: &Range<usize>) -> Option<String> {
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let (key, _) = text.get(start..span.start)?.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.starts_with('#')).then(|| key.to_owned())
}

fn find(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == first)?;
    match rest {
        None => Some(name.span()),
        Some(rest) => find_in_value(value.get_ref(), rest),
    }
}

fn find_in_value(value: &DeValue<'_>, key: &str) -> Option<Range<usize>> {
    match value {
        DeValue::Table(table) => find(table, key),
        DeValue::Array(array) => {
            let (index, rest) = match key.split_once('.') {
                Some((index, rest)) => (index, Some(rest)),
                None => (key, None),
            };
            let element = array.get(index.parse::<usize>().ok()?)?;
            match rest {
                None => Some(element.span()),
                Some(rest) => find_in_value(element.get_ref(), rest),
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}

//! What a browser sends in a form or a query, as a list of names and values. Read by name with a limit on each value;
//! pages turn it into typed input themselves, so that each field's error can stand beside its field.

use secrecy::SecretString;
use std::collections::BTreeMap;

/// No form has more fields than this (a task of all machines of a large host).
pub const FORM_FIELDS_MAX: usize = 12_000;
/// No text field is longer than this
/// (a certificate in PEM form with a long key).
pub const FIELD_LENGTH_MAX_CHARS: usize = 8_000;

/// Fields in the order they were sent.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Parses `application/x-www-form-urlencoded`. Too many or too long fields are cut off.
    pub fn parse(body: &[u8]) -> Self {
        let fields = url::form_urlencoded::parse(body)
            .take(FORM_FIELDS_MAX)
            .map(|(name, value)| (name.into_owned(), value.chars().take(FIELD_LENGTH_MAX_CHARS).collect()))
            .collect();
        Self(fields)
    }

    /// Only the fields of these names.
    pub fn only(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(name, _)| names.contains(&name.as_str())).cloned().collect())
    }

    /// Fields as a form would send them.
    pub fn of(pairs: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// All but the fields of these names.
    pub fn without(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect())
    }

    /// First value of that name, trimmed; empty when it was not sent.
    pub fn get(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// First value of that name as it was sent.
    pub fn raw(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    /// A value that must not be shown again.
    pub fn secret(&self, name: &str) -> SecretString {
        SecretString::from(self.raw(name).to_owned())
    }

    /// Whether a box was ticked or a button pressed.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| key == name && !value.is_empty())
    }

    /// All values of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A number, if there is one.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.get(name).parse().ok()
    }
}

/// What is wrong with which field, by the field's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(BTreeMap<&'static str, String>);

impl Problems {
    /// Notes a problem; the first one of a field stays.
    pub fn add(&mut self, field: &'static str, text: impl Into<String>) {
        self.0.entry(field).or_insert_with(|| text.into());
    }

    /// The problem of that field.
    pub fn of(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `problem` unless the text is within `limit` characters and not empty.
    pub fn require(&mut self, field: &'static str, text: &str, limit: usize, what: &str) {
        let length = text.chars().count();
        if length == 0 {
            self.add(field, format!("{what} is missing."));
        } else if length > limit {
            self.add(field, format!("{what} is too long: {length} of at most {limit} characters."));
        } else if text.chars().any(char::is_control) {
            self.add(field, format!("{what} contains control characters."));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_order_and_repeat() {
        let fields = Fields::parse(b"vm=3&name=+Nightly+&vm=1&pass=%20a%20");
        assert_eq!(fields.all("vm").collect::<Vec<_>>(), ["3", "1"]);
        assert_eq!(fields.get("name"), "Nightly");
        assert_eq!(fields.raw("pass"), " a ");
        assert!(!fields.has("other"));
    }

    #[test]
    fn a_field_has_a_limit() {
        let body = format!("a={}", "x".repeat(FIELD_LENGTH_MAX_CHARS + 5));
        assert_eq!(Fields::parse(body.as_bytes()).get("a").len(), FIELD_LENGTH_MAX_CHARS);
    }

    #[test]
    fn problems_name_the_field() {
        let mut problems = Problems::default();
        problems.require("name", "", 10, "The name");
        problems.require("host", "a\u{7}", 10, "The address");
        assert_eq!(problems.of("name"), Some("The name is missing."));
        assert!(problems.of("host").is_some());
        assert!(problems.of("port").is_none());
    }
}

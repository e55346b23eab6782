//! The Prometheus text format, version 0.0.4: gauges only.
//!
//! Must never: let a name from outside become more than the value of a label.

use std::fmt::{Display, Write as _};

/// What answers of this format call themselves.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer that is being written.
#[derive(Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a family of gauges. `help` is one line of ours.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        Family { text: &mut self.0, name }
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Samples of one name.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// One sample without labels.
    pub fn value(self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// One sample with labels.
    pub fn sample(&mut self, labels: &[(&'static str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        for (index, (label, content)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(content));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// The three characters that the format gives a meaning within a label's value.
fn escaped(content: &str) -> String {
    let mut text = String::with_capacity(content.len());
    for letter in content.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_label() {
        let mut text = Exposition::default();
        text.gauge("a", "Things.").value(3);
        let mut family = text.gauge("b", "Others.");
        family.sample(&[("name", "a\\b\"} 7\nb{name=\"c"), ("state", "x")], 1.5);
        let expected = concat!(
            "# HELP a Things.\n# TYPE a gauge\na 3\n# HELP b Others.\n# TYPE b gauge\n",
            "b{name=\"a\\\\b\\\"} 7\\nb{name=\\\"c\",state=\"x\"} 1.5\n"
        );
        assert_eq!(text.finish(), expected);
    }
}

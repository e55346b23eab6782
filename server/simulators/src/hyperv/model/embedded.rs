//! Embedded instances: CIM-XML text in a parameter, read strictly and written. Source: DSP0201.

use std::fmt::Write as _;

use super::instance::Instance;
use super::path::BadPath;
use super::schema::{Class, Kind, Type, schema};
use super::value::{Value, parse_interval};
use crate::hyperv::crimes::Rule;
use crate::hyperv::wire::fault::Fault;
use crate::xml::{self, Node, escape_into};

/// Characters of an embedded instance.
const TEXT_CHARS_MAX: usize = 256 << 10;

/// An embedded instance, with only what the client sent.
#[derive(Debug, Clone)]
pub(crate) struct Embedded {
    pub class: &'static Class,
    pub values: Vec<(&'static str, Value)>,
    /// A datetime that is none: the job fails for it.
    pub bad_datetime: Option<&'static str>,
}

impl Embedded {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::text)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Value::number)
    }

    /// The first item of an array.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.get(name)?.items().first()?.text()
    }

    /// Reads the text of a parameter that takes instances of `class` and what inherits from it.
    pub fn parse(text: &str, class: &str) -> Result<Self, Fault> {
        let wrong = |what: String| Fault::schema(what).breaks(Rule::InstanceForm);
        if text.len() > TEXT_CHARS_MAX {
            return Err(wrong("The embedded instance is too long.".to_owned()));
        }
        let root = xml::parse(text).map_err(|error| wrong(format!("The embedded instance is not XML: {error}")))?;
        if root.name != "INSTANCE" || !root.ns.is_empty() {
            return Err(wrong(format!("An embedded instance is an INSTANCE, not a {}.", root.name)));
        }
        let name = root.attribute("CLASSNAME").unwrap_or_default();
        let found = schema().class(name).filter(|found| found.is(class));
        let found = found.ok_or_else(|| wrong(format!("An instance of {class} is wanted, not one of '{name}'.")))?;
        let mut embedded = Self { class: found, values: Vec::new(), bad_datetime: None };
        for node in &root.children {
            embedded.property(node).map_err(wrong)?;
        }
        Ok(embedded)
    }

    fn property(&mut self, node: &Node) -> Result<(), String> {
        let name = node.attribute("NAME").ok_or("A property has no NAME.")?;
        let (name, known) =
            self.class.property(name).ok_or_else(|| format!("{} has no property {name}.", self.class.name))?;
        if self.values.iter().any(|(seen, _)| *seen == name) {
            return Err(format!("{name} is there twice."));
        }
        let kind =
            node.attribute("TYPE").or(node.plain_type.as_deref()).ok_or_else(|| format!("{name} has no TYPE."))?;
        let is_time = matches!(known.kind, Kind::Time | Kind::Interval);
        if kind != known.kind.cim_name() && !is_time {
            return Err(format!("{name} has the TYPE {kind}, not {}.", known.kind.cim_name()));
        }
        let values = match (node.name.as_str(), known.array) {
            ("PROPERTY", false) => node,
            ("PROPERTY.ARRAY", true) => match node.children.as_slice() {
                [] => return Ok(()),
                [array] if array.name == "VALUE.ARRAY" => array,
                _ => return Err(format!("{name} has no VALUE.ARRAY.")),
            },
            _ => return Err(format!("{name} is written as {}.", node.name)),
        };
        let mut read = Vec::new();
        for value in &values.children {
            if value.name != "VALUE" || !value.children.is_empty() {
                return Err(format!("{name} holds a {} instead of a VALUE.", value.name));
            }
            match scalar(&value.text, known) {
                Some(value) if kind == known.kind.cim_name() => read.push(value),
                _ if is_time => self.bad_datetime = Some(name),
                _ => return Err(format!("{name} is not a {kind}: {}", value.text)),
            }
        }
        let value = match (known.array, read.len()) {
            (true, _) => Value::List(read),
            (false, 0) => return Ok(()),
            (false, 1) => read.swap_remove(0),
            (false, _) => return Err(format!("{name} has more than one value.")),
        };
        self.values.push((name, value));
        Ok(())
    }
}

fn scalar(text: &str, wanted: Type) -> Option<Value> {
    Some(match wanted.kind {
        Kind::Text | Kind::Reference => Value::Text(text.to_owned()),
        Kind::Flag => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Value::Flag(true),
            "false" => Value::Flag(false),
            _ => return None,
        },
        Kind::Number(bits) => {
            let number: u64 = text.trim().parse().ok()?;
            let fits = bits == 64 || number >> bits == 0;
            Value::Number(Some(number).filter(|_| fits)?)
        }
        Kind::Interval => Value::Interval(parse_interval(text.trim())?),
        Kind::Time => {
            let plausible = text.trim().len() == 25 && text.trim().as_bytes().get(14) == Some(&b'.');
            plausible.then(|| Value::Text(text.trim().to_owned()))?
        }
    })
}

/// The CIM-XML text of an instance, with all that it has.
pub(crate) fn write(instance: &Instance) -> String {
    let mut out = format!("<INSTANCE CLASSNAME=\"{}\">", instance.class.name);
    for (name, value) in &instance.values {
        let Some((_, known)) = instance.class.property(name) else { continue };
        let tag = if known.array { "PROPERTY.ARRAY" } else { "PROPERTY" };
        let _ = write!(out, "<{tag} NAME=\"{name}\" TYPE=\"{}\">", known.kind.cim_name());
        if known.array {
            out += "<VALUE.ARRAY>";
            for item in value.items() {
                write_value(&mut out, item);
            }
            out += "</VALUE.ARRAY>";
        } else if *value != Value::Null {
            write_value(&mut out, value);
        }
        let _ = write!(out, "</{tag}>");
    }
    out + "</INSTANCE>"
}

fn write_value(out: &mut String, value: &Value) {
    out.push_str("<VALUE>");
    escape_into(out, &value.plain());
    out.push_str("</VALUE>");
}

/// Which rule a bad path in a property breaks, if any.
pub(crate) fn blame(bad: &BadPath) -> Option<Rule> {
    matches!(bad, BadPath::SingleBackslash).then_some(Rule::SingleBackslash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = "Msvm_VirtualSystemSettingData";

    fn parse(properties: &str) -> Result<Embedded, Fault> {
        Embedded::parse(&format!("<INSTANCE CLASSNAME=\"{CLASS}\">{properties}</INSTANCE>"), CLASS)
    }

    #[test]
    fn instances_are_read_with_their_types() {
        let read = parse(
            "<PROPERTY NAME=\"ElementName\" TYPE=\"string\"><VALUE>a &lt; b</VALUE></PROPERTY>\
             <PROPERTY.ARRAY NAME=\"Notes\" TYPE=\"string\"><VALUE.ARRAY><VALUE>1</VALUE><VALUE>2</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>\
             <PROPERTY NAME=\"AutomaticStartupActionDelay\" TYPE=\"datetime\"><VALUE>00000000000005.000000:000</VALUE></PROPERTY>",
        )
        .unwrap();
        assert_eq!(read.text("ElementName"), Some("a < b"));
        assert_eq!(read.first("Notes"), Some("1"));
        assert_eq!(read.get("AutomaticStartupActionDelay"), Some(&Value::Interval(5_000_000)));
        assert_eq!(read.bad_datetime, None);
    }

    #[test]
    fn what_a_host_would_not_take_is_refused() {
        for bad in [
            "<PROPERTY NAME=\"Nothing\" TYPE=\"string\"><VALUE>a</VALUE></PROPERTY>",
            "<PROPERTY NAME=\"ElementName\"><VALUE>a</VALUE></PROPERTY>",
            "<PROPERTY NAME=\"ElementName\" TYPE=\"uint16\"><VALUE>1</VALUE></PROPERTY>",
            "<PROPERTY NAME=\"UserSnapshotType\" TYPE=\"uint16\"><VALUE>70000</VALUE></PROPERTY>",
            "<PROPERTY NAME=\"Notes\" TYPE=\"string\"><VALUE>a</VALUE></PROPERTY>",
            "<ElementName>a</ElementName>",
        ] {
            let fault = parse(bad).unwrap_err();
            assert_eq!(fault.broken, Some(Rule::InstanceForm), "{bad}");
        }
        let tree = format!("<p:{CLASS} xmlns:p=\"urn:p\"><p:ElementName>a</p:ElementName></p:{CLASS}>");
        assert!(Embedded::parse(&tree, CLASS).is_err());
        for bad in ["string\"><VALUE>00000000000005.000000:000", "datetime\"><VALUE>PT5S"] {
            let bad = format!("<PROPERTY NAME=\"AutomaticStartupActionDelay\" TYPE=\"{bad}</VALUE></PROPERTY>");
            assert_eq!(parse(&bad).unwrap().bad_datetime, Some("AutomaticStartupActionDelay"), "{bad}");
        }
    }
}

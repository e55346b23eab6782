//! WMI object paths: `\\HOST\root\virtualization\v2:Class.Key="value"`, and references in messages.
//!
//! In a path the backslash escapes: each one of a key's value is doubled.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::schema::{Class, Namespace, schema};
use crate::hyperv::wire::names;
use crate::xml::escape_into;

/// Characters of a path.
const PATH_CHARS_MAX: usize = 4096;

/// What a reference names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectPath {
    pub class: String,
    pub keys: Vec<(String, String)>,
}

/// Why a text is not a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadPath {
    /// A backslash that is not doubled.
    SingleBackslash,
    /// Anything else.
    Malformed(String),
}

impl ObjectPath {
    pub fn new(class: &str, keys: &[(&str, &str)]) -> Self {
        let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { class: class.to_owned(), keys }
    }

    /// An instance that its `InstanceID` names.
    pub fn instance(class: &str, id: &str) -> Self {
        Self::new(class, &[("InstanceID", id)])
    }

    pub fn key(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether both name the same instance.
    pub fn same(&self, other: &Self) -> bool {
        self.class.eq_ignore_ascii_case(&other.class)
            && self.keys.len() == other.keys.len()
            && self.keys.iter().all(|(name, value)| other.key(name).is_some_and(|own| own.eq_ignore_ascii_case(value)))
    }

    fn schema(&self) -> Option<&'static Class> {
        schema().class(&self.class)
    }

    /// `Class.Key="value"`
    pub fn relative(&self) -> String {
        let mut out = self.class.clone();
        for (index, (name, value)) in self.keys.iter().enumerate() {
            out.push(if index == 0 { '.' } else { ',' });
            let _ = write!(out, "{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        }
        out
    }

    /// With host and namespace, as the host itself writes it.
    pub fn full(&self, host: &str) -> String {
        let namespace = self.schema().map_or(Namespace::Virtualization, |class| class.namespace);
        format!("\\\\{host}\\{}:{}", namespace.name().replace('/', "\\"), self.relative())
    }

    /// Appends what is in an element of a reference's type.
    pub fn write(&self, out: &mut String) {
        let namespace = self.schema().map_or(Namespace::Virtualization, |class| class.namespace);
        let _ = write!(out, "<a:Address>{}</a:Address><a:ReferenceParameters><w:ResourceURI>", names::ANONYMOUS);
        let _ = write!(out, "{}{}/{}</w:ResourceURI><w:SelectorSet>", names::WMI, namespace.name(), self.class);
        for (name, value) in &self.keys {
            let _ = write!(out, "<w:Selector Name=\"{name}\">");
            escape_into(out, value);
            out.push_str("</w:Selector>");
        }
        out.push_str("</w:SelectorSet></a:ReferenceParameters>");
    }

    /// Reads a path with or without host and namespace.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        let malformed = |why: &str| BadPath::Malformed(format!("{why}: {text}"));
        if text.len() > PATH_CHARS_MAX {
            return Err(malformed("too long"));
        }
        let quote = text.find(['"', '\'']).unwrap_or(text.len());
        let start = text[..quote].rfind(':').map_or(0, |colon| colon + 1);
        let namespace = text[..start].trim_end_matches(':');
        if !namespace.is_empty() {
            let local =
                namespace.strip_prefix("\\\\").map_or(namespace, |rest| rest.split_once('\\').map_or("", |p| p.1));
            Namespace::parse(local).ok_or_else(|| malformed("no such namespace"))?;
        }
        let (class, mut rest) = text[start..].split_once('.').ok_or_else(|| malformed("no keys"))?;
        let schema = schema().class(class.trim()).ok_or_else(|| malformed("no such class"))?;
        let mut keys = Vec::new();
        loop {
            let (name, quoted) = rest.split_once('=').ok_or_else(|| malformed("no value"))?;
            let name = name.trim();
            let key = schema.keys.iter().find(|key| key.eq_ignore_ascii_case(name));
            let key = key.ok_or_else(|| malformed("no such key"))?;
            let (value, after) = unquote(quoted)?;
            keys.push(((*key).to_owned(), value));
            match after.trim_start().strip_prefix(',') {
                Some(next) => rest = next,
                None if after.trim().is_empty() => break,
                None => return Err(malformed("something behind the last value")),
            }
        }
        Ok(Self { class: schema.name.to_owned(), keys })
    }
}

/// Takes a quoted string off the front of `text`; answers its value and what is behind it.
pub(crate) fn unquote(text: &str) -> Result<(String, &str), BadPath> {
    let malformed = || BadPath::Malformed(format!("no string: {text}"));
    let mut chars = text.trim_start().chars();
    let quote = chars.next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(malformed)?;
    let mut value = String::new();
    loop {
        match chars.next().ok_or_else(malformed)? {
            '\\' => match chars.next() {
                Some(c @ ('\\' | '"' | '\'')) => value.push(c),
                _ => return Err(BadPath::SingleBackslash),
            },
            c if c == quote => return Ok((value, chars.as_str())),
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        let path = ObjectPath::instance("Msvm_ResourceAllocationSettingData", "Microsoft:A\\B\\0");
        assert_eq!(
            path.full("HV"),
            r#"\\HV\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:A\\B\\0""#
        );
        assert_eq!(ObjectPath::parse(&path.full("HV")), Ok(path.clone()));
        assert_eq!(ObjectPath::parse(&path.relative()), Ok(path.clone()));
        assert_eq!(ObjectPath::parse(&format!("root/virtualization/v2:{}", path.relative())), Ok(path));
        let single = r#"Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:A\B""#;
        assert_eq!(ObjectPath::parse(single), Err(BadPath::SingleBackslash));
        for bad in ["", "Msvm_Nothing.InstanceID=\"a\"", "Msvm_ComputerSystem", "Msvm_ComputerSystem.Name=\"a", "a:b:c"]
        {
            assert!(matches!(ObjectPath::parse(bad), Err(BadPath::Malformed(_))), "{bad}");
        }
    }
}

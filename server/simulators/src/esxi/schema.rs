//! The vSphere types the simulator knows, and the strict check of requests against them.
//!
//! Owns: the table `schema.txt` (types, elements in their order, methods; compared with pyvmomi by a test) and
//! [`Schema::check_call`], which rejects what a real host rejects: unknown, misplaced or missing elements, wrong namespaces,
//! elements newer than the version the client speaks.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::fault::SoapFault;
use crate::xml::Node;

/// Namespace of the API.
pub(crate) const VIM: &str = "urn:vim25";
/// Levels of types inside types that are followed.
const NESTING_MAX: usize = 32;

/// The table, parsed once.
pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("schema.txt")));

/// An API version, for comparison: `8.0.2.0` is `[8, 0, 2, 0]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version([u32; 4]);

impl Version {
    /// The oldest version the product speaks.
    pub const V6_0: Self = Self([6, 0, 0, 0]);

    /// Parses up to four dotted numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = [0; 4];
        let mut parts = text.split('.');
        for (number, part) in numbers.iter_mut().zip(&mut parts) {
            *number = part.parse().ok()?;
        }
        parts.next().is_none().then_some(Self(numbers))
    }
}

/// An element of a type, or a parameter of a method.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // the marks of the table
pub(crate) struct Field {
    pub name: String,
    /// Type without marks, e.g. `VirtualDevice`, `string`.
    pub kind: String,
    pub many: bool,
    pub optional: bool,
    pub reference: bool,
    pub enumeration: bool,
    since: Option<Version>,
}

impl Field {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let marked = words.next().unwrap_or_default();
        let kind = marked.trim_start_matches(['*', '?', '&', '=']);
        let marks = marked.get(..marked.len() - kind.len()).unwrap_or_default();
        let since = words.next().and_then(|word| Version::parse(word.trim_start_matches('@')));
        Self {
            name,
            kind: kind.to_owned(),
            many: marks.contains('*'),
            optional: marks.contains('?') || marks.contains('*'),
            reference: marks.contains('&'),
            enumeration: marks.contains('='),
            since,
        }
    }

    /// Whether a client of that version sees the element.
    pub fn in_version(&self, version: Version) -> bool {
        self.since.is_none_or(|since| since <= version)
    }
}

#[derive(Debug, Default)]
struct Type {
    base: Option<String>,
    own: Vec<Field>,
}

/// Types and methods.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    types: HashMap<String, Type>,
    methods: HashMap<String, (String, Vec<Field>)>,
}

impl Schema {
    fn parse(text: &str) -> Self {
        let mut schema = Self::default();
        let mut kind = String::new();
        let mut method = String::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let indent = line.len() - line.trim_start().len();
            let body = line.trim_start();
            match (indent, body.strip_suffix("()")) {
                (0, _) => {
                    let (name, base) = body.split_once(' ').unwrap_or((body, "-"));
                    name.clone_into(&mut kind);
                    let base = (base != "-").then(|| base.to_owned());
                    schema.types.insert(kind.clone(), Type { base, own: Vec::new() });
                }
                (2, Some(name)) => {
                    name.clone_into(&mut method);
                    schema.methods.insert(method.clone(), (kind.clone(), Vec::new()));
                }
                (2, None) => {
                    if let Some(entry) = schema.types.get_mut(&kind) {
                        entry.own.push(Field::parse(body));
                    }
                }
                _ => {
                    if let Some(entry) = schema.methods.get_mut(&method) {
                        entry.1.push(Field::parse(body));
                    }
                }
            }
        }
        schema
    }

    /// Whether the table holds the type.
    pub fn knows(&self, kind: &str) -> bool {
        self.types.contains_key(kind)
    }

    /// Whether `kind` is `base` or derives from it.
    pub fn is_a(&self, kind: &str, base: &str) -> bool {
        let mut current = Some(kind);
        while let Some(name) = current {
            if name == base {
                return true;
            }
            current = self.types.get(name).and_then(|entry| entry.base.as_deref());
        }
        false
    }

    /// All elements of a type in schema order: those of its bases first.
    pub fn fields(&self, kind: &str) -> Vec<&Field> {
        let Some(entry) = self.types.get(kind) else { return Vec::new() };
        let mut fields = entry.base.as_deref().map(|base| self.fields(base)).unwrap_or_default();
        fields.extend(&entry.own);
        fields
    }

    /// The element `name` of a type or of one of its bases.
    pub fn field(&self, kind: &str, name: &str) -> Option<&Field> {
        let entry = self.types.get(kind)?;
        entry.own.iter().find(|field| field.name == name).or_else(|| self.field(entry.base.as_deref()?, name))
    }

    /// Whether a property path such as `config.hardware.device[2000].backing` leads somewhere. Types the table does not hold
    /// are believed.
    pub fn has_path(&self, kind: &str, path: &str) -> bool {
        let mut kind = kind.to_owned();
        let mut parts = path.split('.').peekable();
        let mut first = true;
        while let Some(part) = parts.next() {
            let (name, key) = part.split_once('[').map_or((part, None), |(name, key)| (name, Some(key)));
            if !self.knows(&kind) {
                return !first || kind == "ManagedObject";
            }
            let Some(field) = self.field(&kind, name) else {
                // An element of a subtype behind an abstract type, e.g. `backing.fileName`.
                return !first && self.any_subtype_has(&kind, name);
            };
            if field.many && key.is_none() && parts.peek().is_some() {
                return false;
            }
            kind.clone_from(&field.kind);
            first = false;
        }
        !first
    }

    fn any_subtype_has(&self, kind: &str, name: &str) -> bool {
        self.types.keys().any(|other| self.is_a(other, kind) && self.field(other, name).is_some())
    }

    /// Checks a call against the table. `Ok` means: every element is known, of a version the client speaks, and in order.
    pub fn check_call(&self, call: &Node, version: Version) -> Result<(), SoapFault> {
        let Some((owner, parameters)) = self.methods.get(&call.name) else {
            return Err(SoapFault::invalid_request(format!("Unable to resolve WSDL method name {}", call.name)));
        };
        let Some((this, rest)) = call.children.split_first().filter(|(this, _)| this.name == "_this") else {
            return Err(SoapFault::invalid_request(format!("{}: the first element must be _this", call.name)));
        };
        let target = this.plain_type.as_deref().unwrap_or_default();
        if !self.is_a(target, owner) {
            return Err(SoapFault::invalid_request(format!("{} is not a method of {target}", call.name)));
        }
        let fields: Vec<&Field> = parameters.iter().collect();
        self.check_sequence(rest, &fields, &call.name, version, 0)
    }

    fn check_sequence(
        &self,
        children: &[Node],
        fields: &[&Field],
        place: &str,
        version: Version,
        depth: usize,
    ) -> Result<(), SoapFault> {
        if depth > NESTING_MAX {
            return Err(SoapFault::invalid_request(format!("{place}: nested too deeply")));
        }
        let mut at = 0;
        let mut used = false;
        for child in children {
            if child.ns != VIM {
                return Err(SoapFault::invalid_request(format!("{place}: element {} is not in {VIM}", child.name)));
            }
            while fields.get(at).is_some_and(|field| field.name != child.name || (used && !field.many)) {
                self.check_present(fields.get(at).copied(), used, place)?;
                at += 1;
                used = false;
            }
            let Some(field) = fields.get(at).filter(|field| field.in_version(version)) else {
                return Err(SoapFault::invalid_request(format!(
                    "{place}: element {} is unknown or out of order",
                    child.name
                )));
            };
            used = true;
            self.check_value(child, field, version, depth)?;
        }
        for field in fields.iter().skip(at) {
            self.check_present(Some(field), used, place)?;
            used = false;
        }
        Ok(())
    }

    #[allow(clippy::unused_self)]
    fn check_present(&self, field: Option<&Field>, used: bool, place: &str) -> Result<(), SoapFault> {
        match field {
            Some(field) if !used && !field.optional => {
                Err(SoapFault::invalid_request(format!("{place}: required element {} is missing", field.name)))
            }
            _ => Ok(()),
        }
    }

    fn check_value(&self, node: &Node, field: &Field, version: Version, depth: usize) -> Result<(), SoapFault> {
        let bad = |what: &str| Err(SoapFault::invalid_request(format!("{}: {what}", node.name)));
        if field.reference {
            return match node.plain_type.as_deref() {
                Some(kind) if !kind.is_empty() && !node.text.trim().is_empty() => Ok(()),
                _ => bad("a reference needs a type and an id"),
            };
        }
        let text = node.text.trim();
        match field.kind.as_str() {
            "int" if text.parse::<i32>().is_err() => return bad("not an int"),
            "short" if text.parse::<i16>().is_err() => return bad("not a short"),
            "long" if text.parse::<i64>().is_err() => return bad("not a long"),
            "boolean" if !matches!(text, "true" | "false" | "1" | "0") => return bad("not a boolean"),
            "anyType" if node.xsi_type.is_none() => return bad("xsi:type is missing"),
            _ if field.enumeration && text.is_empty() => return bad("empty enumeration"),
            _ => {}
        }
        if !self.knows(&field.kind) {
            return Ok(());
        }
        let kind = match &node.xsi_type {
            None => field.kind.as_str(),
            Some((ns, name)) if ns == VIM && self.is_a(name, &field.kind) => name,
            Some((_, name)) => return bad(&format!("xsi:type {name} is not a {}", field.kind)),
        };
        self.check_sequence(&node.children, &self.fields(kind), kind, version, depth + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    fn check(body: &str) -> Result<(), SoapFault> {
        let text = format!(r#"<M xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{body}</M>"#);
        let mut call = parse(&text).unwrap();
        call = call.children.remove(0);
        SCHEMA.check_call(&call, Version::V6_0)
    }

    const SNAPSHOT: &str = r#"<_this type="VirtualMachine">1</_this><name>n</name>"#;

    #[test]
    fn order_and_presence_are_checked() {
        let call = |rest: &str| check(&format!("<CreateSnapshot_Task>{SNAPSHOT}{rest}</CreateSnapshot_Task>"));
        assert!(call("<memory>false</memory><quiesce>true</quiesce>").is_ok());
        assert!(call("<description>d</description><memory>false</memory><quiesce>true</quiesce>").is_ok());
        assert!(call("<quiesce>true</quiesce><memory>false</memory>").is_err());
        assert!(call("<memory>false</memory>").is_err());
        assert!(call("<memory>perhaps</memory><quiesce>true</quiesce>").is_err());
        assert!(call("<memory>false</memory><memory>false</memory><quiesce>true</quiesce>").is_err());
        assert!(call("<memory>false</memory><quiesce>true</quiesce><extra/>").is_err());
        assert!(check(r#"<CreateSnapshot_Task><_this type="Folder">1</_this></CreateSnapshot_Task>"#).is_err());
        assert!(check(r#"<Fetch><_this type="VirtualMachine">1</_this><prop>name</prop></Fetch>"#).is_err());
    }

    #[test]
    fn inherited_elements_come_first() {
        let call = |device: &str| {
            check(&format!(
                r#"<ReconfigVM_Task><_this type="VirtualMachine">1</_this><spec><deviceChange><operation>edit</operation>
                <device xsi:type="VirtualDisk">{device}</device></deviceChange></spec></ReconfigVM_Task>"#
            ))
        };
        assert!(call("<key>2000</key><unitNumber>0</unitNumber><capacityInKB>8</capacityInKB>").is_ok());
        assert!(call("<key>2000</key><capacityInKB>8</capacityInKB><unitNumber>0</unitNumber>").is_err());
        assert!(
            call("<key>2000</key><capacityInKB>8</capacityInKB><vDiskId><id>x</id></vDiskId>").is_err(),
            "6.5 only"
        );
    }

    #[test]
    fn property_paths() {
        assert!(SCHEMA.has_path("VirtualMachine", "config.hardware.device"));
        assert!(SCHEMA.has_path("VirtualMachine", "config.hardware.device[2000].backing.fileName"));
        assert!(!SCHEMA.has_path("VirtualMachine", "config.hardware.device.key"));
        assert!(!SCHEMA.has_path("VirtualMachine", "config.nonsense"));
        assert!(!SCHEMA.has_path("VirtualMachine", "nonsense"));
    }
}

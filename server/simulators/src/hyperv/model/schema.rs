//! The table of classes, `schema.txt`: what exists, what inherits from what, which properties have which types.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A WMI namespace of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    Virtualization,
    Cimv2,
}

impl Namespace {
    /// Reads `root/virtualization/v2` or `root\virtualization\v2`, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.replace('\\', "/").to_ascii_lowercase().as_str() {
            "root/virtualization/v2" => Some(Self::Virtualization),
            "root/cimv2" => Some(Self::Cimv2),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Virtualization => "root/virtualization/v2",
            Self::Cimv2 => "root/cimv2",
        }
    }
}

/// Types of properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// Unsigned, with so many bits.
    Number(u32),
    Flag,
    Time,
    Interval,
    Reference,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "string" => Self::Text,
            "uint8" => Self::Number(8),
            "uint16" => Self::Number(16),
            "uint32" => Self::Number(32),
            "uint64" => Self::Number(64),
            "boolean" => Self::Flag,
            "datetime" => Self::Time,
            "interval" => Self::Interval,
            "ref" => Self::Reference,
            _ => return None,
        })
    }

    /// The name that CIM-XML has for it.
    pub const fn cim_name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Number(8) => "uint8",
            Self::Number(16) => "uint16",
            Self::Number(32) => "uint32",
            Self::Number(_) => "uint64",
            Self::Flag => "boolean",
            Self::Time | Self::Interval => "datetime",
            Self::Reference => "reference",
        }
    }
}

/// Type of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Type {
    pub kind: Kind,
    pub array: bool,
}

/// A class.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub name: &'static str,
    pub namespace: Namespace,
    /// Itself and what it inherits from, nearest first.
    pub lineage: Vec<&'static str>,
    pub keys: Vec<&'static str>,
    /// With what is inherited.
    pub properties: BTreeMap<&'static str, Type>,
}

impl Class {
    /// Whether it is the class of that name, or inherits from it.
    pub fn is(&self, name: &str) -> bool {
        self.lineage.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The property of that name, written as the schema writes it.
    pub fn property(&self, name: &str) -> Option<(&'static str, Type)> {
        let found = self.properties.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some((found.0, *found.1))
    }

    /// Whether its instances join two others.
    pub fn is_association(&self) -> bool {
        self.properties.values().filter(|property| property.kind == Kind::Reference).count() == 2
    }

    /// Its resource URI, which is also the namespace of its XML.
    pub fn uri(&self) -> String {
        format!("{}{}/{}", crate::hyperv::wire::names::WMI, self.namespace.name(), self.name)
    }
}

/// All classes.
pub(crate) struct Schema {
    classes: Vec<Class>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("schema.txt")));

/// The host's schema.
pub(crate) fn schema() -> &'static Schema {
    &SCHEMA
}

impl Schema {
    /// A class by its name in any case.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.iter().find(|class| class.name.eq_ignore_ascii_case(name))
    }

    /// Classes whose instances join two others.
    pub fn associations(&self) -> impl Iterator<Item = &Class> {
        self.classes.iter().filter(|class| class.is_association())
    }

    /// Reads the table; the table is part of the program, so a mistake in it is a bug.
    fn parse(text: &'static str) -> Self {
        let mut schema = Self { classes: Vec::new() };
        let mut namespace = Namespace::Cimv2;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("namespace ") {
                namespace = Namespace::parse(name).expect("a namespace of the table");
            } else if let Some(head) = line.strip_prefix("class ") {
                let class = schema.begin(head, namespace);
                schema.classes.push(class);
            } else {
                let class = schema.classes.last_mut().expect("a class before its properties");
                let words: Vec<&str> = line.split_whitespace().collect();
                let (pairs, rest) = words.as_chunks::<2>();
                assert!(rest.is_empty(), "a property without a type: {line}");
                for [name, kind] in pairs {
                    let (kind, array) = kind.strip_suffix("[]").map_or((*kind, false), |kind| (kind, true));
                    let kind = Kind::parse(kind).unwrap_or_else(|| panic!("no such type: {kind}"));
                    class.properties.insert(name, Type { kind, array });
                }
            }
        }
        schema
    }

    fn begin(&self, head: &'static str, namespace: Namespace) -> Class {
        let (head, keys) = head.split_once(" keys ").unwrap_or((head, ""));
        let (name, parent) = head.split_once(" : ").unwrap_or((head, ""));
        let parent = self.class(parent);
        assert!(parent.is_some() || !head.contains(" : "), "no super class for {head}");
        let keys: Vec<&str> = keys.split_whitespace().collect();
        Class {
            name,
            namespace,
            lineage: std::iter::once(name).chain(parent.into_iter().flat_map(|p| p.lineage.iter().copied())).collect(),
            keys: if keys.is_empty() { parent.map_or(Vec::new(), |p| p.keys.clone()) } else { keys },
            properties: parent.map_or(BTreeMap::new(), |p| p.properties.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for class in &schema().classes {
            assert!(!class.keys.is_empty(), "{}", class.name);
            for key in &class.keys {
                assert!(class.properties.contains_key(key), "{}.{key}", class.name);
            }
        }
        let storage = schema().class("msvm_storagejob").unwrap();
        assert!(storage.is("Msvm_ConcreteJob") && storage.is("CIM_Job") && !storage.is("CIM_Service"));
        assert_eq!(storage.property("errorcode").unwrap().0, "ErrorCode");
        assert!(schema().associations().any(|class| class.name == "Msvm_AffectedJobElement"));
    }
}

//! Values of the API on their way out: a small tree that is written in schema order, with types where they are needed.

use std::fmt::Write as _;

use super::schema::{Field, SCHEMA, Version};
use crate::xml::escape_into;

/// A managed object reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MoRef {
    /// Type, e.g. `VirtualMachine`.
    pub kind: String,
    /// Id, unique per host.
    pub id: String,
}

impl MoRef {
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}

/// A value of the API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Short(i16),
    Int(i32),
    Long(i64),
    Text(String),
    /// `xsd:dateTime`.
    Time(jiff::Timestamp),
    /// An enumeration's type and value.
    Enum(&'static str, String),
    Ref(MoRef),
    Object(Object),
    /// Element type (of an `ArrayOf…`) and elements.
    List(&'static str, Vec<Value>),
}

/// A data object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// Its type.
    pub kind: String,
    fields: Vec<(&'static str, Value)>,
}

impl Object {
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), fields: Vec::new() }
    }

    /// Sets an element.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(
            !SCHEMA.knows(&self.kind) || SCHEMA.field(&self.kind, name).is_some(),
            "{} has no element {name}",
            self.kind
        );
        self.fields.push((name, value.into()));
        self
    }

    /// Sets an element when there is a value.
    #[must_use]
    pub fn maybe(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The element, unless unset.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}
from!(bool => Bool, i16 => Short, i32 => Int, i64 => Long, &str => Text, String => Text, &String => Text, jiff::Timestamp => Time,
    MoRef => Ref, &MoRef => Ref, Object => Object);

impl Value {
    /// An enumeration value.
    pub fn enumeration(kind: &'static str, value: impl Into<String>) -> Self {
        Self::Enum(kind, value.into())
    }

    /// A list of references.
    pub fn refs(references: impl IntoIterator<Item = MoRef>) -> Self {
        Self::List("ManagedObjectReference", references.into_iter().map(Self::Ref).collect())
    }

    /// A list of data objects of one base type.
    pub fn objects(kind: &'static str, objects: impl IntoIterator<Item = Object>) -> Self {
        Self::List(kind, objects.into_iter().map(Self::Object).collect())
    }

    /// A list of strings.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List("string", texts.into_iter().map(|text| Self::Text(text.into())).collect())
    }

    /// Follows the rest of a property path; `None` when something on the way is unset.
    pub fn follow(&self, path: &str) -> Option<Self> {
        let mut current = self.clone();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let (name, key) = part.split_once('[').map_or((part, None), |(name, key)| (name, Some(key)));
            let Self::Object(object) = &current else { return None };
            let mut next = object.get(name)?.clone();
            if let Some(key) = key {
                next = next.element(key.trim_end_matches(']').trim_matches('"'))?;
            }
            current = next;
        }
        Some(current)
    }

    /// The element of a list with that `key`.
    pub fn element(&self, key: &str) -> Option<Self> {
        let Self::List(_, items) = self else { return None };
        let has_key = |item: &&Self| match item {
            Self::Object(object) => match object.get("key") {
                Some(Self::Int(number)) => number.to_string() == key,
                Some(Self::Text(text)) => text == key,
                _ => false,
            },
            _ => false,
        };
        items.iter().find(has_key).cloned()
    }

    /// Type as an `xsi:type` names it.
    fn type_name(&self) -> String {
        match self {
            Self::Bool(_) => "xsd:boolean".to_owned(),
            Self::Short(_) => "xsd:short".to_owned(),
            Self::Int(_) => "xsd:int".to_owned(),
            Self::Long(_) => "xsd:long".to_owned(),
            Self::Text(_) => "xsd:string".to_owned(),
            Self::Time(_) => "xsd:dateTime".to_owned(),
            Self::Enum(kind, _) => (*kind).to_owned(),
            Self::Ref(_) => "ManagedObjectReference".to_owned(),
            Self::Object(object) => object.kind.clone(),
            Self::List(kind, _) => {
                let mut name = "ArrayOf".to_owned();
                let mut letters = kind.chars();
                name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                name.push_str(letters.as_str());
                name
            }
        }
    }

    /// Appends `<name xsi:type=…>value</name>`, as an `anyType` element wants it.
    pub fn write_any(&self, out: &mut String, name: &str, version: Version) {
        let attribute = format!(" xsi:type=\"{}\"", self.type_name());
        match self {
            Self::List(kind, items) => {
                let _ = write!(out, "<{name}{attribute}>");
                for item in items {
                    item.write(out, kind, &attribute_for(item, kind, version), version);
                }
                let _ = write!(out, "</{name}>");
            }
            _ => self.write(out, name, &attribute, version),
        }
    }

    /// Appends the value as an element of a declared type.
    pub fn write_field(&self, out: &mut String, field: &Field, version: Version) {
        if field.kind == "anyType" {
            return self.write_any(out, &field.name, version);
        }
        match self {
            Self::List(_, items) => {
                for item in items {
                    item.write(out, &field.name, &attribute_for(item, &field.kind, version), version);
                }
            }
            _ => self.write(out, &field.name, &attribute_for(self, &field.kind, version), version),
        }
    }

    /// Appends the value as the answer of a method, where lists repeat the element.
    pub fn write_return(&self, out: &mut String, declared: &str, version: Version) {
        match self {
            Self::List(_, items) => {
                for item in items {
                    item.write(out, "returnval", &attribute_for(item, declared, version), version);
                }
            }
            _ => self.write(out, "returnval", &attribute_for(self, declared, version), version),
        }
    }

    fn write(&self, out: &mut String, name: &str, attribute: &str, version: Version) {
        if let Self::Ref(reference) = self {
            let _ = write!(out, "<{name} type=\"{}\"{attribute}>", reference.kind);
        } else {
            let _ = write!(out, "<{name}{attribute}>");
        }
        match self {
            Self::Bool(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Short(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Long(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Text(text) | Self::Enum(_, text) => escape_into(out, text),
            Self::Time(time) => {
                let _ = write!(out, "{time:.6}");
            }
            Self::Ref(reference) => escape_into(out, &reference.id),
            Self::Object(object) => object.write_fields(out, version),
            Self::List(kind, items) => {
                for item in items {
                    item.write(out, kind, &attribute_for(item, kind, version), version);
                }
            }
        }
        let _ = write!(out, "</{name}>");
    }
}

impl Object {
    /// Appends the elements in schema order, leaving out what the client's version does not know.
    pub fn write_fields(&self, out: &mut String, version: Version) {
        for field in SCHEMA.fields(&self.kind) {
            if let Some(value) = self.get(&field.name).filter(|_| field.in_version(version)) {
                value.write_field(out, field, version);
            }
        }
    }
}

/// ` xsi:type="…"` where the value's type is not the declared one.
fn attribute_for(value: &Value, declared: &str, _version: Version) -> String {
    match value {
        Value::Object(object) if object.kind != declared => format!(" xsi:type=\"{}\"", object.kind),
        _ if declared == "anyType" => format!(" xsi:type=\"{}\"", value.type_name()),
        _ => String::new(),
    }
}

impl From<&MoRef> for MoRef {
    fn from(reference: &MoRef) -> Self {
        reference.clone()
    }
}

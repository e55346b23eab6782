//! Instances: a class and its values.

use std::collections::BTreeMap;

use super::path::ObjectPath;
use super::schema::{Class, schema};
use super::value::Value;
use crate::hyperv::wire::names;

/// An instance.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub class: &'static Class,
    pub values: BTreeMap<&'static str, Value>,
}

impl Instance {
    /// An instance without values of a class of the table.
    pub fn of(class: &str) -> Self {
        let class = schema().class(class).unwrap_or_else(|| panic!("no class {class} in the table"));
        Self { class, values: BTreeMap::new() }
    }

    /// Sets a property.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value.into());
        self
    }

    pub fn set(&mut self, name: &str, value: Value) {
        match self.class.property(name) {
            Some((name, _)) => {
                self.values.insert(name, value);
            }
            None => debug_assert!(false, "{} has no {name}", self.class.name),
        }
    }

    /// The value of a property; null when it has none.
    pub fn get(&self, name: &str) -> &Value {
        self.class.property(name).and_then(|(name, _)| self.values.get(name)).unwrap_or(&Value::Null)
    }

    /// Its object path.
    pub fn path(&self) -> ObjectPath {
        let keys = self.class.keys.iter().map(|key| ((*key).to_owned(), self.get(key).plain())).collect();
        ObjectPath { class: self.class.name.to_owned(), keys }
    }

    /// Its element. Properties without a value are `xsi:nil`, but for arrays, which are left out.
    pub fn write(&self) -> String {
        let class = self.class;
        let mut out = format!(
            "<p:{0} xmlns:xsi=\"{1}\" xmlns:p=\"{2}\" xmlns:cim=\"{3}\" xsi:type=\"p:{0}_Type\">",
            class.name,
            names::XSI,
            class.uri(),
            names::CIM
        );
        for (name, kind) in &class.properties {
            match self.get(name) {
                Value::Null if kind.array => {}
                value => value.write(&mut out, "p", name),
            }
        }
        out + "</p:" + class.name + ">"
    }

    /// Only some properties, as a query asked for them.
    pub fn write_columns(&self, columns: &[&'static str]) -> String {
        let mut out = format!(
            "<w:XmlFragment xmlns:xsi=\"{}\" xmlns:p=\"{}\" xmlns:cim=\"{}\">",
            names::XSI,
            self.class.uri(),
            names::CIM
        );
        for name in columns {
            self.get(name).write(&mut out, "p", name);
        }
        out + "</w:XmlFragment>"
    }
}

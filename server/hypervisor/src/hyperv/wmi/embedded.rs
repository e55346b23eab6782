//! Embedded instances: CIM-XML text within a parameter (DSP0201), written with the changed properties only.

use super::Instance;
use crate::hyperv::wire::{Node, Xml, parse};
use std::fmt::Write as _;

/// CIM type of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hyperv) enum Kind {
    Text,
    U8,
    U16,
    U32,
    U64,
    Flag,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Flag => "boolean",
        }
    }
}

/// Writes an embedded instance.
pub(in crate::hyperv) struct Embedded {
    class: &'static str,
    inside: Xml,
}

impl Embedded {
    pub(in crate::hyperv) fn new(class: &'static str) -> Self {
        Self { class, inside: Xml::default() }
    }

    pub(in crate::hyperv) fn property(mut self, name: &str, kind: Kind, value: impl std::fmt::Display) -> Self {
        let tag = format!("PROPERTY NAME=\"{name}\" TYPE=\"{}\"", kind.name());
        self.inside.group(&tag, |property| {
            property.text("VALUE", value);
        });
        self
    }

    pub(in crate::hyperv) fn maybe(self, name: &str, kind: Kind, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.property(name, kind, value),
            None => self,
        }
    }

    /// Nothing for an empty list: it would change nothing.
    pub(in crate::hyperv) fn array(mut self, name: &str, kind: Kind, values: &[&str]) -> Self {
        if values.is_empty() {
            return self;
        }
        let tag = format!("PROPERTY.ARRAY NAME=\"{name}\" TYPE=\"{}\"", kind.name());
        self.inside.group(&tag, |property| {
            property.group("VALUE.ARRAY", |array| {
                for value in values {
                    array.text("VALUE", value);
                }
            });
        });
        self
    }

    pub(in crate::hyperv) fn class(&self) -> &'static str {
        self.class
    }

    pub(in crate::hyperv) fn into_text(self) -> String {
        let mut text = String::new();
        let _ = write!(text, "<INSTANCE CLASSNAME=\"{}\">{}</INSTANCE>", self.class, self.inside.into_string());
        text
    }
}

/// Reads an embedded instance of an answer. `None` when it is none.
pub(in crate::hyperv) fn read_embedded(text: &str) -> Option<Instance> {
    let root = parse(text).ok()?;
    let node = root.find("INSTANCE")?;
    let mut instance = Instance::named(node.attribute("CLASSNAME").unwrap_or_default());
    for property in &node.children {
        let Some(name) = property.attribute("NAME") else { continue };
        match property.name.as_str() {
            "PROPERTY" => {
                if let Some(value) = property.child("VALUE") {
                    instance.add_text(name, value.text.trim().to_owned());
                }
            }
            "PROPERTY.ARRAY" => {
                let values: Vec<&Node> =
                    property.child("VALUE.ARRAY").map(|a| a.all("VALUE").collect()).unwrap_or_default();
                for value in values {
                    instance.add_text(name, value.text.trim().to_owned());
                }
            }
            _ => {}
        }
    }
    Some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_instance_is_written_as_the_documentation_shows() {
        let text = Embedded::new("Msvm_VirtualSystemSnapshotSettingData")
            .property("ConsistencyLevel", Kind::U8, 1)
            .maybe("ElementName", Kind::Text, Some("a & <b>"))
            .maybe("Gone", Kind::Text, None::<&str>)
            .array("Notes", Kind::Text, &["x", "y"])
            .into_text();
        assert_eq!(
            text,
            "<INSTANCE CLASSNAME=\"Msvm_VirtualSystemSnapshotSettingData\">\
             <PROPERTY NAME=\"ConsistencyLevel\" TYPE=\"uint8\"><VALUE>1</VALUE></PROPERTY>\
             <PROPERTY NAME=\"ElementName\" TYPE=\"string\"><VALUE>a &amp; &lt;b&gt;</VALUE></PROPERTY>\
             <PROPERTY.ARRAY NAME=\"Notes\" TYPE=\"string\"><VALUE.ARRAY><VALUE>x</VALUE><VALUE>y</VALUE></VALUE.ARRAY>\
             </PROPERTY.ARRAY></INSTANCE>"
        );
        let read = read_embedded(&text).unwrap();
        assert_eq!(read.class, "Msvm_VirtualSystemSnapshotSettingData");
        assert_eq!((read.number("ConsistencyLevel"), read.text("ElementName")), (Some(1), Some("a & <b>")));
        assert_eq!(read.list("Notes"), ["x", "y"]);
    }

    #[test]
    fn what_is_no_instance_is_none() {
        for text in ["", "plain", "<X/>", "<!DOCTYPE a><INSTANCE/>"] {
            assert!(read_embedded(text).is_none(), "{text}");
        }
    }
}

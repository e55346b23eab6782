//! Instances as answers carry them, and references to them.

use crate::hyperv::wire::Node;
use jiff::Timestamp;
use jiff::tz::Offset;
use std::collections::BTreeMap;

/// Properties of one instance.
const MAX_PROPERTIES: usize = 1000;
/// Selectors of one reference.
const MAX_SELECTORS: usize = 16;
/// `yyyymmddHHMMSS`; after it `.mmmmmm`, and the zone from here on.
const CIM_DIGITS: usize = 14;
const CIM_ZONE_AT: usize = 21;
/// How Windows wraps dates within a property.
const DATE_ELEMENTS: [&str; 4] = ["Datetime", "Interval", "CIM_DateTime", "Date"];

/// A reference to an instance, as a host gives and takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hyperv) struct Reference {
    /// URI of the class.
    pub resource: String,
    /// Keys and their values.
    pub selectors: Vec<(String, String)>,
}

impl Reference {
    pub(in crate::hyperv) fn new(resource: String, selectors: &[(&str, &str)]) -> Self {
        let selectors = selectors.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { resource, selectors }
    }

    /// From an element that holds `Address` and `ReferenceParameters`, with or without an `EndpointReference` around.
    pub(in crate::hyperv) fn from_node(node: &Node) -> Option<Self> {
        let node = node.child("EndpointReference").unwrap_or(node);
        let parameters = node.child("ReferenceParameters")?;
        let selectors = parameters.child("SelectorSet").map(|set| {
            let pairs = set.all("Selector").take(MAX_SELECTORS);
            pairs.filter_map(|selector| Some((selector.attribute("Name")?.to_owned(), selector.text.trim().to_owned())))
        });
        let resource = parameters.text_at(&["ResourceURI"]).filter(|resource| !resource.is_empty())?.to_owned();
        Some(Self { resource, selectors: selectors.map(Iterator::collect).unwrap_or_default() })
    }

    pub(in crate::hyperv) fn selector(&self, name: &str) -> Option<&str> {
        self.selectors.iter().find(|(selector, _)| selector.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Nil,
    Text(String),
    Reference(Reference),
}

/// An instance, or the output of a method: each property's values in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::hyperv) struct Instance {
    pub class: String,
    properties: BTreeMap<String, Vec<Item>>,
}

impl Instance {
    pub(in crate::hyperv) fn from_node(node: &Node) -> Self {
        let mut properties: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        for child in &node.children {
            if properties.len() == MAX_PROPERTIES && !properties.contains_key(&child.name) {
                continue;
            }
            properties.entry(child.name.clone()).or_default().push(item(child));
        }
        Self { class: node.name.clone(), properties }
    }

    pub(super) fn named(class: &str) -> Self {
        Self { class: class.to_owned(), ..Self::default() }
    }

    #[cfg(test)]
    pub(in crate::hyperv) fn of(class: &str, properties: &[(&str, &str)]) -> Self {
        let mut instance = Self::named(class);
        for (name, value) in properties {
            instance.add_text(name, (*value).to_owned());
        }
        instance
    }

    pub(super) fn add_text(&mut self, name: &str, value: String) {
        if self.properties.len() < MAX_PROPERTIES {
            self.properties.entry(name.to_owned()).or_default().push(Item::Text(value));
        }
    }

    /// The first value, if it is there and not empty.
    pub(in crate::hyperv) fn text(&self, name: &str) -> Option<&str> {
        self.list(name).into_iter().next().filter(|text| !text.is_empty())
    }

    /// The first value, or an empty text.
    pub(in crate::hyperv) fn word(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    pub(in crate::hyperv) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    pub(in crate::hyperv) fn is_true(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// A moment, as WS-Management writes it (`2026-01-02T03:04:05Z`) or as CIM does (`20260102030405.000000+060`, the
    /// last three digits being minutes).
    pub(in crate::hyperv) fn time(&self, name: &str) -> Option<Timestamp> {
        let text = self.text(name)?;
        text.parse().ok().or_else(|| cim_time(text))
    }

    /// All values of an array.
    pub(in crate::hyperv) fn list(&self, name: &str) -> Vec<&str> {
        let items = self.properties.get(name).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| if let Item::Text(text) = item { Some(text.as_str()) } else { None }).collect()
    }

    /// All values of an array of numbers; `None` when one of them is none.
    pub(in crate::hyperv) fn numbers(&self, name: &str) -> Option<Vec<u64>> {
        self.list(name).into_iter().map(|text| text.parse().ok()).collect()
    }

    pub(in crate::hyperv) fn reference(&self, name: &str) -> Option<&Reference> {
        self.properties
            .get(name)?
            .iter()
            .find_map(|item| if let Item::Reference(reference) = item { Some(reference) } else { None })
    }

    pub(in crate::hyperv) fn instance_id(&self) -> &str {
        self.word("InstanceID")
    }
}

fn cim_time(text: &str) -> Option<Timestamp> {
    let (local, zone) = (text.get(..CIM_DIGITS)?, text.get(CIM_ZONE_AT..)?);
    let minutes: i32 = zone.parse().ok()?;
    let offset = Offset::from_seconds(minutes.checked_mul(60)?).ok()?;
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", local).ok()?;
    offset.to_timestamp(time).ok()
}

fn item(node: &Node) -> Item {
    if node.attribute("nil").is_some_and(|nil| matches!(nil, "true" | "1")) {
        return Item::Nil;
    }
    if let Some(reference) = Reference::from_node(node) {
        return Item::Reference(reference);
    }
    let date = node.children.iter().find(|child| DATE_ELEMENTS.contains(&child.name.as_str()));
    let text = date.map_or(&node.text, |date| &date.text);
    // Texts keep their inner spaces; those around come from the document's layout.
    Item::Text(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::wire::parse;

    const MACHINE: &str = r#"<p:Msvm_X xmlns:p="P/Msvm_X" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
        xmlns:a="A" xmlns:w="W" xmlns:cim="C" xsi:type="p:Msvm_X_Type">
        <p:Name>web &amp; db</p:Name><p:State>2</p:State><p:Gone xsi:nil="true"/><p:On>TRUE</p:On>
        <p:Notes>one</p:Notes><p:Notes>two</p:Notes><p:Empty></p:Empty>
        <p:Since><cim:Datetime>2026-01-02T03:04:05Z</cim:Datetime></p:Since>
        <p:Job><a:Address>x</a:Address><a:ReferenceParameters><w:ResourceURI>P/Msvm_StorageJob</w:ResourceURI>
        <w:SelectorSet><w:Selector Name="InstanceID">J-1</w:Selector><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
        </w:SelectorSet></a:ReferenceParameters></p:Job></p:Msvm_X>"#;

    #[test]
    fn properties_have_their_types() {
        let instance = Instance::from_node(&parse(MACHINE).unwrap());
        assert_eq!(instance.class, "Msvm_X");
        assert_eq!(instance.text("Name"), Some("web & db"));
        assert_eq!(instance.number("State"), Some(2));
        assert_eq!(instance.number("Name"), None);
        assert!(instance.is_true("On") && !instance.is_true("State"));
        assert_eq!(instance.text("Gone").or(instance.text("Empty")).or(instance.text("Nowhere")), None);
        assert_eq!(instance.list("Notes"), ["one", "two"]);
        assert_eq!(instance.numbers("State"), Some(vec![2]));
        assert_eq!(instance.numbers("Notes"), None);
        assert_eq!(instance.text("Since"), Some("2026-01-02T03:04:05Z"));
        assert_eq!(instance.time("Since"), Some("2026-01-02T03:04:05Z".parse().unwrap()));
        for (text, time) in [
            ("20260102030405.000000+000", Some("2026-01-02T03:04:05Z")),
            ("20260102030405.123456+060", Some("2026-01-02T02:04:05Z")),
            ("20260102030405.123456-300", Some("2026-01-02T08:04:05Z")),
            ("00000000000000.000000:000", None),
            ("2026", None),
            ("yesterday", None),
        ] {
            let instance = Instance::of("Msvm_X", &[("At", text)]);
            assert_eq!(instance.time("At"), time.map(|time| time.parse().unwrap()), "{text}");
        }
        let job = instance.reference("Job").unwrap();
        assert_eq!((job.resource.as_str(), job.selector("instanceid")), ("P/Msvm_StorageJob", Some("J-1")));
    }
}

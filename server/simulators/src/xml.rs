//! XML in and out, as far as the simulated hosts need it: a small tree with namespaces, and escaping.
//!
//! Must never: resolve anything outside the document (no DTD, no external entity).

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

/// Nesting of elements in a request.
const DEPTH_MAX: usize = 48;
/// Elements in a request.
const ELEMENTS_MAX: usize = 20_000;
/// Namespace of `xsi:type`.
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// An element.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// Namespace URI; empty when none.
    pub ns: String,
    /// Local name.
    pub name: String,
    /// Text directly inside, entities resolved.
    pub text: String,
    /// The `type` attribute without namespace (managed object references).
    pub plain_type: Option<String>,
    /// The `xsi:type`: namespace URI and local name.
    pub xsi_type: Option<(String, String)>,
    /// All other attributes: namespace URI (empty when none), local name, value.
    pub attributes: Vec<(String, String, String)>,
    /// Child elements.
    pub children: Vec<Node>,
}

impl Node {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Text of the first child of that name, trimmed.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    /// The first child of that name as a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text_of(name)?.parse().ok()
    }

    /// The first child of that name as a boolean; false when absent.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.text_of(name), Some("true" | "1"))
    }

    /// Value of the attribute of that name without a namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(ns, known, _)| ns.is_empty() && known == name);
        found.map(|(_, _, value)| value.as_str())
    }

    /// The actual type given by `xsi:type`.
    pub fn type_name(&self) -> Option<&str> {
        self.xsi_type.as_ref().map(|(_, name)| name.as_str())
    }
}

/// Parses a document; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Node, String> {
    let mut reader = Reader::from_str(text);
    let mut scopes: Vec<(usize, String, String)> = Vec::new();
    let mut open: Vec<Node> = vec![Node::default()];
    let mut elements = 0;
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                count(&mut elements, open.len())?;
                let node = element(&start, &mut scopes, open.len())?;
                open.push(node);
            }
            Event::Empty(start) => {
                count(&mut elements, open.len())?;
                let depth = open.len();
                let node = element(&start, &mut scopes, depth)?;
                scopes.retain(|(at, _, _)| *at < depth);
                attach(&mut open, node)?;
            }
            Event::End(_) => {
                let node = open.pop().ok_or("element closed twice")?;
                let depth = open.len();
                scopes.retain(|(at, _, _)| *at < depth);
                attach(&mut open, node)?;
            }
            Event::Text(text) => push_text(&mut open, &text.xml_content(XmlVersion::Explicit1_0)),
            Event::CData(text) => push_text(&mut open, &text.xml_content(XmlVersion::Explicit1_0)),
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                    Some(character) => character.to_string(),
                    None => entity(&reference.xml_content(XmlVersion::Explicit1_0))?.to_owned(),
                };
                push_text(&mut open, &resolved);
            }
            Event::DocType(_) => return Err("a document type is not allowed".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    let mut root = open.pop().filter(|_| open.is_empty()).ok_or("document ends inside an element")?;
    if root.children.len() != 1 {
        return Err("not one root element".to_owned());
    }
    root.children.pop().ok_or_else(|| "no root element".to_owned())
}

fn count(elements: &mut usize, depth: usize) -> Result<(), String> {
    *elements += 1;
    if *elements > ELEMENTS_MAX || depth > DEPTH_MAX {
        Err("document too large or too deep".to_owned())
    } else {
        Ok(())
    }
}

fn attach(open: &mut [Node], node: Node) -> Result<(), String> {
    open.last_mut().ok_or("element outside the document")?.children.push(node);
    Ok(())
}

fn push_text(open: &mut [Node], text: &str) {
    if let Some(node) = open.last_mut() {
        node.text.push_str(text);
    }
}

fn entity(name: &str) -> Result<&'static str, String> {
    Ok(match name {
        "lt" => "<",
        "gt" => ">",
        "amp" => "&",
        "quot" => "\"",
        "apos" => "'",
        _ => return Err(format!("unknown entity {name}")),
    })
}

fn element(start: &BytesStart<'_>, scopes: &mut Vec<(usize, String, String)>, depth: usize) -> Result<Node, String> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let value =
            attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|error| error.to_string())?.into_owned();
        let key = attribute.key.as_ref().to_owned();
        if key == "xmlns" {
            scopes.push((depth, String::new(), value));
        } else if let Some(prefix) = key.strip_prefix("xmlns:") {
            scopes.push((depth, prefix.to_owned(), value));
        } else {
            attributes.push((key, value));
        }
    }
    let (ns, name) = resolve(start.name().as_ref(), scopes, true)?;
    let mut node = Node { ns, name, ..Node::default() };
    for (key, value) in attributes {
        let (ns, name) = resolve(&key, scopes, false)?;
        match (ns.as_str(), name.as_str()) {
            (XSI, "type") => node.xsi_type = Some(resolve(value.trim(), scopes, true)?),
            ("", "type") => node.plain_type = Some(value),
            _ => node.attributes.push((ns, name, value)),
        }
    }
    Ok(node)
}

fn resolve(qualified: &str, scopes: &[(usize, String, String)], use_default: bool) -> Result<(String, String), String> {
    let (prefix, local) = qualified.split_once(':').unwrap_or(("", qualified));
    if prefix == "xml" || (prefix.is_empty() && !use_default) {
        return Ok((String::new(), local.to_owned()));
    }
    match scopes.iter().rev().find(|(_, known, _)| known == prefix) {
        Some((_, _, uri)) => Ok((uri.clone(), local.to_owned())),
        None if prefix.is_empty() => Ok((String::new(), local.to_owned())),
        None => Err(format!("prefix {prefix} is not declared")),
    }
}

/// Appends text with the characters escaped that XML reserves.
pub(crate) fn escape_into(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            control if (control as u32) < 0x20 && !matches!(control, '\t' | '\n' | '\r') => {
                let _ = write!(out, "\u{fffd}");
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_types_and_entities_are_resolved() {
        let node = parse(
            r#"<?xml version="1.0"?><e:a xmlns:e="urn:e" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns="urn:d">
            <b type="VM" i:type="T">1 &lt; 2 &#65;</b><c xmlns="urn:x"><d/></c></e:a>"#,
        )
        .unwrap();
        assert_eq!((node.ns.as_str(), node.name.as_str()), ("urn:e", "a"));
        let b = node.child("b").unwrap();
        assert_eq!(b.ns, "urn:d");
        assert_eq!(b.text, "1 < 2 A");
        assert_eq!(b.plain_type.as_deref(), Some("VM"));
        assert_eq!(b.xsi_type, Some(("urn:d".to_owned(), "T".to_owned())));
        assert_eq!(node.child("c").unwrap().child("d").unwrap().ns, "urn:x");
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(parse("<a>").is_err());
        assert!(parse("<a/><b/>").is_err());
        assert!(parse("<p:a/>").is_err());
        assert!(parse("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>").is_err());
        assert!(parse(&"<a>".repeat(100)).is_err());
    }
}

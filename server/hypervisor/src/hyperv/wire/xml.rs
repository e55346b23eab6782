//! XML as WS-Management needs it: a writer, and a bounded pull parser.
//!
//! Must never: follow an entity or a document type, keep more than the limits allow.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use std::fmt::{self, Display, Write as _};

/// Deepest nesting. Envelopes with a reference within a property go some ten deep.
const MAX_DEPTH: usize = 64;
/// Elements of one answer.
const MAX_ELEMENTS: usize = 2_000_000;
const MAX_ATTRIBUTES: usize = 32;
/// A CDATA section ends here, so it cannot hold this.
const CDATA_END: &str = "]]>";

/// Builds a piece of a document.
#[derive(Default)]
pub(in crate::hyperv) struct Xml(String);

impl Xml {
    /// `tag` may hold attributes; it is one of ours, never from outside.
    pub(in crate::hyperv) fn text(&mut self, tag: &str, value: impl Display) -> &mut Self {
        let _ = write!(self.0, "<{tag}>");
        let _ = write!(Escaping(&mut self.0, false), "{value}");
        self.close(tag)
    }

    /// An element with one attribute whose value comes from outside.
    pub(in crate::hyperv) fn attributed(&mut self, tag: &str, attribute: (&str, &str), value: &str) -> &mut Self {
        let _ = write!(self.0, "<{tag} {}=\"", attribute.0);
        let _ = Escaping(&mut self.0, true).write_str(attribute.1);
        self.0.push_str("\">");
        let _ = Escaping(&mut self.0, false).write_str(value);
        self.close(tag)
    }

    pub(in crate::hyperv) fn group(&mut self, tag: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.0, "<{tag}>");
        inside(self);
        self.close(tag)
    }

    pub(in crate::hyperv) fn empty(&mut self, tag: &str) -> &mut Self {
        let _ = write!(self.0, "<{tag}/>");
        self
    }

    /// Text in CDATA, split where it holds the section's end.
    pub(in crate::hyperv) fn cdata(&mut self, tag: &str, value: &str) -> &mut Self {
        let _ = write!(self.0, "<{tag}><![CDATA[");
        let writable = |c: char| if c.is_control() && !matches!(c, '\n' | '\t' | '\r') { '\u{fffd}' } else { c };
        self.0.extend(value.replace(CDATA_END, "]]]]><![CDATA[>").chars().map(writable));
        self.0.push_str(CDATA_END);
        self.close(tag)
    }

    /// A piece that another writer made.
    pub(in crate::hyperv) fn raw(&mut self, piece: &str) -> &mut Self {
        self.0.push_str(piece);
        self
    }

    pub(in crate::hyperv) fn into_string(self) -> String {
        self.0
    }

    fn close(&mut self, tag: &str) -> &mut Self {
        let name = tag.split_once(' ').map_or(tag, |(name, _)| name);
        let _ = write!(self.0, "</{name}>");
        self
    }
}

/// Quotes are escaped within attributes only: hosts were seen to take them raw in text.
struct Escaping<'a>(&'a mut String, bool);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' if self.1 => self.0.push_str("&quot;"),
                '\r' => self.0.push_str("&#13;"),
                // XML 1.0 has no way to write these.
                c if c.is_control() && !matches!(c, '\n' | '\t') => self.0.push('\u{fffd}'),
                '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// An element of an answer. Names are without prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::hyperv) struct Node {
    pub name: String,
    /// Names without prefix; namespace declarations are left out.
    pub attributes: Vec<(String, String)>,
    pub text: String,
    pub children: Vec<Self>,
}

impl Node {
    pub(in crate::hyperv) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(in crate::hyperv) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(in crate::hyperv) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.child(name))
    }

    pub(in crate::hyperv) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|node| node.text.trim())
    }

    pub(in crate::hyperv) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(attribute, _)| attribute == name).map(|(_, value)| value.as_str())
    }

    /// The first element of that name at any depth.
    pub(in crate::hyperv) fn find(&self, name: &str) -> Option<&Self> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

/// Why an answer could not be parsed.
#[derive(Debug, thiserror::Error)]
pub(in crate::hyperv) enum XmlError {
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("it has more than {MAX_ELEMENTS} elements, or more than {MAX_ATTRIBUTES} attributes on one")]
    TooMany,
    #[error("it has a document type or an entity of its own")]
    Forbidden,
    #[error("it ends too early")]
    Short,
    #[error("it is not well-formed")]
    Syntax(#[source] quick_xml::Error),
}

impl From<quick_xml::Error> for XmlError {
    fn from(error: quick_xml::Error) -> Self {
        Self::Syntax(error)
    }
}

/// The root element of `document`.
pub(in crate::hyperv) fn parse(document: &str) -> Result<Node, XmlError> {
    let mut reader = Reader::from_str(document.trim_start_matches('\u{feff}'));
    let mut open: Vec<Node> = Vec::new();
    let mut elements = 0;
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                elements += 1;
                if open.len() == MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                open.push(element(&start, elements)?);
            }
            Event::Empty(start) => {
                elements += 1;
                let node = element(&start, elements)?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(node),
                    None => return Ok(node),
                }
            }
            Event::End(_) => {
                let node = open.pop().ok_or(XmlError::Short)?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(node),
                    None => return Ok(node),
                }
            }
            Event::Text(text) => append(&mut open, &text.into_inner()),
            Event::CData(text) => append(&mut open, &text.into_inner()),
            Event::GeneralRef(entity) => match entity.resolve_char_ref()? {
                Some(c) => append(&mut open, c.encode_utf8(&mut [0; 4])),
                None => append(&mut open, resolve_predefined_entity(&entity.into_inner()).ok_or(XmlError::Forbidden)?),
            },
            Event::DocType(_) => return Err(XmlError::Forbidden),
            Event::Eof => return Err(XmlError::Short),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
}

fn append(open: &mut [Node], text: &str) {
    if let Some(node) = open.last_mut() {
        node.text.push_str(text);
    }
}

fn element(start: &BytesStart<'_>, elements: usize) -> Result<Node, XmlError> {
    if elements > MAX_ELEMENTS {
        return Err(XmlError::TooMany);
    }
    let mut node = Node { name: start.local_name().into_inner().to_owned(), ..Node::default() };
    for (count, attribute) in start.attributes().enumerate() {
        if count == MAX_ATTRIBUTES {
            return Err(XmlError::TooMany);
        }
        let attribute = attribute.map_err(|error| XmlError::Syntax(error.into()))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = quick_xml::escape::unescape(&attribute.value).map_err(|_| XmlError::Forbidden)?.into_owned();
        node.attributes.push((attribute.key.local_name().into_inner().to_owned(), value));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_documents_are_refused() {
        assert!(matches!(parse(&"<a>".repeat(MAX_DEPTH + 1)), Err(XmlError::TooDeep)));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><a>&b;</a>";
        assert!(matches!(parse(bomb), Err(XmlError::Forbidden)));
        assert!(matches!(parse("<a>&b;</a>"), Err(XmlError::Forbidden)));
        assert!(matches!(parse("<a x='&b;'/>"), Err(XmlError::Forbidden)));
        let many: Vec<String> = (0..=MAX_ATTRIBUTES).map(|n| format!("a{n}='1'")).collect();
        assert!(matches!(parse(&format!("<a {}/>", many.join(" "))), Err(XmlError::TooMany)));
        for broken in ["", "<a>", "<a></b>", "</a>", "text", "<a b></a>", "<a>&#0;"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let nasty = "a<b>&\"'\r\n\t]]>ü";
        let mut xml = Xml::default();
        xml.group("p:r xmlns:p=\"urn:x\"", |xml| {
            xml.text("p:n", nasty).cdata("p:c", nasty).attributed("p:s", ("Name", nasty), "v").empty("p:e");
        });
        let root = parse(&xml.into_string()).unwrap();
        assert_eq!(root.name, "r");
        assert!(root.attributes.is_empty(), "a namespace is no attribute");
        assert_eq!(root.child("n").unwrap().text, nasty);
        assert_eq!(root.child("c").unwrap().text, nasty);
        assert_eq!(root.child("s").unwrap().attribute("Name"), Some(nasty));
        assert_eq!(root.find("e").unwrap().name, "e");
    }
}

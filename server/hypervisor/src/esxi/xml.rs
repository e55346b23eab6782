//! The little XML that SOAP needs: a writer that escapes, and a parser with a limit on everything.
//!
//! Must never: resolve an entity but the predefined ones, read a document type, nest or grow without bound.

use quick_xml::NsReader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, NamespaceResolver, ResolveResult};
use std::fmt::{self, Display, Write as _};
use std::str::FromStr;

/// Deepest nesting; snapshot trees go deepest, and hosts allow 32 levels of snapshots.
pub(super) const MAX_DEPTH: usize = 128;
/// Elements of one answer.
pub(super) const MAX_ELEMENTS: usize = 2_000_000;
const MAX_ATTRIBUTES: usize = 16;
const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A managed object reference, e.g. `VirtualMachine` `42`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct MoRef {
    pub kind: String,
    pub value: String,
}

impl MoRef {
    pub(super) fn new(kind: &str, value: &str) -> Self {
        Self { kind: kind.to_owned(), value: value.to_owned() }
    }
}

/// Builds the inside of a request. Elements come out in the order of the calls, which is why each type is written by
/// one function only: real hosts refuse any order but the schema's.
#[derive(Default)]
pub(super) struct Xml(String);

impl Xml {
    pub(super) fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.open(name, "");
        let _ = write!(Escaping(&mut self.0), "{value}");
        self.close(name)
    }

    pub(super) fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// A string where the schema says `anyType`.
    pub(super) fn any_string(&mut self, name: &str, value: &str) -> &mut Self {
        self.open(name, " xsi:type=\"xsd:string\"");
        let _ = Escaping(&mut self.0).write_str(value);
        self.close(name)
    }

    pub(super) fn reference(&mut self, name: &str, reference: &MoRef) -> &mut Self {
        let _ = write!(self.0, "<{name} type=\"");
        let _ = Escaping(&mut self.0).write_str(&reference.kind);
        self.0.push_str("\">");
        let _ = Escaping(&mut self.0).write_str(&reference.value);
        self.close(name)
    }

    pub(super) fn group(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.open(name, "");
        inside(self);
        self.close(name)
    }

    /// `kind` is one of ours, never from outside.
    pub(super) fn typed(&mut self, name: &str, kind: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.0, "<{name} xsi:type=\"{kind}\">");
        inside(self);
        self.close(name)
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn open(&mut self, name: &str, attributes: &str) {
        let _ = write!(self.0, "<{name}{attributes}>");
    }

    fn close(&mut self, name: &str) -> &mut Self {
        let _ = write!(self.0, "</{name}>");
        self
    }
}

struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
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
pub(super) struct Node {
    pub name: String,
    /// `xsi:type` without its prefix.
    pub xsi_type: Option<String>,
    /// The plain `type` attribute of a reference.
    pub reference_kind: Option<String>,
    pub text: String,
    pub children: Vec<Self>,
}

impl Node {
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.child(name))
    }

    pub(super) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|node| node.text.trim())
    }

    pub(super) fn parse_at<T: FromStr>(&self, path: &[&str]) -> Option<T> {
        self.text_at(path)?.parse().ok()
    }

    pub(super) fn is_true_at(&self, path: &[&str]) -> bool {
        matches!(self.text_at(path), Some("true" | "1"))
    }

    pub(super) fn reference(&self) -> Option<MoRef> {
        let value = self.text.trim();
        let kind = self.reference_kind.as_deref()?;
        (!value.is_empty()).then(|| MoRef::new(kind, value))
    }

    pub(super) fn is_a(&self, kind: &str) -> bool {
        self.xsi_type.as_deref() == Some(kind)
    }
}

/// Why an answer could not be parsed.
#[derive(Debug, thiserror::Error)]
pub(super) enum XmlError {
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
pub(super) fn parse(document: &str) -> Result<Node, XmlError> {
    let mut reader = NsReader::from_str(document);
    let mut open: Vec<Node> = Vec::new();
    let mut elements = 0;
    loop {
        let event = reader.read_event()?;
        match event {
            Event::Start(start) => {
                elements += 1;
                if open.len() == MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                open.push(element(&start, reader.resolver(), elements)?);
            }
            Event::Empty(start) => {
                elements += 1;
                let node = element(&start, reader.resolver(), elements)?;
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

fn element(start: &BytesStart<'_>, resolver: &NamespaceResolver, elements: usize) -> Result<Node, XmlError> {
    if elements > MAX_ELEMENTS {
        return Err(XmlError::TooMany);
    }
    let mut node = Node { name: start.local_name().into_inner().to_owned(), ..Node::default() };
    for (count, attribute) in start.attributes().enumerate() {
        if count == MAX_ATTRIBUTES {
            return Err(XmlError::TooMany);
        }
        let attribute = attribute.map_err(|error| XmlError::Syntax(error.into()))?;
        let (namespace, local) = resolver.resolve_attribute(attribute.key);
        let value = || quick_xml::escape::unescape(&attribute.value).map_err(|_| XmlError::Forbidden);
        match (namespace, local.into_inner()) {
            (ResolveResult::Bound(Namespace(SCHEMA_INSTANCE)), "type") => {
                let value = value()?;
                let local = value.rsplit_once(':').map_or(&*value, |(_, local)| local);
                node.xsi_type = Some(local.to_owned());
            }
            (ResolveResult::Unbound, "type") => node.reference_kind = Some(value()?.into_owned()),
            _ => {}
        }
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_matched_by_namespace() {
        let root = parse(
            r#"<a xmlns:x="http://www.w3.org/2001/XMLSchema-instance" xmlns:v="urn:vim25" xmlns:y="urn:other">
               <b x:type="v:VirtualDisk" y:type="No" type="Folder">ha &amp; &#x41;&lt;</b></a>"#,
        )
        .unwrap();
        let b = root.child("b").unwrap();
        assert!(b.is_a("VirtualDisk"));
        assert_eq!(b.reference(), Some(MoRef::new("Folder", "ha & A<")));
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(matches!(parse(&"<a>".repeat(MAX_DEPTH + 1)), Err(XmlError::TooDeep)));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><a>&b;</a>";
        assert!(matches!(parse(bomb), Err(XmlError::Forbidden)));
        assert!(matches!(parse("<a>&b;</a>"), Err(XmlError::Forbidden)));
        assert!(matches!(parse("<a x='&b;' type='&b;'/>"), Err(XmlError::Forbidden)));
        let many: Vec<String> = (0..=MAX_ATTRIBUTES).map(|n| format!("a{n}='1'")).collect();
        assert!(matches!(parse(&format!("<a {}/>", many.join(" "))), Err(XmlError::TooMany)));
        for broken in ["", "<a>", "<a></b>", "</a>", "text", "<a b></a>", "<a &#xffffffff;>", "<a>&#0;"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn text_is_escaped_on_the_way_out_and_back() {
        let nasty = "a<b>&\"'\r\n\t]]>\u{1}ü";
        let mut xml = Xml::default();
        xml.text("n", nasty);
        let document = xml.into_string();
        assert_eq!(document, "<n>a&lt;b&gt;&amp;&quot;'&#13;\n\t]]&gt;\u{fffd}ü</n>");
        assert_eq!(parse(&document).unwrap().text, nasty.replace('\u{1}', "\u{fffd}"));
        let mut xml = Xml::default();
        xml.reference("r", &MoRef::new("A\"", "<1>"));
        assert_eq!(parse(&xml.into_string()).unwrap().reference(), Some(MoRef::new("A\"", "<1>")));
    }
}

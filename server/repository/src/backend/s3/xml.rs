//! The XML of S3's answers, as far as it is needed: a root, its fields, and repeated entries with fields of their own.
//! Must never resolve an entity but the predefined ones, nor take a document that breaks off for a whole one.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use std::collections::HashMap;

/// Deepest nesting.
const DEPTH_MAX: usize = 16;
/// Elements of one answer: a page of 1000 entries with some twenty each.
const ELEMENTS_MAX: usize = 100_000;

/// An element below the root: its own text, and the text of its children by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub text: String,
    pub fields: HashMap<String, String>,
}

impl Entry {
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// A document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub root: String,
    pub entries: Vec<Entry>,
}

impl Document {
    /// Text of the first element of that name below the root; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.entries.iter().find(|entry| entry.name == name).map_or("", |entry| entry.text.as_str())
    }

    /// Parses a whole document. The error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
        let mut reader = Reader::from_str(text);
        let (mut document, mut open, mut elements) = (Self::default(), Vec::<(String, String)>::new(), 0);
        loop {
            match reader.read_event().map_err(|_| "it is not XML")? {
                Event::Start(start) => {
                    elements += 1;
                    if open.len() >= DEPTH_MAX || elements > ELEMENTS_MAX {
                        return Err("it is too deep or too long");
                    }
                    let name = start.local_name().as_ref().to_owned();
                    document.begin(&name, open.len())?;
                    open.push((name, String::new()));
                }
                Event::Empty(empty) => {
                    elements += 1;
                    if elements > ELEMENTS_MAX {
                        return Err("it is too long");
                    }
                    let name = empty.local_name().as_ref().to_owned();
                    document.begin(&name, open.len())?;
                    document.end(name, "", open.len());
                }
                Event::End(_) => {
                    let (name, text) = open.pop().ok_or("it ends an element it did not begin")?;
                    document.end(name, &text, open.len());
                }
                Event::Text(text) => append(&mut open, &text.into_inner()),
                Event::CData(text) => append(&mut open, &text.into_inner()),
                Event::GeneralRef(entity) => match entity.resolve_char_ref().map_err(|_| "a bad character")? {
                    Some(c) => append(&mut open, c.encode_utf8(&mut [0; 4])),
                    None => append(
                        &mut open,
                        resolve_predefined_entity(&entity.into_inner()).ok_or("it has entities of its own")?,
                    ),
                },
                Event::DocType(_) => return Err("it has a document type"),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::Eof if open.is_empty() && !document.root.is_empty() => return Ok(document),
                Event::Eof => return Err("it breaks off"),
            }
        }
    }

    fn begin(&mut self, name: &str, depth: usize) -> Result<(), &'static str> {
        match depth {
            0 if self.root.is_empty() => name.clone_into(&mut self.root),
            0 => return Err("it has two roots"),
            1 => self.entries.push(Entry { name: name.to_owned(), ..Entry::default() }),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: String, text: &str, depth: usize) {
        let Some(entry) = self.entries.last_mut() else { return };
        match depth {
            1 => text.trim().clone_into(&mut entry.text),
            2 => drop(entry.fields.insert(name, text.trim().to_owned())),
            _ => {}
        }
    }
}

fn append(open: &mut [(String, String)], text: &str) {
    if let Some((_, inside)) = open.last_mut() {
        inside.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <Name>b</Name><IsTruncated>true</IsTruncated><Contents><Key>a&amp;&#98;</Key><Size>5</Size>
        <Owner><ID>x</ID></Owner></Contents><Contents><Key>c</Key><Size>6</Size></Contents></ListBucketResult>"#;

    #[test]
    fn reads_a_list_and_nothing_that_breaks_off() {
        let document = Document::parse(LIST.as_bytes()).unwrap();
        assert_eq!((document.root.as_str(), document.text("IsTruncated")), ("ListBucketResult", "true"));
        let contents: Vec<_> = document.entries.iter().filter(|entry| entry.name == "Contents").collect();
        assert_eq!((contents[0].field("Key"), contents[1].field("Size"), contents.len()), ("a&b", "6", 2));
        for end in 0..LIST.len() {
            assert!(Document::parse(&LIST.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        assert!(Document::parse(b"<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>").is_err());
        assert!(Document::parse("<a>".repeat(100).as_bytes()).is_err());
    }
}

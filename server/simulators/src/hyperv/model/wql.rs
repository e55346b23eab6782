//! A subset of WQL: `SELECT … FROM … WHERE …`, `ASSOCIATORS OF {…} WHERE …`, `REFERENCES OF {…} WHERE …`.

use super::instance::Instance;
use super::path::{BadPath, ObjectPath, unquote};
use super::schema::{Class, Namespace, schema};
use super::value::Value;
use crate::hyperv::crimes::Rule;
use crate::hyperv::wire::fault::Fault;

/// Characters of a query.
const QUERY_CHARS_MAX: usize = 8192;
/// Nesting of a condition.
const DEPTH_MAX: usize = 16;

/// A query.
#[derive(Debug)]
pub(crate) enum Query {
    Select { class: &'static Class, columns: Option<Vec<&'static str>>, condition: Option<Condition> },
    Associators { of: ObjectPath, through: Option<&'static Class>, result: Option<&'static Class> },
    References { of: ObjectPath, through: Option<&'static Class> },
}

/// What follows `WHERE`.
#[derive(Debug)]
pub(crate) enum Condition {
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    Is(&'static str, Comparison, String),
    Null(&'static str, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Like,
}

impl Condition {
    /// Whether an instance is meant.
    pub fn holds(&self, instance: &Instance) -> bool {
        match self {
            Self::And(a, b) => a.holds(instance) && b.holds(instance),
            Self::Or(a, b) => a.holds(instance) || b.holds(instance),
            Self::Not(inner) => !inner.holds(instance),
            Self::Null(name, null) => (*instance.get(name) == Value::Null) == *null,
            Self::Is(name, comparison, wanted) => {
                let value = instance.get(name);
                if *value == Value::Null {
                    return false;
                }
                let own = value.plain();
                match comparison {
                    Comparison::Equal => own.eq_ignore_ascii_case(wanted),
                    Comparison::Unequal => !own.eq_ignore_ascii_case(wanted),
                    Comparison::Like => like(&own.to_lowercase(), &wanted.to_lowercase()),
                }
            }
        }
    }
}

/// `%` stands for anything, `_` for one character.
fn like(text: &str, pattern: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('%') => {
            let rest = &pattern[1..];
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| like(&text[at..], rest))
        }
        Some(c) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|own| c == '_' || own == c) && like(chars.as_str(), &pattern[c.len_utf8()..])
        }
    }
}

impl Query {
    pub fn parse(text: &str, namespace: Namespace) -> Result<Self, Fault> {
        if text.len() > QUERY_CHARS_MAX {
            return Err(Fault::filter("The query is too long."));
        }
        let mut parser = Parser { rest: text, namespace, depth: 0 };
        let query = match parser.word()?.to_ascii_lowercase().as_str() {
            "select" => parser.select()?,
            "associators" => parser.associators()?,
            "references" => parser.references()?,
            other => return Err(Fault::filter(format!("'{other}' begins no query of WQL."))),
        };
        if parser.rest.trim().is_empty() { Ok(query) } else { Err(parser.stuck("the end")) }
    }
}

struct Parser<'a> {
    rest: &'a str,
    namespace: Namespace,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn stuck(&self, wanted: &str) -> Fault {
        Fault::filter(format!("WQL: {wanted} is wanted where there is '{}'.", self.rest.trim_start()))
    }

    /// The next identifier.
    fn word(&mut self) -> Result<&'a str, Fault> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        if end == 0 {
            return Err(self.stuck("a word"));
        }
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        Ok(word)
    }

    fn peek(&self, keyword: &str) -> bool {
        let text = self.rest.trim_start();
        text.get(..keyword.len()).is_some_and(|start| start.eq_ignore_ascii_case(keyword))
            && !text[keyword.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = self.peek(keyword);
        if found {
            self.rest = &self.rest.trim_start()[keyword.len()..];
        }
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let text = self.rest.trim_start();
        let found = text.strip_prefix(sign);
        if let Some(rest) = found {
            self.rest = rest;
        }
        found.is_some()
    }

    fn expect(&mut self, keyword: &str) -> Result<(), Fault> {
        if self.keyword(keyword) { Ok(()) } else { Err(self.stuck(keyword)) }
    }

    fn class(&mut self) -> Result<&'static Class, Fault> {
        let name = self.word()?;
        let found = schema().class(name).filter(|class| class.namespace == self.namespace);
        found.ok_or_else(|| {
            let reason = format!("The class {name} does not exist in the {} namespace.", self.namespace.name());
            Fault::not_found(reason)
        })
    }

    fn select(&mut self) -> Result<Query, Fault> {
        let mut names = Vec::new();
        if !self.sign("*") {
            loop {
                names.push(self.word()?);
                if !self.sign(",") {
                    break;
                }
            }
        }
        self.expect("from")?;
        let class = self.class()?;
        let property = |name: &&str| {
            let found = class.property(name).map(|(name, _)| name);
            found.ok_or_else(|| Fault::filter(format!("{} has no property {name}.", class.name)))
        };
        let columns = names.iter().map(property).collect::<Result<Vec<_>, _>>()?;
        let condition = if self.keyword("where") { Some(self.either(class)?) } else { None };
        Ok(Query::Select { class, columns: Some(columns).filter(|columns| !columns.is_empty()), condition })
    }

    fn either(&mut self, class: &'static Class) -> Result<Condition, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::filter("The condition is nested too deeply."));
        }
        let mut left = self.both(class)?;
        while self.keyword("or") {
            left = Condition::Or(Box::new(left), Box::new(self.both(class)?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn both(&mut self, class: &'static Class) -> Result<Condition, Fault> {
        let mut left = self.one(class)?;
        while self.keyword("and") {
            left = Condition::And(Box::new(left), Box::new(self.one(class)?));
        }
        Ok(left)
    }

    fn one(&mut self, class: &'static Class) -> Result<Condition, Fault> {
        if self.keyword("not") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(Fault::filter("The condition is nested too deeply."));
            }
            return Ok(Condition::Not(Box::new(self.one(class)?)));
        }
        if self.sign("(") {
            let inner = self.either(class)?;
            return if self.sign(")") { Ok(inner) } else { Err(self.stuck(")")) };
        }
        let name = self.word()?;
        let property = class.property(name).map(|(name, _)| name);
        let property = property.ok_or_else(|| Fault::filter(format!("{} has no property {name}.", class.name)))?;
        if self.keyword("is") {
            let not = self.keyword("not");
            self.expect("null")?;
            return Ok(Condition::Null(property, !not));
        }
        let comparison = if self.sign("<>") || self.sign("!=") {
            Comparison::Unequal
        } else if self.sign("=") {
            Comparison::Equal
        } else if self.keyword("like") {
            Comparison::Like
        } else {
            return Err(self.stuck("a comparison"));
        };
        Ok(Condition::Is(property, comparison, self.literal()?))
    }

    fn literal(&mut self) -> Result<String, Fault> {
        if self.rest.trim_start().starts_with(['\'', '"']) {
            let (value, rest) = unquote(self.rest).map_err(|bad| bad_path(&bad))?;
            self.rest = rest;
            return Ok(value);
        }
        let word = self.word()?;
        let known = word.bytes().all(|byte| byte.is_ascii_digit())
            || word.eq_ignore_ascii_case("true")
            || word.eq_ignore_ascii_case("false");
        if known { Ok(word.to_owned()) } else { Err(Fault::filter(format!("'{word}' is no value."))) }
    }

    /// `OF {path}`
    fn subject(&mut self) -> Result<ObjectPath, Fault> {
        self.expect("of")?;
        let inner = self.rest.trim_start().strip_prefix('{').ok_or_else(|| self.stuck("{"))?;
        let (path, rest) = inner.split_once('}').ok_or_else(|| self.stuck("}"))?;
        self.rest = rest;
        ObjectPath::parse(path.trim()).map_err(|bad| bad_path(&bad))
    }

    fn associators(&mut self) -> Result<Query, Fault> {
        let of = self.subject()?;
        let (mut through, mut result) = (None, None);
        if self.keyword("where") {
            while !self.rest.trim().is_empty() {
                let name = self.word()?.to_ascii_lowercase();
                if !self.sign("=") {
                    return Err(self.stuck("="));
                }
                match name.as_str() {
                    "assocclass" => through = Some(self.class()?),
                    "resultclass" => result = Some(self.class()?),
                    _ => return Err(Fault::filter(format!("'{name}' is not supported here."))),
                }
            }
        }
        Ok(Query::Associators { of, through, result })
    }

    fn references(&mut self) -> Result<Query, Fault> {
        let of = self.subject()?;
        let mut through = None;
        if self.keyword("where") {
            self.expect("resultclass")?;
            if !self.sign("=") {
                return Err(self.stuck("="));
            }
            through = Some(self.class()?);
        }
        Ok(Query::References { of, through })
    }
}

fn bad_path(bad: &BadPath) -> Fault {
    match bad {
        BadPath::SingleBackslash => {
            Fault::filter("A backslash in a string of WQL is written twice.").breaks(Rule::SingleBackslash)
        }
        BadPath::Malformed(reason) => Fault::filter(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Query, Fault> {
        Query::parse(text, Namespace::Virtualization)
    }

    fn holds(condition: &str, instance: &Instance) -> bool {
        match parse(&format!("select * from Msvm_ComputerSystem where {condition}")).unwrap() {
            Query::Select { condition: Some(condition), .. } => condition.holds(instance),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn conditions_hold_as_they_say() {
        let instance =
            Instance::of("Msvm_ComputerSystem").with("Name", "A\\b").with("EnabledState", 2u64).with("Caption", "VM");
        for yes in [
            "Name = 'a\\\\B'",
            "EnabledState=2 AND Caption='VM'",
            "EnabledState=3 OR Caption=\"VM\" and enabledstate = 2",
            "not (EnabledState <> 2)",
            "Description is null and Name IS NOT NULL",
            "Name LIKE 'a%' AND Caption like '_M'",
        ] {
            assert!(holds(yes, &instance), "{yes}");
        }
        for no in ["EnabledState != 2", "Description = 'x'", "Description <> 'x'", "Caption like 'M%'"] {
            assert!(!holds(no, &instance), "{no}");
        }
    }

    #[test]
    fn queries_that_are_none_are_refused() {
        for bad in [
            "",
            "delete from Msvm_ComputerSystem",
            "select * from Msvm_Nothing",
            "select Nothing from Msvm_ComputerSystem",
            "select * from Win32_OperatingSystem",
            "select * from Msvm_ComputerSystem where Name = x",
            "select * from Msvm_ComputerSystem where Name = 'x' garbage",
            "associators of Msvm_ComputerSystem",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let single = parse("select * from Msvm_ComputerSystem where Name = 'a\\b'").unwrap_err();
        assert_eq!(single.broken, Some(Rule::SingleBackslash));
        let nested = format!("select * from Msvm_ComputerSystem where {}Name='a'", "(".repeat(50));
        assert!(parse(&nested).is_err());
    }

    #[test]
    fn associations_name_what_they_go_through() {
        let query = "ASSOCIATORS OF {Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='A'} \
                     WHERE AssocClass = Msvm_SettingsDefineState ResultClass=Msvm_VirtualSystemSettingData";
        match parse(query).unwrap() {
            Query::Associators { of, through: Some(through), result: Some(result) } => {
                assert_eq!(of.key("name"), Some("A"));
                assert_eq!((through.name, result.name), ("Msvm_SettingsDefineState", "Msvm_VirtualSystemSettingData"));
            }
            other => panic!("{other:?}"),
        }
    }
}

//! Which machines a task holds: those that were picked, and those that a rule takes in.

use serde::{Deserialize, Serialize};

/// Rules of one task, at most.
pub const RULES_MAX: usize = 100;
/// Characters of a pattern or folder, at most.
pub const RULE_LENGTH_MAX_CHARS: usize = 200;

/// What a task takes in beside the machines that were picked one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// A machine that fits one of them is in the task from the next run on.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Unless it fits one of these. What was picked one by one stays in.
    #[serde(default)]
    pub exceptions: Vec<Rule>,
}

/// What makes a machine fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Rule {
    /// Its name, with `*` for any characters and `?` for one; upper and lower case are the same.
    Name {
        /// `web-*`.
        pattern: String,
    },
    /// The folder it lies in, or one above.
    Folder {
        /// `Production/Web`, as the inventory shows it.
        path: String,
    },
    /// All of a device.
    Device {
        /// The device's id.
        device_id: i64,
    },
    /// The resource pool it is in, or one above.
    Pool {
        /// `Production/Web`, as the inventory shows it.
        path: String,
    },
    /// It has this tag.
    Tag {
        /// As [`crate::tag::Tag`] writes it.
        tag: String,
    },
}

/// What rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its folder, with `/` between the parts.
    pub folder: &'a str,
    /// Its resource pool, with `/` between the parts; empty where the platform has none.
    pub pool: &'a str,
    /// Its device.
    pub device_id: i64,
    /// Its tags.
    pub tags: &'a [String],
}

/// A disk that is left out of backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExcludedDisk {
    /// The machine's id.
    pub vm_id: i64,
    /// The disk's device key.
    pub disk_key: i32,
}

impl Choice {
    /// Takes the machine in.
    pub fn takes(&self, machine: Facts<'_>) -> bool {
        let fits = |rules: &[Rule]| rules.iter().any(|rule| rule.fits(machine));
        fits(&self.rules) && !fits(&self.exceptions)
    }
}

impl Rule {
    /// The machine fits.
    pub fn fits(&self, machine: Facts<'_>) -> bool {
        match self {
            Self::Name { pattern } => fits_pattern(&pattern.to_lowercase(), &machine.name.to_lowercase()),
            Self::Folder { path } => is_within(machine.folder, path),
            Self::Pool { path } => is_within(machine.pool, path),
            Self::Device { device_id } => *device_id == machine.device_id,
            Self::Tag { tag } => machine.tags.contains(tag),
        }
    }
}

/// The place is that of the path or lies below it.
fn is_within(place: &str, path: &str) -> bool {
    let (place, path) = (place.trim_matches('/'), path.trim_matches('/'));
    let below = place.strip_prefix(path);
    !path.is_empty() && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// In time proportional to the product of both lengths at worst: a star that fitted too little takes one more and no other.
fn fits_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = name.get(in_name) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == letter => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((of_star, taken)) = star else { return false };
                star = Some((of_star, taken + 1));
                at = of_star + 1;
                in_name = taken + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(pattern: &str) -> Rule {
        Rule::Name { pattern: pattern.to_owned() }
    }

    fn folder(path: &str) -> Rule {
        Rule::Folder { path: path.to_owned() }
    }

    fn machine<'a>(name: &'a str, folder: &'a str) -> Facts<'a> {
        Facts { name, folder, pool: "", device_id: 1, tags: &[] }
    }

    /// The plain definition.
    fn oracle(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|taken| oracle(rest, &name[taken..])),
            Some((wanted, rest)) => name
                .split_first()
                .is_some_and(|(first, left)| (*wanted == '?' || wanted == first) && oracle(rest, left)),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_by_its_plain_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(fits_pattern(&pattern, &name), oracle(&letters(&pattern), &letters(&name)));
        }
    }

    #[test]
    fn names_fit_without_regard_to_case() {
        for (pattern, fits) in [("web-*", true), ("WEB-??", true), ("*01", true), ("web", false), ("web-?", false)] {
            assert_eq!(name(pattern).fits(machine("Web-01", "")), fits, "{pattern}");
        }
        assert!(name("büro-*").fits(machine("BÜRO-1", "")));
    }

    #[test]
    fn a_folder_takes_in_what_is_below_it_and_not_its_neighbour() {
        for (path, fits) in [("Production", true), ("Production/Web", true), ("/Production/", true), ("Prod", false)] {
            assert_eq!(folder(path).fits(machine("web-01", "Production/Web")), fits, "{path}");
        }
        assert!(!folder("").fits(machine("web-01", "")), "an empty rule takes nothing in");
        assert!(!folder("/").fits(machine("web-01", "Production")));
    }

    #[test]
    fn an_exception_wins_over_every_rule() {
        let rules = vec![Rule::Device { device_id: 1 }, name("db-*")];
        let choice = Choice { rules, exceptions: vec![folder("Test")] };
        assert!(choice.takes(machine("web-01", "Production")) && choice.takes(machine("db-01", "")));
        assert!(!choice.takes(machine("db-01", "Test/Old")));
        assert!(!choice.takes(Facts { device_id: 2, ..machine("web-01", "") }));
        assert!(!Choice::default().takes(machine("web-01", "")), "without rules nothing joins");
    }

    #[test]
    fn a_pool_is_not_a_folder_of_the_same_name() {
        let pool = |path: &str| Rule::Pool { path: path.to_owned() };
        let pooled = Facts { pool: "Production/Web", ..machine("web-01", "Test") };
        assert!(pool("Production").fits(pooled) && pool("Production/Web").fits(pooled));
        assert!(!pool("Prod").fits(pooled) && !pool("Test").fits(pooled) && !folder("Production").fits(pooled));
        assert!(!pool("").fits(machine("web-01", "")), "a machine without a pool is in none");
        let stored = serde_json::json!({ "by": "pool", "path": "Production" });
        assert_eq!(serde_json::to_value(pool("Production")).unwrap(), stored);
    }

    #[test]
    fn a_tag_takes_in_or_out_whatever_the_name() {
        let tag = |tag: &str| Rule::Tag { tag: tag.to_owned() };
        let tags = ["gold".to_owned(), "web".to_owned()];
        let tagged = Facts { tags: &tags, ..machine("web-01", "") };
        assert!(tag("gold").fits(tagged) && !tag("go").fits(tagged) && !tag("gold").fits(machine("gold", "gold")));
        let choice = Choice { rules: vec![name("*")], exceptions: vec![tag("web")] };
        assert!(!choice.takes(tagged) && choice.takes(machine("web-01", "")));
        assert_eq!(serde_json::to_value(tag("gold")).unwrap(), serde_json::json!({ "by": "tag", "tag": "gold" }));
    }

    #[test]
    fn what_was_stored_before_rules_came_is_a_choice_without_any() {
        assert_eq!(serde_json::from_str::<Choice>("{}").unwrap(), Choice::default());
    }
}

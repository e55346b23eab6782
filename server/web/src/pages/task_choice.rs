//! The part of a task's wizard that says which machines join by rule and which disks stay out.

use crate::form::{Fields, Problems};
use db::{Task, VmId};
use domain::choice::{Choice, ExcludedDisk, RULE_LENGTH_MAX_CHARS, RULES_MAX, Rule};
use domain::tag::Tag;
use serde::{Deserialize, Serialize};

/// Disks that a task may leave out.
const EXCLUDED_DISKS_MAX: usize = 1000;

/// Answers about rules, a line of a text field each, and disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAnswers {
    /// Patterns of names that join.
    pub names: Vec<String>,
    /// Folders.
    pub folders: Vec<String>,
    /// Resource pools.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Whole devices.
    pub devices: Vec<i64>,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Patterns of names that do not.
    pub except_names: Vec<String>,
    /// Folders.
    pub except_folders: Vec<String>,
    /// Resource pools.
    #[serde(default)]
    pub except_pools: Vec<String>,
    /// Tags.
    #[serde(default)]
    pub except_tags: Vec<String>,
    /// Disks that stay out.
    pub excluded_disks: Vec<ExcludedDisk>,
}

impl RuleAnswers {
    /// Those of a task that exists.
    pub fn of_task(task: &Task) -> Self {
        let mut answers = Self { excluded_disks: task.excluded_disks.clone(), ..Self::default() };
        for rule in task.choice.rules.clone() {
            match rule {
                Rule::Name { pattern } => answers.names.push(pattern),
                Rule::Folder { path } => answers.folders.push(path),
                Rule::Device { device_id } => answers.devices.push(device_id),
                Rule::Tag { tag } => answers.tags.push(tag),
                Rule::Pool { path } => answers.pools.push(path),
            }
        }
        for rule in task.choice.exceptions.clone() {
            match rule {
                Rule::Name { pattern } => answers.except_names.push(pattern),
                Rule::Folder { path } => answers.except_folders.push(path),
                Rule::Device { .. } => {}
                Rule::Tag { tag } => answers.except_tags.push(tag),
                Rule::Pool { path } => answers.except_pools.push(path),
            }
        }
        answers
    }

    /// Takes the step's fields and says what is wrong with them.
    pub fn take(&mut self, fields: &Fields, problems: &mut Problems) {
        self.names = lines(fields, "rule_names", problems);
        self.folders = lines(fields, "rule_folders", problems);
        self.except_names = lines(fields, "except_names", problems);
        self.except_folders = lines(fields, "except_folders", problems);
        self.pools = lines(fields, "rule_pools", problems);
        self.except_pools = lines(fields, "except_pools", problems);
        self.tags = tags(fields, "rule_tags", problems);
        self.except_tags = tags(fields, "except_tags", problems);
        self.devices = fields.all("rule_device").filter_map(|id| id.parse().ok()).take(RULES_MAX).collect();
        let disks = fields.all("leave_out").filter_map(parse_disk).take(EXCLUDED_DISKS_MAX);
        // What the page did not offer stays as it was.
        let offered: Vec<ExcludedDisk> = fields.all("disk").filter_map(parse_disk).collect();
        self.excluded_disks.retain(|disk| !offered.contains(disk));
        self.excluded_disks.extend(disks);
        self.excluded_disks.sort_unstable();
        self.excluded_disks.dedup();
        self.excluded_disks.truncate(EXCLUDED_DISKS_MAX);
    }

    /// What they mean.
    pub fn choice(&self) -> Choice {
        let names = |list: &[String]| list.iter().map(|it| Rule::Name { pattern: it.clone() }).collect::<Vec<_>>();
        let folders = |list: &[String]| list.iter().map(|it| Rule::Folder { path: it.clone() }).collect::<Vec<_>>();
        let pools = |list: &[String]| list.iter().map(|it| Rule::Pool { path: it.clone() }).collect::<Vec<_>>();
        let tags = |list: &[String]| list.iter().map(|it| Rule::Tag { tag: it.clone() }).collect::<Vec<_>>();
        let devices = self.devices.iter().map(|&device_id| Rule::Device { device_id });
        let mut rules = [names(&self.names), folders(&self.folders), pools(&self.pools), tags(&self.tags)].concat();
        rules.extend(devices);
        let exceptions = [
            names(&self.except_names),
            folders(&self.except_folders),
            pools(&self.except_pools),
            tags(&self.except_tags),
        ]
        .concat();
        Choice { rules, exceptions }
    }

    /// The disk stays out.
    pub fn leaves_out(&self, vm_id: VmId, disk_key: i32) -> bool {
        self.excluded_disks.contains(&ExcludedDisk { vm_id: vm_id.0, disk_key })
    }
}

/// Something that people read, a rule each.
pub fn rule_words(choice: &Choice, device_name: impl Fn(i64) -> String) -> Vec<String> {
    let word = |rule: &Rule| match rule {
        Rule::Name { pattern } => format!("named {pattern}"),
        Rule::Folder { path } => format!("in {path}"),
        Rule::Device { device_id } => format!("on {}", device_name(*device_id)),
        Rule::Tag { tag } => format!("tagged {tag}"),
        Rule::Pool { path } => format!("in the resource pool {path}"),
    };
    let rules = choice.rules.iter().map(word);
    rules.chain(choice.exceptions.iter().map(|rule| format!("but none {}", word(rule)))).collect()
}

/// `7:2000`.
fn parse_disk(text: &str) -> Option<ExcludedDisk> {
    let (vm_id, disk_key) = text.split_once(':')?;
    Some(ExcludedDisk { vm_id: vm_id.parse().ok()?, disk_key: disk_key.parse().ok()? })
}

fn lines(fields: &Fields, name: &'static str, problems: &mut Problems) -> Vec<String> {
    let lines: Vec<String> =
        fields.get(name).lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.len() > RULES_MAX {
        problems.add(name, format!("{RULES_MAX} lines at most."));
    } else if lines.iter().any(|line| line.chars().count() > RULE_LENGTH_MAX_CHARS) {
        problems.add(name, format!("{RULE_LENGTH_MAX_CHARS} characters a line at most."));
    } else if lines.iter().any(|line| line.chars().all(|letter| letter == '/')) {
        problems.add(name, "A path such as Production/Web.");
    }
    lines
}

/// Tags of a text field, with lines, commas or spaces between them. What is none is shown again as it was typed.
fn tags(fields: &Fields, name: &'static str, problems: &mut Problems) -> Vec<String> {
    let typed = fields.get(name);
    let words = typed.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|word| !word.is_empty());
    let mut tags = Vec::new();
    for word in words.take(RULES_MAX + 1) {
        match Tag::parse(word) {
            Ok(tag) => tags.push(tag.to_string()),
            Err(error) => {
                problems.add(name, error.to_string());
                tags.push(word.chars().take(RULE_LENGTH_MAX_CHARS).collect());
            }
        }
    }
    if tags.len() > RULES_MAX {
        problems.add(name, format!("{RULES_MAX} tags at most."));
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(answers: &mut RuleAnswers, body: &str) -> Problems {
        let mut problems = Problems::default();
        answers.take(&Fields::parse(body.as_bytes()), &mut problems);
        problems
    }

    #[test]
    fn each_line_is_a_rule() {
        let mut answers = RuleAnswers::default();
        let body =
            "rule_names=web-*%0D%0A%0D%0A+db-%3F+&rule_folders=Production%2FWeb&rule_device=3&except_names=*-test";
        assert!(take(&mut answers, body).is_empty());
        let choice = answers.choice();
        let name = |pattern: &str| Rule::Name { pattern: pattern.to_owned() };
        let folder = Rule::Folder { path: "Production/Web".to_owned() };
        assert_eq!(choice.rules, [name("web-*"), name("db-?"), folder, Rule::Device { device_id: 3 }]);
        assert_eq!(choice.exceptions, [name("*-test")]);
        let words = rule_words(&choice, |_| "esx-1".to_owned());
        assert_eq!(words, ["named web-*", "named db-?", "in Production/Web", "on esx-1", "but none named *-test"]);
    }

    #[test]
    fn tags_take_in_and_out_and_drafts_without_them_are_read() {
        let mut answers = RuleAnswers::default();
        assert!(
            take(&mut answers, "rule_tags=Gold%0D%0Aweb,db&except_tags=test&rule_pools=Production%2FWeb").is_empty()
        );
        let tag = |tag: &str| Rule::Tag { tag: tag.to_owned() };
        let choice = answers.choice();
        assert_eq!(
            (choice.rules.as_slice(), choice.exceptions.as_slice()),
            (
                &[Rule::Pool { path: "Production/Web".to_owned() }, tag("gold"), tag("web"), tag("db")][..],
                &[tag("test")][..]
            )
        );
        let words = rule_words(&choice, |_| String::new());
        assert_eq!(
            words,
            ["in the resource pool Production/Web", "tagged gold", "tagged web", "tagged db", "but none tagged test"]
        );
        let mut old = serde_json::to_value(&answers).unwrap();
        for field in ["tags", "except_tags", "pools", "except_pools"] {
            old.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(serde_json::from_value::<RuleAnswers>(old).unwrap(), RuleAnswers::default());
    }

    #[test]
    fn what_is_too_long_or_nothing_is_named_by_its_field() {
        let long = "x".repeat(RULE_LENGTH_MAX_CHARS + 1);
        let many = "a%0A".repeat(RULES_MAX + 1);
        for (body, field) in [
            (format!("rule_names={long}"), "rule_names"),
            (format!("except_names={many}"), "except_names"),
            ("rule_folders=%2F".to_owned(), "rule_folders"),
            ("rule_tags=a%2Fb".to_owned(), "rule_tags"),
            (format!("except_tags={many}"), "except_tags"),
        ] {
            assert!(take(&mut RuleAnswers::default(), &body).of(field).is_some(), "{field}");
        }
    }

    #[test]
    fn a_disk_that_was_not_offered_stays_out() {
        let mut answers = RuleAnswers::default();
        take(&mut answers, "disk=7:2000&disk=7:2001&leave_out=7:2001&disk=8:2000&leave_out=8:2000&leave_out=x");
        assert!(answers.leaves_out(VmId(7), 2001) && !answers.leaves_out(VmId(7), 2000));
        take(&mut answers, "disk=7:2000&disk=7:2001");
        assert_eq!(answers.excluded_disks, [ExcludedDisk { vm_id: 8, disk_key: 2000 }]);
    }
}

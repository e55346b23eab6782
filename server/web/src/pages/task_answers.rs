//! What the wizard of a task has been told so far: each step's fields, checked when they come, and the task they make.

use super::goal;
use super::schedule_answers::When;
use super::task_choice::RuleAnswers;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use db::{Method, RepositoryId, Task, TaskId, TaskInput, VmId};
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode, Shutdown};
use domain::retention::{AGE_MAX_DAYS, NUMBER_MAX, Retention, Rule, Scope};
use domain::schedule::Schedule;
use serde::{Deserialize, Deserializer, Serialize};

/// Longest name of a task.
const NAME_LENGTH_MAX_CHARS: usize = 200;
/// A full every how many points, at most.
const FULL_EVERY_MAX: u32 = 1_000;
/// Points that are kept unless one says otherwise.
const KEEP_DEFAULT: u32 = 14;

/// Steps in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// What it is called.
    Name,
    /// Which machines.
    Machines,
    /// Where to.
    Location,
    /// Hot or cold, full or incremental.
    Method,
    /// When.
    Schedule,
    /// What stays.
    Retention,
    /// All of it once more.
    Summary,
}

impl Step {
    /// In order.
    pub const ALL: [Self; 7] =
        [Self::Name, Self::Machines, Self::Location, Self::Method, Self::Schedule, Self::Retention, Self::Summary];

    /// Word in the address.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Machines => "machines",
            Self::Location => "location",
            Self::Method => "method",
            Self::Schedule => "schedule",
            Self::Retention => "retention",
            Self::Summary => "summary",
        }
    }

    /// Word on the bar.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Machines => "Machines",
            Self::Location => "Location",
            Self::Method => "Method",
            Self::Schedule => "Schedule",
            Self::Retention => "Retention",
            Self::Summary => "Summary",
        }
    }

    /// The step of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }

    /// The one after it.
    pub fn next(self) -> Self {
        Self::ALL.into_iter().find(|step| *step > self).unwrap_or(Self::Summary)
    }
}

/// Answers so far; kept as the draft's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The task that is being changed.
    pub task_id: Option<TaskId>,
    /// Name.
    pub name: String,
    /// −1 low, 0 normal, 1 high.
    #[serde(default)]
    pub priority: i32,
    /// Machines.
    pub machines: Vec<VmId>,
    /// What joins by rule, and disks that stay out.
    #[serde(default)]
    pub rules: RuleAnswers,
    /// Location.
    pub repository: Option<RepositoryId>,
    /// `full`, `incremental` or `differential`.
    pub method: String,
    /// A full every how many points; 0 = when it must be.
    pub full_every: u32,
    /// Whether guests freeze their file systems.
    #[serde(deserialize_with = "read_quiesce")]
    pub quiesce: Quiesce,
    /// Whether machines run meanwhile.
    #[serde(default)]
    pub mode: Mode,
    /// How they are shut down, if they are.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// When it runs.
    #[serde(flatten)]
    pub when: When,
    /// Points to keep.
    pub keep: u32,
    /// Minutes, `none`, or empty: what follows from the schedule.
    #[serde(default)]
    pub goal: String,
    /// What else is kept; its `last` and time zone are not used.
    #[serde(default)]
    pub also: Rule,
    /// Furthest step that was answered, so that a default is seen before it counts.
    pub answered: usize,
}

impl Answers {
    /// Nothing yet, with defaults that suit most.
    pub fn new(time_zone: &str) -> Self {
        Self {
            task_id: None,
            name: String::new(),
            priority: 0,
            machines: Vec::new(),
            rules: RuleAnswers::default(),
            repository: None,
            method: Method::Incremental.as_str().to_owned(),
            full_every: 0,
            quiesce: Quiesce::default(),
            mode: Mode::default(),
            shutdown: Shutdown::default(),
            when: When::new(time_zone),
            keep: KEEP_DEFAULT,
            goal: String::new(),
            also: Rule::default(),
            answered: 0,
        }
    }

    /// Those of a task that exists.
    pub fn of_task(task: &Task, machines: Vec<VmId>, time_zone: &str) -> Self {
        let rule = task.retention.rule();
        let mut answers = Self {
            task_id: Some(task.task_id),
            name: task.name.clone(),
            priority: task.priority,
            machines,
            rules: RuleAnswers::of_task(task),
            repository: Some(task.repository_id),
            method: task.method.as_str().to_owned(),
            full_every: task.full_every,
            quiesce: task.quiesce,
            mode: task.mode,
            shutdown: task.shutdown(),
            goal: task.goal_minutes.map_or_else(|| goal::NONE.to_owned(), |minutes| minutes.to_string()),
            keep: rule.last,
            also: rule,
            answered: Step::ALL.len(),
            when: When::of(&task.schedule, time_zone),
        };
        if let Retention::Keep(rule) = &task.retention {
            answers.when.time_zone.clone_from(&rule.time_zone);
        }
        answers
    }

    /// For the draft.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|_| Failure::Internal("a draft"))
    }

    /// The first step that has no valid answer yet.
    pub fn first_incomplete(&self) -> Step {
        let complete = |step: Step| match step {
            Step::Name => !self.name.is_empty(),
            Step::Machines => !self.machines.is_empty() || !self.rules.choice().rules.is_empty(),
            Step::Location => self.repository.is_some(),
            Step::Schedule => self.schedule().is_some() && self.answered >= 5,
            Step::Method => self.answered >= 4,
            Step::Retention => self.answered >= 6,
            Step::Summary => false,
        };
        Step::ALL.into_iter().find(|step| !complete(*step)).unwrap_or(Step::Summary)
    }

    /// Takes a step's fields and says what is wrong with them.
    pub fn take(&mut self, step: Step, fields: &Fields, problems: &mut Problems) {
        match step {
            Step::Name => {
                fields.get("name").clone_into(&mut self.name);
                problems.require("name", &self.name, NAME_LENGTH_MAX_CHARS, "The name");
                self.priority = fields.number("priority").filter(|it| (-1..=1).contains(it)).unwrap_or(0);
            }
            Step::Machines => {
                self.machines = fields.all("vm").filter_map(|id| id.parse().ok()).collect();
                self.machines.sort_unstable();
                self.machines.dedup();
                self.rules.take(fields, problems);
                let nothing = self.machines.is_empty() && self.rules.choice().rules.is_empty();
                if nothing && !matches!(fields.get("do"), "filter" | "all") {
                    problems.add("vm", "Pick one machine at least, or write a rule that takes machines in.");
                }
            }
            Step::Location => {
                self.repository = fields.get("repository").parse().ok();
                if self.repository.is_none() && fields.get("do") != "create" {
                    problems.add("repository", "Choose a location, or create one.");
                }
            }
            Step::Method => self.take_method(fields, problems),
            Step::Schedule => self.when.take(fields, problems),
            Step::Retention => self.take_retention(fields, problems),
            Step::Summary => {}
        }
        if problems.is_empty() {
            let number = Step::ALL.iter().position(|it| *it == step).unwrap_or_default() + 1;
            self.answered = self.answered.max(number);
        }
    }

    fn take_method(&mut self, fields: &Fields, problems: &mut Problems) {
        let method = Method::parse(fields.get("method")).unwrap_or(Method::Incremental);
        let full = method == Method::Full;
        method.as_str().clone_into(&mut self.method);
        self.mode = Mode::parse(fields.get("mode")).unwrap_or_default();
        self.take_shutdown(fields, problems);
        self.quiesce = Quiesce::parse(fields.get("quiesce")).unwrap_or_default();
        match fields.number::<u32>("full_every") {
            Some(every) if every <= FULL_EVERY_MAX => self.full_every = every,
            _ if full => {}
            _ => problems.add("full_every", format!("A number from 0 to {FULL_EVERY_MAX}.")),
        }
    }

    /// What is not shown is not checked.
    fn take_shutdown(&mut self, fields: &Fields, problems: &mut Problems) {
        const LIMITS: std::ops::RangeInclusive<u32> = Shutdown::LIMIT_MIN_MINUTES..=Shutdown::LIMIT_MAX_MINUTES;
        if !self.mode.shuts_down() {
            return;
        }
        self.shutdown.if_still_on = IfStillOn::parse(fields.get("if_still_on")).unwrap_or_default();
        match fields.number::<u32>("shutdown_minutes") {
            Some(minutes) if LIMITS.contains(&minutes) => self.shutdown.limit_minutes = minutes,
            _ => problems.add("shutdown_minutes", format!("Minutes, from {} to {}.", LIMITS.start(), LIMITS.end())),
        }
    }

    /// An empty field keeps nothing; one part at least keeps something.
    fn take_retention(&mut self, fields: &Fields, problems: &mut Problems) {
        let mut number = |name: &'static str, max: u32| match fields.get(name) {
            "" => 0,
            text => text.parse::<u32>().ok().filter(|number| *number <= max).unwrap_or_else(|| {
                problems.add(name, format!("A number from 0 to {max}."));
                0
            }),
        };
        let scope = if fields.get("scope") == "machine" { Scope::Machine } else { Scope::Task };
        let keep = number("keep", NUMBER_MAX);
        let also = Rule {
            days: number("days", AGE_MAX_DAYS),
            daily: number("daily", NUMBER_MAX),
            weekly: number("weekly", NUMBER_MAX),
            monthly: number("monthly", NUMBER_MAX),
            yearly: number("yearly", NUMBER_MAX),
            scope,
            ..Rule::default()
        };
        if keep == 0 && also == (Rule { scope, ..Rule::default() }) {
            problems.add("keep", "Keep something: at least one number has to be above 0.");
        }
        if problems.is_empty() {
            (self.keep, self.also) = (keep, also);
        }
    }

    /// The rule of the answers; its calendar is that of the schedule's time zone.
    pub fn retention(&self) -> Retention {
        Rule { last: self.keep, time_zone: self.when.time_zone.clone(), ..self.also.clone() }.into()
    }

    /// The schedule, when the answers make one that can be used.
    pub fn schedule(&self) -> Option<Schedule> {
        self.when.schedule().filter(|schedule| schedule.check().is_ok())
    }

    /// The task, when every step has its answer.
    pub fn task(&self) -> Option<TaskInput> {
        if self.first_incomplete() != Step::Summary {
            return None;
        }
        Some(TaskInput {
            name: self.name.clone(),
            repository_id: self.repository?,
            schedule: self.schedule()?,
            retention: self.retention(),
            method: Method::parse(&self.method)?,
            full_every: self.full_every,
            quiesce: self.quiesce,
            mode: self.mode,
            shutdown: self.shutdown,
            goal_minutes: goal::parse(&self.goal).and_then(goal::Choice::minutes),
            machines: self.machines.clone(),
            priority: self.priority,
            choice: self.rules.choice(),
            excluded_disks: self.rules.excluded_disks.clone(),
        })
    }
}

/// Drafts of versions before “require” hold whether the guest is asked.
fn read_quiesce<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Quiesce, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Asks(bool),
        Policy(Quiesce),
    }
    Ok(match Stored::deserialize(deserializer)? {
        Stored::Asks(true) => Quiesce::Prefer,
        Stored::Asks(false) => Quiesce::Off,
        Stored::Policy(policy) => policy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answers: &mut Answers, step: Step, body: &str) -> Problems {
        let mut problems = Problems::default();
        answers.take(step, &Fields::parse(body.as_bytes()), &mut problems);
        problems
    }

    #[test]
    fn a_task_is_complete_only_after_every_step_was_answered() {
        let mut answers = Answers::new("Europe/Vienna");
        assert_eq!(answers.first_incomplete(), Step::Name);
        assert!(answer(&mut answers, Step::Name, "name=Nightly").is_empty());
        assert!(answer(&mut answers, Step::Machines, "vm=7&vm=3&vm=7").is_empty());
        let id = "5b0d4a56-6f0f-4f44-8f8f-0123456789ab";
        assert!(answer(&mut answers, Step::Location, &format!("repository={id}")).is_empty());
        assert_eq!(answers.first_incomplete(), Step::Method, "a default counts once it was seen");
        assert!(answers.task().is_none());
        assert!(answer(&mut answers, Step::Method, "method=incremental&full_every=30&quiesce=prefer").is_empty());
        assert!(answer(&mut answers, Step::Schedule, "repeat=daily&at=22:30&time_zone=Europe/Vienna").is_empty());
        assert!(answer(&mut answers, Step::Retention, "keep=5").is_empty());
        let task = answers.task().unwrap();
        assert_eq!(task.machines, [VmId(3), VmId(7)]);
        assert_eq!(task.retention, Retention::KeepLast { count: 5 });
        assert_eq!(task.full_every, 30);
        assert_eq!(task.schedule, Schedule::daily("22:30".parse().unwrap(), "Europe/Vienna"));
    }

    #[test]
    fn wrong_answers_are_named_by_their_field() {
        let mut answers = Answers::new("UTC");
        for (step, body, field) in [
            (Step::Name, "name=", "name"),
            (Step::Machines, "vm=x", "vm"),
            (Step::Location, "repository=1", "repository"),
            (Step::Method, "method=incremental&full_every=-1", "full_every"),
            (Step::Method, "method=full&mode=cold", "shutdown_minutes"),
            (Step::Method, "method=full&mode=cold_snapshot&shutdown_minutes=0", "shutdown_minutes"),
            (Step::Method, "method=full&mode=cold&shutdown_minutes=121", "shutdown_minutes"),
            (Step::Schedule, "repeat=daily&at=25:00&time_zone=UTC", "at"),
            (Step::Schedule, "repeat=daily&at=12:00&time_zone=Mars/Olympus", "time_zone"),
            (Step::Retention, "keep=0", "keep"),
            (Step::Retention, "keep=&weekly=0", "keep"),
            (Step::Retention, "keep=7&weekly=-1", "weekly"),
            (Step::Retention, "keep=7&days=36501", "days"),
        ] {
            assert!(answer(&mut answers, step, body).of(field).is_some(), "{body}");
        }
    }

    #[test]
    fn the_shutdown_counts_only_when_there_is_one() {
        let mut answers = Answers::new("UTC");
        let cold = "method=differential&full_every=7&mode=cold&shutdown_minutes=25&if_still_on=power_off";
        assert!(answer(&mut answers, Step::Method, cold).is_empty());
        let shutdown = Shutdown { limit_minutes: 25, if_still_on: IfStillOn::PowerOff };
        assert_eq!((answers.method.as_str(), answers.mode, answers.shutdown), ("differential", Mode::Cold, shutdown));
        let hot = "method=full&mode=hot&shutdown_minutes=x";
        assert!(answer(&mut answers, Step::Method, hot).is_empty(), "what is not shown is not checked");
        assert_eq!(
            (answers.mode, answers.shutdown),
            (Mode::Hot, shutdown),
            "and is still there when it is chosen again"
        );
        let mut old = answers.to_json().unwrap();
        for field in ["mode", "shutdown", "goal"] {
            old.as_object_mut().unwrap().remove(field);
        }
        let old: Answers = serde_json::from_value(old).unwrap();
        assert_eq!((old.mode, old.shutdown), (Mode::Hot, Shutdown::default()), "drafts of the version before");
    }

    #[test]
    fn quiescing_is_required_preferred_or_off_and_once_was_yes_or_no() {
        let mut answers = Answers::new("UTC");
        assert_eq!(answers.quiesce, Quiesce::Prefer);
        for (word, policy) in [("require", Quiesce::Require), ("off", Quiesce::Off), ("x", Quiesce::Prefer)] {
            assert!(answer(&mut answers, Step::Method, &format!("method=full&quiesce={word}")).is_empty());
            assert_eq!(answers.quiesce, policy);
            let kept: Answers = serde_json::from_value(answers.to_json().unwrap()).unwrap();
            assert_eq!(kept, answers);
        }
        for (asks, policy) in [(true, Quiesce::Prefer), (false, Quiesce::Off)] {
            let mut old = answers.to_json().unwrap();
            old["quiesce"] = asks.into();
            assert_eq!(serde_json::from_value::<Answers>(old).unwrap().quiesce, policy, "drafts of the version before");
        }
    }

    #[test]
    fn a_rule_has_any_of_its_parts_in_the_zone_of_the_schedule() {
        let mut answers = Answers::new("Europe/Vienna");
        assert!(answer(&mut answers, Step::Retention, "keep=7&weekly=4&monthly=12&yearly=&scope=machine").is_empty());
        let rule = Rule {
            last: 7,
            weekly: 4,
            monthly: 12,
            scope: Scope::Machine,
            time_zone: "Europe/Vienna".to_owned(),
            ..Rule::default()
        };
        assert_eq!(answers.retention(), Retention::Keep(rule));
        assert!(answer(&mut answers, Step::Retention, "keep=&days=30").is_empty());
        assert_eq!(answers.retention().rule().words(), "30 days");
        assert!(answer(&mut answers, Step::Retention, "keep=5").is_empty());
        assert_eq!(answers.retention(), Retention::KeepLast { count: 5 }, "earlier versions read it");
        let mut old = answers.to_json().unwrap();
        old.as_object_mut().unwrap().remove("also");
        let old: Answers = serde_json::from_value(old).unwrap();
        assert_eq!(old.retention(), Retention::KeepLast { count: 5 }, "drafts of the version before");
    }

    #[test]
    fn a_step_has_one_successor() {
        assert_eq!(Step::Name.next(), Step::Machines);
        assert_eq!(Step::Summary.next(), Step::Summary);
        for step in Step::ALL {
            assert_eq!(Step::parse(step.as_str()), Some(step));
        }
    }
}

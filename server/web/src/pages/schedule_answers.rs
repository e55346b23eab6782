//! The wizard's answers about when a task runs: what was typed, checked when it comes, and the schedule it makes.

use crate::form::{Fields, Problems};
use crate::format::Of;
use db::TaskId;
use domain::schedule::{
    After, Days, GRACE_MAX_MINUTES, Hours, HoursRule, MissedRuns, Nth, PATTERN_LENGTH_MAX_CHARS, Rule, SPANS_MAX,
    Schedule, ScheduleError, Span, TIMES_A_DAY_MAX, Timed, Weekday, clock,
};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Start of a task unless one says otherwise.
const AT_DEFAULT: &str = "22:00";
/// A run that is late by this is on time, unless one says otherwise.
const GRACE_DEFAULT_MINUTES: u16 = 60;
/// Hours that are offered when there are none yet.
const NIGHT: (&str, &str) = ("22:00", "06:00");
/// Words of `repeat`.
const REPEATS: [&str; 6] = ["daily", "weekly", "monthly", "cron", "after", "manual"];

/// Answers so far. Fields that a repeat does not use keep what they had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct When {
    /// `daily`, `weekly`, `monthly`, `cron`, `after` or `manual`.
    pub repeat: String,
    /// `22:00`, or several: `12:00, 22:00`.
    pub at: String,
    /// IANA name.
    pub time_zone: String,
    /// Days of the week.
    pub weekdays: BTreeSet<Weekday>,
    /// `date`, `last_day` or `weekday`.
    pub month_by: String,
    /// 1 to 31.
    pub month_day: u8,
    /// Which of the month's …
    pub nth: Nth,
    /// … weekdays.
    pub nth_weekday: Weekday,
    /// A pattern of five fields.
    pub cron: String,
    /// The task that it runs after.
    pub after_task: Option<TaskId>,
    /// Also when that failed.
    pub after_failure: bool,
    /// What was missed is left out; else one run makes up for it.
    pub skip_missed: bool,
    /// Late by no more than this is on time.
    pub grace_minutes: u16,
    /// How the spans are meant.
    pub hours: HoursRule,
    /// Spans of hours.
    pub spans: Vec<SpanAnswer>,
    /// What still runs at their end is stopped.
    pub stop: bool,
}

/// A span of hours, as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpanAnswer {
    /// Days on which it begins.
    pub days: BTreeSet<Weekday>,
    /// `22:00`.
    pub from: String,
    /// `06:00`.
    pub until: String,
}

impl Default for When {
    fn default() -> Self {
        Self {
            repeat: "daily".to_owned(),
            at: AT_DEFAULT.to_owned(),
            time_zone: "UTC".to_owned(),
            weekdays: BTreeSet::from([Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri]),
            month_by: "date".to_owned(),
            month_day: 1,
            nth: Nth::First,
            nth_weekday: Weekday::Sun,
            cron: String::new(),
            after_task: None,
            after_failure: false,
            skip_missed: false,
            grace_minutes: GRACE_DEFAULT_MINUTES,
            hours: HoursRule::Any,
            spans: Vec::new(),
            stop: false,
        }
    }
}

impl When {
    /// Daily, in that zone if it is one.
    pub fn new(time_zone: &str) -> Self {
        let time_zone = if TimeZone::get(time_zone).is_ok() { time_zone } else { "UTC" };
        Self { time_zone: time_zone.to_owned(), ..Self::default() }
    }

    /// Those of a schedule that exists.
    pub fn of(schedule: &Schedule, time_zone: &str) -> Self {
        let mut when = Self::new(time_zone);
        match schedule {
            Schedule::Manual => "manual".clone_into(&mut when.repeat),
            Schedule::Timed(timed) => when.set_timed(timed),
            Schedule::After(after) => {
                "after".clone_into(&mut when.repeat);
                when.after_task = Some(TaskId(after.task_id));
                when.after_failure = after.also_after_failure;
            }
        }
        if let Some((hours, time_zone)) = schedule.hours() {
            time_zone.clone_into(&mut when.time_zone);
            when.hours = hours.rule;
            when.stop = hours.stop;
            when.spans = hours.spans.iter().map(SpanAnswer::of).collect();
        }
        when
    }

    fn set_timed(&mut self, timed: &Timed) {
        if let MissedRuns::Skip { grace_minutes } = timed.missed {
            (self.skip_missed, self.grace_minutes) = (true, grace_minutes);
        }
        let (days, at) = match &timed.rule {
            Rule::Cron { pattern } => {
                "cron".clone_into(&mut self.repeat);
                return pattern.clone_into(&mut self.cron);
            }
            Rule::Days { days, at } => (days, at),
        };
        self.at = at.iter().map(|time| clock(*time)).collect::<Vec<_>>().join(", ");
        let (repeat, month_by) = match days {
            Days::Day => ("daily", "date"),
            Days::Week { on } => {
                self.weekdays.clone_from(on);
                ("weekly", "date")
            }
            Days::Date { day } => {
                self.month_day = *day;
                ("monthly", "date")
            }
            Days::LastDay => ("monthly", "last_day"),
            Days::Weekday { nth, weekday } => {
                (self.nth, self.nth_weekday) = (*nth, *weekday);
                ("monthly", "weekday")
            }
        };
        repeat.clone_into(&mut self.repeat);
        month_by.clone_into(&mut self.month_by);
    }

    /// Takes the step's fields and says what is wrong with them. What is not shown is not checked.
    pub fn take(&mut self, fields: &Fields, problems: &mut Problems) {
        let repeat = REPEATS.into_iter().find(|word| *word == fields.get("repeat")).unwrap_or("daily");
        repeat.clone_into(&mut self.repeat);
        if repeat == "manual" {
            return;
        }
        fields.get("time_zone").clone_into(&mut self.time_zone);
        if TimeZone::get(&self.time_zone).is_err() {
            problems.add("time_zone", "This time zone is not known. Write it as Europe/Vienna.");
        }
        match repeat {
            "after" => self.take_after(fields, problems),
            "cron" => fields.get("cron").clone_into(&mut self.cron),
            _ => self.take_days(fields, problems),
        }
        if repeat != "after" {
            self.take_missed(fields, problems);
        }
        self.take_hours(fields, problems);
        if problems.is_empty()
            && let Some(Err(error)) = self.schedule().map(|schedule| schedule.check())
        {
            let field = match error {
                ScheduleError::Cron { .. } => "cron",
                ScheduleError::NeverOpen => "spans",
                _ => "at",
            };
            problems.add(field, self.explain(&error));
        }
    }

    fn explain(&self, error: &ScheduleError) -> String {
        match error {
            ScheduleError::Cron { why, .. } if self.cron.is_empty() || why.contains("fields") => {
                "Five fields: minute, hour, day of the month, month, day of the week. “0 22 * * 1-5” is 22:00 from Monday to Friday.".to_owned()
            }
            ScheduleError::Cron { why, .. } => format!("This pattern cannot be used: {why}."),
            ScheduleError::NeverOpen => "These hours leave no time in which a run could start.".to_owned(),
            other => format!("This cannot be used: {other}."),
        }
    }

    fn take_days(&mut self, fields: &Fields, problems: &mut Problems) {
        fields.get("at").clone_into(&mut self.at);
        match times(&self.at) {
            Some(times) if times.len() > TIMES_A_DAY_MAX => {
                problems.add("at", format!("At most {TIMES_A_DAY_MAX} times of day."));
            }
            Some(_) => {}
            None => problems.add("at", "A time of day, such as 22:00, or several: 12:00, 22:00."),
        }
        match self.repeat.as_str() {
            "weekly" => {
                self.weekdays = fields.all("weekday").filter_map(Weekday::parse).collect();
                if self.weekdays.is_empty() {
                    problems.add("weekday", "Pick one day at least.");
                }
            }
            "monthly" => self.take_month(fields, problems),
            _ => {}
        }
    }

    fn take_month(&mut self, fields: &Fields, problems: &mut Problems) {
        let by = ["date", "last_day", "weekday"].into_iter().find(|word| *word == fields.get("month_by"));
        by.unwrap_or("date").clone_into(&mut self.month_by);
        self.nth = Nth::parse(fields.get("nth")).unwrap_or(self.nth);
        self.nth_weekday = Weekday::parse(fields.get("nth_weekday")).unwrap_or(self.nth_weekday);
        match fields.number::<u8>("month_day") {
            Some(day) if (1..=31).contains(&day) => self.month_day = day,
            _ if self.month_by != "date" => {}
            _ => problems.add("month_day", "A date from 1 to 31."),
        }
    }

    fn take_after(&mut self, fields: &Fields, problems: &mut Problems) {
        self.after_task = fields.get("after_task").parse().ok();
        self.after_failure = fields.has("after_failure");
        if self.after_task.is_none() {
            problems.add("after_task", "Choose the task that goes before.");
        }
    }

    fn take_missed(&mut self, fields: &Fields, problems: &mut Problems) {
        self.skip_missed = fields.get("missed") == "skip";
        match fields.number::<u16>("grace_minutes") {
            Some(minutes) if minutes <= GRACE_MAX_MINUTES => self.grace_minutes = minutes,
            _ if !self.skip_missed => {}
            _ => problems.add("grace_minutes", format!("Minutes, from 0 to {GRACE_MAX_MINUTES}.")),
        }
    }

    fn take_hours(&mut self, fields: &Fields, problems: &mut Problems) {
        self.hours = HoursRule::parse(fields.get("hours")).unwrap_or_default();
        if self.hours == HoursRule::Any {
            return;
        }
        self.stop = fields.has("stop");
        self.spans = (0..SPANS_MAX).filter_map(|row| SpanAnswer::take(fields, row)).collect();
        if self.spans.is_empty() {
            problems.add("spans", "Enter the hours, such as 22:00 to 06:00, and pick their days.");
        } else if self.spans.iter().any(|span| span.span().is_none()) {
            problems.add("spans", "Each line needs a begin, an end, such as 22:00 and 06:00, and one day at least.");
        }
    }

    /// The schedule, when the answers make one.
    pub fn schedule(&self) -> Option<Schedule> {
        if self.repeat == "manual" {
            return Some(Schedule::Manual);
        }
        TimeZone::get(&self.time_zone).ok()?;
        let time_zone = self.time_zone.clone();
        let hours = self.hours_rule()?;
        if self.repeat == "after" {
            let (task_id, also_after_failure) = (self.after_task?.0, self.after_failure);
            return Some(Schedule::After(After { task_id, also_after_failure, time_zone, hours }));
        }
        let missed =
            if self.skip_missed { MissedRuns::Skip { grace_minutes: self.grace_minutes } } else { MissedRuns::Once };
        Some(Schedule::Timed(Timed { rule: self.rule()?, time_zone, missed, hours }))
    }

    fn rule(&self) -> Option<Rule> {
        let days = match (self.repeat.as_str(), self.month_by.as_str()) {
            ("cron", _) => {
                let pattern = self.cron.chars().take(PATTERN_LENGTH_MAX_CHARS + 1).collect();
                return Some(Rule::Cron { pattern });
            }
            ("weekly", _) => Days::Week { on: Some(self.weekdays.clone()).filter(|days| !days.is_empty())? },
            ("monthly", "last_day") => Days::LastDay,
            ("monthly", "weekday") => Days::Weekday { nth: self.nth, weekday: self.nth_weekday },
            ("monthly", _) => Days::Date { day: self.month_day },
            _ => Days::Day,
        };
        Some(Rule::Days { days, at: times(&self.at)? })
    }

    fn hours_rule(&self) -> Option<Hours> {
        if self.hours == HoursRule::Any {
            return Some(Hours::default());
        }
        let spans = self.spans.iter().map(SpanAnswer::span).collect::<Option<Vec<_>>>()?;
        Some(Hours { rule: self.hours, spans, stop: self.stop })
    }

    /// Lines of hours on the page: those there are, and one more.
    pub fn span_rows(&self) -> Vec<SpanAnswer> {
        let mut rows = self.spans.clone();
        if rows.is_empty() {
            let (from, until) = NIGHT;
            let days = BTreeSet::from(Weekday::ALL);
            rows.push(SpanAnswer { days, from: from.to_owned(), until: until.to_owned() });
        }
        if rows.len() < SPANS_MAX {
            rows.push(SpanAnswer::default());
        }
        rows
    }

    /// Something beyond the first choice was made, so that its part of the page is open.
    pub fn has_more(&self) -> bool {
        self.hours != HoursRule::Any || self.skip_missed
    }

    /// It runs on this day of the week.
    pub fn has_day(&self, day: impl Of<Weekday>) -> bool {
        self.weekdays.contains(&day.value())
    }

    /// This one of the month's weekdays.
    pub fn is_nth(&self, nth: impl Of<Nth>) -> bool {
        self.nth == nth.value()
    }

    /// On that weekday of the month.
    pub fn is_nth_weekday(&self, day: impl Of<Weekday>) -> bool {
        self.nth_weekday == day.value()
    }

    /// The spans are meant so.
    pub fn is_hours(&self, word: &str) -> bool {
        self.hours.as_str() == word
    }

    /// `repeat` is this one.
    pub fn is(&self, word: &str) -> bool {
        self.repeat == word
    }
}

impl SpanAnswer {
    /// It begins on this day.
    pub fn has_day(&self, day: impl Of<Weekday>) -> bool {
        self.days.contains(&day.value())
    }

    fn of(span: &Span) -> Self {
        Self { days: span.days.clone(), from: clock(span.from), until: clock(span.until) }
    }

    /// A line of the form; one without times is none.
    fn take(fields: &Fields, row: usize) -> Option<Self> {
        let (from, until) = (fields.get(&format!("from_{row}")), fields.get(&format!("until_{row}")));
        if from.is_empty() && until.is_empty() {
            return None;
        }
        let days = fields.all(&format!("days_{row}")).filter_map(Weekday::parse).collect();
        Some(Self { days, from: from.to_owned(), until: until.to_owned() })
    }

    fn span(&self) -> Option<Span> {
        let (from, until) = (time(&self.from)?, time(if self.until == "24:00" { "00:00" } else { &self.until })?);
        (!self.days.is_empty()).then(|| Span { days: self.days.clone(), from, until })
    }
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

/// Times of day, one at least; `None` when one of them is none.
fn times(text: &str) -> Option<BTreeSet<Time>> {
    let parts = text.split([',', ';', ' ']).filter(|part| !part.is_empty());
    let times = parts.map(time).collect::<Option<BTreeSet<_>>>()?;
    (!times.is_empty()).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: &str = "time_zone=Europe/Vienna";

    fn take(body: &str) -> (When, Problems) {
        let (mut when, mut problems) = (When::new("UTC"), Problems::default());
        when.take(&Fields::parse(body.as_bytes()), &mut problems);
        (when, problems)
    }

    #[test]
    fn every_answer_makes_its_schedule_and_comes_back_from_it() {
        for (body, words) in [
            ("repeat=daily&at=22:00", "Daily at 22:00, Europe/Vienna"),
            ("repeat=daily&at=22:00, 6:30;12:00", "Daily at 06:30, 12:00 and 22:00, Europe/Vienna"),
            ("repeat=weekly&at=22:00&weekday=mon&weekday=wed", "Weekly on Mon, Wed at 22:00, Europe/Vienna"),
            ("repeat=monthly&at=1:00&month_by=date&month_day=31", "Monthly on the 31st at 01:00, Europe/Vienna"),
            ("repeat=monthly&at=1:00&month_by=last_day", "Monthly on the last day at 01:00, Europe/Vienna"),
            (
                "repeat=monthly&at=1:00&month_by=weekday&nth=last&nth_weekday=fri",
                "Monthly on the last Friday at 01:00, Europe/Vienna",
            ),
            ("repeat=cron&cron=0 22 * * 1-5", "By cron “0 22 * * 1-5”, Europe/Vienna"),
            ("repeat=after&after_task=7&after_failure=on", "After “Files”, also after a failure"),
            ("repeat=manual", "By hand only"),
        ] {
            let (when, problems) = take(&format!("{body}&{ZONE}"));
            assert!(problems.is_empty(), "{body}: {problems:?}");
            let schedule = when.schedule().unwrap();
            assert_eq!(domain::schedule::in_words(&schedule, Some("Files")), words);
            assert_eq!(When::of(&schedule, "UTC").schedule(), Some(schedule));
        }
    }

    #[test]
    fn hours_and_missed_runs_are_part_of_it() {
        let hours = "hours=within&from_0=22:00&until_0=06:00&days_0=mon&days_0=tue&from_1=&until_1=&from_2=00:00&until_2=24:00&days_2=sun&stop=on";
        let (when, problems) = take(&format!("repeat=daily&at=23:00&{ZONE}&missed=skip&grace_minutes=90&{hours}"));
        assert!(problems.is_empty(), "{problems:?}");
        let Some(Schedule::Timed(timed)) = when.schedule() else { panic!("by the clock") };
        assert_eq!(timed.missed, MissedRuns::Skip { grace_minutes: 90 });
        assert_eq!(
            timed.hours.in_words(),
            "Only Mon, Tue 22:00 to 06:00 and Sun, all day; what still runs then is stopped"
        );
        assert!(when.has_more() && When::of(&Schedule::Timed(timed), "UTC").has_more());
        assert_eq!(when.span_rows().len(), 3, "one more to fill in");
    }

    #[test]
    fn wrong_answers_are_named_by_their_field() {
        let all_day =
            "from_0=00:00&until_0=00:00&days_0=mon&days_0=tue&days_0=wed&days_0=thu&days_0=fri&days_0=sat&days_0=sun";
        let many: Vec<String> = (0..25).map(|minute| format!("1:{minute:02}")).collect();
        for (body, field) in [
            ("repeat=daily&at=25:00".to_owned(), "at"),
            ("repeat=daily&at=".to_owned(), "at"),
            ("repeat=daily&at=22:00,x".to_owned(), "at"),
            (format!("repeat=daily&at={}", many.join(",")), "at"),
            ("repeat=weekly&at=22:00".to_owned(), "weekday"),
            ("repeat=monthly&at=22:00&month_by=date&month_day=32".to_owned(), "month_day"),
            ("repeat=cron&cron=".to_owned(), "cron"),
            ("repeat=cron&cron=0 0 30 2 *".to_owned(), "cron"),
            (format!("repeat=cron&cron={}0 * * * *", "0,".repeat(500)), "cron"),
            ("repeat=after".to_owned(), "after_task"),
            ("repeat=daily&at=22:00&missed=skip&grace_minutes=1441".to_owned(), "grace_minutes"),
            ("repeat=daily&at=22:00&hours=within".to_owned(), "spans"),
            ("repeat=daily&at=22:00&hours=within&from_0=1:00&until_0=2:00".to_owned(), "spans"),
            ("repeat=daily&at=22:00&hours=within&from_0=1:00&days_0=mon".to_owned(), "spans"),
            (format!("repeat=daily&at=22:00&hours=outside&{all_day}"), "spans"),
        ] {
            let (_, problems) = take(&format!("{body}&{ZONE}"));
            assert!(problems.of(field).is_some(), "{body}: {problems:?}");
        }
        assert!(take("repeat=daily&at=22:00&time_zone=Mars/Olympus").1.of("time_zone").is_some());
    }

    #[test]
    fn drafts_of_the_version_before_are_read() {
        let old = serde_json::json!({ "repeat": "manual", "at": "21:00", "time_zone": "UTC" });
        let when: When = serde_json::from_value(old).unwrap();
        assert_eq!((when.repeat.as_str(), when.at.as_str(), when.month_day), ("manual", "21:00", 1));
    }
}

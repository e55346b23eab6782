//! The part of a device's form that says how much at once, and how much space stays free.

use crate::form::{Fields, Problems};
use db::DeviceLimits;
use db::views::DevicePage;
use domain::bandwidth::Bandwidth;
use domain::tag::Tags;

/// As typed.
pub struct LimitFields {
    /// Backups and restores on the device at once.
    pub jobs: String,
    /// On each of its datastores.
    pub per_datastore: String,
    /// Of a datastore that stays free, percent.
    pub reserve: String,
    /// How fast bytes may go, a limit a line.
    pub speed: String,
    /// The tag a worker needs to work on it; empty: none.
    pub worker_tag: String,
}

impl LimitFields {
    /// What holds now.
    pub fn of(device: &DevicePage, limits: DeviceLimits, bandwidth: &Bandwidth, tag: Option<String>) -> Self {
        Self {
            jobs: device.max_jobs.to_string(),
            per_datastore: limits.per_datastore.to_string(),
            reserve: limits.reserve_percent.to_string(),
            speed: bandwidth.text(),
            worker_tag: tag.unwrap_or_default(),
        }
    }

    /// What was sent.
    pub fn read(fields: &Fields) -> Self {
        let text = |name| fields.get(name).to_owned();
        Self {
            jobs: text("max_jobs"),
            per_datastore: text("max_jobs_datastore"),
            reserve: text("reserve"),
            speed: text("speed"),
            worker_tag: text("worker_tag"),
        }
    }

    /// How fast bytes may go, by the clock of `time_zone`, or what is wrong with it.
    pub fn bandwidth(&self, time_zone: &str, problems: &mut Problems) -> Option<Bandwidth> {
        bandwidth(&self.speed, time_zone, problems)
    }

    /// The tag, if there is one and nothing is wrong with it.
    pub fn tag(&self, problems: &mut Problems) -> Option<String> {
        let problem = match Tags::parse(&self.worker_tag).map(|tags| tags.words()) {
            Ok(tags) if tags.len() <= 1 => return tags.into_iter().next(),
            Ok(_) => "One tag, or none.".to_owned(),
            Err(error) => error.to_string(),
        };
        problems.add("worker_tag", problem);
        None
    }

    /// The jobs at once and the other limits, or what is wrong with them.
    pub fn limits(&self, problems: &mut Problems) -> Option<(u32, DeviceLimits)> {
        let mut number = |field, text: &str, min: u32, max: u32| {
            let found = text.parse().ok().filter(|number| (min..=max).contains(number));
            if found.is_none() {
                problems.add(field, format!("A number from {min} to {max}."));
            }
            found
        };
        let jobs = number("max_jobs", &self.jobs, 1, DeviceLimits::JOBS_MAX);
        let per_datastore = number("max_jobs_datastore", &self.per_datastore, 1, DeviceLimits::JOBS_MAX);
        let reserve = number("reserve", &self.reserve, 0, DeviceLimits::RESERVE_MAX_PERCENT);
        Some((jobs?, DeviceLimits { per_datastore: per_datastore?, reserve_percent: reserve? }))
    }
}

/// Limits of speed as they were typed in the field `speed`.
pub fn bandwidth(text: &str, time_zone: &str, problems: &mut Problems) -> Option<Bandwidth> {
    Bandwidth::parse(text, time_zone).map_err(|wrong| problems.add("speed", format!("Write {wrong}."))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_tag_at_most() {
        let read = |body: &str| {
            let mut problems = Problems::default();
            (LimitFields::read(&Fields::parse(body.as_bytes())).tag(&mut problems), problems)
        };
        let (none, problems) = read("worker_tag=");
        assert!(none.is_none() && problems.is_empty());
        assert_eq!(read("worker_tag=Site-B").0.as_deref(), Some("site-b"));
        for wrong in ["a,b", "<b>"] {
            assert!(read(&format!("worker_tag={wrong}")).1.of("worker_tag").is_some(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_checked_by_field() {
        let read = |body: &str| {
            let mut problems = Problems::default();
            let limits = LimitFields::read(&Fields::parse(body.as_bytes())).limits(&mut problems);
            (limits, problems)
        };
        let (limits, problems) = read("max_jobs=3&max_jobs_datastore=2&reserve=0");
        assert_eq!(limits, Some((3, DeviceLimits { per_datastore: 2, reserve_percent: 0 })));
        assert!(problems.is_empty());
        for (body, field) in [
            ("max_jobs=0&max_jobs_datastore=2&reserve=5", "max_jobs"),
            ("max_jobs=3&max_jobs_datastore=65&reserve=5", "max_jobs_datastore"),
            ("max_jobs=3&max_jobs_datastore=2&reserve=91", "reserve"),
            ("max_jobs=3&max_jobs_datastore=2", "reserve"),
        ] {
            let (limits, problems) = read(body);
            assert!(limits.is_none() && problems.of(field).is_some(), "{body}");
        }
    }
}

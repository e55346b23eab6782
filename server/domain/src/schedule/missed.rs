//! What a scheduler does with a due time it finds: start, wait for the hours, or leave out.

use super::types::{MissedRuns, Schedule, ScheduleError, Timed};
use jiff::{SignedDuration, Timestamp};

/// Missed due times are counted up to this.
const COUNTED_MAX: u32 = 2_000;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Start a run for this due time.
    pub start: Option<Timestamp>,
    /// These due times are left out.
    pub missed: Option<Missed>,
    /// When to look again; `None`: not by the clock.
    pub next: Option<Timestamp>,
}

/// Due times that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// The first.
    pub first: Timestamp,
    /// How many.
    pub count: u32,
}

impl Schedule {
    /// What becomes of the due time `due` (and of those after it) at `now`, which is not before it.
    pub fn look(&self, due: Timestamp, now: Timestamp) -> Result<Look, ScheduleError> {
        match self {
            // Someone set a due time all the same.
            Self::Manual => Ok(Look { start: Some(due), missed: None, next: None }),
            Self::After(after) => {
                let opens = after.hours.next_open(&after.time_zone, now)?;
                Ok(start_or_wait(due, now, opens, None))
            }
            Self::Timed(timed) => timed.look(self, due, now),
        }
    }
}

impl Timed {
    fn look(&self, whole: &Schedule, due: Timestamp, now: Timestamp) -> Result<Look, ScheduleError> {
        let next = whole.next_after(now)?;
        let opens = self.hours.next_open(&self.time_zone, now)?;
        let MissedRuns::Skip { grace_minutes } = self.missed else {
            return Ok(start_or_wait(due, now, opens, next));
        };
        let (mut last, mut count) = (due, 1);
        while let Some(later) = whole.next_after(last)?
            && later <= now
            && count < COUNTED_MAX
        {
            (last, count) = (later, count + 1);
        }
        let grace = SignedDuration::from_mins(i64::from(grace_minutes));
        let start = (now.duration_since(last) <= grace && opens == Some(now)).then_some(last);
        let count = count - u32::from(start.is_some());
        Ok(Look { start, missed: (count > 0).then_some(Missed { first: due, count }), next })
    }
}

/// A run that may not start any more waits for the next hours, where it may meet the next due time.
fn start_or_wait(due: Timestamp, now: Timestamp, opens: Option<Timestamp>, next: Option<Timestamp>) -> Look {
    if opens == Some(now) {
        return Look { start: Some(due), missed: None, next };
    }
    let next = [opens, next].into_iter().flatten().min();
    Look { start: None, missed: None, next }
}

//! Which restore points of a machine are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A task's rule ("backup cleanup").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Retention {
    /// Keep the newest `count` points of each machine; at least one.
    KeepLast {
        /// How many.
        count: u32,
    },
}

/// What retention needs to know about a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<Id> {
    /// Identifies it to the caller.
    pub id: Id,
    /// Moment of its snapshot.
    pub taken_at: Timestamp,
}

impl Retention {
    /// The points that may go, oldest first. Never the newest one, whatever the rule says.
    pub fn expired<Id: Clone>(&self, points: &[Candidate<Id>]) -> Vec<Id> {
        let mut sorted: Vec<&Candidate<Id>> = points.iter().collect();
        sorted.sort_by_key(|point| point.taken_at);
        let Self::KeepLast { count } = *self;
        let keep = (count.max(1) as usize).min(sorted.len());
        sorted[..sorted.len() - keep].iter().map(|point| point.id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(times: &[i64]) -> Vec<Candidate<i64>> {
        times
            .iter()
            .map(|&second| Candidate { id: second, taken_at: Timestamp::from_second(second).unwrap() })
            .collect()
    }

    #[test]
    fn the_newest_points_stay_whatever_their_order() {
        let rule = Retention::KeepLast { count: 2 };
        assert_eq!(rule.expired(&points(&[30, 10, 40, 20])), vec![10, 20]);
        assert!(rule.expired(&points(&[30])).is_empty());
        assert!(rule.expired(&points(&[])).is_empty());
    }

    #[test]
    fn the_last_point_is_never_given_up() {
        assert_eq!(Retention::KeepLast { count: 0 }.expired(&points(&[1, 2])), vec![1]);
    }
}

//! Faults on demand: rules that make a simulated host misbehave at a chosen request.
//!
//! Owns: the list of rules and the counting. What an action does is with the code it disturbs.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Most rules at a time; more are refused by forgetting the oldest.
const RULES_MAX: usize = 256;

/// Where a rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// Calls of this SOAP method, e.g. `CreateSnapshot_Task`.
    Method(String),
    /// Requests whose path (of a WS-Management request: whose resource and selectors) contains this, e.g. `/folder/`,
    /// `-flat.vmdk` or `Msvm_ConcreteJob`.
    Path(String),
}

impl On {
    /// Calls of a SOAP method.
    pub fn method(name: impl Into<String>) -> Self {
        Self::Method(name.into())
    }

    /// Requests whose path contains `part`.
    pub fn path(part: impl Into<String>) -> Self {
        Self::Path(part.into())
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<A> {
    /// Where.
    pub on: On,
    /// What.
    pub action: A,
    /// The first so many matching requests are spared.
    pub skip: u32,
    /// So many matching requests are disturbed after that.
    pub times: u32,
    /// Only requests of a range that holds this byte.
    pub at_offset: Option<u64>,
}

impl<A> Rule<A> {
    /// Disturbs the next matching request.
    pub fn once(on: On, action: A) -> Self {
        Self { on, action, skip: 0, times: 1, at_offset: None }
    }

    /// Disturbs every matching request.
    pub fn always(on: On, action: A) -> Self {
        Self { on, action, skip: 0, times: u32::MAX, at_offset: None }
    }

    /// Spares the first `skip` matching requests.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Disturbs so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Only where the requested range holds byte `offset`.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.at_offset = Some(offset);
        self
    }
}

/// Names a rule, to ask for its hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

struct Active<A> {
    id: u64,
    rule: Rule<A>,
    seen: u32,
    hits: u32,
}

/// The rules of a simulated host.
pub struct Faults<A> {
    rules: Mutex<Vec<Active<A>>>,
    next: AtomicU64,
}

impl<A> Default for Faults<A> {
    fn default() -> Self {
        Self { rules: Mutex::default(), next: AtomicU64::default() }
    }
}

impl<A: Clone> Faults<A> {
    /// Adds a rule. Of several rules for a request the oldest that is not used up applies.
    pub fn add(&self, rule: Rule<A>) -> RuleId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut rules = self.rules.lock();
        if rules.len() >= RULES_MAX {
            rules.remove(0);
        }
        rules.push(Active { id, rule, seen: 0, hits: 0 });
        RuleId(id)
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    /// How many requests the rule has disturbed.
    pub fn hits(&self, id: RuleId) -> u32 {
        self.rules.lock().iter().find(|active| active.id == id.0).map_or(0, |active| active.hits)
    }

    /// The action for a call of `method` on `subject`, if any.
    pub(crate) fn for_call(&self, method: &str, subject: &str) -> Option<A> {
        self.take(|rule| match &rule.on {
            On::Method(name) => name == method,
            On::Path(part) => subject.contains(part.as_str()),
        })
    }

    /// The action for a SOAP call, if any.
    pub(crate) fn for_method(&self, name: &str) -> Option<A> {
        self.take(|rule| matches!(&rule.on, On::Method(method) if method == name))
    }

    /// The action for a request of `path` and, where one was asked for, the byte range `start ..= end`.
    pub(crate) fn for_path(&self, path: &str, range: Option<(u64, u64)>) -> Option<A> {
        self.take(|rule| {
            let here = matches!(&rule.on, On::Path(part) if path.contains(part.as_str()));
            let there = match (rule.at_offset, range) {
                (None, _) | (Some(_), None) => true,
                (Some(offset), Some((start, end))) => start <= offset && offset <= end,
            };
            here && there
        })
    }

    fn take(&self, matches: impl Fn(&Rule<A>) -> bool) -> Option<A> {
        let mut rules = self.rules.lock();
        for active in rules.iter_mut().filter(|active| matches(&active.rule)) {
            active.seen = active.seen.saturating_add(1);
            if active.seen > active.rule.skip && active.hits < active.rule.times {
                active.hits += 1;
                return Some(active.rule.action.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Drop;

    #[test]
    fn rules_spare_then_hit_then_end() {
        let faults = Faults::default();
        let id = faults.add(Rule::once(On::path("-flat"), Drop).after(1).times(2).at_offset(100));
        assert_eq!(faults.for_path("/folder/a-flat.vmdk", Some((0, 50))), None);
        assert_eq!(faults.for_path("/folder/a-flat.vmdk", Some((90, 110))), None);
        assert_eq!(faults.for_path("/folder/a-flat.vmdk", Some((100, 100))), Some(Drop));
        assert_eq!(faults.for_path("/folder/a.vmdk", Some((100, 100))), None);
        assert_eq!(faults.for_path("/folder/a-flat.vmdk", Some((0, 100))), Some(Drop));
        assert_eq!(faults.for_path("/folder/a-flat.vmdk", Some((0, 100))), None);
        assert_eq!(faults.hits(id), 2);
    }
}

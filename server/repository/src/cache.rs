//! A small cache by weight that forgets what was not used for longest.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Keeps at most so many bytes of values.
pub struct Cache<K> {
    entries: HashMap<K, (u64, Bytes)>,
    order: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Copy + Eq + Hash> Cache<K> {
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0, bytes_max }
    }

    pub fn get(&mut self, key: &K) -> Option<Bytes> {
        self.clock += 1;
        let (used, value) = self.entries.get_mut(key)?;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, *key);
        Some(value.clone())
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.bytes = 0;
    }

    pub fn insert(&mut self, key: K, value: Bytes) {
        if value.len() > self.bytes_max {
            return;
        }
        self.clock += 1;
        self.bytes += value.len();
        self.order.insert(self.clock, key);
        if let Some((used, old)) = self.entries.insert(key, (self.clock, value)) {
            self.order.remove(&used);
            self.bytes -= old.len();
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some((_, value)) = self.entries.remove(&oldest) {
                self.bytes -= value.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_not_used() {
        let mut cache = Cache::new(10);
        for key in 0..3 {
            cache.insert(key, Bytes::from_static(b"123"));
        }
        assert!(cache.get(&0).is_some());
        cache.insert(3, Bytes::from_static(b"1234"));
        assert!(cache.get(&1).is_none(), "the oldest goes");
        assert!(cache.get(&0).is_some() && cache.get(&3).is_some());
        cache.insert(3, Bytes::from_static(b"1"));
        assert_eq!(cache.bytes, cache.entries.values().map(|(_, value)| value.len()).sum::<usize>());
    }
}

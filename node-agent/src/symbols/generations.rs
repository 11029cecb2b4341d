//! A cache that forgets what was not asked for in a while, without a list.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Two generations: what is found in the old one moves to the new one, and when
/// the new one is full the old one is forgotten. So it holds at most twice its
/// capacity, and what is in use stays.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    young_weight: usize,
    old_weight: usize,
    capacity: usize,
}

impl<K: Hash + Eq, V: Clone> Generations<K, V> {
    /// `capacity` is the weight of one generation.
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_weight: 0, old_weight: 0, capacity }
    }

    pub(super) fn get(&mut self, key: &K, weigh: impl Fn(&V) -> usize) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        let weight = weigh(&value);
        self.old_weight = self.old_weight.saturating_sub(weight);
        self.insert(key, value.clone(), weight);
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        if self.young_weight + weight > self.capacity {
            self.old = mem::take(&mut self.young);
            self.old_weight = mem::take(&mut self.young_weight);
        }
        if weight <= self.capacity && self.young.insert(key, value).is_none() {
            self.young_weight += weight;
        }
    }

    pub(super) fn weight(&self) -> usize {
        self.young_weight + self.old_weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_and_the_weight_is_bounded() {
        let mut cache = Generations::new(10);
        cache.insert(0, "kept", 1);
        for n in 1..1000 {
            cache.insert(n, "x", 1);
            assert_eq!(cache.get(&0, |_| 1), Some("kept"));
            assert!(cache.weight() <= 20 && cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.get(&1, |_| 1), None);
        cache.insert(5000, "heavy", 11);
        assert_eq!(cache.get(&5000, |_| 11), None);
    }
}

//! A bounded map that forgets: at least the most recently used half of its bound is kept.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Two generations: what is used moves to the young one; when that is full, the old one is forgotten.
pub(super) struct Memory<K, V> {
    young: HashMap<K, V, RandomState>,
    old: HashMap<K, V, RandomState>,
    half: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Memory<K, V> {
    /// Keeps at most `bound` entries.
    pub(super) fn new(bound: usize) -> Self {
        Memory { young: HashMap::default(), old: HashMap::default(), half: (bound / 2).max(1) }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_what_was_not_used() {
        let mut memory = Memory::new(10);
        for number in 0..1_000 {
            memory.insert(number, number);
            assert_eq!(memory.get(&0), Some(0), "used all the time");
            assert!(memory.len() <= 11);
        }
        assert_eq!(memory.get(&999), Some(999));
        assert_eq!(memory.get(&1), None);
        memory.remove(&0);
        assert_eq!(memory.get(&0), None);
        memory.clear();
        assert_eq!(memory.get(&999), None);
    }
}

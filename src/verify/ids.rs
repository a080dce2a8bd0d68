//! Which transaction ids were used within the window.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The ids of one window and of the one before it, by 128 bits of their BLAKE3: about 40 bytes an id (up to twice that
/// when the table has just grown), however long it is. Two ids that agree in 128 bits are not to be expected, nor to be
/// found on purpose.
#[derive(Debug)]
pub(super) struct RecentIds {
    window: u64,
    newer: Ids,
    older: Ids,
    /// The time of the first id in `newer`.
    began: u64,
}

type Ids = HashMap<u128, Used, BuildHasherDefault<AlreadyHashed>>;

/// Where and when an id was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) sequence: u64,
    pub(super) time: u64,
}

impl RecentIds {
    /// `window` in nanoseconds.
    pub(super) fn new(window: u64) -> Self {
        RecentIds { window, newer: Ids::default(), older: Ids::default(), began: 0 }
    }

    /// Notes that `id` is used, at a time not before the last one's. Returns its earlier use within the window, if
    /// there is one.
    pub(super) fn used(&mut self, id: &str, used: Used) -> Option<Used> {
        if used.time.saturating_sub(self.began) >= self.window {
            // The newest in `older` was used before `began`: all of it is outside of the window.
            self.older = std::mem::take(&mut self.newer);
            self.began = used.time;
        }
        let key = key(id);
        let before = self.newer.insert(key, used).or_else(|| self.older.get(&key).copied());
        before.filter(|before| used.time.saturating_sub(before.time) < self.window)
    }
}

/// 128 bits that stand for an id.
pub(super) fn key(id: &str) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..16]);
    u128::from_le_bytes(first)
}

/// The key is a hash already.
#[derive(Debug, Default)]
pub(super) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B4: an id counts for the window, to the nanosecond.
    #[test]
    fn an_id_is_known_for_its_window() {
        let at = |sequence, time| Used { sequence, time };
        let mut ids = RecentIds::new(100);
        assert_eq!(ids.used("a", at(1, 1000)), None);
        assert_eq!(ids.used("b", at(2, 1050)), None);
        assert_eq!(ids.used("a", at(3, 1099)), Some(at(1, 1000)));
        assert_eq!(ids.used("c", at(4, 1100)), None);
        assert_eq!(ids.used("b", at(5, 1149)), Some(at(2, 1050)));
        assert_eq!(ids.used("a", at(6, 1199)), None, "used last at 1099");
        assert_eq!(ids.used("d", at(7, 5000)), None);
        assert_eq!(ids.used("d", at(8, 5001)), Some(at(7, 5000)));
    }
}

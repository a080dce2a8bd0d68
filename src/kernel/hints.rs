//! Where the entries of a slab probably lie, by a hash of their name. A look-up reads one cache line, which can be
//! prefetched. Hints overwrite each other; after a missing or wrong hint the caller asks elsewhere.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::slab::SlabIndex;
use super::sync::{AtomicU64, Ordering::Relaxed, prefetch};

/// Lines of a new table, 4 KiB.
const FEWEST: usize = 1 << 6;
/// Lines of the largest, 8 MiB: a million hints.
const MOST: usize = 1 << 17;
const WAYS: usize = 8;

/// Hints to the entries of one slab. As many as there are, up to a bound.
pub(crate) struct Hints {
    table: ArcSwap<Table>,
    growing: Mutex<()>,
}

/// Each line holds hints whose hashes share their upper bits, as many bits as distinguish the lines.
pub(crate) struct Table(Box<[Line]>);

/// The upper half of the hash and the index; 0 where nothing was stored.
#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicU64; WAYS]);

impl Hints {
    pub(crate) fn new() -> Self {
        Hints { table: ArcSwap::from_pointee(Table::new(FEWEST)), growing: Mutex::new(()) }
    }

    /// Remembers that the entry whose name has this `hash` lies at `index`; may overwrite another hint. Not lock-free
    /// while the table grows; then it may also lose hints that other threads store.
    pub(crate) fn insert(&self, hash: u64, index: SlabIndex) {
        if self.table.load().is_small_for(index) {
            let _growing = self.growing.lock();
            while self.table.load().is_small_for(index) {
                self.table.store(Arc::new(self.table.load().doubled()));
            }
        }
        self.table.load().insert(hash, index);
    }

    /// What is remembered now.
    #[inline]
    pub(crate) fn load(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }
}

impl Table {
    fn new(lines: usize) -> Self {
        Table((0..lines).map(|_| Line::default()).collect())
    }

    /// Whether the table would be too small if the slab were filled up to `index`.
    fn is_small_for(&self, index: SlabIndex) -> bool {
        self.0.len() < MOST && index.number() as usize >= self.0.len() * WAYS / 5 * 4
    }

    /// The same hints in a table of twice the size.
    fn doubled(&self) -> Self {
        let doubled = Table::new(2 * self.0.len());
        for way in self.0.iter().flat_map(|line| &line.0) {
            // Relaxed: as in `insert`.
            let word = way.load(Relaxed);
            if word != 0 {
                // A word begins as the hash did.
                doubled.insert(word, SlabIndex::numbered(word as u32));
            }
        }
        doubled
    }

    fn insert(&self, hash: u64, index: SlabIndex) {
        let ways = &self.0[self.line(hash)].0;
        let word = tag(hash) | u64::from(index.number());
        // Relaxed: a hint is only believed after a look at the entry, which the slab publishes. Of two stores at once
        // one may be lost.
        let way = ways.iter().find(|way| way.load(Relaxed) == 0).unwrap_or(&ways[index.number() as usize % WAYS]);
        way.store(word, Relaxed);
    }

    /// Where what has this `hash` may lie.
    #[inline]
    pub(crate) fn find(&self, hash: u64) -> Option<SlabIndex> {
        let ways = &self.0[self.line(hash)].0;
        // Relaxed: as in `insert`.
        let mut words = ways.iter().map(|way| way.load(Relaxed));
        words.find(|word| *word != 0 && tag(*word) == tag(hash)).map(|word| SlabIndex::numbered(word as u32))
    }

    /// Prefetches the line that [`Self::find`] reads.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.0[self.line(hash)]);
    }

    #[inline]
    fn line(&self, hash: u64) -> usize {
        (hash >> (u64::BITS - self.0.len().ilog2())) as usize
    }
}

/// What a hash and the word of a hint with that hash have in common.
fn tag(word: u64) -> u64 {
    word >> 32 << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C5: what was stored is found until others crowd it out, and nothing else ever is.
    #[test]
    fn a_hint_is_right_or_missing() {
        let hints = Hints::new();
        // All in one line.
        let hash = |number: u32| u64::from(number + 1) << 32 | 0xffff;
        assert_eq!(hints.load().find(hash(0)), None, "before anything was stored");
        for number in 0..100 {
            hints.insert(hash(number), SlabIndex::numbered(number));
            assert_eq!(hints.load().find(hash(number)), Some(SlabIndex::numbered(number)));
        }
        let table = hints.load();
        let kept: Vec<_> = (0..100).filter_map(|number| Some((number, table.find(hash(number))?))).collect();
        assert_eq!(kept.len(), WAYS);
        assert!(kept.iter().all(|(number, found)| *found == SlabIndex::numbered(*number)), "{kept:?}");
        assert!((100..200).all(|number| table.find(hash(number)).is_none()));
    }

    /// Index 0 is one like any other, also where the hash's upper half is 0.
    #[test]
    fn the_first_entry_is_found() {
        let hints = Hints::new();
        hints.insert(1 << 32, SlabIndex::numbered(0));
        assert_eq!(hints.load().find(1 << 32), Some(SlabIndex::numbered(0)));
        hints.insert(0, SlabIndex::numbered(0));
        assert_eq!(hints.load().find(0), None, "looks like a place where nothing was stored");
    }

    /// C6: a table is as large as what it remembers, and remembers nearly all while it grows.
    #[test]
    fn hints_stay_while_the_table_grows() {
        let hints = Hints::new();
        let hash = |number: u32| u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut lines = FEWEST;
        for number in 0..1_000_000 {
            hints.insert(hash(number), SlabIndex::numbered(number));
            let now = hints.load().0.len();
            if now != lines {
                assert_eq!(now, 2 * lines);
                lines = now;
                let table = hints.load();
                let found =
                    (0..=number).filter(|number| table.find(hash(*number)) == Some(SlabIndex::numbered(*number)));
                let share = found.count() as f64 / f64::from(number + 1);
                assert!(share > 0.9, "{share} of {number}");
            }
        }
        assert_eq!(lines, MOST);
    }
}

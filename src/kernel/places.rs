//! Where things lie, by the hash of their names: a table that only grows, read without a lock and without a write.
//!
//! A slot is one word: 32 bits of the hash and a place. Whoever looks compares the name itself where the place says, which it
//! is about to visit anyway: so a look-up touches one cache line of its own. General maps keep the names, behind a pointer.

use parking_lot::Mutex;

use super::slab::Index;
use super::sync::{
    AtomicPtr, AtomicU64, Guard,
    Ordering::{Acquire, Relaxed, Release},
    pin, prefetch, retire,
};

/// A slot that nobody uses.
const FREE: u64 = 0;

const SMALLEST: usize = 64;

/// A table of places. Nothing is taken out of it.
pub(crate) struct Places {
    table: AtomicPtr<Table>,
    /// How many there are. Held by whoever adds one.
    len: Mutex<usize>,
}

struct Table {
    /// A power of two, at least half of them free.
    slots: Box<[AtomicU64]>,
    /// What is left of 32 bits of a hash when it is shifted so far is its first slot.
    shift: u32,
}

impl Table {
    /// A table with room for `capacity`.
    fn new(capacity: usize) -> Box<Table> {
        let slots = capacity.saturating_mul(2).next_power_of_two().max(SMALLEST);
        let shift = 32_u32.saturating_sub(slots.ilog2());
        Box::new(Table { slots: (0..slots).map(|_| AtomicU64::new(FREE)).collect(), shift })
    }

    /// The first slot of what has this hash.
    #[inline]
    fn first(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize
    }

    /// The slots in the order in which they are tried.
    #[inline]
    fn from(&self, hash: u32) -> impl Iterator<Item = &AtomicU64> {
        let first = self.first(hash);
        let mask = self.slots.len() - 1;
        (0..self.slots.len()).map(move |step| &self.slots[(first + step) & mask])
    }

    /// Adds a word, while nobody else adds one.
    fn add(&self, word: u64) {
        if let Some(free) = self.from(hash_of(word)).find(|slot| slot.load(Relaxed) == FREE) {
            // Release: pairs with the Acquire in `find`; what lies at the place is visible after that.
            free.store(word, Release);
        }
    }
}

fn hash_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The half of a hash that is kept.
#[inline]
fn kept(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Places {
    /// An empty table with room for `capacity` before it grows.
    pub(crate) fn new(capacity: usize) -> Self {
        Places { table: AtomicPtr::new(Box::into_raw(Table::new(capacity))), len: Mutex::new(0) }
    }

    #[inline]
    fn table<'g>(&self, _guard: &'g Guard) -> &'g Table {
        // Acquire: pairs with the Release in `grow`; the slots are visible after this.
        let table = self.table.load(Acquire);
        // Safety: never null, and replaced ones are retired: loaded after the pin.
        unsafe { &*table }
    }

    /// The place of what has this hash and `is` it.
    #[inline]
    pub(crate) fn find<T>(&self, hash: u64, guard: &Guard, is: impl Fn(Index) -> Option<T>) -> Option<T> {
        let hash = kept(hash);
        for slot in self.table(guard).from(hash) {
            // Acquire: pairs with the Release in `add`.
            let word = slot.load(Acquire);
            if word == FREE {
                return None;
            }
            if hash_of(word) == hash
                && let Some(found) = is(Index::of_low(word))
            {
                return Some(found);
            }
        }
        None
    }

    /// Has the slots of this hash come from memory.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64, guard: &Guard) {
        let table = self.table(guard);
        prefetch(&raw const table.slots[table.first(kept(hash))]);
    }

    /// Adds a place. Whoever does not find it there yet looks elsewhere.
    pub(crate) fn add(&self, hash: u64, index: Index) {
        let Some(low) = index.to_low() else { return };
        let guard = &pin();
        let mut len = self.len.lock();
        if 2 * (*len + 1) > self.table(guard).slots.len() {
            self.grow(*len + 1, guard);
        }
        self.table(guard).add(u64::from(kept(hash)) << 32 | low);
        *len += 1;
    }

    /// Moves to a larger table. The caller holds the lock.
    #[cold]
    fn grow(&self, len: usize, guard: &Guard) {
        let larger = Table::new(2 * len);
        let words = self.table(guard).slots.iter().map(|slot| slot.load(Relaxed));
        words.filter(|word| *word != FREE).for_each(|word| larger.add(word));
        // Release: pairs with the Acquire in `table`. Only under the lock.
        let smaller = self.table.swap(Box::into_raw(larger), Release);
        // Safety: it was made by Box, this swap took it out of the only place where a later pin could find it.
        unsafe { retire(guard, smaller) };
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // Safety: made by Box, and `&mut self` says that nobody reads it.
        drop(unsafe { Box::from_raw(*self.table.get_mut()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::slab::Slab;

    /// Spreads little: many share their first slot, and all 32 bits with some.
    fn hash(number: u64) -> u64 {
        (number % 97).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// A3: while a table grows, what was added before is found all the time, and nothing else ever is.
    #[test]
    fn what_was_added_is_found_while_the_table_grows() {
        const COUNT: u64 = 3_000;
        let (slab, places) = (Slab::new(), Places::new(0));
        let find = |number: u64| {
            places.find(hash(number), &pin(), |index| slab.get(index).copied().filter(|found| *found == number))
        };
        let added = super::super::doorbell::Watermark::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        while added.get() < COUNT {
                            let upto = added.get();
                            (0..upto).step_by(7).for_each(|number| assert_eq!(find(number), Some(number)));
                            assert_eq!(find(COUNT + upto), None);
                        }
                    })
                })
                .collect();
            for number in 0..COUNT {
                places.add(hash(number), slab.push(number).expect("room"));
                added.raise(number + 1);
            }
            readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
        });
        assert!((0..COUNT).all(|number| find(number) == Some(number)));
    }
}

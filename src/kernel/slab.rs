//! Permanent storage that grows without moving: an account's address holds as long as its kernel does.

use std::sync::OnceLock;

use super::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

/// Entries of the first chunk; each further chunk doubles.
const FIRST: usize = 1024;
const CHUNKS: usize = 22;

#[repr(align(64))]
struct Slot<T>(OnceLock<T>);

/// Where an entry lies in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Index(u32);

pub(crate) struct Slab<T> {
    chunks: [OnceLock<Box<[Slot<T>]>>; CHUNKS],
    next: AtomicU64,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Slab { chunks: std::array::from_fn(|_| OnceLock::new()), next: AtomicU64::new(0) }
    }

    /// Stores `value` for good; gives it back when the slab is full (4 billion entries).
    pub(crate) fn push(&self, value: T) -> Result<Index, T> {
        // Relaxed: only uniqueness matters; the slot's OnceLock publishes the value.
        let index = self.next.fetch_add(1, Relaxed);
        let Ok(index) = u32::try_from(index) else { return Err(value) };
        let (chunk, offset) = place(index);
        let Some(chunk_cell) = self.chunks.get(chunk) else { return Err(value) };
        let slots = chunk_cell.get_or_init(|| (0..FIRST << chunk).map(|_| Slot(OnceLock::new())).collect());
        slots[offset].0.set(value).map(|()| Index(index))
    }

    /// The entry at `index`, while nobody else can see it.
    pub(crate) fn get_mut(&mut self, index: Index) -> Option<&mut T> {
        let (chunk, offset) = place(index.0);
        self.chunks.get_mut(chunk)?.get_mut()?.get_mut(offset)?.0.get_mut()
    }

    /// The entry at `index`; None only for an index of another slab.
    #[inline]
    pub(crate) fn get(&self, index: Index) -> Option<&T> {
        let (chunk, offset) = place(index.0);
        self.chunks.get(chunk)?.get()?.get(offset)?.0.get()
    }

    /// Has the entry at `index` come from memory.
    #[inline]
    pub(crate) fn prefetch(&self, index: Index) {
        let (chunk, offset) = place(index.0);
        if let Some(slots) = self.chunks.get(chunk).and_then(OnceLock::get) {
            super::sync::prefetch(&raw const slots[offset]);
        }
    }

    /// The entries from place `from` up to `to`, in the order they came; ends at the first that is not stored yet.
    pub(crate) fn range(&self, from: u32, to: u32) -> impl Iterator<Item = (Index, &T)> {
        (from..to).map_while(|index| Some((Index(index), self.get(Index(index))?)))
    }

    /// How many of the first `count` entries are `before`, which none is that comes after one that is not.
    pub(crate) fn partition_point(&self, count: u32, mut before: impl FnMut(&T) -> bool) -> u32 {
        let (mut least, mut most) = (0, count);
        while least < most {
            let middle = least + (most - least) / 2;
            if self.get(Index(middle)).is_some_and(&mut before) {
                least = middle + 1;
            } else {
                most = middle;
            }
        }
        least
    }

    /// Every entry stored before this call, in the order they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        // Acquire: an upper bound; entries still being stored are skipped.
        let end = self.next.load(Acquire).min(u64::from(u32::MAX)) as u32;
        (0..end).filter_map(|index| self.get(Index(index)))
    }
}

/// Chunk and offset of entry `index`.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let shifted = index as usize + FIRST;
    let chunk = (shifted.ilog2() - FIRST.ilog2()) as usize;
    (chunk, shifted - (FIRST << chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_were_put_across_chunks() {
        let slab = Slab::new();
        let indexes: Vec<_> = (0..5000).map(|n| slab.push(n).unwrap()).collect();
        for (n, index) in indexes.into_iter().enumerate() {
            assert_eq!(slab.get(index), Some(&n));
        }
        assert!(slab.iter().copied().eq(0..5000));
        assert!(slab.range(1000, 5000).map(|(index, n)| (Some(n), slab.get(index))).eq((1000..5000).map(|n| {
            let n = slab.get(Index(n));
            (n, n)
        })));
    }

    #[test]
    fn sorted_entries_are_found_by_halves() {
        let slab = Slab::new();
        assert_eq!(slab.partition_point(0, |_: &u32| true), 0);
        assert!((0..3000).all(|n| slab.push(2 * n).is_ok()));
        for bound in [0, 1, 2, 3, 2047, 2048, 5997, 5998, 5999, 7000] {
            assert_eq!(slab.partition_point(3000, |n| *n < bound), bound.div_ceil(2).min(3000), "{bound}");
        }
    }
}

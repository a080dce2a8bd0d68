//! Permanent storage that grows without moving: an account's address holds as long as its kernel does.

use std::sync::OnceLock;

use super::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

/// Entries of the first [`PER_DOUBLING`] chunks together.
const FIRST: usize = 1024;
/// After this many chunks their length doubles, so at most one eighth of the entries is allocated ahead.
const PER_DOUBLING: usize = 8;
const CHUNKS: usize = PER_DOUBLING * 22;
/// Entries of a chunk of loaded ones.
const LOADED: usize = 1 << 14;

#[repr(align(64))]
struct Slot<T>(OnceLock<T>);

/// Where an entry lies in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlabIndex(u32);

impl SlabIndex {
    pub(super) fn numbered(number: u32) -> Self {
        SlabIndex(number)
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// Entries that are never moved nor removed; any thread may add some.
pub(crate) struct Slab<T> {
    loaded: Loaded<T>,
    /// Of those behind the loaded ones.
    chunks: [OnceLock<Box<[Slot<T>]>>; CHUNKS],
    next: AtomicU64,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Slab::over(Loaded::new())
    }

    /// A slab that begins with what was loaded.
    pub(crate) fn over(loaded: Loaded<T>) -> Self {
        Slab { loaded, chunks: std::array::from_fn(|_| OnceLock::new()), next: AtomicU64::new(0) }
    }

    /// Stores `value` for good; gives it back when the slab is full (4 billion entries).
    pub(crate) fn push(&self, value: T) -> Result<SlabIndex, T> {
        // Relaxed: only uniqueness matters; the slot's OnceLock publishes the value.
        let later = self.next.fetch_add(1, Relaxed);
        let Ok(later) = u32::try_from(later) else { return Err(value) };
        let Some(index) = self.loaded.count.checked_add(later) else { return Err(value) };
        let (chunk, offset) = place(later);
        let Some(chunk_cell) = self.chunks.get(chunk) else { return Err(value) };
        let length = (FIRST / PER_DOUBLING) << (chunk / PER_DOUBLING);
        let slots = chunk_cell.get_or_init(|| (0..length).map(|_| Slot(OnceLock::new())).collect());
        slots[offset].0.set(value).map(|()| SlabIndex(index))
    }

    /// The entry at `index`, while nobody else can see it.
    pub(crate) fn get_mut(&mut self, index: SlabIndex) -> Option<&mut T> {
        let Some(later) = index.0.checked_sub(self.loaded.count) else { return self.loaded.get_mut(index.0) };
        let (chunk, offset) = place(later);
        self.chunks.get_mut(chunk)?.get_mut()?.get_mut(offset)?.0.get_mut()
    }

    /// The entry at `index`; None where nothing is stored yet.
    #[inline]
    pub(crate) fn get(&self, index: SlabIndex) -> Option<&T> {
        let Some(later) = index.0.checked_sub(self.loaded.count) else { return self.loaded.get(index.0) };
        let (chunk, offset) = place(later);
        self.chunks.get(chunk)?.get()?.get(offset)?.0.get()
    }

    /// Prefetches the entry at `index`.
    #[inline]
    pub(crate) fn prefetch(&self, index: SlabIndex) {
        let Some(later) = index.0.checked_sub(self.loaded.count) else {
            self.loaded.get(index.0).into_iter().for_each(|entry| super::sync::prefetch(entry));
            return;
        };
        let (chunk, offset) = place(later);
        if let Some(slots) = self.chunks.get(chunk).and_then(OnceLock::get) {
            super::sync::prefetch(&raw const slots[offset]);
        }
    }

    /// The entries from place `from` up to `to`, in the order they came; ends at the first that is not stored yet.
    pub(crate) fn range(&self, from: u32, to: u32) -> impl Iterator<Item = (SlabIndex, &T)> {
        (from..to).map_while(|index| Some((SlabIndex(index), self.get(SlabIndex(index))?)))
    }

    /// As [`slice::partition_point`], over the first `count` entries.
    pub(crate) fn partition_point(&self, count: u32, mut before: impl FnMut(&T) -> bool) -> u32 {
        let (mut least, mut most) = (0, count);
        while least < most {
            let middle = least + (most - least) / 2;
            if self.get(SlabIndex(middle)).is_some_and(&mut before) {
                least = middle + 1;
            } else {
                most = middle;
            }
        }
        least
    }

    /// Every entry stored before this call, in the order they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.end()).filter_map(|index| self.get(SlabIndex(index)))
    }

    /// At most `length` entries; successive values of `turn` visit all of them.
    pub(crate) fn stretch(&self, turn: u64, length: u32) -> impl Iterator<Item = &T> {
        let end = self.end();
        let from = (turn % u64::from(end.div_ceil(length).max(1))) as u32 * length;
        (from..end.min(from.saturating_add(length))).filter_map(|index| self.get(SlabIndex(index)))
    }

    /// The end of the places that are taken.
    fn end(&self) -> u32 {
        // Acquire: an upper bound; entries still being stored are skipped.
        self.next.load(Acquire).saturating_add(u64::from(self.loaded.count)).min(u64::from(u32::MAX)) as u32
    }
}

/// The first entries of a slab, stored before other threads see it; each is written once, in its final place.
pub(crate) struct Loaded<T> {
    chunks: Vec<Vec<Line<T>>>,
    count: u32,
}

#[repr(align(64))]
struct Line<T>(T);

impl<T> Loaded<T> {
    pub(crate) fn new() -> Self {
        Loaded { chunks: Vec::new(), count: 0 }
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Stores `value` behind the others; gives it back when the slab is full.
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        let Some(count) = self.count.checked_add(1) else { return Err(value) };
        self.count = count;
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < LOADED => chunk.push(Line(value)),
            _ => {
                let mut chunk = Vec::with_capacity(LOADED);
                chunk.push(Line(value));
                self.chunks.push(chunk);
            }
        }
        Ok(())
    }

    #[inline]
    fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks.get(index / LOADED)?.get(index % LOADED).map(|Line(value)| value)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let index = index as usize;
        self.chunks.get_mut(index / LOADED)?.get_mut(index % LOADED).map(|Line(value)| value)
    }
}

/// Chunk and offset of entry `index` behind the loaded ones.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let shifted = index as usize + FIRST;
    // The highest bit tells how often the length has doubled; the next ones tell which chunk of that length it is.
    let bits = shifted.ilog2() - PER_DOUBLING.ilog2();
    let doublings = shifted.ilog2() - FIRST.ilog2();
    let chunk = PER_DOUBLING * doublings as usize + (shifted >> bits) % PER_DOUBLING;
    (chunk, shifted % (1 << bits))
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
            let n = slab.get(SlabIndex(n));
            (n, n)
        })));
    }

    #[test]
    fn a_slab_goes_on_behind_what_was_loaded() {
        for count in [0, 1, LOADED - 1, LOADED, LOADED + 1, 3 * LOADED + 5] {
            let mut loaded = Loaded::new();
            assert!((0..count).all(|n| loaded.push(n).is_ok()));
            assert_eq!(loaded.count() as usize, count);
            let mut slab = Slab::over(loaded);
            assert!(slab.iter().copied().eq(0..count), "{count}");
            assert!((count..count + 5_000).all(|n| slab.push(n) == Ok(SlabIndex(n as u32))));
            assert!(slab.iter().copied().eq(0..count + 5_000), "{count}");
            assert_eq!(slab.partition_point(count as u32 + 5_000, |n| *n < count + 7), count as u32 + 7);
            for index in [0, count.saturating_sub(1), count, count + 4_999].map(|n| SlabIndex(n as u32)) {
                assert_eq!(slab.get_mut(index).copied(), Some(index.0 as usize));
            }
            assert_eq!((slab.get(SlabIndex(count as u32 + 5_000)), slab.get(SlabIndex(u32::MAX))), (None, None));
        }
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

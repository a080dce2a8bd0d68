//! Where the entries of a slab probably lie, by a hash of what they are called: one line of memory a question, and one that can be had
//! to come before it is asked. Entries crowd each other out, so whoever finds none here, or another one, asks elsewhere.

use std::sync::OnceLock;

use super::slab::Index;
use super::sync::{AtomicU64, Ordering::Relaxed, prefetch};

const PAGES: usize = 1 << 10;
/// Lines of a page.
const LINES: usize = 1 << 6;
const WAYS: usize = 8;

/// The upper half of the hash and the index; 0 where nothing was stored.
#[repr(align(64))]
struct Line([AtomicU64; WAYS]);

/// Room for half a million hints in 4 MiB, taken by pages as hashes fall into them.
pub(crate) struct Hints(Box<[OnceLock<Box<[Line]>>]>);

impl Hints {
    pub(crate) fn new() -> Self {
        Hints((0..PAGES).map(|_| OnceLock::new()).collect())
    }

    /// Remembers that what has this `hash` lies at `index`, and forgets something else if need be.
    pub(crate) fn insert(&self, hash: u64, index: Index) {
        let page = self.0[page(hash)].get_or_init(|| (0..LINES).map(|_| Line(Default::default())).collect());
        let ways = &page[line(hash)].0;
        let word = tag(hash) | u64::from(index.number());
        // Relaxed: a hint is believed only after a look at the entry, which the slab publishes. Of two that store here at once one may be lost.
        let way = ways.iter().find(|way| way.load(Relaxed) == 0).unwrap_or(&ways[index.number() as usize % WAYS]);
        way.store(word, Relaxed);
    }

    /// Where what has this `hash` may lie.
    #[inline]
    pub(crate) fn find(&self, hash: u64) -> Option<Index> {
        let ways = &self.line(hash)?.0;
        // Relaxed: as in `insert`.
        let mut words = ways.iter().map(|way| way.load(Relaxed));
        words.find(|word| *word != 0 && tag(*word) == tag(hash)).map(|word| Index::numbered(word as u32))
    }

    /// Has the line that [`Self::find`] looks at come from memory.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(line) = self.line(hash) {
            prefetch(line);
        }
    }

    #[inline]
    fn line(&self, hash: u64) -> Option<&Line> {
        self.0[page(hash)].get().map(|page| &page[line(hash)])
    }
}

fn page(hash: u64) -> usize {
    hash as usize % PAGES
}

fn line(hash: u64) -> usize {
    hash as usize / PAGES % LINES
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
        assert_eq!(hints.find(hash(0)), None, "before anything was stored");
        for number in 0..100 {
            hints.insert(hash(number), Index::numbered(number));
            assert_eq!(hints.find(hash(number)), Some(Index::numbered(number)));
        }
        let kept: Vec<_> = (0..100).filter_map(|number| Some((number, hints.find(hash(number))?))).collect();
        assert_eq!(kept.len(), WAYS);
        assert!(kept.iter().all(|(number, found)| *found == Index::numbered(*number)), "{kept:?}");
        assert!((100..200).all(|number| hints.find(hash(number)).is_none()));
    }

    /// Index 0 is one like any other, also where the hash's upper half is 0.
    #[test]
    fn the_first_entry_is_found() {
        let hints = Hints::new();
        hints.insert(1 << 32, Index::numbered(0));
        assert_eq!(hints.find(1 << 32), Some(Index::numbered(0)));
        hints.insert(0, Index::numbered(0));
        assert_eq!(hints.find(0), None, "looks like a place where nothing was stored");
    }
}
